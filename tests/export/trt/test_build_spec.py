"""Buckets as text, and the profiles that follow from them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trine.export.commands.build import DEFAULT_BUCKETS
from trine.export.sample.config import sample_model
from trine.export.sample.spec import SampleSpec
from trine.export.trt.build_spec import (
    BuildSpec,
    DecoderBucket,
    VisionBucket,
    parse_buckets,
    profiles,
)
from trine.runtime.bundle.manifest import SizeRange
from trine.runtime.engines.gpu.buckets import choose_profile, decoder_sizes, split_run
from trine.runtime.errors import InputError
from trine.runtime.preprocessing.vision_inputs import window_order

VISION = sample_model(SampleSpec.full()).vision
SPEC = BuildSpec(
    builder="tensorrt_rtx",
    sms=(86, 89),
    decoder=(DecoderBucket(256, 8, 64), DecoderBucket(2048, 8, 512)),
    vision=(VisionBucket(4096, 2),),
    max_rank=32,
)


def test_buckets_are_read_sorted_and_once() -> None:
    decoder, vision = parse_buckets("text=2048x8x512, image=4096x2,text=256x8x64,text=256x8x64")
    assert (decoder, vision) == (SPEC.decoder, SPEC.vision)


@pytest.mark.parametrize(
    "text",
    ["", "text=1x1", "image=1x1x1", "text=axbxc", "image=0x1", "page=1x1", "text=99x2x40"],
)
def test_what_is_no_bucket_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="bucket"):
        parse_buckets(text)


@pytest.mark.parametrize("sms", [(), (86, 89)])
def test_tensorrt_builds_for_one_processor(sms: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="compute capabilities"):
        dataclasses.replace(SPEC, builder="tensorrt", sms=sms)


def test_each_bucket_is_a_profile() -> None:
    first, second = profiles(SPEC, "decoder", VISION)
    assert first["tokens"] == SizeRange(1, 256, 256)
    assert second["length"] == SizeRange(1, 512, 512)
    assert second["ranks_qkv"] == SizeRange(96, 96, 384)


@given(rows=st.integers(14, 60), columns=st.integers(14, 60), images=st.integers(1, 3))
def test_images_of_a_buckets_size_fit_its_profile(rows: int, columns: int, images: int) -> None:
    patches = 4 * rows * columns
    spec = dataclasses.replace(SPEC, vision=(VisionBucket(patches, images),))
    (sizes,) = profiles(spec, "vision", VISION)
    _, windows = window_order((2 * rows, 2 * columns), VISION)
    assert sizes["patches"] == SizeRange(4, patches, patches)
    assert sizes["windows"].best <= images * len(windows) <= sizes["windows"].most
    assert sizes["window_length"].most == 64 >= 4 * max(windows)


@given(st.lists(st.integers(1, 2048), min_size=1, max_size=40))
@example([2048] * 8)
def test_the_usual_buckets_take_runs_of_many_sequences_in_passes_of_2048_tokens(
    lengths: list[int],
) -> None:
    decoder, _ = parse_buckets(DEFAULT_BUCKETS)
    buckets = profiles(dataclasses.replace(SPEC, decoder=decoder), "decoder", VISION)
    run = sorted(lengths, reverse=True)
    for part in split_run([decoder_sizes(np.array([length])) for length in run], buckets):
        chosen = choose_profile(buckets, decoder_sizes(np.array(run[part])))
        assert chosen is not None
        assert decoder[chosen].tokens <= 2048
        assert decoder[chosen].sequences * decoder[chosen].length <= 4096


def test_the_usual_buckets_hold_the_longest_text_and_large_images() -> None:
    decoder, vision = parse_buckets(DEFAULT_BUCKETS)
    spec = dataclasses.replace(SPEC, decoder=decoder, vision=vision)
    longest = decoder_sizes(np.array([32768]))
    assert choose_profile(profiles(spec, "decoder", VISION), longest) == len(decoder) - 1
    side = 128  # of 14 pixels
    _, windows = window_order((side, side), VISION)
    sizes = {"images": 1, "patches": side**2, "windows": len(windows), "window_length": 64}
    assert choose_profile(profiles(spec, "vision", VISION), sizes) == len(vision) - 1


def test_a_spec_as_text_tells_specs_apart() -> None:
    other = dataclasses.replace(SPEC, sms=(89,))
    assert SPEC.to_json() == dataclasses.replace(SPEC).to_json() != other.to_json()
