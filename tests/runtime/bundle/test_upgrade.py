"""Bundles of older format versions: named with their remedy, and brought up to date in place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trine.runtime.bundle.bundle import MANIFEST_NAME, open_bundle
from trine.runtime.bundle.manifest import FORMAT_VERSION
from trine.runtime.bundle.upgrade import upgrade_bundle
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.errors import BundleError

Aged = Callable[[int], Path]


def age(manifest: dict[str, Any], version: int) -> None:
    """Make a manifest what version 3 or 2 wrote."""
    manifest["format_version"] = version
    for engine in manifest["engines"]:
        for graph in ("vision", "decoder"):
            precision = engine["precision_map"][graph]
            overrides = [override["precision"] for override in precision["wider"]]
            for linear in (*precision["linears"].values(), *overrides):
                del linear["rotation"]
        for built in engine["built"]:
            built["scratch_bytes"] = max(built["scratch_bytes"])
        if version == 2:
            del engine["built"]


@pytest.fixture
def aged(golden_bundle: Path, tmp_path: Path) -> Aged:
    """Make a bundle of an older version."""

    def make(version: int) -> Path:
        folder = tmp_path / f"version-{version}"
        shutil.copytree(golden_bundle, folder, copy_function=shutil.copy)
        manifest = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
        age(manifest, version)
        (folder / MANIFEST_NAME).write_text(json.dumps(manifest), "utf-8")
        return folder

    return make


@pytest.mark.parametrize("version", [2, 3])
def test_an_older_bundle_is_upgraded_to_what_an_export_writes(
    aged: Aged, golden_bundle: Path, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = aged(version)
    with pytest.raises(BundleError, match=rf"trine upgrade .*version-{version}`"):
        open_bundle(folder)
    assert main(["upgrade", str(folder)]) == 0
    assert f"format version {version} became {FORMAT_VERSION}" in capsys.readouterr().err
    assert open_bundle(folder).manifest == open_bundle(golden_bundle).manifest
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    np.testing.assert_array_equal(
        Embedder.load(folder).encode_text("a text", "code"),
        Embedder.load(golden_bundle).encode_text("a text", "code"),
    )


def test_built_engines_get_a_number_for_each_bucket(aged: Aged) -> None:
    folder = aged(3)
    manifest = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
    bucket = {"tokens": {"least": 1, "best": 2, "most": 3}}
    manifest["engines"][0]["built"] = [
        {
            "graph": manifest["engines"][0]["vision"],
            "path": "tokenizer.json",
            "key": "k",
            "builder": "tensorrt_rtx",
            "version": "1",
            "sms": [86],
            "profiles": [bucket, bucket],
            "layers": 1,
            "scratch_bytes": 7,
            "build_seconds": 1.0,
            "build_peak_bytes": 0,
        }
    ]
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest), "utf-8")
    assert upgrade_bundle(folder) == 3
    assert open_bundle(folder).manifest.engines[0].built[0].scratch_bytes == (7, 7)


def test_one_that_is_up_to_date_keeps_its_bytes(aged: Aged) -> None:
    folder = aged(3)
    upgrade_bundle(folder)
    before = (folder / MANIFEST_NAME).read_bytes()
    assert upgrade_bundle(folder) == FORMAT_VERSION
    assert (folder / MANIFEST_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 1}, "export the bundle again"),
        ({"format_version": FORMAT_VERSION + 1}, "upgrade trine"),
        ({"engines": [{}]}, "export the bundle again"),
        ({"novelty": 1}, "novelty"),
        ({"format": "other"}, "trine-bundle"),
    ],
)
def test_what_cannot_be_upgraded_says_why_and_keeps_its_bytes(
    aged: Aged, change: dict[str, object], said: str
) -> None:
    path = aged(3) / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")
    before = path.read_bytes()
    with pytest.raises(BundleError, match=said):
        upgrade_bundle(path.parent)
    assert path.read_bytes() == before


def test_no_bundle_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="trine export"):
        upgrade_bundle(tmp_path)
    assert not list(tmp_path.iterdir())
