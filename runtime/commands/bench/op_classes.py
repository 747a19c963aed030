"""An engine's operators added up by class."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trine.runtime.engines.profile import OpClass, OperatorTime

__all__ = ["ClassTime", "class_times"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTime:
    """What one class of operators took.

    Attributes:
        name: of the class.
        seconds: of all its operators, in one run.
        operations: additions and multiplications of matrix products.
        operators: seconds by operator, most first.
    """

    name: OpClass
    seconds: float
    operations: int
    operators: Mapping[str, float]


def class_times(operators: Sequence[OperatorTime]) -> list[ClassTime]:
    """Return the classes of a pass, most time first."""
    by_class: defaultdict[OpClass, list[OperatorTime]] = defaultdict(list)
    for operator in operators:
        by_class[operator.kind].append(operator)
    found = [
        ClassTime(
            name=kind,
            seconds=sum(member.seconds for member in members),
            operations=sum(member.operations for member in members),
            operators={
                member.operator: member.seconds
                for member in sorted(members, key=lambda member: -member.seconds)
            },
        )
        for kind, members in by_class.items()
    ]
    return sorted(found, key=lambda entry: -entry.seconds)
