"""Random checkpoints, images and texts that tests of this folder share."""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import isqrt
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.spec import SPECIAL_TOKENS, SampleSpec, changed_spec
from trine.runtime.commands.program import main
from trine.runtime.errors import CheckpointError, TrineError

Adapters = Literal["merged", "runtime"]
Exported = Callable[[SampleSpec, Adapters], AbstractContextManager[tuple[Path, Path]]]

ADAPTED = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "multi_vector_projector")
TASKS = ("retrieval", "text-matching", "code", "vision", "default", "Task_7", "-")
WORDS = [
    "the",
    "Query:",
    "Straße",
    "東京",
    "def",
    "area(r):\n",
    "\t",
    "🚀",
    "café",
    "naïve",
    "12345",
    "…",
    "Привет",
    "мир",
    "é",
    "ﬁn",
]


def _split(rng: Random, total: int, parts: int) -> tuple[int, ...]:
    """Return `parts` positive numbers that sum to `total`."""
    cuts = sorted(rng.sample(range(1, total), parts - 1))
    return tuple(np.diff([0, *cuts, total]).tolist())


def _patterns(rng: Random, largest: int) -> tuple[tuple[str, int], ...]:
    names = (*ADAPTED, r"layers\.0\.self_attn\.k_proj", r"layers\.[01]\..*up_proj")
    return tuple((name, rng.randint(1, largest)) for name in rng.sample(names, rng.randint(0, 3)))


def _decoder(rng: Random) -> dict[str, Any]:
    head_dim = rng.choice((*range(32, 129, 4), 34, 36, 36, 100, 100))
    kv_heads = rng.choice((1, 1, 2, 3))
    heads = kv_heads * rng.choice((1, 2, 3, 4) if kv_heads == 1 else (1, 2))
    hidden = head_dim * heads
    special = rng.randint(256, 900)
    return {
        "hidden_size": hidden,
        "num_layers": rng.randint(1, 4),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "intermediate_size": rng.randint(1, 300),
        "mrope_section": _split(rng, head_dim // 2, 3),
        "rope_theta": rng.choice((1_000_000.0, 10_000.0, 500.0)),
        "rms_norm_eps": rng.choice((1e-6, 1e-5, 1e-3)),
        "first_special_id": special,
        "vocab_size": special + len(SPECIAL_TOKENS) + rng.randint(0, 50),
        "matryoshka_dims": tuple(sorted({hidden, rng.randint(1, hidden), rng.randint(1, hidden)})),
    }


def _vision(rng: Random) -> dict[str, Any]:
    heads, depth = rng.randint(1, 4), rng.randint(1, 5)
    patch, merge = rng.choice(((14, 2), (14, 2), (14, 2), (16, 2), (8, 3), (10, 1)))
    factor = patch * merge
    least = factor**2 * rng.randint(1, 9)
    return {
        "vision_hidden_size": heads * 4 * rng.randint(1, 24),
        "vision_depth": depth,
        "vision_heads": heads,
        "vision_intermediate_size": rng.randint(1, 150),
        "window_size": factor * rng.choice((1, 2, 2, 3, 4, 4, 7)),
        "full_attention_blocks": tuple(sorted(rng.sample(range(depth), rng.randint(0, depth)))),
        "patch_size": patch,
        "spatial_merge_size": merge,
        "temporal_patch_size": rng.choice((2, 2, 1, 3)),
        "min_pixels": least,
        "max_pixels": least + factor**2 * rng.randint(10, 150),
    }


def _spec(seed: int) -> SampleSpec:
    """Return a spec with all numbers drawn anew.

    From one seed: drawn one by one, Hypothesis would repeat most numbers from example to example.
    """
    rng = Random(seed)
    rank, rank_pattern = rng.randint(1, 24), _patterns(rng, 24)
    # More than four times the rank, and rounding grows beyond what the limits of tests allow.
    most = min(48, 4 * min(rank, *(value for _, value in rank_pattern), 24))
    return SampleSpec(
        **_decoder(rng),
        **_vision(rng),
        projector_dim=rng.randint(1, 130),
        tasks=tuple(rng.sample(TASKS, rng.randint(1, 3))),
        rank=rank,
        alpha=rng.randint(1, most),
        rank_pattern=rank_pattern,
        alpha_pattern=_patterns(rng, most),
        dtype=rng.choice(("bfloat16", "float16", "float32")),
        key_spelling=rng.choice(("published", "resaved")),
        num_shards=rng.randint(1, 5),
        seed=seed,
    )


def _long_text(count: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, count).tolist())


@st.composite
def _images(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Return uint8 [h, w, 3], from 1 pixel to 250,000, up to 200 times as long as wide."""
    short = draw(st.integers(1, 40) | st.integers(1, 400))
    long = draw(st.integers(short, min(200 * short, 250_000 // short + short)))
    if draw(st.booleans()):
        long = min(200 * short, max(short, 250_000 // short))
    shape = (short, long) if draw(st.booleans()) else (long, short)
    return _image(*shape, draw(st.sampled_from(("noise", "gradient", "one colour"))))


def _image(height: int, width: int, kind: str) -> NDArray[np.uint8]:
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
    return st.builds(_spec, st.integers(0, 2**32))


@pytest.fixture(scope="session")
def texts() -> st.SearchStrategy[str]:
    """Texts of no to a few hundred tokens, with every kind of character a text can hold."""
    return (
        st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
        | st.sampled_from(("", " ", "\n\n", "\x00", "<|image_pad|>", "a<|im_end|>\n<|im_start|>b"))
        | st.builds(_long_text, st.integers(1, 90), st.integers(0, 99))
    )


@pytest.fixture(scope="session")
def images() -> st.SearchStrategy[NDArray[np.uint8]]:
    """Images from 1 × 1 pixel up, to 200 times as long as wide."""
    return _images()


@pytest.fixture(scope="session")
def image() -> Callable[[int, int, str], NDArray[np.uint8]]:
    """Makes uint8 [h, w, 3] of "noise", "gradient" or "one colour"."""
    return _image


@pytest.fixture(scope="session")
def exported() -> Exported:
    """Writes the checkpoint of a spec, exports it, and removes both when the block ends."""

    @contextmanager
    def write(spec: SampleSpec, adapters: Adapters) -> Iterator[tuple[Path, Path]]:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, bundle = Path(folder) / "checkpoint", Path(folder) / "bundle"
            write_sample_checkpoint(spec, checkpoint)
            options = ExportOptions(
                source=str(checkpoint), bundle=bundle, adapters=adapters, check=False
            )
            export_checkpoint(options, io.StringIO())
            yield checkpoint, bundle

    return write


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small float32 checkpoint, its base model in one file. Not to be changed."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    write_sample_checkpoint(changed_spec(SampleSpec.tiny(), {"dtype": "float32"}), folder)
    return folder


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_checkpoint` to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def _contents(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*"))}


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Tries an export that cannot succeed, by function and by program; returns the message.

    Asserts that the message is one line with all of `fragments`, that the program prints the same
    and ends with 2, and that no file appeared or changed its size below `tmp_path`.
    """

    def attempt(
        source: Path | str,
        *fragments: str,
        error: type[TrineError] = CheckpointError,
        bundle: Path | None = None,
        tasks: tuple[str, ...] | None = None,
        force: bool = False,
    ) -> str:
        bundle = bundle or tmp_path / "made" / "bundle"
        bundle.parent.mkdir(parents=True, exist_ok=True)
        before = _contents(tmp_path)
        options = ExportOptions(source=str(source), bundle=bundle, tasks=tasks, force=force)
        with pytest.raises(TrineError) as caught:
            export_checkpoint(options, io.StringIO())
        message = str(caught.value)
        assert type(caught.value) is error, message
        assert "\n" not in message
        for fragment in fragments:
            assert fragment in message
        assert _contents(tmp_path) == before
        arguments = ["export", str(source), str(bundle)]
        arguments += [] if tasks is None else ["--tasks", ",".join(tasks)]
        capsys.readouterr()
        assert main(arguments + ["--force"] * force) == 2
        assert capsys.readouterr() == ("", f"trine export: {message}\n")
        assert _contents(tmp_path) == before
        return message

    return attempt
