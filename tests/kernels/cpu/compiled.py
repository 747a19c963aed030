"""Compiles the kernels as setup.py does, by any compiler and with more flags, for tests."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[3]
NATIVE = ROOT / "kernels/cpu/native"


def setup_module() -> ModuleType:
    """Return setup.py, not run."""
    spec = importlib.util.spec_from_file_location("trine_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_objects(
    compiler: str,
    folders: Iterable[str],
    target: Path,
    flags: Sequence[str],
    more: dict[str, Sequence[str]] | None = None,
) -> dict[str, list[Path]]:
    """Return each folder's objects; a compiler that refuses a file fails the test.

    Args:
        compiler: the program.
        folders: of native/ but common.
        target: where the objects go.
        flags: for all, after those of setup.py.
        more: for one folder each, in place of its own.
    """
    setup = setup_module()
    found = list(folders)
    jobs = []
    for folder in (*found, "common"):
        own = (more or {}).get(folder, {**setup.FOLDERS, **setup.ARM_FOLDERS}.get(folder, []))
        known = [f"-DTRINE_WITH_{name.upper()}" for name in found] if folder == "common" else []
        thrown = [] if folder == "common" else ["-fno-exceptions"]
        for source in sorted((NATIVE / folder).glob("*.cpp")):
            built = target / f"{folder}-{source.stem}.o"
            words = [*setup.FLAGS, *own, *known, *thrown, f"-DTRINE_ISA={folder}", "-fPIC", *flags]
            jobs.append((folder, built, [compiler, *words, "-c", str(source), "-o", str(built)]))

    def run(job: tuple[str, Path, list[str]]) -> tuple[str, Path, str]:
        done = subprocess.run(job[2], capture_output=True, text=True, timeout=300, check=False)
        return job[0], job[1], done.stderr if done.returncode else ""

    objects: dict[str, list[Path]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for folder, built, problem in pool.map(run, jobs):
            assert not problem, f"{compiler}: {problem[-3000:]}"
            objects.setdefault(folder, []).append(built)
    return objects


def link_tree(
    compiler: str, objects: dict[str, list[Path]], target: Path, flags: Sequence[str]
) -> Path:
    """Return a folder for PYTHONPATH: this tree, with a library of `objects` as its kernels."""
    package = target / "trine"
    package.mkdir(parents=True)
    for name in ("export", "runtime"):
        (package / name).symlink_to(ROOT / name)
    (package / "__init__.py").symlink_to(ROOT / "runtime/_root/__init__.py")
    shutil.copytree(
        ROOT / "kernels", package / "kernels", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    library = package / "kernels/cpu/_native.so"
    files = [str(path) for paths in objects.values() for path in paths]
    words = [compiler, "-shared", "-pthread", *files, "-o", str(library), *flags]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return target
