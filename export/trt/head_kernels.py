"""Compiles the heads' GPU kernels into a bundle."""

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from trine.export.bundle.edit import write_manifest
from trine.kernels.triton.compile import compile_kernels
from trine.kernels.triton.specs import TARGETS, find_spec
from trine.runtime.bundle.atomic import scratch_folder
from trine.runtime.bundle.bundle import file_sha256, open_bundle
from trine.runtime.bundle.manifest import FileEntry
from trine.runtime.engines.gpu.heads import HEAD_KERNELS
from trine.runtime.engines.gpu.opening import KERNELS_FOLDER
from trine.runtime.errors import InputError, missing_package

__all__ = ["compile_heads"]


def compile_heads(folder: Path, sms: Sequence[int]) -> None:
    """Compile the kernels for some processors, in place of those that the bundle has.

    Args:
        folder: of the bundle.
        sms: compute capabilities.

    Raises:
        InputError: one is not among those that the kernels are made for.
        DependencyError: Triton is not installed.
        KernelError: a kernel cannot be compiled.
    """
    unknown = [sm for sm in sms if sm not in TARGETS]
    if unknown:
        raise InputError(f"there are no kernels for sm {unknown}; known are {list(TARGETS)}")
    if importlib.util.find_spec("triton") is None:
        raise missing_package("triton", "kernels", "to compile GPU kernels")
    bundle = open_bundle(folder)
    place = folder / KERNELS_FOLDER
    with scratch_folder(folder / ".kernels.building", InputError) as scratch:
        made = scratch / KERNELS_FOLDER
        specs = tuple(find_spec(name) for name in HEAD_KERNELS)
        compile_kernels(specs, tuple(sms), made)
        # Files are named by kernel and processor: moved one by one over those of before, and the
        # manifest last, which says which of them count.
        place.mkdir(exist_ok=True)
        names = sorted(path.name for path in made.iterdir())
        for name in names:
            os.replace(made / name, place / name)
    files = {
        name: file
        for name, file in bundle.manifest.files.items()
        if not name.startswith(f"{KERNELS_FOLDER}/")
    }
    for name in names:
        path = place / name
        entry = FileEntry(size=path.stat().st_size, sha256=file_sha256(path))
        files[f"{KERNELS_FOLDER}/{name}"] = entry
    ordered = dict(sorted(files.items()))
    write_manifest(folder, dataclasses.replace(bundle.manifest, files=ordered))
    for path in place.iterdir():
        if path.name not in names:
            path.unlink() if path.is_file() else shutil.rmtree(path)
