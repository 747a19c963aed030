"""Which bucket a run goes to, how it is split and padded; the graphs' inputs of its parts."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.bundle.manifest import SizeRange
from trine.runtime.engines.base import DecoderInputs
from trine.runtime.engines.gpu.buckets import (
    ANY_SIZE,
    Padding,
    choose_profile,
    decoder_sizes,
    split_run,
)
from trine.runtime.engines.gpu.layout import decoder_arrays, images_of
from trine.runtime.preprocessing.vision_inputs import VisionInputs, pad_layout


def bucket(tokens: int, sequences: int, length: int) -> dict[str, SizeRange]:
    sizes = {"tokens": tokens, "sequences": sequences, "length": length}
    return {name: SizeRange(1, size, size) for name, size in sizes.items()}


SMALL, LARGE = bucket(64, 4, 32), bucket(512, 8, 256)


def packed(lengths: list[int], hidden: int = 8) -> DecoderInputs:
    source = np.random.default_rng(0)
    total = sum(lengths)
    pad_index, unpad_index = pad_layout(np.array(lengths))
    return DecoderInputs(
        embeddings=source.standard_normal((total, hidden)).astype(np.float32),
        rope_cos=source.standard_normal((total, 4)).astype(np.float32),
        rope_sin=source.standard_normal((total, 4)).astype(np.float32),
        pad_index=pad_index,
        unpad_index=unpad_index,
        last_index=(np.array(lengths) - 1).astype(np.int32),
        padded_length=np.array(max(lengths), np.int32),
    )


@pytest.mark.parametrize(
    ("lengths", "number"),
    [([10], 0), ([32, 32], 0), ([33], 1), ([1] * 5, 1), ([1] * 9, None), ([257], None)],
)
def test_the_smallest_bucket_that_holds_a_run(lengths: list[int], number: int | None) -> None:
    sizes = decoder_sizes(np.array(lengths))
    assert choose_profile([SMALL, LARGE], sizes) == number
    assert choose_profile([LARGE, SMALL], sizes) == (None if number is None else 1 - number)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_parts_cover_a_run_in_order_and_fit(lengths: list[int]) -> None:
    parts = [decoder_sizes(np.array([length])) for length in lengths]
    runs = split_run(parts, [SMALL, LARGE])
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(len(lengths)))
    for run in runs:
        sizes = decoder_sizes(np.array(lengths[run]))
        fits = choose_profile([SMALL, LARGE], sizes) is not None
        assert fits or run.stop - run.start == 1
    for one, other in itertools.pairwise(runs):
        both = decoder_sizes(np.array(lengths[one.start : other.start + 1]))
        assert choose_profile([SMALL, LARGE], both) is None, "a part could have been larger"


@given(st.lists(st.integers(1, 256), min_size=1, max_size=8))
def test_padding_stays_within_its_limits(lengths: list[int]) -> None:
    own, padding = decoder_sizes(np.array(lengths)), Padding(free_tokens=64)
    sizes = padding.sizes(own, LARGE)
    if sizes != own:
        assert sizes == {name: LARGE[name].best for name in own}
        assert sizes["tokens"] <= max(64, padding.most_waste * own["tokens"])
    assert padding.sizes(own, ANY_SIZE) == own


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.data())
def test_a_part_has_its_own_tokens_where_the_graph_looks(
    lengths: list[int], data: st.DataObject
) -> None:
    inputs = packed(lengths)
    start = data.draw(st.integers(0, len(lengths) - 1))
    stop = data.draw(st.integers(start + 1, len(lengths)))
    own = decoder_sizes(inputs.lengths[start:stop])
    sizes = {name: size + data.draw(st.integers(0, 5)) for name, size in own.items()}
    given_arrays = decoder_arrays(inputs, slice(start, stop), sizes)
    arrays = {}
    for name, value in given_arrays.items():
        arrays[name] = np.zeros(value.shape, value.values.dtype)
        arrays[name][tuple(slice(size) for size in value.values.shape)] = value.values
    first = sum(lengths[:start])
    embeddings = arrays["embeddings"]
    assert embeddings.shape == (sizes["tokens"], 8)
    assert np.array_equal(embeddings[: own["tokens"]], inputs.embeddings[first:][: own["tokens"]])
    assert not embeddings[own["tokens"] :].any()
    # Into the padded view and back is the identity on the part's tokens.
    padded = embeddings[arrays["pad_index"]].reshape(-1, 8)
    assert np.array_equal(
        padded[arrays["unpad_index"]][: own["tokens"]], embeddings[: own["tokens"]]
    )
    place = 0
    for row, length in enumerate(lengths[start:stop]):
        view = embeddings[arrays["pad_index"]][row, :length]
        assert np.array_equal(view, embeddings[place : place + length])
        place += length


def test_images_are_taken_apart_at_their_own_windows() -> None:
    # Two images of 20 patches: windows of 16 and 4, and of 12, 4 and 4.
    lengths = np.array([16, 4, 12, 4, 4], np.int32)
    gather, scatter = pad_layout(lengths.astype(np.int64))
    rows = np.arange(40 * 3, dtype=np.float32).reshape(40, 3)
    run = images_of(
        VisionInputs(
            patches=rows,
            rope_cos=rows[:, :1],
            rope_sin=rows[:, :1],
            window_gather=gather,
            window_scatter=scatter,
            window_lengths=lengths,
            num_images=np.array([2]),
        )
    )
    assert [part["windows"] for part in run.parts] == [2, 3]
    sizes, arrays = run.arrays(slice(1, 2))
    assert sizes == {"images": 1, "patches": 20, "windows": 3, "window_length": 12}
    patches = arrays["patches"].values
    assert np.array_equal(patches[0], rows[20:])
    windows = patches[0][arrays["window_gather"].values].reshape(-1, 3)
    assert np.array_equal(windows[arrays["window_scatter"].values[0]], rows[20:])
    assert arrays["window_lengths"].values.tolist() == [12, 4, 4]
    whole, _ = run.arrays(slice(0, 2))
    assert whole == {"images": 2, "patches": 20, "windows": 5, "window_length": 16}
