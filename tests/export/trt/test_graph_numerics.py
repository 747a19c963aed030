"""The typed graphs against the float32 reference; 16 bits by rounding."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.export.graphs.trt.precision import Half, uniform_plan
from trine.export.quantisation.trt.graph_plans import TrtPlans


@pytest.mark.parametrize("mode", ["merged", "runtime"])
@pytest.mark.parametrize(
    ("half", "floor"), [("fp32", 0.999999), ("fp16", 0.9999), ("bf16", 0.9995)]
)
def test_vectors_agree_with_the_reference(
    golden_cosines: Callable[[TrtPlans, Half, str], NDArray[np.float64]],
    half: Half,
    floor: float,
    mode: str,
) -> None:
    plan = uniform_plan(half)
    worst = golden_cosines(TrtPlans(vision=plan, decoder=plan), half, mode).min()
    print(f"{half}, {mode}: worst cosine {worst:.7f}")
    assert worst >= floor
