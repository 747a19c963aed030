"""The `tensorrt` engine from end to end on the simulated GPU, against the engine of the CPU."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runtime.engines.gpu.simulated_tensorrt import SimulatedDrivers
from trine.runtime.bundle import open_bundle
from trine.runtime.embedder import Embedder
from trine.runtime.engine import EngineOptions
from trine.runtime.engines.gpu.opening import open_gpu_engine
from trine.runtime.inputs import ImageText, Item
from trine.runtime.outputs import Embeddings
from trine.runtime.pipeline import BatchLimits

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "it",
    "rains",
    "on",
    "the",
    "old",
    "town",
]
TASKS = ("retrieval", "text-matching", "code")
MakeBundle = Callable[..., Path]


def texts(count: int, longest: int, seed: int = 0) -> list[str]:
    source = np.random.default_rng(seed)
    return [
        " ".join(source.choice(WORDS, int(length)).tolist())
        for length in source.integers(1, longest, count)
    ]


def picture(height: int, width: int, seed: int = 0) -> ImageText:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return ImageText((pixels,))


def load(
    folder: Path,
    drivers: SimulatedDrivers,
    *,
    limits: BatchLimits | None = None,
    tasks: tuple[str, ...] = TASKS,
    cuda_graphs: bool = True,
) -> Embedder:
    bundle = open_bundle(folder)
    entry = bundle.engine("tensorrt")
    options = EngineOptions(threads=None, tasks=tasks, cuda_graphs=cuda_graphs)
    engine = open_gpu_engine(bundle, entry, options, drivers)
    return Embedder(bundle, entry, engine, limits or BatchLimits(), self_test=False)


def embed(embedder: Embedder, items: Sequence[Item], task: str | list[str]) -> Embeddings:
    return embedder.encode(items, task, return_multivector=True)


def worst(have: Embeddings, want: Embeddings) -> tuple[float, float]:
    """Return the worst cosine of a vector, and the largest difference of one number."""
    assert have.single is not None
    assert have.multi is not None
    assert want.single is not None
    assert want.multi is not None
    pairs: list[tuple[NDArray[np.generic], NDArray[np.generic]]] = [
        (have.single, want.single),
        *zip(have.multi, want.multi, strict=True),
    ]
    cosine, difference = 1.0, 0.0
    for x, y in pairs:
        a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
        cosine = min(cosine, float((a * b).sum(axis=1).min()))
        difference = max(difference, float(np.abs(a - b).max()))
    return cosine, difference


@pytest.mark.parametrize("kernels", [True, False], ids=["heads on device", "heads on host"])
@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_vectors_equal_those_of_the_cpu(make_bundle: MakeBundle, mode: str, kernels: bool) -> None:
    folder = make_bundle(mode=mode, kernels=kernels)
    drivers = SimulatedDrivers()
    gpu = load(folder, drivers)
    cpu = Embedder.load(folder, engine="auto")
    items = [*texts(14, 40), picture(84, 112), picture(112, 84, 1), "", picture(140, 28, 2)]
    tasks = [TASKS[i % 3] for i in range(len(items))]
    cosine, difference = worst(embed(gpu, items, tasks), embed(cpu, items, tasks))
    print(f"{mode}, kernels {kernels}: cosine {cosine:.8f}, difference {difference:.1e}")
    assert cosine >= 0.999999
    assert difference <= 2e-5
    assert bool(drivers.kernel_driver.launched) == kernels
    assert drivers.simulated.idle
