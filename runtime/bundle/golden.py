"""Golden inputs of a bundle with their reference vectors, and the check of an engine against them.

The reference is computed at export, in plain numpy, straight from the checkpoint
(`trine.export.reference.model`), so an engine that agrees with it has read and computed everything
right.

Keys of golden.npz: `texts` (unicode), `image` (uint8 [h, w, 3]), `text/<i>/<task>/<prompt>/single`
and `…/multi`, `image/<task>/single` and `…/multi`, all float32 and normalised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import BundleError
from trine.runtime.inputs import ImageText, Item, Prompt
from trine.runtime.outputs import Embeddings

__all__ = ["Deviation", "Golden", "Modality", "golden_deviations", "load_golden", "worst"]

Modality = Literal["text", "image"]
PROMPT_NAMES: tuple[Prompt, ...] = ("query", "passage")


@dataclass(frozen=True, slots=True)
class Golden:
    """What golden.npz holds: two kinds of input, and reference arrays by their key."""

    texts: tuple[str, ...]
    image: NDArray[np.uint8]
    vectors: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """How far one vector, or the rows of one multi-vector, are from the reference."""

    key: str
    task: str
    modality: Modality
    head: Literal["single", "multi"]
    min_cosine: float
    max_difference: float


class Encoder(Protocol):
    """Encodes items of one task with both heads; the self-test's view of an embedder."""

    def __call__(
        self, items: Sequence[Item], task: str, prompts: Sequence[Prompt]
    ) -> Embeddings: ...


def load_golden(path: Path) -> Golden:
    """Return the golden inputs and vectors in `path`.

    Raises:
        BundleError: the file is damaged or holds something else.
    """
    try:
        # Opened here, because numpy leaves a file open that it finds to be damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return Golden(tuple(map(str, arrays.pop("texts"))), arrays.pop("image"), arrays)
    except (OSError, ValueError, KeyError, EOFError) as cause:
        raise BundleError(f"{path}: damaged ({cause}); copy the bundle again") from cause
    except Exception as cause:  # zipfile and zlib have bases of their own for a damaged archive
        raise BundleError(f"{path}: damaged ({cause}); copy the bundle again") from cause


def golden_deviations(
    golden: Golden, encode: Encoder, tasks: Sequence[str], modality: Modality, num_texts: int
) -> Iterator[Deviation]:
    """Yield how far `encode` is from the reference, for the golden vectors of `tasks`.

    Args:
        golden: inputs and reference.
        encode: what is measured.
        tasks: to measure.
        modality: to measure.
        num_texts: how many of the texts to take, from the first.
    """
    for task in tasks:
        if modality == "image":
            keys, prompts = [f"image/{task}"], list[Prompt](["query"])
            items: list[Item] = [ImageText((golden.image,))]
        else:
            keys, prompts, items = [], [], []
            for index, text in enumerate(golden.texts[:num_texts]):
                for prompt in PROMPT_NAMES:
                    if f"text/{index}/{task}/{prompt}/single" in golden.vectors:
                        keys.append(f"text/{index}/{task}/{prompt}")
                        prompts.append(prompt)
                        items.append(text)
        if f"{keys[0] if keys else ''}/single" not in golden.vectors:
            continue  # an adapter that came after the export has no reference
        # One run for all of a task's texts: on a large model its weights are read just once.
        result = encode(items, task, prompts)
        for place, key in enumerate(keys):
            yield from _compare(golden, key, task, modality, result, place)


def _compare(
    golden: Golden, key: str, task: str, modality: Modality, result: Embeddings, place: int
) -> Iterator[Deviation]:
    if result.single is None or result.multi is None:
        raise ValueError("the self-test needs both heads")
    found = {"single": result.single[place][None], "multi": result.multi[place]}
    for head in ("single", "multi"):
        want = np.atleast_2d(golden.vectors[f"{key}/{head}"]).astype(np.float64)
        have = found[head].astype(np.float64)
        same_shape = have.shape == want.shape and bool(np.isfinite(have).all())
        yield Deviation(
            key=key,
            task=task,
            modality=modality,
            head=head,
            min_cosine=float((have * want).sum(axis=1).min()) if same_shape else -1.0,
            max_difference=float(np.abs(have - want).max()) if same_shape else float("inf"),
        )


def worst(deviations: Sequence[Deviation]) -> tuple[float, float]:
    """Return (lowest cosine, largest element difference) of some deviations; (1, 0) of none."""
    return (
        min((d.min_cosine for d in deviations), default=1.0),
        max((d.max_difference for d in deviations), default=0.0),
    )
