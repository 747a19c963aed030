"""Plain ONNX models of the golden checkpoint, made once."""

import io
from pathlib import Path

import pytest

from trine.export.options import ExportOptions
from trine.export.standalone.export import OnnxReport, export_onnx

CHECKPOINT = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"


@pytest.fixture(scope="session")
def golden_onnx(tmp_path_factory: pytest.TempPathFactory) -> OnnxReport:
    """The golden checkpoint as plain ONNX, all tasks and precisions. Not to be changed."""
    options = ExportOptions(
        source=str(CHECKPOINT),
        bundle=tmp_path_factory.mktemp("onnx") / "golden",
        precisions=("fp32", "fp16", "int8"),
    )
    return export_onnx(options, io.StringIO())
