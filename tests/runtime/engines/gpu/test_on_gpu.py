"""The engines on a real GPU, against the one of the processor. Skipped where there is none."""

import importlib.util
import io
import os
from pathlib import Path

import numpy as np
import pytest

from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.engines.gpu.cuda.driver import open_device
from trine.runtime.errors import DependencyError, EngineError
from trine.runtime.inputs import ImageText, Item

pytestmark = pytest.mark.gpu

#: What brings each way to run.
MODULES = {
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    "ort_cuda": "onnxruntime",
}
#: Worst cosine of a vector in bfloat16 with float32's.
FLOOR = 0.99


@pytest.fixture(scope="module")
def sm() -> int:
    """The compute capability of GPU 0."""
    try:
        return open_device(0).sm
    except (EngineError, DependencyError) as missing:
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail(f"REQUIRE_GPU=1, but {missing}")
        pytest.skip(f"NOT VERIFIED HERE: {missing}")


@pytest.fixture(scope="module", params=["merged", "runtime"])
def bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sm: int
) -> Path:
    """nano with graphs in bfloat16, and engines by the builders that are installed."""
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    options = ExportOptions(
        source="nano", bundle=folder, adapters=request.param, tensorrt=("bf16",)
    )
    export_checkpoint(options, io.StringIO())
    for builder in ("tensorrt", "tensorrt-rtx"):
        if importlib.util.find_spec(builder.replace("-", "_")):
            arguments = ["--engine", "trt-bf16", "--builder", builder, "--sm", str(sm)]
            kernels = ["--kernels"] if importlib.util.find_spec("triton") else []
            assert main(["build", str(folder), *arguments, *kernels]) == 0
    return folder


@pytest.mark.parametrize("engine", list(MODULES))
def test_vectors_agree_with_the_processors(bundle: Path, engine: str) -> None:
    if importlib.util.find_spec(MODULES[engine]) is None:
        pytest.skip(f"NOT VERIFIED HERE: {MODULES[engine]} is not installed")
    gpu, cpu = Embedder.load(bundle, engine=engine), Embedder.load(bundle, engine="ort_cpu")
    assert "GPU 0" in gpu.description
    pixels = np.random.default_rng(0).integers(0, 256, (280, 420, 3), np.uint8)
    items: list[Item] = ["SQL database", "a chess game " * 60, "", ImageText((pixels,))]
    # Twice and more: the third run of a size is a graph's.
    for _ in range(3):
        have = gpu.encode(items, "retrieval", return_multivector=True)
    want = cpu.encode(items, "retrieval", return_multivector=True)
    assert have.single is not None
    assert want.single is not None
    cosines = (np.asarray(have.single, np.float64) * want.single).sum(axis=1)
    print(f"{gpu.description}: worst cosine {cosines.min():.5f}")
    assert cosines.min() >= FLOOR
