"""Sequences of texts and images, against Qwen2.5-VL's rules for positions written as loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.runtime.bundle.model_config import DecoderConfig, TokenIds
from trine.runtime.preprocessing.image_processor import ImagePatches, PatchFormat
from trine.runtime.preprocessing.sequence import image_sequence, rope_tables, text_sequence
from trine.runtime.preprocessing.tokenizer import Scaffold

modest = settings(max_examples=100, deadline=None, derandomize=True)
IDS = TokenIds(image_pad=90, vision_start=91, vision_end=92)
SCAFFOLD = Scaffold(np.array([1, 2, 3]), np.array([4, 5, 6, 7]), np.array([8, 9]))

texts = st.lists(st.integers(10, 80), max_size=12).map(lambda ids: np.array(ids, np.int64))
grids = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


def images(grids: list[tuple[int, int]], merge: int) -> list[ImagePatches]:
    ones = np.ones(3, np.float32)
    form = PatchFormat(mean=ones, deviation=ones, patch_size=1, merge_size=merge, num_frames=1)
    return [
        ImagePatches(np.zeros((rows * merge, columns * merge, 3), np.uint8), form)
        for rows, columns in grids
    ]


def positions_by_definition(
    ids: list[int], grids: list[tuple[int, int]]
) -> list[tuple[int, int, int]]:
    """Return time, height and width of each token, by `get_rope_index`.

    A text token has the same number on all axes, one more than the largest before it. An image
    token adds its row and column to that number.
    """
    positions: list[tuple[int, int, int]] = []
    left = list(grids)
    place = 0
    while place < len(ids):
        start = max((max(p) for p in positions), default=-1) + 1
        if ids[place] == IDS.image_pad:
            rows, columns = left.pop(0)
            positions += [
                (start, start + row, start + column)
                for row in range(rows)
                for column in range(columns)
            ]
            place += rows * columns
        else:
            positions.append((start, start, start))
            place += 1
    assert not left
    return positions


@modest
@given(grids, st.none() | texts, st.integers(1, 3))
def test_images_and_text_in_the_published_prompt(
    grids: list[tuple[int, int]], text: NDArray[np.int64] | None, merge: int
) -> None:
    sequence = image_sequence(images(grids, merge), text, SCAFFOLD, IDS, merge)
    spans = [id_ for rows, columns in grids for id_ in (91, *[90] * (rows * columns), 92)]
    words = [4, 5, 6, 7] if text is None else text.tolist()
    ids = [1, 2, 3, *spans, *words, 8, 9]
    assert sequence.token_ids.tolist() == ids
    assert sequence.positions.T.tolist() == [list(p) for p in positions_by_definition(ids, grids)]
    # Pooled are the spans with their markers, and the caller's own text.
    pooled = [False] * 3 + [True] * len(spans) + [text is not None] * len(words) + [False] * 2
    assert sequence.pooled.tolist() == pooled
    assert sequence.image_slots.tolist() == [i for i, id_ in enumerate(ids) if id_ == 90]
    assert len(sequence) == len(ids)
    assert len(sequence.images) == len(grids)
    assert not sequence.truncated


def test_what_follows_a_image_starts_behind_its_longest_side() -> None:
    sequence = image_sequence(images([(2, 5)], 2), None, SCAFFOLD, IDS, 2)
    assert sequence.positions[:, 14].tolist() == [9, 9, 9]  # 4 before it, 5 columns
    assert sequence.positions[:, 4].tolist() == [4, 4, 4]
    assert sequence.positions[:, 13].tolist() == [4, 5, 8]


def test_image_tokens_of_a_text_are_no_image() -> None:
    sequence = image_sequence(images([(1, 2)], 1), np.array([90, 91]), SCAFFOLD, IDS, 1)
    assert sequence.image_slots.tolist() == [4, 5]


@given(texts, st.integers(1, 14))
def test_texts_are_cut_at_their_end(text: NDArray[np.int64], max_length: int) -> None:
    sequence = text_sequence(text, max_length)
    kept = text.tolist()[:max_length]
    assert sequence.token_ids.tolist() == kept
    assert sequence.positions.tolist() == [list(range(len(kept)))] * 3
    assert sequence.pooled.all()
    assert sequence.truncated == (len(text) > max_length)
    assert sequence.images == ()
    assert len(sequence.image_slots) == 0


def decoder(section: tuple[int, int, int], theta: float) -> DecoderConfig:
    head_dim = 2 * sum(section)
    return DecoderConfig(
        hidden_size=head_dim,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=head_dim,
        intermediate_size=1,
        rms_norm_eps=1e-6,
        rope_theta=theta,
        mrope_section=section,
        vocab_size=1,
        max_positions=32768,
    )


@modest
@given(
    st.lists(st.tuples(*[st.integers(0, 4000)] * 3), min_size=1, max_size=6),
    st.tuples(st.integers(0, 16), st.integers(0, 24), st.integers(1, 24)),
    st.sampled_from((10_000.0, 1_000_000.0)),
)
def test_frequencies_are_shared_out_among_the_axes(
    positions: list[tuple[int, int, int]], section: tuple[int, int, int], theta: float
) -> None:
    cos, sin = rope_tables(np.array(positions).T, decoder(section, theta))
    pairs = sum(section)
    axes = [axis for axis, count in enumerate(section) for _ in range(count)]
    angles = np.array(
        [[p[axis] * theta ** (-i / pairs) for i, axis in enumerate(axes)] for p in positions]
    )
    assert cos.dtype == sin.dtype == np.float32
    # A float32 angle in the thousands is this coarse; the published code has it so.
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-3)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-3)
