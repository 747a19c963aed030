"""Random checkpoints, pictures and texts that tests of this folder share."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import isqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.export.options import ExportOptions
from trine.export.pipeline import export_checkpoint
from trine.export.sample_checkpoint import write_sample_checkpoint
from trine.export.sample_spec import SPECIAL_TOKENS, SampleSpec

Exported = Callable[[SampleSpec], AbstractContextManager[tuple[Path, Path]]]

RANKS = st.integers(1, 24)
ADAPTED = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "multi_vector_projector")
TASKS = ("retrieval", "text-matching", "code", "vision", "default", "Task_7", "-")
WORDS = ["the", "Query:", "Straße", "東京", "def", "area(r):\n", "\t", "🚀", "café", "naïve", "12345", "…", "Привет", "мир", "é", "ﬁn"]


def _split(draw: st.DrawFn, total: int, parts: int) -> tuple[int, ...]:
    """Return `parts` positive numbers that sum to `total`."""
    cuts = sorted(
        draw(
            st.lists(st.integers(1, total - 1), min_size=parts - 1, max_size=parts - 1, unique=True)
        )
    )
    return tuple(np.diff([0, *cuts, total]).tolist())


def _patterns(values: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[tuple[str, int], ...]]:
    names = st.sampled_from((*ADAPTED, r"layers\.0\.self_attn\.k_proj", r"layers\.[01]\..*up_proj"))
    return st.lists(st.tuples(names, values), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)


@st.composite
def _decoder(draw: st.DrawFn) -> dict[str, object]:
    head_dim = draw(st.integers(8, 32).map(lambda n: 4 * n) | st.sampled_from((34, 36, 100, 128)))
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 4 // kv_heads if kv_heads < 3 else 1))
    special = draw(st.integers(256, 900))
    hidden = head_dim * heads
    return {
        "hidden_size": hidden,
        "num_layers": draw(st.integers(1, 4)),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "intermediate_size": draw(st.integers(1, 300)),
        "mrope_section": _split(draw, head_dim // 2, 3),
        "rope_theta": draw(st.sampled_from((1_000_000.0, 10_000.0, 500.0))),
        "rms_norm_eps": draw(st.sampled_from((1e-6, 1e-5, 1e-3))),
        "first_special_id": special,
        "vocab_size": special + len(SPECIAL_TOKENS) + draw(st.integers(0, 50)),
        "matryoshka_dims": tuple(
            sorted({hidden, *draw(st.lists(st.integers(1, hidden), max_size=3))})
        ),
    }


@st.composite
def _vision(draw: st.DrawFn) -> dict[str, object]:
    heads, depth = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    patch, merge = draw(st.sampled_from(((14, 2), (14, 2), (14, 2), (16, 2), (8, 3), (10, 1))))
    factor = patch * merge
    least = factor**2 * draw(st.integers(1, 9))
    return {
        "vision_hidden_size": heads * 4 * draw(st.integers(2, 22)),
        "vision_depth": depth,
        "vision_heads": heads,
        "vision_intermediate_size": draw(st.integers(1, 150)),
        "window_size": factor * draw(st.sampled_from((1, 2, 3, 4, 4, 7))),
        "full_attention_blocks": tuple(sorted(draw(st.sets(st.integers(0, depth - 1))))),
        "patch_size": patch,
        "spatial_merge_size": merge,
        "temporal_patch_size": draw(st.sampled_from((2, 2, 1, 3))),
        "min_pixels": least,
        "max_pixels": least + factor**2 * draw(st.integers(10, 150)),
    }


@st.composite
def _specs(draw: st.DrawFn) -> SampleSpec:
    rank, rank_pattern = draw(RANKS), draw(_patterns(RANKS))
    # More than four times the rank, and rounding grows beyond what the limits of tests allow.
    alphas = st.integers(1, min(48, 4 * min(rank, *(value for _, value in rank_pattern), 99)))
    return SampleSpec(
        **draw(_decoder()),
        **draw(_vision()),
        projector_dim=draw(st.integers(1, 130)),
        tasks=tuple(draw(st.lists(st.sampled_from(TASKS), min_size=1, max_size=3, unique=True))),
        rank=rank,
        alpha=draw(alphas),
        rank_pattern=rank_pattern,
        alpha_pattern=draw(_patterns(alphas)),
        dtype=draw(st.sampled_from(("bfloat16", "float16", "float32"))),
        key_spelling=draw(st.sampled_from(("published", "resaved"))),
        num_shards=draw(st.integers(1, 5)),
        seed=draw(st.integers(0, 2**32)),
    )


def _long_text(count: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, count).tolist())


@st.composite
def _pictures(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Return uint8 [h, w, 3] of 1 pixel to a few hundred thousand, up to 200 times as long as wide."""
    short = draw(st.integers(1, 40) | st.integers(1, 400))
    long = draw(st.integers(short, min(200 * short, 250_000 // short + short)))
    if draw(st.booleans()):
        long = min(200 * short, max(short, 250_000 // short))
    shape = (short, long) if draw(st.booleans()) else (long, short)
    return _picture(*shape, draw(st.sampled_from(("noise", "gradient", "one colour"))))


def _picture(height: int, width: int, kind: str) -> NDArray[np.uint8]:
    if kind == "noise":
        source = np.random.default_rng(height * 7919 + width)
        return source.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "one colour":
        return np.full((height, width, 3), (255, 0, 128), np.uint8)
    row, column = np.indices((height, width))
    rings = (128 + 127 * np.sin(np.hypot(row, column) / (1 + isqrt(width) / 2))).astype(int)
    channels = (row * 255 // height, column * 255 // width, rings)
    return np.stack(channels, axis=2).astype(np.uint8)


@pytest.fixture(scope="session")
def sample_specs() -> st.SearchStrategy[SampleSpec]:
    """Small checkpoints with any valid numbers."""
    return _specs()


@pytest.fixture(scope="session")
def texts() -> st.SearchStrategy[str]:
    """Texts of no to a few hundred tokens, with every kind of character a text can hold."""
    return (
        st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
        | st.sampled_from(("", " ", "\n\n", "\x00", "<|image_pad|>", "a<|im_end|>\n<|im_start|>b"))
        | st.builds(_long_text, st.integers(1, 90), st.integers(0, 99))
    )


@pytest.fixture(scope="session")
def pictures() -> st.SearchStrategy[NDArray[np.uint8]]:
    """Pictures from 1 × 1 pixel up, to 200 times as long as wide."""
    return _pictures()


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int, str], NDArray[np.uint8]]:
    """Makes uint8 [h, w, 3] of "noise", "gradient" or "one colour"."""
    return _picture


@pytest.fixture(scope="session")
def exported() -> Exported:
    """Writes the checkpoint of a spec, exports it, and removes both when the block ends."""

    @contextmanager
    def write(spec: SampleSpec) -> Iterator[tuple[Path, Path]]:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, bundle = Path(folder) / "checkpoint", Path(folder) / "bundle"
            write_sample_checkpoint(spec, checkpoint)
            options = ExportOptions(source=str(checkpoint), bundle=bundle, check=False)
            export_checkpoint(options, io.StringIO())
            yield checkpoint, bundle

    return write
