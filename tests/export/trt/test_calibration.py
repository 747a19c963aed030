"""8-bit layers: scales from measured ranges, and vectors of the quantised graphs."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from trine.export.graphs.trt.precision import Half, Quantisation, uniform_plan
from trine.export.quantisation.observer import LinearRange, RangeScan
from trine.export.quantisation.trt.calibration import input_error, quantise_layers
from trine.export.quantisation.trt.graph_plans import TrtPlans

Cosines = Callable[[TrtPlans, Half, str], np.ndarray]


def _range(rows: np.ndarray) -> LinearRange:
    return LinearRange(
        channel_max=np.abs(rows).max(axis=0),
        mean_square=np.square(rows).mean(axis=0),
        rows=rows,
        output_max={},
    )


def _scanned(name: str, rows: np.ndarray) -> LinearRange:
    """Return what the scan finds of a module's inputs."""
    scan = RangeScan()
    scan.see(name, [rows], [rows])
    (found,) = scan.ranges.values()
    return found


@pytest.mark.parametrize("mode", ["merged", "runtime"])
@pytest.mark.parametrize(
    ("kind", "mean_floor", "worst_floor"), [("int8", 0.998, 0.99), ("fp8", 0.99, 0.9)]
)
def test_quantised_vectors_agree_with_the_reference(
    golden_cosines: Cosines,
    golden_ranges: Mapping[str, LinearRange],
    kind: str,
    mean_floor: float,
    worst_floor: float,
    mode: str,
) -> None:
    quantised = quantise_layers(golden_ranges, kind)
    assert len(quantised) == len(golden_ranges)
    plan = uniform_plan("fp16", quantised)
    found = golden_cosines(TrtPlans(vision=plan, decoder=plan), "fp16", mode)
    print(f"{kind}, {mode}: cosine {found.mean():.5f}, worst {found.min():.5f}")
    assert mean_floor <= found.mean() < 0.9999
    assert found.min() >= worst_floor


def test_smoothing_evens_out_large_channels() -> None:
    rows = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    rows[:, 5] *= 40
    (found,) = quantise_layers({"layers.0.mlp.down": _range(rows)}, "int8").values()
    plain = Quantisation(kind="int8", input_max=float(np.abs(rows).max()))
    rest = np.delete(rows, 5, axis=1)
    assert found.smoothing is not None
    smooth = Quantisation(
        kind="int8", input_max=found.input_max, smoothing=np.delete(found.smoothing, 5)
    )
    assert input_error(rest, smooth) < input_error(rest, plain) / 2


@pytest.mark.parametrize("width", [128, 100])
def test_single_large_values_are_shared_out(width: int) -> None:
    source = np.random.default_rng(0)
    rows = source.normal(size=(64, width)).astype(np.float32)
    rows[np.arange(64), source.integers(0, width, 64)] *= 30
    seen = {name: _scanned(name, rows) for name in ("layers.0.mlp.down_proj", "layers.0.mlp.up")}
    found = quantise_layers(seen, "int8")
    (rotated,) = [q for q in found.values() if q.rotated]
    plain = Quantisation(kind="int8", input_max=float(np.abs(rows).max()))
    assert input_error(rows, rotated) < input_error(rows, plain) / 2
    assert not any(q.rotated for q in quantise_layers(seen, "fp8").values())


def test_a_layer_of_one_far_larger_token_stays_in_16_bits() -> None:
    rows = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    rows[0] *= 3000
    assert quantise_layers({"layers.0.mlp.down": _range(rows)}, "int8") == {}


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_inputs_of_zeros_are_quantised_to_zeros(kind: str) -> None:
    rows = np.zeros((4, 8), np.float32)
    (found,) = quantise_layers({"layers.0.mlp.down": _range(rows)}, kind).values()
    assert input_error(rows, found) == 0
