"""The documented numpy example embeds an image as the published code does."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trine.export.standalone.export import OnnxReport
from trine.runtime.embedder import Embedder

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "data" / "golden"


def example() -> str:
    page = (ROOT / "docs" / "plain-onnx.md").read_text(encoding="utf-8")
    section = page.split("## An image, in numpy alone")[1]
    found = re.search(r"```python\n(.*?)```", section, re.S)
    assert found is not None
    return found.group(1)


def run_example(
    folder: Path, image: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, NDArray[np.float32]]:
    (place / "example.py").write_text(example(), encoding="utf-8")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["example.py", str(folder), "code", str(image)])
    runpy.run_path(str(place / "example.py"))
    with np.load(place / "image.npz") as found:
        return dict(found)


def test_the_example_gives_the_published_vectors(
    golden_onnx: OnnxReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = GOLDEN / "images" / "gradient_224.png"
    found = run_example(golden_onnx.folder, image, tmp_path, monkeypatch)
    with np.load(GOLDEN / "reference.npz") as archive:
        for head in ("single", "multi"):
            want = archive[f"image/{image.name}/code/{head}"].astype(np.float32)
            assert np.abs(found[head] - want).max() <= 1e-5, head


def test_the_example_fills_windows_at_the_edges(
    golden_onnx: OnnxReport,
    golden_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = tmp_path / "noise.png"
    pixels = np.random.default_rng(3).integers(0, 256, (140, 196, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    found = run_example(golden_onnx.folder, image, tmp_path, monkeypatch)
    want = np.asarray(Embedder.load(golden_bundle).encode_image(str(image), "code"))
    assert np.abs(found["single"] - want).max() <= 1e-5
