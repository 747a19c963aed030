"""Adapters kept beside the decoder: they give what merged ones give, in this project's runtime and,
as `.onnx_adapter` files, in plain ONNX Runtime."""

import dataclasses
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.export.bundle.adapter_files import choose_layout, write_adapter
from trine.export.bundle.safetensors_writer import entry_from_array, write_safetensors
from trine.export.checkpoint.config import read_model_config
from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.spec import SampleSpec, changed_spec
from trine.kernels.pooling import l2_normalise, project
from trine.runtime.adapters.file import StoredPair, open_adapter
from trine.runtime.adapters.peft import PeftAdapters
from trine.runtime.bundle.bundle import HEADS_NAME, Bundle, open_bundle
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.embedder import Embedder
from trine.runtime.engines.base import DecoderInputs
from trine.runtime.errors import BundleError, InputError
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.pooling import single_vector
from trine.runtime.inference.runner import lay_out_sequences
from trine.runtime.inputs import ImageText, Item
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import check_request

MIN_COSINE, MAX_DIFFERENCE = 0.99999, 1e-4
FIVE = ("retrieval", "text-matching", "code", "extra", "default")
RANKS = (("q_proj", 3), (r"layers\.1\..*up_proj", 9), ("multi_vector_projector", 2))
ALPHAS = (("k_proj", 5), ("down_proj", 1), (r"layers\.0\.self_attn\.v_proj", 12))
#: What a checkpoint differs in from the tiny one, and the dtype its adapters are then kept in.
CHECKPOINTS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({}, "BF16"),
    "one task": ({"tasks": ("retrieval",), "seed": 1}, "BF16"),
    "two tasks": ({"tasks": ("text-matching", "code"), "seed": 2}, "BF16"),
    "five tasks": ({"tasks": FIVE, "seed": 3}, "BF16"),
    "ranks differ": ({"rank_pattern": RANKS, "seed": 4}, "F32"),
    "alphas differ": ({"alpha_pattern": ALPHAS, "rank_pattern": RANKS, "seed": 5}, "F32"),
    "scaling is no power of two": ({"alpha": 6, "seed": 6}, "F32"),
    "float16": ({"dtype": "float16", "seed": 7}, "F16"),
    "float16, odd scaling": ({"dtype": "float16", "alpha": 3, "rank": 7, "seed": 8}, "F32"),
    "float32": ({"dtype": "float32", "seed": 9}, "F32"),
    "one KV head": ({"num_heads": 4, "num_kv_heads": 1, "seed": 10}, "BF16"),
    "as many KV heads": ({"num_heads": 4, "num_kv_heads": 4, "seed": 11}, "BF16"),
    "head of 18": ({"hidden_size": 72, "num_heads": 4, "seed": 12}, "BF16"),
    "one layer, rank 1": ({"num_layers": 1, "rank": 1, "alpha": 1, "seed": 13}, "BF16"),
}


def image(height: int, width: int) -> NDArray[np.uint8]:
    source = np.random.default_rng(height * 1000 + width)
    return source.integers(0, 256, (height, width, 3), np.uint8)


ITEMS: tuple[Item, ...] = (
    "Which inverter warranty covers panels that face east?",
    "",
    "Straße 7, 東京 – 🚀 " * 12,
    ImageText((image(90, 150),)),
    ImageText((image(56, 56), image(28, 112)), "two images"),
)


def write_bundle(checkpoint: Path | str, bundle: Path, **options: Any) -> Path:
    export_checkpoint(
        ExportOptions(source=str(checkpoint), bundle=bundle, check=False, **options), io.StringIO()
    )
    return bundle


@contextmanager
def merged_and_runtime(spec: SampleSpec) -> Iterator[tuple[Path, Path]]:
    """Write a checkpoint and both its bundles; remove them at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sample_checkpoint(spec, folder / "checkpoint")
        yield tuple(
            write_bundle(folder / "checkpoint", folder / kind, adapters=kind)
            for kind in ("merged", "runtime")
        )


def load(bundle: Path) -> Embedder:
    return Embedder.load(bundle, threads=1, self_test=False)


def vectors(embedder: Embedder) -> list[NDArray[np.float32]]:
    """Return single and multi-vectors of every item for every task and prompt, in one call."""
    rows = list(product(ITEMS, sorted(embedder.tasks), ("query", "passage")))
    items, tasks, prompts = zip(*rows, strict=True)
    found = embedder.encode(items, tasks, prompt_name=prompts, return_multivector=True)
    assert found.single is not None
    assert found.multi is not None
    return [*found.single[:, None], *found.multi]


def assert_close(
    found: Sequence[NDArray[np.float32]], want: Sequence[NDArray[np.float32]], what: str
) -> None:
    assert len(found) == len(want) > 0
    pairs = list(zip(found, want, strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    cosine = min(float((a.astype(np.float64) * b).sum(axis=1).min()) for a, b in pairs)
    difference = max(float(np.abs(a - b).max()) for a, b in pairs)
    print(f"{what}: worst cosine {cosine:.8f}, largest difference {difference:.2e}")
    assert cosine >= MIN_COSINE
    assert difference <= MAX_DIFFERENCE


@pytest.mark.parametrize("which", ["golden", "nano"])
def test_adapters_beside_the_decoder_equal_merged_ones(
    which: str, request: pytest.FixtureRequest
) -> None:
    merged = load(request.getfixturevalue(f"{which}_bundle"))
    runtime = load(request.getfixturevalue(f"{which}_runtime_bundle"))
    assert runtime.tasks == merged.tasks
    assert_close(vectors(runtime), vectors(merged), which)


@pytest.mark.parametrize(("changes", "dtype"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_they_do_for_other_checkpoints(changes: dict[str, Any], dtype: str) -> None:
    with merged_and_runtime(changed_spec(SampleSpec.tiny(), changes)) as (merged, runtime):
        layout = open_bundle(runtime).manifest.adapters
        assert layout is not None
        assert layout.dtype == dtype
        assert_close(vectors(load(runtime)), vectors(load(merged)), str(changes))


@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_they_do_for_any_checkpoint(
    sample_specs: st.SearchStrategy[SampleSpec], data: st.DataObject
) -> None:
    with merged_and_runtime(data.draw(sample_specs)) as (merged, runtime):
        assert_close(vectors(load(runtime)), vectors(load(merged)), "drawn")


def test_some_tasks_and_room_for_larger_ranks_change_no_vector(
    golden_runtime_bundle: Path, tmp_path: Path
) -> None:
    source = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"
    bundle = write_bundle(
        source, tmp_path / "b", adapters="runtime", tasks=("code", "retrieval"), max_rank=13
    )
    layout = open_bundle(bundle).manifest.adapters
    assert layout is not None
    assert layout.max_rank == 13
    assert sorted(layout.files) == ["code", "retrieval"]
    found, want = (
        [part.encode([item], "code").single for item in ITEMS]
        for part in (load(bundle), load(golden_runtime_bundle))
    )
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_rank_below_the_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_rank is 2.*rank 8.*give at least 8"):
        write_bundle("nano", tmp_path / "b", adapters="runtime", max_rank=2)
    with pytest.raises(InputError, match="max_rank is 1000000000; give at most 4096"):
        write_bundle("nano", tmp_path / "b", adapters="runtime", max_rank=10**9)
    assert list(tmp_path.iterdir()) == []


def test_layout_of_adapters_of_two_dtypes_is_float32(tmp_path: Path) -> None:
    class TwoDtypes(PeftAdapters):
        def dtype(self, task: str) -> str:
            return "BF16" if task == "code" else "F16"

    write_sample_checkpoint(SampleSpec.tiny(), tmp_path / "c")
    config = read_model_config(tmp_path / "c")
    peft = TwoDtypes(tmp_path / "c" / "adapters", config, config.tasks)
    assert choose_layout(peft, ("code",), "runtime", None).dtype == "BF16"
    assert choose_layout(peft, ("code", "retrieval"), "runtime", None).dtype == "F32"
    assert choose_layout(peft, ("code",), "merged", None).files == {}


# A bundle's own file


@pytest.fixture
def code_adapter(golden_runtime_bundle: Path) -> tuple[Path, Bundle, AdapterLayout]:
    bundle = open_bundle(golden_runtime_bundle)
    layout = bundle.manifest.adapters
    assert layout is not None
    return bundle.path(layout.files["code"]), bundle, layout


def test_an_adapter_is_the_same_after_writing_and_reading(
    code_adapter: tuple[Path, Bundle, AdapterLayout], tmp_path: Path
) -> None:
    path, bundle, layout = code_adapter
    tensors = open_adapter(path, bundle.manifest.model, layout)
    assert len(tensors.pairs) == 7 * bundle.manifest.model.decoder.num_layers + 1
    write_adapter(tensors, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("damage", ["unknown", "one half", "ranks", "rank", "width", "dtype"])
def test_an_adapter_file_that_does_not_fit_is_refused(
    code_adapter: tuple[Path, Bundle, AdapterLayout], tmp_path: Path, damage: str
) -> None:
    path, bundle, layout = code_adapter
    module = "layers.0.mlp.up_proj"
    tensors = open_adapter(path, bundle.manifest.model, layout)
    pair, pairs = tensors.pairs[module], dict(tensors.pairs)
    written, words = tmp_path / "bad.safetensors", ""
    match damage:
        case "unknown":
            pairs["layers.77.mlp.up_proj"] = pair
            words = "layers.77.mlp.up_proj.a is unknown"
        case "one half":
            write_half_adapter(module, pair, tmp_path / "bad.safetensors")
            words = f"{module}.b is missing"
        case "ranks":
            pairs[module] = dataclasses.replace(pair, a=pair.a[:-1])
            words = "different ranks"
        case "rank":
            layout = dataclasses.replace(layout, max_rank=7)
            words = "q_proj.a is BF16 .8, 128.;"
        case "width":
            pairs[module] = dataclasses.replace(pair, a=pair.a[:, :-1])
            words = f"1 tensors do not fit: {module}.a is BF16 .8, 127.;"
        case "dtype":
            layout = dataclasses.replace(layout, dtype="F32")
            words = "q_proj.a is BF16 .8, 128.;"
    if not written.exists():
        write_adapter(dataclasses.replace(tensors, pairs=pairs), written)
    with pytest.raises(BundleError, match=words) as caught:
        open_adapter(written, bundle.manifest.model, layout)
    assert str(caught.value).startswith(f"{written}: ")
    assert "trine adapters add" in str(caught.value)


def write_half_adapter(module: str, pair: StoredPair, path: Path) -> None:
    write_safetensors(path, [entry_from_array(f"{module}.a", pair.a, "BF16")], {})


# ONNX Runtime's own format


@dataclasses.dataclass(frozen=True)
class Outside:
    """The decoder of a bundle in a plain session, as a program without this project has it."""

    folder: Path
    layout: AdapterLayout
    session: onnxruntime.InferenceSession
    inputs: DecoderInputs
    sequences: list[TokenSequence]

    def hidden(self, task: str | None) -> NDArray[np.float32]:
        """Return float32 [T, hidden] with the task's adapter, or with none."""
        feeds = {f.name: getattr(self.inputs, f.name) for f in dataclasses.fields(self.inputs)}
        count, rank = len(self.inputs.embeddings), self.layout.max_rank if task else 0
        feeds["lora_mask"] = np.ones((count, rank), np.bool_)
        feeds["lora_mask_qkv"] = np.ones((count, 3 * rank), np.bool_)
        options = onnxruntime.RunOptions()
        if task is not None:
            adapter = onnxruntime.LoraAdapter()
            adapter.Load(str((self.folder / self.layout.files[task]).with_suffix(".onnx_adapter")))
            options.add_active_adapter(adapter)
        (result,) = self.session.run(None, feeds, options)
        return np.asarray(result, np.float32)


def open_plain(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # a warning for each input that has a default
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


TEXTS = ("def area(r):", "a much longer text about inverters and their warranty " * 4, "")


@pytest.fixture(scope="module", params=["plain", "float16", "ranks differ"])
def outside(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outside, Path]:
    """A plain session of a bundle with `.onnx_adapter` files, and the checkpoint's folder."""
    folder = tmp_path_factory.mktemp("onnx")
    write_sample_checkpoint(
        changed_spec(SampleSpec.tiny(), CHECKPOINTS[request.param][0]), folder / "checkpoint"
    )
    bundle = open_bundle(
        write_bundle(
            folder / "checkpoint", folder / "bundle", adapters="runtime", onnx_adapters=True
        )
    )
    model, layout = bundle.manifest.model, bundle.manifest.adapters
    assert layout is not None
    request_ = check_request(model.tasks, model, num_items=len(TEXTS), task="code")
    tokenizer = TextTokenizer(bundle.path("tokenizer.json"))
    sequences = list(Preprocessor(model, tokenizer).sequences(TEXTS, request_))
    rows = EmbeddingTable(bundle.path("embedding.safetensors"), model.decoder).rows(
        np.concatenate([sequence.token_ids for sequence in sequences])
    )
    session = open_plain(bundle.path(bundle.manifest.engines[0].decoders["code"]))
    inputs = lay_out_sequences(sequences, rows, model)
    return Outside(bundle.folder, layout, session, inputs, sequences), folder


def test_an_onnx_adapter_in_plain_onnx_runtime_gives_this_runtimes_vectors(
    outside: tuple[Outside, Path],
) -> None:
    plain, folder = outside
    embedder = load(folder / "bundle")
    merged = write_bundle(folder / "checkpoint", folder / "merged", force=True)
    heads = TensorFile(merged / HEADS_NAME, BundleError)
    for task in embedder.tasks:
        hidden = np.split(
            plain.hidden(task), np.cumsum([len(sequence) for sequence in plain.sequences])[:-1]
        )
        want = embedder.encode(TEXTS, task, return_multivector=True)
        assert want.single is not None
        assert want.multi is not None
        found = [
            single_vector(h, s.pooled)[None] for h, s in zip(hidden, plain.sequences, strict=True)
        ]
        assert_close(found, [*want.single[:, None]], f"single, {task}")
        projector = heads.float32(f"{task}.weight"), heads.float32(f"{task}.bias")
        assert_close([project(h, *projector) for h in hidden], want.multi, f"multi, {task}")


def test_without_an_adapter_the_decoder_is_the_base_model(outside: tuple[Outside, Path]) -> None:
    plain, folder = outside
    zeroed = session_of_zeroed_adapters(folder / "checkpoint", folder / "zeroed")
    feeds = {f.name: getattr(plain.inputs, f.name) for f in dataclasses.fields(plain.inputs)}
    (want,) = zeroed.run(None, feeds)
    found = plain.hidden(None)
    assert_close([l2_normalise(found)], [l2_normalise(want)], "base")
    assert np.abs(l2_normalise(plain.hidden("code")) - l2_normalise(found)).max() > 0.01


def session_of_zeroed_adapters(checkpoint: Path, folder: Path) -> onnxruntime.InferenceSession:
    """Return the merged decoder of a copy of the checkpoint whose adapters are zero."""
    copy = Path(shutil.copytree(checkpoint, folder / "checkpoint"))
    path = copy / "adapters" / "adapter_model.safetensors"
    shapes = {n: info.shape for n, info in TensorFile(path, BundleError).tensors.items()}
    entries = [entry_from_array(n, np.zeros(s, np.float32), "F32") for n, s in shapes.items()]
    write_safetensors(path, entries, {})
    write_bundle(copy, folder / "bundle", tasks=("code",))
    entry = open_bundle(folder / "bundle").manifest.engines[0]
    return open_plain(folder / "bundle" / entry.decoders["code"])
