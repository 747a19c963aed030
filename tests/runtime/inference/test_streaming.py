"""Streams: the vectors of `encode`, in order, within bounds, with the engine kept busy."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.runtime import Embedder, ImageText, InputError, StreamItem
from trine.runtime.adapters.base import MergedAdapters
from trine.runtime.engines.base import DecoderInputs
from trine.runtime.engines.ort.engine import OrtCpuEngine
from trine.runtime.hardware.memory import resident_bytes
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inputs import Item
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.vision_inputs import VisionInputs

SMALL = BatchLimits(tokens=64, patches=64, window_tokens=100)
TASKS = ("retrieval", "text-matching", "code")


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    return Embedder.load(nano_bundle, engine="ort-fp32", limits=SMALL)


def image(seed: int) -> ImageText:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
    return ImageText((pixels,), "a caption" if seed % 2 else None)


def mixed(count: int) -> list[Item]:
    return [image(n) if n % 9 == 4 else f"text {n} " * (n % 7 + 1) for n in range(count)]


def preparing_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("trine-prepare")]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(count=st.integers(0, 60), multi=st.booleans(), seed=st.integers(0, 9))
def test_a_stream_has_the_vectors_of_encode(
    embedder: Embedder, count: int, multi: bool, seed: int
) -> None:
    items = mixed(count)
    tasks = [TASKS[(n + seed) % 3] for n in range(count)]
    want = embedder.encode(items, tasks, truncate_dim=64, return_multivector=multi)
    found = list(
        embedder.encode_stream(
            (StreamItem(item, task) for item, task in zip(items, tasks, strict=True)),
            truncate_dim=64,
            return_multivector=multi,
        )
    )
    assert len(found) == count
    assert want.single is not None
    for row, result in enumerate(found):
        np.testing.assert_array_equal(result.single, want.single[row])
        if want.multi is not None:
            np.testing.assert_array_equal(result.multi, want.multi[row])
        assert result.num_tokens == want.num_tokens[row]
        assert result.truncated == want.truncated[row]


def test_encode_of_many_windows_is_encode_of_each_item(embedder: Embedder) -> None:
    items = mixed(40)
    together = embedder.encode(items, "retrieval").single
    alone = [embedder.encode([item], "retrieval").single for item in items]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_items_are_read_only_a_bounded_number_ahead(embedder: Embedder) -> None:
    read = 0

    def items() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "some words of a text that never ends"

    stream = embedder.encode_stream(items(), "retrieval")
    for taken in range(1, 3000):
        next(stream)
        assert read - taken < 1500  # a few chunks of 256; the stream itself has no end
    stream.close()
    assert preparing_threads() == []


@pytest.mark.parametrize("faulty", [0, 1, 47, 299])
def test_an_item_that_cannot_be_used_is_named_after_those_before_it(
    embedder: Embedder, faulty: int
) -> None:
    items: list[Item] = [f"text {n}" for n in range(300)]
    items[faulty] = ImageText((b"no image",))
    stream = embedder.encode_stream(items, "retrieval")
    assert sum(1 for _ in zip(range(faulty), stream, strict=False)) == faulty
    with pytest.raises(InputError, match=rf"^image {faulty} "):
        next(stream)
    assert preparing_threads() == []


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (StreamItem("a", "unknown"), r"^item 2: task is 'unknown'"),
        (StreamItem("a", prompt_name="both"), r"^item 2: prompt_name is 'both'"),  # type: ignore[arg-type]
        (3, r"^item 2: is a int"),
        ("half \ud800", r"^text 2 holds half of a surrogate pair"),
    ],
)
def test_options_of_an_item_are_checked_when_its_turn_comes(
    embedder: Embedder, item: Item, message: str
) -> None:
    stream = embedder.encode_stream(["a", "b", item, "d"], "code")
    assert sum(1 for _ in zip(range(2), stream, strict=False)) == 2
    with pytest.raises(InputError, match=message):
        next(stream)


def test_options_of_the_call_are_checked_at_once(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="truncate_dim is 3000"):
        embedder.encode_stream(["a"], "code", truncate_dim=3000)
    with pytest.raises(InputError, match="task is 'unknown'"):
        embedder.encode_stream(["a"], "unknown")
    with pytest.raises(InputError, match="give an iterable"):
        embedder.encode_stream("a text", "code")
    with pytest.raises(InputError, match="has no task"):
        list(embedder.encode_stream(["a"]))


def test_an_error_of_the_source_comes_through_and_ends_the_workers(embedder: Embedder) -> None:
    def items() -> Iterator[Item]:
        yield from mixed(50)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(embedder.encode_stream(items(), "code"))
    assert preparing_threads() == []


@pytest.mark.slow
def test_the_engine_is_busy_while_images_are_prepared(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine and a preprocessor that only wait: what they do at once shows in the sum."""
    model = embedder.bundle.manifest.model
    sequences = Preprocessor.sequences
    busy = 0.0

    def fake_decoder(_: object, inputs: DecoderInputs, adapters: object) -> NDArray[np.float32]:
        nonlocal busy
        time.sleep(0.2)
        busy += 0.2
        return np.ones((len(inputs.embeddings), model.decoder.hidden_size), np.float32)

    def fake_vision(_: object, inputs: VisionInputs) -> NDArray[np.float32]:
        merge = model.vision.spatial_merge_size
        return np.ones((len(inputs.patches) // merge**2, model.decoder.hidden_size), np.float32)

    def slow_preparation(*args: object) -> Iterator[object]:
        time.sleep(0.05)
        yield from sequences(*args)  # type: ignore[arg-type]

    items = [image(2 * n) for n in range(60)]
    list(embedder.encode_stream(items[:1], "retrieval"))
    monkeypatch.setattr(OrtCpuEngine, "forward_decoder", fake_decoder)
    monkeypatch.setattr(OrtCpuEngine, "forward_vision", fake_vision)
    monkeypatch.setattr(Preprocessor, "sequences", slow_preparation)
    started = time.monotonic()
    assert len(list(embedder.encode_stream(items, "retrieval"))) == 60
    wall = time.monotonic() - started
    print(f"engine busy {busy / wall:.2f} of {wall:.2f} s; preprocessor takes {60 * 0.05:.2f} s")
    # The first window waits for its images; behind it hardly anything should.
    assert wall < busy + 0.6 * 60 * 0.05


@pytest.mark.slow
def test_memory_stays_flat_over_20000_items(nano_bundle: Path) -> None:
    embedder = Embedder.load(nano_bundle, tasks=["retrieval"])
    sizes = []
    texts = (f"text number {n}" for n in range(20_000))
    for count, _ in enumerate(embedder.encode_stream(texts, "retrieval", truncate_dim=64)):
        if count % 2_000 == 1_999:
            sizes.append(resident_bytes() / 2**20)
    print(f"resident MiB every 2,000 items: {[round(size) for size in sizes]}")
    assert len(sizes) == 10
    assert sizes[-1] - sizes[1] < 32


def test_a_call_that_fails_leaves_no_thread_behind(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(engine: object, inputs: object, adapters: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(OrtCpuEngine, "forward_decoder", fail)
    with pytest.raises(MemoryError) as raised:
        embedder.encode(mixed(200), "retrieval")
    # The error is still held here, and with it every frame that it came through.
    assert raised.value.__traceback__ is not None
    assert preparing_threads() == []


def test_an_adapter_that_comes_while_items_are_checked_is_no_fault(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be there for one look at the names and not for another: each look stands alone."""
    names = iter([("retrieval",), TASKS, TASKS])
    items = [StreamItem("a", "retrieval"), StreamItem("b", "code")]
    found = embedder.encode_stream(items)
    monkeypatch.setattr(MergedAdapters, "names", property(lambda self: next(names)))
    next(found)
    with pytest.raises(InputError, match=r"^item 1: task is 'code'; known are"):
        next(found)
