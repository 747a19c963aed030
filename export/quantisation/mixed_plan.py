"""The mixed precision of both stacks, as the search changes it, whatever target runs the graphs.

A target is its steps, the formats that a layer is given one after the other until the vectors are
near enough to float32, and how one graph's plan is fake-quantised and changed.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from trine.export.quantisation.fake_quantisation import BothStacks, GraphPlanT
from trine.export.reference.model import Rounding
from trine.runtime.bundle.precision import LinearPrecision, PrecisionOverride

__all__ = ["FLOAT32", "MixedPlan", "is_of_decoder", "of_stack"]

Value = TypeVar("Value")

FLOAT32 = LinearPrecision(weight="fp32", activation="fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPlan(ABC, Generic[GraphPlanT]):
    """The plans of both graphs of an engine.

    Attributes:
        vision, decoder: of each graph, with the arrays that carry it out.
    """

    vision: GraphPlanT
    decoder: GraphPlanT

    @property
    @abstractmethod
    def steps(self) -> tuple[LinearPrecision, ...]:
        """The formats that precision overrides step through, the most precise last."""

    @property
    def wider(self) -> tuple[PrecisionOverride, ...]:
        """All precision overrides."""
        return self.vision.precision.wider + self.decoder.precision.wider

    def can_override(self, name: str) -> bool:
        """Return whether a layer or operation could have a more precise format than it has."""
        return self._can_override(self.decoder if is_of_decoder(name) else self.vision, name)

    def fake_quantisation(self, names: Set[str] | None) -> Rounding:
        """Return what rounds some layers and operations, or all, as the engine would."""
        return BothStacks(
            vision=self._rounding(self.vision, names), decoder=self._rounding(self.decoder, names)
        )

    def overridden(self, reasons: Mapping[str, str], step: int) -> Self:
        """Return the plan with some layers and operations at least as precise as a step.

        Args:
            reasons: by name.
            step: index into `steps`.
        """
        to = self.steps[step]
        return dataclasses.replace(
            self,
            vision=self._overridden(self.vision, of_stack(reasons, decoder=False), to),
            decoder=self._overridden(self.decoder, of_stack(reasons, decoder=True), to),
        )

    @abstractmethod
    def _can_override(self, graph: GraphPlanT, name: str) -> bool: ...

    @abstractmethod
    def _rounding(self, graph: GraphPlanT, names: Set[str] | None) -> Rounding: ...

    @abstractmethod
    def _overridden(
        self, graph: GraphPlanT, reasons: Mapping[str, str], to: LinearPrecision
    ) -> GraphPlanT: ...


def is_of_decoder(name: str) -> bool:
    """Return whether a layer or operation is of the decoder, not of the vision tower."""
    return name.startswith("layers.")


def of_stack(by_name: Mapping[str, Value], decoder: bool) -> dict[str, Value]:
    """Return what is of the decoder's layers and operations, or of the vision tower's."""
    return {name: value for name, value in by_name.items() if is_of_decoder(name) == decoder}
