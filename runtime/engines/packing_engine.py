"""The contract of engines whose weights can be kept packed in files."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from trine.kernels.cpu.packed import PackedValues

__all__ = ["PackingEngine"]


@runtime_checkable
class PackingEngine(Protocol):
    """An engine that packs weights at load."""

    @property
    def packed(self) -> Mapping[str, Mapping[str, PackedValues]]:
        """Weights as packed, of each graph opened so far, by its path and the layers' names."""
        ...

    def open_vision(self) -> None:
        """Read the vision tower's weights now, not at the first image."""
        ...
