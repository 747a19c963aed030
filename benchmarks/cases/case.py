"""The cases by name: which inputs, how often, and what is counted.

Only numbers and seeds; `cases.inputs` makes arrays of them. Importing this needs numpy alone, so
that backends in other environments can read it.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

__all__ = ["CASES", "Case", "Kind", "lognormal_lengths", "shrunk"]

#: What a backend must be able to do to take part.
Kind = Literal["texts", "images", "mixed", "preprocessing", "maxsim", "cold", "load"]


#: Room for one more backend beside the paused ones, and for what else the machine does.
ROOM = 4 << 30
#: A competitor at 4,096 tokens holds score tensors of gigabytes.
LONG_ROOM = 12 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing that is measured.

    Attributes:
        name: on the command line and in results.
        title: for people.
        kind: what it asks of a backend.
        lengths: tokens of each text.
        images: (width, height) of each image in pixels.
        unit: what a rate counts.
        calls: timed calls a round, at most; more than one where latency percentiles are wanted.
        round_s: seconds after which a round ends before it has made all its calls.
        rounds: interleaved, unless the driver is told otherwise.
        warm_ups: untimed calls before the first round.
        room: bytes that must stay free for a backend's process to be kept, paused, between its
            rounds; where they are not, it is started anew for each.
        competitors: those measured unless the driver is told otherwise; None for all that can.
            Where one call takes seconds, only those that are near the front or in common use.
        float32: whether float32 engines take part unless the driver is told otherwise.
    """

    name: str
    title: str
    kind: Kind
    lengths: tuple[int, ...] = ()
    images: tuple[tuple[int, int], ...] = ()
    unit: Literal["tokens", "images", "items", "documents", "starts"] = "tokens"
    calls: int = 1
    round_s: float = 1.5
    rounds: int = 5
    warm_ups: int = 1
    room: int = ROOM
    competitors: tuple[str, ...] | None = None
    float32: bool = False


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
        calls=40,
        warm_ups=3,
        float32=True,
    ),
    Case(
        name="ragged",
        title="8 texts of up to 64 tokens",
        kind="texts",
        lengths=RAGGED,
        calls=3,
        float32=True,
    ),
    Case(
        name="lognormal",
        title="32 texts, log-normal lengths 8–512",
        kind="texts",
        lengths=lognormal_lengths(32, seed=6),
        competitors=(
            *("transformers-bf16", "transformers-bf16-sorted", "onnx-int8", "onnx-int8-sorted"),
            *("openvino-int8-sorted", "openvino-bf16-sorted"),
        ),
    ),
    Case(
        name="passages",
        title="4 texts of 512 tokens",
        kind="texts",
        lengths=(512,) * 4,
        competitors=(
            *("transformers-fp32", "transformers-bf16", "compile-bf16", "onnx-int8"),
            *("openvino-bf16", "openvino-int8", "llama.cpp-q8"),
        ),
    ),
    Case(
        name="long",
        title="one text of 4,096 tokens",
        kind="texts",
        lengths=(4096,),
        rounds=3,
        room=LONG_ROOM,
        competitors=(
            *("transformers-bf16", "compile-bf16", "onnx-int8", "openvino-bf16"),
            "openvino-int8",
        ),
    ),
    Case(
        name="longest",
        title="one text of 32,768 tokens",
        kind="texts",
        lengths=(32768,),
        rounds=1,
        warm_ups=0,
        room=LONG_ROOM,
        competitors=(),
    ),
    Case(
        name="page",
        title="one page image 1240×1754, vision and decoder",
        kind="images",
        images=(PAGE,),
        unit="images",
    ),
    Case(
        name="images",
        title="16 images of mixed sizes, vision and decoder",
        kind="images",
        images=MIXED,
        unit="images",
        competitors=("transformers-bf16",),
    ),
    Case(
        name="mixed",
        title="8 texts and 4 images, three tasks in turn",
        kind="mixed",
        lengths=RAGGED,
        images=MIXED[:4],
        unit="items",
        competitors=("transformers-bf16",),
    ),
    Case(
        name="preprocess",
        title="image preprocessing 1600×1200",
        kind="preprocessing",
        images=((1600, 1200),),
        unit="images",
        calls=20,
        warm_ups=3,
    ),
    Case(
        name="maxsim",
        title="MaxSim, a query of 32 × 128 against 1,000 documents of 1,030 × 128",
        kind="maxsim",
        lengths=(32, *(1030,) * 1000),
        unit="documents",
        calls=10,
    ),
    Case(
        name="cold",
        title="from the start of a process to the first vector",
        kind="cold",
        lengths=(32,),
        unit="starts",
        warm_ups=0,
        competitors=("transformers-bf16", "onnx-int8", "openvino-int8"),
    ),
    Case(
        name="closed-loop",
        title="closed loop: 4 clients, 32 requests of one query",
        kind="load",
        lengths=(32,) * 32,
        unit="items",
        competitors=("transformers-bf16", "onnx-int8", "openvino-int8"),
    ),
    Case(
        name="open-loop",
        title="open loop: 32 queries arriving at 70 % of the closed loop's rate",
        kind="load",
        lengths=(32,) * 32,
        unit="items",
        competitors=("transformers-bf16", "onnx-int8", "openvino-int8"),
    ),
)
CASES = {case.name: case for case in _ALL}


def shrunk(case: Case) -> Case:
    """Return a case with the same parts, a sixteenth of the size, to try backends on."""
    return replace(
        case,
        title=f"{case.title} (a sixteenth)",
        lengths=tuple(max(4, length // 16) for length in case.lengths[:33]),
        images=tuple((max(56, w // 8), max(56, h // 8)) for w, h in case.images[:4]),
        calls=min(case.calls, 3),
    )
