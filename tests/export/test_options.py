"""Targets and the precisions they run."""

import pytest

from trine.export.options import chosen_precisions
from trine.runtime.errors import InputError


@pytest.mark.parametrize(
    ("target", "names", "engines", "tensorrt"),
    [
        ("cpu", None, ("fp32",), ()),
        ("cpu", ["int8", "fp32", "int8"], ("int8", "fp32"), ()),
        ("cpu", ["bf16"], ("bf16",), ()),
        ("cuda", ["fp16"], ("fp16",), ()),
        ("tensorrt", None, ("fp32",), ("bf16",)),
        ("tensorrt-rtx", ["fp8", "int8"], ("fp32",), ("fp8", "int8")),
    ],
)
def test_a_target_has_its_engines_and_graphs(
    target: str, names: list[str] | None, engines: tuple[str, ...], tensorrt: tuple[str, ...]
) -> None:
    assert chosen_precisions(target, names) == (engines, tensorrt)


@pytest.mark.parametrize(
    ("target", "name"), [("cpu", "fp8"), ("cuda", "int8"), ("tensorrt", "fp32")]
)
def test_a_precision_that_a_target_does_not_run_is_named(target: str, name: str) -> None:
    with pytest.raises(InputError, match=f"--precision {name} does not run on --target {target}"):
        chosen_precisions(target, [name])
