"""Defines the messages of the driver and a backend's process: a JSON object a line.

The driver sends an `Order` first. The process answers `Loaded` or `Absent`; to each "run" with a
`Measured`, to "vectors" with a path; it ends when its stdin does.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cases.case import CASES, Case, shrunk

from backends.contract import EngineChoice, Setup

__all__ = ["Absent", "Loaded", "Measured", "Order", "decode_order", "encode"]

#: Why there is no measurement: a package is not installed, the backend cannot do it, it failed.
Reason = Literal["missing", "unsupported", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which backend on which case."""

    backend: str
    case: str
    small: bool
    setup: Setup

    def resolved_case(self) -> Case:
        """Return the case, shrunk if asked for."""
        case = CASES[self.case]
        return shrunk(case) if self.small else case


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The backend is loaded and the case made ready.

    Attributes:
        load_s: to load it, imports included.
        load_peak_bytes: of resident memory until then.
        file_bytes: of what it reads.
        versions: of its packages.
    """

    load_s: float
    load_peak_bytes: int
    file_bytes: int
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """It takes no part, and why."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One round.

    Attributes:
        seconds: of each call, or of each request under load.
        wall_s: of all calls together.
        cpu_s: processor time of all calls together, all threads: what they cost in energy, nearly.
        peak_bytes: of resident memory in this process since it was loaded.
        joules: by the processors' own counters, the whole machine's; None where there are none.
    """

    seconds: list[float]
    wall_s: float
    cpu_s: float
    peak_bytes: int
    joules: float | None = None


def encode(message: Order | Loaded | Absent | Measured) -> str:
    """Return one line of JSON, without its end."""
    return json.dumps(dataclasses.asdict(message), default=str)


def decode_order(line: str) -> Order:
    """Return the order that `encode` wrote."""
    content = json.loads(line)
    setup = content.pop("setup")
    for name in ("checkpoint", "bundle", "work"):
        setup[name] = Path(setup[name])
    setup["excluded"] = tuple(setup["excluded"])
    setup["engines"] = tuple(
        EngineChoice(**engine | {"bundle": Path(engine["bundle"])}) for engine in setup["engines"]
    )
    return Order(setup=Setup(**setup), **content)
