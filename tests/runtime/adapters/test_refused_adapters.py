"""Adapters that cannot be loaded are refused by name, and change nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.export.bundle.safetensors_writer import entry_from_array, write_safetensors
from trine.runtime.adapters.file import read_adapter
from trine.runtime.adapters.store import MAX_ADAPTERS
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.embedder import Embedder
from trine.runtime.errors import CheckpointError, InputError, TrineError

Matrices = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
RandomAdapter = Callable[..., Matrices]
WritePeft = Callable[..., Path]

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"
TASKS = ("retrieval", "text-matching", "code")
#: Rank that the golden bundle's decoder takes.
MAX_RANK = 8


@pytest.fixture
def embedder(golden_runtime_bundle: Path) -> Embedder:
    return Embedder.load(golden_runtime_bundle, self_test=False)


@pytest.fixture
def model(embedder: Embedder) -> ModelConfig:
    return embedder.bundle.manifest.model


MODULE = "layers.1.self_attn.q_proj"


def stored(half: str) -> str:
    return f"base_model.model.model.language_model.{MODULE}.lora_{half}.weight"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "use_dora is True, which is not supported"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save is ['embed_tokens']"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora is {'nblocks': 2}"),
        ({"kasa_config": {"beta": 0.1}}, "kasa_config is"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "convert the adapter with init_lora_weights=True"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; LORA is supported"),
        ({"r": 5}, f"lora_A.weight is [{MAX_RANK}, 128], not [5, 128] (rank 5)"),
        ({"r": 0}, "r is 0; a positive whole number is needed"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'; a positive number is needed"),
    ],
)
def test_settings_that_are_not_supported_are_refused(
    embedder: Embedder,
    tmp_path: Path,
    config: dict[str, object],
    words: str,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    folder = write_peft(tmp_path / "a", ("", random_adapter(MAX_RANK, 1)), **config)
    assert words in refusal(embedder, folder, CheckpointError)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal"])
def test_how_training_began_does_not_matter_if_the_base_model_stays_whole(
    embedder: Embedder,
    tmp_path: Path,
    init: object,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    folder = write_peft(tmp_path / "a", ("", random_adapter(2, 1)), init_lora_weights=init)
    embedder.load_adapter("mine", folder)
    assert "mine" in embedder.tasks


def test_matrices_that_do_not_fit_are_refused(
    embedder: Embedder,
    tmp_path: Path,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    a, b = random_adapter(4, 1)[MODULE]
    nan = np.where(np.arange(b.size).reshape(b.shape) == 7, np.float32("nan"), b)
    cases: dict[str, tuple[Matrices, str]] = {
        "target": ({"layers.1.self_attn.qkv": (a, b)}, "qkv.lora_A.weight adapts a layer that"),
        "visual": ({"visual.blocks.0.attn.proj": (a, b)}, "proj.lora_A.weight adapts a layer"),
        "layer": ({"layers.3.mlp.up_proj": (a, b)}, "adapts a layer that has no adapter"),
        "shape": ({MODULE: (a[:, :-1], b)}, f"{stored('A')} is [4, 127], not [4, 128] (rank 4)"),
        "swapped": ({MODULE: (b, a)}, "2 misfits"),
        "NaN": ({MODULE: (a, nan)}, f"{stored('B')}: 1 values are NaN or infinite"),
    }
    for case, (matrices, words) in cases.items():
        folder = write_peft(tmp_path / case, ("", matrices), dtype="F32", r=4)
        assert words in refusal(embedder, folder, CheckpointError), case


def test_half_an_adapter_is_refused(
    embedder: Embedder,
    tmp_path: Path,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    folder = write_peft(tmp_path / "a", ("", random_adapter(4, 1, MODULE)))
    for half, other in ("AB", "BA"):
        entry = entry_from_array(stored(half), np.ones((128, 4), np.float32), "F32")
        if half == "A":
            entry = entry_from_array(stored(half), np.ones((4, 128), np.float32), "F32")
        write_safetensors(folder / "adapter_model.safetensors", [entry], {})
        words = f"1 misfits: {stored(half)} has no lora_{other} beside it"
        assert words in refusal(embedder, folder, CheckpointError)
    write_safetensors(folder / "adapter_model.safetensors", [], {})
    assert "it holds no adapter tensors" in refusal(embedder, folder, CheckpointError)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(
    embedder: Embedder,
    tmp_path: Path,
    name: str,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    folder = write_peft(tmp_path / "a", ("", random_adapter(4, 1)))
    (folder / name).unlink()
    assert name in refusal(embedder, folder, CheckpointError)


def test_a_rank_larger_than_the_bundles_is_refused_with_the_remedy(
    embedder: Embedder,
    tmp_path: Path,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    adapter = random_adapter(4, 1) | random_adapter(11, 1, MODULE)
    folder = write_peft(
        tmp_path / "a", ("", adapter), rank_pattern={MODULE.replace(".", r"\."): 11}
    )
    message = refusal(embedder, folder, InputError)
    assert f"{MODULE} has rank 11, this bundle takes up to {MAX_RANK}" in message
    assert message.endswith("--max-rank 11")


def test_a_value_too_large_for_the_bundles_dtype_is_refused(
    model: ModelConfig,
    tmp_path: Path,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    a, b = random_adapter(4, 1)[MODULE]
    folder = write_peft(tmp_path / "a", ("", {MODULE: (a, b * 1e6)}), dtype="F32", lora_alpha=4)
    half = AdapterLayout(max_rank=8, dtype="F16", files={})
    with pytest.raises(InputError, match=f"{MODULE} has a value of .*F16 adapters hold"):
        read_adapter(folder, model, half, "mine", None)
    read_adapter(folder, model, AdapterLayout(max_rank=8, dtype="BF16", files={}), "mine", None)


def refusal(embedder: Embedder, folder: Path, error: type[TrineError]) -> str:
    """Return the message with which a folder is refused, after which nothing has changed."""
    before = embedder.encode_text("a text", "code")
    with pytest.raises(TrineError) as caught:
        embedder.load_adapter("mine", folder)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.startswith(f"{folder}/adapter_")
    assert "\n" not in message
    assert embedder.tasks == TASKS
    np.testing.assert_array_equal(embedder.encode_text("a text", "code"), before)
    return message


def test_merged_engines_take_no_adapters(golden_bundle: Path) -> None:
    merged = Embedder.load(golden_bundle, self_test=False)
    for change in (
        lambda: merged.load_adapter("mine", GOLDEN / "adapters", task="code"),
        lambda: merged.unload_adapter("code"),
    ):
        with pytest.raises(InputError, match=r"adapters merged .*export with --adapters runtime"):
            change()
    assert merged.tasks == TASKS


def test_names_that_cannot_be_used_are_refused(embedder: Embedder) -> None:
    for name in ("", None, 3):
        with pytest.raises(InputError, match=r"the adapter's name is .* not empty"):
            embedder.load_adapter(name, GOLDEN / "adapters", task="code")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'mine' is not loaded; loaded are \['retrieval'"):
        embedder.unload_adapter("mine")


def test_all_slots_taken(embedder: Embedder) -> None:
    for number in range(MAX_ADAPTERS - len(TASKS)):
        embedder.load_adapter(f"n{number}", GOLDEN / "adapters", task=TASKS[number % 3])
    with pytest.raises(InputError, match=r"'more'.*all 32 slots are taken by.*unload one first"):
        embedder.load_adapter("more", GOLDEN / "adapters", task="code")
    items = [f"text {number}" for number in range(len(embedder.tasks))]
    found = embedder.encode_text(items, embedder.tasks)
    names = [n if n in TASKS else TASKS[int(n[1:]) % 3] for n in embedder.tasks]
    np.testing.assert_allclose(found, embedder.encode_text(items, names), atol=2e-5)
    embedder.unload_adapter("n7")
    embedder.load_adapter("more", GOLDEN / "adapters", task="code")
    assert len(embedder.tasks) == MAX_ADAPTERS
