"""An item's vectors depend on neither its neighbours nor limits, order or threads."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st

from trine.runtime.embedder import Embedder
from trine.runtime.engines.ort.engine import OrtCpuEngine
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inputs import ImageText, Item
from trine.runtime.outputs import Embeddings

#: Largest difference between a row alone and the same row in a batch.
MAX_DIFFERENCE = 2e-5
TASKS = ("retrieval", "text-matching", "code")
PROMPTS = ("query", "passage")

modest = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def image(height: int, width: int) -> np.ndarray:
    source = np.random.default_rng(height * 1000 + width)
    return source.integers(0, 256, (height, width, 3), np.uint8)


def words(count: int) -> str:
    source = np.random.default_rng(count)
    return " ".join(source.choice(["the", "Straße", "東京", "def", "🚀", "12", "fox,"], count))


# Some sizes come often, so that images of equal and of unequal size share a batch.
SIZES = st.sampled_from(((56, 56), (56, 56), (28, 112), (112, 28), (1, 1), (90, 150), (150, 90)))
IMAGES = st.builds(lambda size: image(*size), SIZES)
TEXTS = (
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
    | st.builds(words, st.integers(0, 150))
    | st.sampled_from(("", "the", "the the", "<|image_pad|>"))
)
ITEMS: st.SearchStrategy[Item] = (
    TEXTS
    | st.builds(lambda image: ImageText((image,)), IMAGES)
    | st.builds(ImageText, st.lists(IMAGES, min_size=1, max_size=3).map(tuple), st.none() | TEXTS)
)
LIMITS = st.builds(
    BatchLimits,
    tokens=st.sampled_from((2048, 300, 40, 1)),
    patches=st.sampled_from((4096, 200, 32, 1)),
    window_tokens=st.sampled_from((16_384, 100, 1)),
)


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[Item, str, str]]:
    """Return items, each with its task and prompt."""
    row = st.tuples(ITEMS, st.sampled_from(TASKS), st.sampled_from(PROMPTS))
    return draw(st.lists(row, min_size=3, max_size=14))


def encode(
    embedder: Embedder, rows: Sequence[tuple[Item, str, str]], max_length: int = 32_768
) -> Embeddings:
    items, tasks, prompts = zip(*rows, strict=True)
    return embedder.encode(
        items,
        list(tasks),
        prompt_name=list(prompts),
        max_length=max_length,
        return_multivector=True,
    )


def assert_same_row(found: Embeddings, row: int, want: Embeddings, other: int) -> float:
    """Check that two rows are the same item's; return the largest difference."""
    assert found.num_tokens[row] == want.num_tokens[other] == len(found.multi[row])
    assert found.truncated[row] == want.truncated[other]
    assert found.multi[row].shape == want.multi[other].shape
    difference = max(
        float(np.abs(found.single[row] - want.single[other]).max()),
        float(np.abs(found.multi[row] - want.multi[other]).max()),
    )
    assert difference <= MAX_DIFFERENCE
    return difference


@pytest.fixture(scope="module", params=["golden", "golden_runtime", "nano"])
def load(request: pytest.FixtureRequest) -> Callable[[BatchLimits], Embedder]:
    """Opens one of the bundles with limits; an embedder is kept for each."""
    bundle = request.getfixturevalue(f"{request.param}_bundle")
    opened: dict[BatchLimits, Embedder] = {}

    def open_with(limits: BatchLimits) -> Embedder:
        if limits not in opened:
            opened[limits] = Embedder.load(bundle, limits=limits, threads=1, self_test=False)
        return opened[limits]

    return open_with


@modest
@given(rows=batches(), limits=LIMITS, max_length=st.sampled_from((1, 2, 7, 64, 32_768)))
def test_a_row_in_a_batch_is_the_row_alone(
    load: Callable[[BatchLimits], Embedder],
    rows: list[tuple[Item, str, str]],
    limits: BatchLimits,
    max_length: int,
) -> None:
    together = encode(load(limits), rows, max_length)
    assert len(together.multi) == len(together.single) == len(rows)
    worst = 0.0
    for index, row in enumerate(rows):
        alone = encode(load(BatchLimits()), [row], max_length)
        worst = max(worst, assert_same_row(together, index, alone, 0))
    target(worst)


@modest
@given(rows=batches(), limits=LIMITS, data=st.data())
def test_permuted_items_give_permuted_rows(
    load: Callable[[BatchLimits], Embedder],
    rows: list[tuple[Item, str, str]],
    limits: BatchLimits,
    data: st.DataObject,
) -> None:
    order = data.draw(st.permutations(range(len(rows))), "order")
    embedder = load(limits)
    before, after = encode(embedder, rows), encode(embedder, [rows[index] for index in order])
    for place, index in enumerate(order):
        assert_same_row(after, place, before, index)


def test_short_items_share_runs(
    load: Callable[[BatchLimits], Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("forward_decoder", "forward_vision"):
        run = getattr(OrtCpuEngine, name)

        def counted(*args: object, name: str = name, run: Callable[..., object] = run) -> object:
            calls.append(name)
            return run(*args)

        monkeypatch.setattr(OrtCpuEngine, name, counted)
    same = ImageText((image(56, 56),))
    encode(load(BatchLimits()), [("the", "code", "query"), (same, "code", "query")] * 8)
    assert sorted(calls) == ["forward_decoder", "forward_vision"]


@pytest.mark.parametrize("head", ["single", "multi"])
def test_batch_size_never_matters(load: Callable[[BatchLimits], Embedder], head: str) -> None:
    texts = [words(count) for count in (3, 0, 90, 3, 41)]
    images = [image(56, 56), image(90, 150), image(56, 56)]
    embedder = load(BatchLimits())
    multi = head == "multi"
    for encode_kind, items in (
        (embedder.encode_text, texts),
        (embedder.encode_image, images),
    ):
        want = encode_kind(items, "retrieval", return_multivector=multi)
        for batch_size in (1, 2, 1000):
            found = encode_kind(items, "retrieval", batch_size=batch_size, return_multivector=multi)
            for a, b in zip(found, want, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("limits", [BatchLimits(), BatchLimits(tokens=1, patches=1)])
def test_many_items_come_back_in_order(
    load: Callable[[BatchLimits], Embedder], limits: BatchLimits
) -> None:
    """More items than are tokenised at once, and more tokens than one window holds."""
    rows = [(words(index % 37), TASKS[index % 3], PROMPTS[index % 2]) for index in range(300)]
    found = encode(load(limits), rows)
    for index in range(0, 300, 37):
        assert_same_row(found, index, encode(load(BatchLimits()), [rows[index]]), 0)


def test_no_items_give_no_rows(load: Callable[[BatchLimits], Embedder]) -> None:
    embedder = load(BatchLimits())
    found = embedder.encode([], "code", return_multivector=True)
    assert found.single.shape == (0, embedder.bundle.manifest.model.decoder.hidden_size)
    assert found.multi == []
    assert found.num_tokens.shape == found.truncated.shape == (0,)


def test_a_row_is_the_same_whichever_heads_are_asked_for(
    load: Callable[[BatchLimits], Embedder],
) -> None:
    items: list[Item] = ["one", words(50), ImageText((image(90, 150),), "two")]
    embedder = load(BatchLimits())
    both = embedder.encode(items, "code", return_multivector=True)
    single = embedder.encode(items, "code")
    multi = embedder.encode(items, "code", return_single=False, return_multivector=True)
    assert single.multi is None
    assert multi.single is None
    np.testing.assert_array_equal(single.single, both.single)
    for a, b in zip(multi.multi, both.multi, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("engine_threads", [1, 2])
@pytest.mark.parametrize("name", ["golden_bundle", "golden_runtime_bundle"])
def test_threads_that_share_an_embedder_get_what_serial_calls_get(
    request: pytest.FixtureRequest, name: str, engine_threads: int
) -> None:
    bundle: Path = request.getfixturevalue(name)
    calls = [
        [(words(5 + 13 * n), TASKS[n % 3], PROMPTS[n % 2]), (words(40 - n), "code", "query")]
        + [(ImageText((image(56, 28 * (1 + n % 4)),)), TASKS[n % 3], "query")] * (n % 2)
        for n in range(12)
    ]
    serial = Embedder.load(bundle, threads=1, self_test=False)
    wanted = [encode(serial, rows) for rows in calls]
    # Freshly loaded, so that the first images, the vision tower and its self-test meet in a race.
    shared = Embedder.load(bundle, threads=engine_threads)
    workers = 6
    barrier = threading.Barrier(workers)

    def work(worker: int) -> list[tuple[int, Embeddings]]:
        barrier.wait()
        order = np.random.default_rng(worker).permutation(len(calls)).tolist()
        return [(index, encode(shared, calls[index])) for index in order]

    worst = 0.0
    with ThreadPoolExecutor(workers) as pool:
        for results in pool.map(work, range(workers)):
            assert sorted(index for index, _ in results) == list(range(len(calls)))
            for index, found in results:
                for row in range(len(calls[index])):
                    worst = max(worst, assert_same_row(found, row, wanted[index], row))
    print(f"largest difference between threads and serial calls: {worst:.2e}")
