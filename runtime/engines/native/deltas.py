"""Adds adapters to the products of one batch of the native engine."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels, Side
from trine.runtime.engines.native.workspace import Workspace

__all__ = ["RunDeltas"]


@dataclass(frozen=True, slots=True, eq=False)
class RunDeltas:
    """The adapters of a run's tokens.

    Attributes:
        kernels, workspace: to compute with.
        arrays: by input name, `<group>.lora_a` [ranks, in] and `<group>.lora_b` [ranks, out] of
            all slots in the run's view, in float32, float16 or bfloat16 (as uint16).
        slots: int32 [T], of each token, from the view's first on.
        num_slots: in the view.
    """

    kernels: CpuKernels
    workspace: Workspace
    arrays: Mapping[str, NDArray[np.generic]]
    slots: NDArray[np.int32]
    num_slots: int

    def of(self, group: str, x: NDArray[np.float32], part: slice) -> Side | None:
        """Return what is added to the product `group` of some tokens; None if nothing is.

        Args:
            group: of the adapters' layout.
            x: float32 [t, in], the product's input.
            part: which of the run's tokens they are.
        """
        a = self.arrays.get(f"{group}.lora_a")
        if a is None:
            return None
        rank_count = len(a) // self.num_slots
        first_rank = self.slots[part] * np.int32(rank_count)
        factors = self.workspace.floats(f"factors {group.rpartition('.')[2]}", (len(x), len(a)))
        if self.num_slots > 1:
            # Ranks of other tokens' adapters are not computed; who reads all finds zeros there.
            factors[...] = 0
        self.kernels.project(x, a, factors, first_rank, rank_count)
        return Side(factors, self.arrays[f"{group}.lora_b"], first_rank, rank_count)
