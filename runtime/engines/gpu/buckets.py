"""Chooses the bucket of an engine that a batch goes to, and its size there.

Pure functions. Sizes are those of the symbolic dimensions of the graphs' inputs: "tokens",
"sequences" and "length" of the decoder; "images", "patches", "windows" and "window_length" of the
vision tower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.manifest import SizeRange

__all__ = [
    "ANY_SIZE",
    "Buckets",
    "Padding",
    "Profiles",
    "Sizes",
    "choose_profile",
    "decoder_sizes",
    "split_run",
]

Sizes = Mapping[str, int]
#: Of each bucket, the range of each dimension.
Profiles = Sequence[Mapping[str, SizeRange]]


@dataclass(frozen=True, slots=True)
class Buckets:
    """The sizes a compiled graph takes.

    Attributes:
        profiles: by number.
        remedy: the command that builds others; "" where any size is taken.
    """

    profiles: Profiles
    remedy: str


DIMS = ("tokens", "sequences", "length", "images", "patches", "windows", "window_length")
#: The bucket of graphs that are not built for sizes.
ANY_SIZE: Mapping[str, SizeRange] = dict.fromkeys(DIMS, SizeRange(1, 2**31 - 1, 2**31 - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """When a decoder run is padded to its bucket's own size, at which a CUDA graph replays it.

    Attributes:
        free_tokens: up to here a run takes the time it takes to read the weights, however many
            tokens it has: peak operations a byte of memory traffic are 120 to 420 in 16 bits on the
            GPUs of docs/roofline.md.
        most_waste: beyond, size of the bucket over the run's own up to which padding is worth it.
    """

    free_tokens: int = 256
    most_waste: float = 1.25

    def sizes(self, own: Sizes, profile: Mapping[str, SizeRange]) -> Sizes:
        """Return the sizes a decoder run has: its bucket's best ones, or its own."""
        padded = {name: profile[name].best for name in DECODER_DIMS}
        if any(own[name] > size for name, size in padded.items()):
            return own
        tokens_fit = self._worth(own["tokens"], padded["tokens"], self.free_tokens)
        slots = own["sequences"] * own["length"]
        padded_slots = padded["sequences"] * padded["length"]
        slots_fit = self._worth(slots, padded_slots, 2 * self.free_tokens)
        return padded if tokens_fit and slots_fit else own

    def _worth(self, own: int, padded: int, free: int) -> bool:
        return padded <= max(free, self.most_waste * own)


#: Dimensions of a decoder run that padding may enlarge.
DECODER_DIMS = ("tokens", "sequences", "length")


def decoder_sizes(lengths: NDArray[np.int64]) -> Sizes:
    """Return the sizes of a decoder run of sequences of these lengths."""
    return {
        "tokens": int(lengths.sum()),
        "sequences": len(lengths),
        "length": int(lengths.max()),
    }


def choose_profile(profiles: Profiles, sizes: Sizes) -> int | None:
    """Return the number of the smallest bucket that holds a run; None if none does."""
    fitting = [
        (prod(profile[name].most for name in sizes), number)
        for number, profile in enumerate(profiles)
        if all(profile[name].least <= size <= profile[name].most for name, size in sizes.items())
    ]
    return min(fitting, default=(0, None))[1]


def split_run(parts: Sequence[Sizes], profiles: Profiles) -> list[slice]:
    """Return neighbouring parts of a run, each as many as one bucket holds.

    Args:
        parts: sizes of the smallest parts: of each sequence, or of each image. Parts together
            have the sum of each size, but the largest "length", "patches" and "window_length".
        profiles: the buckets.

    Returns:
        slices of `parts` in order; one that fits no bucket is alone.
    """
    runs: list[slice] = []
    total: dict[str, int] = {}
    for index, part in enumerate(parts):
        joined = _joined(total, part) if total else dict(part)
        if runs and choose_profile(profiles, joined) is not None:
            runs[-1] = slice(runs[-1].start, index + 1)
            total = joined
        else:
            runs.append(slice(index, index + 1))
            total = dict(part)
    return runs


#: Dimensions that parts of a run share; the others add up.
SHARED_DIMS = frozenset({"length", "patches", "window_length"})


def _joined(total: Sizes, part: Sizes) -> dict[str, int]:
    return {
        name: max(total[name], size) if name in SHARED_DIMS else total[name] + size
        for name, size in part.items()
    }
