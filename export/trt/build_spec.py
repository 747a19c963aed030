"""Describes what engines are built for: one spec drives TensorRT-RTX and TensorRT alike."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

from trine.runtime.adapters.store import SLOTS_PER_RUN
from trine.runtime.bundle.manifest import Builder, SizeRange
from trine.runtime.bundle.model_config import VisionConfig
from trine.runtime.errors import InputError

__all__ = [
    "BuildSpec",
    "DecoderBucket",
    "VisionBucket",
    "parse_buckets",
    "profiles",
]

#: Windows an image may have beyond its area's worth, for those at its borders that are cut: enough
#: for images of 14 and more image tokens along each side. Memory grows with it.
WINDOW_SLACK = 1.5


@dataclass(frozen=True, slots=True, order=True)
class DecoderBucket:
    """Runs of the decoder up to some size.

    Attributes:
        tokens: of all sequences together.
        sequences: in a run.
        length: of the longest.
    """

    tokens: int
    sequences: int
    length: int


@dataclass(frozen=True, slots=True, order=True)
class VisionBucket:
    """Runs of the vision tower up to some size.

    Attributes:
        patches: of one image.
        images: in a run.
    """

    patches: int
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """How engines are built.

    Attributes:
        builder: that builds them: TensorRT-RTX ahead of time on any machine, or TensorRT on the
            kind of GPU that they are for.
        sms: compute capabilities they run on, e.g. (86, 89, 120).
        decoder: sizes the decoders are tuned for, each a profile.
        vision: sizes the vision tower is tuned for, each a profile.
        max_rank: of an adapter, where adapters are inputs.
        workspace_bytes: memory a kernel may take; None for the builder's own limit.
    """

    builder: Builder
    sms: tuple[int, ...]
    decoder: tuple[DecoderBucket, ...]
    vision: tuple[VisionBucket, ...]
    max_rank: int
    workspace_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.sms or (self.builder == "tensorrt" and len(self.sms) != 1):
            raise InputError(
                f"compute capabilities are {list(self.sms)}; TensorRT builds for the one processor "
                "it runs on, TensorRT-RTX for one or more"
            )

    def to_json(self) -> str:
        """Return the spec as text, the same for the same spec."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def parse_buckets(text: str) -> tuple[tuple[DecoderBucket, ...], tuple[VisionBucket, ...]]:
    """Return the buckets in a text such as "text=512x8x128,text=2048x8x512,image=4096x1".

    Raises:
        InputError: the text is not of this form.
    """
    decoder, vision = set(), set()
    for part in text.split(","):
        kind, _, sizes = part.strip().partition("=")
        numbers = [int(n) if n.isdecimal() else 0 for n in sizes.split("x")]
        wanted = {"text": 3, "image": 2}.get(kind)
        if wanted != len(numbers) or min(numbers) < 1:
            raise InputError(
                f"bucket {part.strip()!r} is neither text=TOKENSxSEQUENCESxLENGTH nor "
                "image=PATCHESxIMAGES with numbers from 1 up"
            )
        if kind == "text":
            decoder.add(_decoder_bucket(part.strip(), *numbers))
        else:
            vision.add(VisionBucket(*numbers))
    return tuple(sorted(decoder)), tuple(sorted(vision))


def _decoder_bucket(text: str, tokens: int, sequences: int, length: int) -> DecoderBucket:
    if not max(length, sequences) <= tokens <= sequences * length:
        raise InputError(
            f"bucket {text!r} has {tokens} tokens; {sequences} sequences of up to {length} have "
            f"from {max(length, sequences)} to {sequences * length}"
        )
    return DecoderBucket(tokens, sequences, length)


def profiles(
    spec: BuildSpec, graph: Literal["decoder", "vision"], vision: VisionConfig
) -> list[Mapping[str, SizeRange]]:
    """Return the sizes of each symbolic dimension of a graph's inputs, for each of its buckets."""
    if graph == "decoder":
        return [_decoder_profile(bucket, spec.max_rank) for bucket in spec.decoder]
    return [_vision_profile(bucket, vision) for bucket in spec.vision]


def _decoder_profile(bucket: DecoderBucket, max_rank: int) -> Mapping[str, SizeRange]:
    slots = max_rank * SLOTS_PER_RUN
    return {
        "tokens": SizeRange(1, bucket.tokens, bucket.tokens),
        "sequences": SizeRange(1, bucket.sequences, bucket.sequences),
        "length": SizeRange(1, bucket.length, bucket.length),
        "ranks": SizeRange(max_rank, max_rank, slots),
        "ranks_qkv": SizeRange(3 * max_rank, 3 * max_rank, 3 * slots),
    }


def _vision_profile(bucket: VisionBucket, vision: VisionConfig) -> Mapping[str, SizeRange]:
    unit = vision.spatial_merge_size**2
    window = vision.window_side**2 * unit
    # An image one image token wide has the most windows.
    thinnest = ceil(bucket.patches / (unit * vision.window_side))
    whole = ceil(bucket.patches / window)
    most = min(thinnest, ceil(whole * WINDOW_SLACK)) * bucket.images
    patches = max(unit, bucket.patches // unit * unit)
    return {
        "images": SizeRange(1, bucket.images, bucket.images),
        "patches": SizeRange(unit, patches, patches),
        "windows": SizeRange(1, min(whole * bucket.images, most), most),
        "window_length": SizeRange(1, min(window, patches), min(window, patches)),
    }
