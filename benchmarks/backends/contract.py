"""Defines a backend: named, loaded from a `Setup`, asked to make a case ready."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from cases.case import Case
from numpy.typing import NDArray

__all__ = ["Backend", "Call", "EngineChoice", "Inputs", "Setup", "UnsupportedCase"]

#: Runs the case once; returns float32 [items, hidden], normalised, or None where there are none.
Call = Callable[[], NDArray[np.float32] | None]


class UnsupportedCase(Exception):
    """A backend cannot do what a case asks; the message says why. Reported, never hidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """An engine of a bundle that takes part, and how.

    Attributes:
        label: in results, `trine-<label>`.
        name: of the engine in its bundle.
        bundle: its bundle's folder.
        precision: as the bundle's manifest has it.
    """

    label: str
    name: str
    bundle: Path
    precision: str

    @property
    def backend(self) -> str:
        """Its name in results."""
        return f"trine-{self.label}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Where a backend finds the model, and with what it runs.

    Attributes:
        checkpoint: folder of the published layout, the weights that all backends share.
        bundle: folder that `trine export` made of it, for tokenizer and image settings.
        engines: Trine's that take part.
        work: folder for files that a competitor makes of the checkpoint once.
        task: the adapter merged in.
        threads: of one run.
        num_ids: size of the vocabulary.
        excluded: token ids with a meaning to the model.
    """

    checkpoint: Path
    bundle: Path
    work: Path
    task: str
    threads: int
    num_ids: int
    excluded: tuple[int, ...]
    engines: tuple[EngineChoice, ...] = ()

    def engine(self, backend: str) -> EngineChoice:
        """Return the engine that takes part as `backend`."""
        return next(choice for choice in self.engines if choice.backend == backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A case's inputs.

    Attributes:
        case: what they are of.
        texts: token ids of each text, int64 [T].
        images: uint8 [h, w, 3] of each image.
    """

    case: Case
    texts: Sequence[NDArray[np.int64]]
    images: Sequence[NDArray[np.uint8]]


class Backend(Protocol):
    """A loaded way to run the model."""

    @property
    def file_bytes(self) -> int:
        """Size of the files that it reads."""
        ...

    def ready(self, inputs: Inputs) -> Call:
        """Return the call that is timed; what it does not include is done here.

        Of kind "load" it is one request, of the case's first text, safe from several threads.

        Raises:
            UnsupportedCase: it cannot do this case.
        """
        ...
