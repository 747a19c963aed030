"""Adapters beside the decoder: mixed in a batch, and loaded from PEFT folders."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.reference.model import Reference, ReferenceInput
from trine.runtime.adapters.layout import PROJECTOR, adapted_shapes
from trine.runtime.adapters.peft import LoraPair
from trine.runtime.bundle.safetensors_file import narrow, widen
from trine.runtime.embedder import Embedder
from trine.runtime.engines.ort.engine import OrtCpuEngine
from trine.runtime.errors import InputError
from trine.runtime.inference.runner import BatchLimits
from trine.runtime.inputs import ImageText, Item
from trine.runtime.outputs import Embeddings
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import check_request

Array = NDArray[np.float32]
Matrices = dict[str, tuple[Array, Array]]  # A and B of each adapted layer
RandomAdapter = Callable[..., Matrices]
WritePeft = Callable[..., Path]

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"
TASKS = ("retrieval", "text-matching", "code")
#: Rank and dtype that the golden bundle's decoder takes.
MAX_RANK, DTYPE = 8, "BF16"
MIXED_DIFFERENCE, REFERENCE_DIFFERENCE, MIN_COSINE = 2e-5, 1e-4, 0.99999


def image(height: int, width: int) -> NDArray[np.uint8]:
    source = np.random.default_rng(height * 1000 + width)
    return source.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def load(golden_runtime_bundle: Path) -> Callable[..., Embedder]:
    """Opens the bundle; one embedder for each limits, so not for tests that change its adapters."""
    opened: dict[BatchLimits, Embedder] = {}

    def open_with(limits: BatchLimits) -> Embedder:
        if limits not in opened:
            opened[limits] = Embedder.load(golden_runtime_bundle, limits=limits, self_test=False)
        return opened[limits]

    return open_with


@pytest.fixture
def embedder(golden_runtime_bundle: Path) -> Embedder:
    """An embedder whose adapters a test may change."""
    return Embedder.load(golden_runtime_bundle, self_test=False)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The adapters of each run of a decoder, as it happens."""
    seen: list[list[str]] = []
    run = OrtCpuEngine.forward_decoder

    def watched(self: OrtCpuEngine, inputs: Any, adapters: Any) -> Any:
        seen.append([adapter.name for adapter in adapters])
        return run(self, inputs, adapters)

    monkeypatch.setattr(OrtCpuEngine, "forward_decoder", watched)
    return seen


# Several tasks in one batch

TEXTS = st.builds(
    lambda n: " ".join(["Straße", "the", "東京", "12"][: n % 4 + 1] * n), st.integers(0, 40)
) | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
SIZES = st.sampled_from(((56, 56), (28, 112), (90, 60)))
IMAGES = st.lists(st.builds(lambda size: image(*size), SIZES), min_size=1, max_size=2)
ITEMS: st.SearchStrategy[Item] = (
    TEXTS | TEXTS | st.builds(ImageText, IMAGES.map(tuple), st.none() | TEXTS)
)
LIMITS = st.builds(
    BatchLimits,
    tokens=st.sampled_from((2048, 2048, 150, 1)),
    patches=st.sampled_from((4096, 40)),
    window_tokens=st.sampled_from((16_384, 60)),
)


def encode(embedder: Embedder, items: Sequence[Item], task: str | Sequence[str]) -> Embeddings:
    return embedder.encode(items, task, return_multivector=True)


def rows_of(found: Embeddings) -> list[Array]:
    """Return each item's single vector and multi-vector in one array [1 + T, ·]."""
    assert found.single is not None
    assert found.multi is not None
    width = found.single.shape[1]
    return [
        np.concatenate([single[None], np.pad(multi, ((0, 0), (0, width - multi.shape[1])))])
        for single, multi in zip(found.single, found.multi, strict=True)
    ]


def largest(found: Iterable[Array], want: Iterable[Array]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(found, want, strict=True))


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(st.tuples(ITEMS, st.sampled_from(TASKS)), min_size=2, max_size=12),
    limits=LIMITS,
)
def test_a_batch_of_several_tasks_equals_its_tasks_alone(
    load: Callable[..., Embedder], rows: list[tuple[Item, str]], limits: BatchLimits
) -> None:
    items, tasks = zip(*rows, strict=True)
    together = rows_of(encode(load(limits), items, tasks))
    worst = 0.0
    for task in set(tasks):
        places = [place for place, name in enumerate(tasks) if name == task]
        alone = rows_of(encode(load(BatchLimits()), [items[place] for place in places], task))
        worst = max(worst, largest([together[place] for place in places], alone))
    target(worst)
    assert worst <= MIXED_DIFFERENCE


def test_tasks_share_runs_of_the_decoder(embedder: Embedder, runs: list[list[str]]) -> None:
    encode(embedder, ["one", "two", "three"] * 3, TASKS * 3)
    assert [sorted(set(run)) for run in runs] == [sorted(TASKS)]


def test_more_adapters_than_a_run_takes_are_spread_over_runs(
    embedder: Embedder, runs: list[list[str]]
) -> None:
    for name in ("fourth", "fifth", "sixth"):
        embedder.load_adapter(name, GOLDEN / "adapters", task="code")
    names = [*TASKS, "fourth", "fifth", "sixth"]
    items: list[Item] = [f"text {place} " * (place + 1) for place in range(12)]
    found = rows_of(encode(embedder, items, names * 2))
    assert sorted(len(run) for run in runs) == [4, 8]
    same = [name if name in TASKS else "code" for name in names * 2]
    want = [rows_of(encode(embedder, [i], t))[0] for i, t in zip(items, same, strict=True)]
    assert largest(found, want) <= MIXED_DIFFERENCE


# Adapters from PEFT folders


def rounded(array: Array, dtype: str = DTYPE) -> Array:
    return widen(narrow(array, dtype), dtype)


class Given:
    """Stands in for a checkpoint's adapters in the numpy reference."""

    def __init__(self, matrices: Matrices) -> None:
        self.matrices = matrices

    def pair(self, module: str, task: str) -> LoraPair | None:
        pair = self.matrices.get(module)
        return None if pair is None else LoraPair(*pair)


INPUTS: tuple[Item, ...] = (
    "Which warranty covers panels?",
    "東京 " * 30,
    ImageText((image(60, 90),)),
)


def expected(matrices: Matrices) -> list[Array]:
    """Return what the numpy reference makes of the inputs with x·Aᵀ·Bᵀ added to each layer."""
    checkpoint = Checkpoint(GOLDEN)
    model = checkpoint.config
    request = check_request(["mine"], model, num_items=len(INPUTS), task="mine")
    tokenizer = TextTokenizer(GOLDEN / "tokenizer.json")
    sequences = Preprocessor(model, tokenizer).sequences(INPUTS, request)
    reference = Reference(checkpoint, Given(matrices))  # type: ignore[arg-type]
    results = reference.run([ReferenceInput(sequence, "mine") for sequence in sequences])
    return rows_of(
        Embeddings(
            single=np.array([result.single for result in results]),
            multi=[result.multi for result in results],
            num_tokens=np.array([len(result.multi) for result in results]),
            truncated=np.zeros(len(results), np.bool_),
        )
    )


def assert_as_expected(embedder: Embedder, matrices: Matrices, name: str = "mine") -> None:
    found, want = rows_of(encode(embedder, INPUTS, name)), expected(matrices)
    cosine = min(
        float((a.astype(np.float64) * b).sum(axis=1).min())
        for a, b in zip(found, want, strict=True)
    )
    print(f"worst cosine {cosine:.8f}, largest difference {largest(found, want):.2e}")
    assert cosine >= MIN_COSINE
    assert largest(found, want) <= REFERENCE_DIFFERENCE


def scaled(matrices: Matrices, factor: float = 2.0) -> Matrices:
    """Return the matrices as the decoder takes them: rounded, B multiplied by alpha / r."""
    return {
        module: (rounded(a), rounded(rounded(b) * np.float32(factor)))
        for module, (a, b) in matrices.items()
    }


@pytest.mark.parametrize("suffix", ["", ".default", ".other", ".default.other"])
@pytest.mark.parametrize(
    "prefix",
    [
        "base_model.model.model.language_model.",
        "base_model.model.language_model.",
        "base_model.model.model.",
        "model.language_model.",
        "base_model.model.",
    ],
)
def test_the_only_adapter_of_a_folder_is_loaded_however_it_is_spelt(
    embedder: Embedder,
    tmp_path: Path,
    prefix: str,
    suffix: str,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    adapter = random_adapter(MAX_RANK, 1)
    embedder.load_adapter("mine", write_peft(tmp_path / "a", (suffix, adapter), prefix=prefix))
    assert embedder.tasks == (*TASKS, "mine")
    assert_as_expected(embedder, scaled(adapter))


def test_one_of_several_adapters_is_chosen_by_task_or_by_name(
    embedder: Embedder,
    tmp_path: Path,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    first, second = (random_adapter(MAX_RANK, seed) for seed in (1, 2))
    folder = write_peft(tmp_path / "a", (".first", first), (".second", second))
    embedder.load_adapter("mine", folder, task="second")
    assert_as_expected(embedder, scaled(second))
    embedder.load_adapter("first", str(folder))
    assert_as_expected(embedder, scaled(first), "first")
    with pytest.raises(InputError, match=r"has no adapter 'else'; it has \['first', 'second'\]"):
        embedder.load_adapter("else", folder)
    with pytest.raises(InputError, match="has no adapter 'third'"):
        embedder.load_adapter("mine", folder, task="third")
    assert_as_expected(embedder, scaled(second))


def test_a_task_asked_for_of_a_folder_that_names_none(
    embedder: Embedder,
    tmp_path: Path,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    folder = write_peft(tmp_path / "a", ("", random_adapter(2, 1)))
    with pytest.raises(InputError, match="has no adapter 'code'; it has one without a name"):
        embedder.load_adapter("mine", folder, task="code")


@pytest.mark.parametrize("rank", [1, 3, MAX_RANK])
@pytest.mark.parametrize(
    "ends", [("q_proj", "v_proj"), ("k_proj",), ("layers.1.mlp.down_proj",), (PROJECTOR,), ()]
)
def test_smaller_ranks_and_some_layers_only(
    embedder: Embedder,
    tmp_path: Path,
    rank: int,
    ends: tuple[str, ...],
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    # The slot held a whole adapter before.
    embedder.load_adapter("mine", GOLDEN / "adapters", task="code")
    embedder.unload_adapter("mine")
    adapter = random_adapter(rank, rank, *ends)
    embedder.load_adapter("mine", write_peft(tmp_path / "a", ("", adapter)))
    assert_as_expected(embedder, scaled(adapter))


def test_ranks_and_alphas_by_pattern(
    embedder: Embedder,
    tmp_path: Path,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    adapter = random_adapter(4, 1) | random_adapter(6, 2, "q_proj", "up_proj")
    folder = write_peft(
        tmp_path / "a",
        ("", adapter),
        r=4,
        lora_alpha=4,
        rank_pattern={r"layers\.\d+\.mlp\.up_proj": 6, "q_proj": 6},
        alpha_pattern={"q_proj": 3, "multi_vector_projector": 8},
    )
    factors = {"q_proj": 3 / 6, "up_proj": 4 / 6, PROJECTOR: 8 / 4}
    embedder.load_adapter("mine", folder)
    wanted: Matrices = {}
    for module, pair in adapter.items():
        wanted |= scaled({module: pair}, factors.get(module.rpartition(".")[2], 1.0))
    assert_as_expected(embedder, wanted)


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(
    embedder: Embedder,
    tmp_path: Path,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    adapter = random_adapter(4, 1)
    folder = write_peft(tmp_path / "a", ("", adapter), r=4, lora_alpha=1, use_rslora=True)
    embedder.load_adapter("mine", folder)
    assert_as_expected(embedder, scaled(adapter, 1 / 2))


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_an_adapter_of_another_dtype_is_rounded_to_the_bundles(
    embedder: Embedder,
    tmp_path: Path,
    dtype: str,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    adapter = random_adapter(MAX_RANK, 1)
    embedder.load_adapter("mine", write_peft(tmp_path / "a", ("", adapter), dtype=dtype))
    stored = {m: (rounded(a, dtype), rounded(b, dtype)) for m, (a, b) in adapter.items()}
    assert_as_expected(
        embedder, {m: (rounded(a), rounded(b * np.float32(2))) for m, (a, b) in stored.items()}
    )
    exact = expected({m: (a, b * np.float32(2)) for m, (a, b) in stored.items()})
    # bfloat16 holds 8 bits, so the vectors stay near those of the adapter as it was.
    assert largest(rows_of(encode(embedder, INPUTS, "mine")), exact) < 0.02


def test_an_adapter_may_take_the_place_of_one_of_the_bundles(
    golden_runtime_bundle: Path,
    tmp_path: Path,
    random_adapter: RandomAdapter,
    write_peft: WritePeft,
) -> None:
    embedder = Embedder.load(golden_runtime_bundle)
    adapter = random_adapter(5, 1)
    embedder.load_adapter("retrieval", write_peft(tmp_path / "a", ("", adapter)))
    assert sorted(embedder.tasks) == sorted(TASKS)
    # The first image brings a self-test, whose reference is of the adapter that was replaced.
    assert_as_expected(embedder, scaled(adapter), "retrieval")


@pytest.mark.reference
@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_adapter_that_peft_wrote(embedder: Embedder, tmp_path: Path, use_rslora: bool) -> None:
    model = embedder.bundle.manifest.model
    torch = pytest.importorskip("torch", reason="needs the `reference` extra")
    peft = pytest.importorskip("peft", reason="needs the `reference` extra")
    names = {
        module if module == PROJECTOR else f"model.language_model.{module}": module
        for module in adapted_shapes(model)
    }
    torch.manual_seed(0)
    tree = torch.nn.Module()
    for name, module in names.items():
        *parents, leaf = name.split(".")
        place = tree
        for parent in parents:
            if parent not in dict(place.named_children()):
                place.add_module(parent, torch.nn.Module())
            place = place.get_submodule(parent)
        num_out, num_in = adapted_shapes(model)[module]
        place.add_module(leaf, torch.nn.Linear(num_in, num_out))
    tuned = peft.get_peft_model(
        tree,
        peft.LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=r".*(q_proj|v_proj|down_proj|multi_vector_projector)",
            rank_pattern={"down_proj": 7, r"layers\.2\.self_attn\.q_proj": 2},
            alpha_pattern={"v_proj": 5},
            use_rslora=use_rslora,
            init_lora_weights=False,
        ),
    )
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.to(torch.bfloat16) * 2)
    tuned.save_pretrained(str(tmp_path / "a"))
    embedder.load_adapter("mine", tmp_path / "a")
    layers = dict(tuned.base_model.model.named_modules())
    wanted: Matrices = {}
    for name, module in names.items():
        if hasattr(layers[name], "get_delta_weight"):
            # The decoder's matrices are bfloat16, and so is B only after the scaling.
            a, b = (getattr(layers[name], f"lora_{h}")["default"].weight for h in "AB")
            scaling = np.float32(layers[name].scaling["default"])
            wanted[module] = (a.detach().numpy(), rounded(b.detach().numpy() * scaling))
            delta = layers[name].get_delta_weight("default").detach().numpy()
            assert np.abs(wanted[module][1] @ wanted[module][0] - delta).max() < 0.01 * delta.max()
    assert len(wanted) == 3 * model.decoder.num_layers + 1
    assert_as_expected(embedder, wanted)
