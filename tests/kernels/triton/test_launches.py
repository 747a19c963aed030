"""Shapes and types that do not fit are refused before anything runs."""

import pytest

from trine.kernels.triton.launches import (
    DeviceArray,
    Launch,
    launch_lora_expand,
    launch_lora_shrink,
    launch_pack_binary,
    launch_pack_ubinary,
    launch_patchify,
    launch_pool_segments,
    launch_project_rows,
    launch_quantise_int8,
)
from trine.kernels.triton.specs import find_spec, kernel_specs


def f32(*shape: int) -> DeviceArray:
    return DeviceArray(pointer=0, shape=shape, dtype="fp32")


def i32(*shape: int) -> DeviceArray:
    return DeviceArray(pointer=0, shape=shape, dtype="i32")


def u8(*shape: int) -> DeviceArray:
    return DeviceArray(pointer=0, shape=shape, dtype="u8")


def i8(*shape: int) -> DeviceArray:
    return DeviceArray(pointer=0, shape=shape, dtype="i8")


LAUNCHES = {
    "pool_segments.fp32": lambda: launch_pool_segments(f32(9, 64), i32(3), u8(9), f32(2, 32)),
    "project_rows.fp32": lambda: launch_project_rows(
        f32(70, 64), f32(32, 64), f32(32), f32(70, 32)
    ),
    "lora_shrink.fp32": lambda: launch_lora_shrink(
        f32(9, 64), f32(3, 48, 64), i32(4, 32), i32(4), f32(9, 48)
    ),
    "lora_expand.fp32": lambda: launch_lora_expand(
        f32(9, 48), f32(3, 80, 48), i32(4, 32), i32(4), f32(9, 80)
    ),
    "patchify.fp32": lambda: launch_patchify(u8(56, 84, 3), f32(3, 256), i32(6), f32(24, 1176)),
    "quantise_int8.fp32": lambda: launch_quantise_int8(f32(2, 600), f32(2, 600), i8(2, 600)),
    "pack_ubinary.fp32": lambda: launch_pack_ubinary(f32(2, 2049), u8(2, 257)),
    "pack_binary.fp32": lambda: launch_pack_binary(f32(2, 2048), i8(2, 256)),
}
GRIDS = {
    "pool_segments.fp32": (2, 1, 1),
    "project_rows.fp32": (3, 1, 1),
    "lora_shrink.fp32": (4, 2, 1),
    "lora_expand.fp32": (4, 2, 1),
    "patchify.fp32": (24, 1, 1),
    "quantise_int8.fp32": (2, 2, 1),
    "pack_ubinary.fp32": (2, 2, 1),
    "pack_binary.fp32": (2, 1, 1),
}


@pytest.mark.parametrize("kernel", GRIDS)
def test_grid_covers_the_work_and_arguments_fit_the_parameters(kernel: str) -> None:
    launch = LAUNCHES[kernel]()
    assert (launch.kernel, launch.grid) == (kernel, GRIDS[kernel])
    parameters = find_spec(kernel).parameters
    kinds = [
        f"*{argument.dtype}" if isinstance(argument, DeviceArray) else "i32"
        for argument in launch.arguments
    ]
    assert kinds == [parameter.dtype for parameter in parameters]


def test_every_kernel_has_a_launch() -> None:
    assert {spec.name.split(".")[0] for spec in kernel_specs()} == {
        name.split(".")[0] for name in GRIDS
    }


def test_parameters_are_inputs_then_scalars_then_the_output() -> None:
    for spec in kernel_specs():
        kinds = "".join("p" if part.dtype[0] == "*" else "s" for part in spec.parameters)
        inputs, scalars = kinds.index("s"), kinds.count("s")
        assert kinds == "p" * inputs + "s" * scalars + "p", spec.name


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (
            lambda: launch_pool_segments(f32(9, 64), i32(2), u8(9), f32(2, 32)),
            r"cu_seqlens is i32 \(2,\) and must be i32 \(3,\)",
        ),
        (
            lambda: launch_pool_segments(f32(9, 64), i32(3), i8(9), f32(2, 32)),
            r"pooled is i8 \(9,\) and must be u8",
        ),
        (
            lambda: launch_pool_segments(f32(9, 64), i32(3), u8(9), f32(2, 65)),
            "65 values of a vector are more than the 64",
        ),
        (
            lambda: launch_pool_segments(f32(9, 4096), i32(3), u8(9), f32(2, 4096)),
            "4096 values of a vector are more than the 2048",
        ),
        (
            lambda: launch_pool_segments(i8(9, 64), i32(3), u8(9), f32(2, 32)),
            "there is no kernel 'pool_segments.i8'",
        ),
        (lambda: launch_pool_segments(f32(9), i32(3), u8(9), f32(2, 32)), "which is no matrix"),
        (
            lambda: launch_project_rows(f32(7, 64), f32(129, 64), f32(129), f32(7, 129)),
            "129 values of a vector are more than the 128",
        ),
        (
            lambda: launch_lora_shrink(f32(9, 64), f32(3, 48, 32), i32(4, 32), i32(4), f32(9, 48)),
            r"a is fp32 \(3, 48, 32\) and must be fp32 \(3, 48, 64\)",
        ),
        (
            lambda: launch_lora_expand(f32(9, 48), f32(3, 80, 48), i32(4, 16), i32(4), f32(9, 80)),
            r"rows is i32 \(4, 16\) and must be i32 \(4, 32\)",
        ),
        (
            lambda: launch_patchify(u8(56, 85, 3), f32(3, 256), i32(6), f32(24, 1176)),
            "85×56 is not whole squares of 28",
        ),
        (
            lambda: launch_patchify(u8(56, 84, 4), f32(3, 256), i32(6), f32(24, 1176)),
            "pixels is u8",
        ),
        (
            lambda: launch_project_rows(f32(7, 144), f32(144, 144), f32(144), f32(7, 144)),
            "144 values of a vector are more than the 128",
        ),
        (
            lambda: launch_quantise_int8(f32(2, 60), f32(2, 60), u8(2, 60)),
            "out is u8",
        ),
        (lambda: launch_pack_binary(f32(2, 20), i8(2, 2)), r"out is i8 \(2, 2\)"),
    ],
)
def test_what_does_not_fit_is_named(launch: object, message: str) -> None:
    assert callable(launch)
    with pytest.raises(ValueError, match=message):
        launch()


def test_a_grid_beyond_the_driver_is_refused() -> None:
    with pytest.raises(ValueError, match="programs along z"):
        Launch(kernel="patchify.fp32", grid=(1, 1, 65536), arguments=())
