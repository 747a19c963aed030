"""Bundles made once a test run, and a path that does not shadow other packages."""

import io
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).resolve().parents[1]
# `python -m pytest` puts the project's folder first on sys.path, where `import kernels` would find
# this project's folder instead of another package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

DATA = Path(__file__).parent / "data"


def _export(source: str, folder: Path, adapters: Literal["merged", "runtime"] = "merged") -> Path:
    from trine.export.export import export_checkpoint
    from trine.export.options import ExportOptions

    options = ExportOptions(source=source, bundle=folder, adapters=adapters)
    export_checkpoint(options, io.StringIO())
    return folder


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> Iterator[None]:
    """Let programs under test be interrupted, also when the tests are a shell's background job."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def golden_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the golden checkpoint. Not to be changed."""
    return _export(str(DATA / "golden" / "checkpoint"), tmp_path_factory.mktemp("b") / "golden")


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the built-in checkpoint. Not to be changed."""
    return _export("nano", tmp_path_factory.mktemp("b") / "nano")


@pytest.fixture(scope="session")
def golden_runtime_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the golden checkpoint, adapters beside the decoder. Not to be changed."""
    folder = tmp_path_factory.mktemp("b") / "golden-runtime"
    return _export(str(DATA / "golden" / "checkpoint"), folder, "runtime")


@pytest.fixture(scope="session")
def nano_runtime_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the built-in checkpoint, adapters beside the decoder. Not to be changed."""
    return _export("nano", tmp_path_factory.mktemp("b") / "nano-runtime", "runtime")
