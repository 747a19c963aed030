"""The cases by name: which inputs, how often, and what is counted.

Only numbers and seeds; `cases.inputs` makes arrays of them. Importing this needs numpy alone, so
that contestants in other environments can read it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["CASES", "Case", "Kind", "lognormal_lengths", "shrunk"]

#: What a contestant must be able to do to take part.
Kind = Literal["texts", "images", "mixed", "preprocessing", "maxsim", "cold", "load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing that is measured.

    Attributes:
        name: on the command line and in results.
        title: for people.
        kind: what it asks of a contestant.
        lengths: tokens of each text.
        pictures: (width, height) of each picture in pixels.
        unit: what a rate counts.
        calls: timed calls a round; more than one where latency percentiles are wanted.
        warm_ups: untimed calls before the first round.
        alone: one contestant's process at a time, because several would not fit into memory; each
            round then starts it anew.
    """

    name: str
    title: str
    kind: Kind
    lengths: tuple[int, ...] = ()
    pictures: tuple[tuple[int, int], ...] = ()
    unit: Literal["tokens", "images", "items", "documents", "starts"] = "tokens"
    calls: int = 1
    warm_ups: int = 1
    alone: bool = False


def lognormal_lengths(count: int, seed: int) -> tuple[int, ...]:
    """Return `count` lengths in tokens, log-normal with median 64 and sigma 1, cut to 8…512."""
    drawn = np.random.default_rng(seed).lognormal(np.log(64), 1.0, count)
    return tuple(int(length) for length in np.clip(drawn, 8, 512).round())


#: Eight texts of up to 64 tokens, 352 in all.
RAGGED = (64, 27, 51, 40, 64, 18, 33, 55)
#: An A4 page at 150 dots an inch.
PAGE = (1240, 1754)
#: Phones, screens, icons, banners and pages, none of equal shape with another.
MIXED = (
    *((640, 480), (480, 640), (1024, 768), (800, 600), (224, 224), (448, 448), (1280, 720)),
    *((720, 1280), (300, 900), (900, 300), (512, 512), (600, 840), (336, 336), (960, 540)),
    *((1000, 400), (768, 1024)),
)

_ALL = (
    Case(
        name="query",
        title="one query of 32 tokens",
        kind="texts",
        lengths=(32,),
        calls=20,
        warm_ups=3,
    ),
    Case(name="ragged", title="8 texts of up to 64 tokens", kind="texts", lengths=RAGGED, calls=3),
    Case(
        name="lognormal",
        title="32 texts, log-normal lengths 8–512",
        kind="texts",
        lengths=lognormal_lengths(32, seed=6),
        alone=True,
    ),
    Case(
        name="passages", title="4 texts of 512 tokens", kind="texts", lengths=(512,) * 4, alone=True
    ),
    Case(name="long", title="one text of 4,096 tokens", kind="texts", lengths=(4096,), alone=True),
    Case(
        name="longest",
        title="one text of 32,768 tokens",
        kind="texts",
        lengths=(32768,),
        warm_ups=0,
        alone=True,
    ),
    Case(
        name="page",
        title="one page image 1240×1754, vision and decoder",
        kind="images",
        pictures=(PAGE,),
        unit="images",
        alone=True,
    ),
    Case(
        name="pictures",
        title="16 images of mixed sizes, vision and decoder",
        kind="images",
        pictures=MIXED,
        unit="images",
        alone=True,
    ),
    Case(
        name="mixed",
        title="8 texts and 4 images, three tasks in turn",
        kind="mixed",
        lengths=RAGGED,
        pictures=MIXED[:4],
        unit="items",
    ),
    Case(
        name="preprocess",
        title="image preprocessing 1600×1200",
        kind="preprocessing",
        pictures=((1600, 1200),),
        unit="images",
        calls=5,
    ),
    Case(
        name="maxsim",
        title="MaxSim, a query of 32 × 128 against 1,000 documents of 1,030 × 128",
        kind="maxsim",
        lengths=(32, *(1030,) * 1000),
        unit="documents",
        calls=3,
    ),
    Case(
        name="cold",
        title="from the start of a process to the first vector",
        kind="cold",
        lengths=(32,),
        unit="starts",
        alone=True,
    ),
    Case(
        name="closed-loop",
        title="closed loop: 4 clients, 8 requests each, of one query",
        kind="load",
        lengths=(32,) * 32,
        unit="items",
    ),
    Case(
        name="open-loop",
        title="open loop: 32 queries arriving at 70 % of the closed loop's rate",
        kind="load",
        lengths=(32,) * 32,
        unit="items",
    ),
)
CASES = {case.name: case for case in _ALL}


def shrunk(case: Case) -> Case:
    """Return a case with the same parts, a sixteenth of the size, to try contestants on."""
    return Case(
        name=case.name,
        title=f"{case.title} (a sixteenth)",
        kind=case.kind,
        lengths=tuple(max(4, length // 16) for length in case.lengths[:33]),
        pictures=tuple((max(56, w // 8), max(56, h // 8)) for w, h in case.pictures[:4]),
        unit=case.unit,
        calls=min(case.calls, 3),
        warm_ups=case.warm_ups,
        alone=case.alone,
    )
