"""Changes a bundle's manifest, and which adapters it carries, without writing the rest again."""

import dataclasses
import re
from pathlib import Path

from trine.export.bundle.adapter_files import adapter_path, write_adapter
from trine.runtime.adapters.file import read_adapter
from trine.runtime.bundle.atomic import hold, write_file
from trine.runtime.bundle.bundle import GOLDEN_NAME, MANIFEST_NAME, Bundle, file_sha256, open_bundle
from trine.runtime.bundle.golden import load_golden
from trine.runtime.bundle.manifest import AdapterLayout, FileEntry, Manifest, manifest_to_json
from trine.runtime.errors import InputError

__all__ = ["add_adapter", "remove_adapter", "write_manifest"]

#: What an adapter may be called: its name is also its file's.
NAME = re.compile(r"^\w[\w.-]*$")


def add_adapter(folder: Path, name: str, peft_folder: Path, task: str | None) -> None:
    """Add the adapter in a PEFT folder to a bundle under `name`.

    Args:
        folder: of the bundle.
        name: the task that callers will ask for.
        peft_folder: of adapter_config.json and adapter_model.safetensors.
        task: which of the folder's adapters, where it holds several; None for its only one, else
            the one called `name`.

    Raises:
        BundleError: the bundle is missing or damaged.
        CheckpointError: the adapter's files are damaged or not supported.
        InputError: the bundle takes no adapters, or not this one.
    """
    open_bundle(folder)  # or says that there is none, before a lock is made beside it
    with hold(folder / MANIFEST_NAME, InputError):
        _add_adapter(folder, name, peft_folder, task)


def _add_adapter(folder: Path, name: str, peft_folder: Path, task: str | None) -> None:
    bundle = open_bundle(folder)
    layout = _layout(bundle)
    if not NAME.match(name):
        raise InputError(f"the name is {name!r}; use letters, digits, '_', '-' and '.'")
    if name in layout.files:
        raise InputError(
            f"{folder}: has an adapter {name!r} already; remove it first, or use another name"
        )
    if f"image/{name}/single" in load_golden(bundle.path(GOLDEN_NAME)).vectors:
        raise InputError(
            f"{folder}: was exported with another adapter {name!r}, whose golden vectors it keeps "
            "for its self-test; use another name"
        )
    tensors = read_adapter(peft_folder, bundle.manifest.model, layout, name, task)
    path = bundle.path(adapter_path(name))
    write_adapter(tensors, path)
    entry = FileEntry(size=path.stat().st_size, sha256=file_sha256(path))
    _write(
        bundle,
        {**layout.files, name: adapter_path(name)},
        {**bundle.manifest.files, adapter_path(name): entry},
    )


def remove_adapter(folder: Path, name: str) -> None:
    """Remove the adapter `name` from a bundle; embedders that loaded it keep it.

    Raises:
        BundleError: the bundle is missing or damaged.
        InputError: it has no adapter of that name, or no other one.
    """
    open_bundle(folder)  # or says that there is none, before a lock is made beside it
    with hold(folder / MANIFEST_NAME, InputError):
        _remove_adapter(folder, name)


def _remove_adapter(folder: Path, name: str) -> None:
    bundle = open_bundle(folder)
    layout = _layout(bundle)
    if name not in layout.files:
        raise InputError(f"{folder}: has no adapter {name!r}; it has {list(layout.files)}")
    if len(layout.files) == 1:
        raise InputError(f"{folder}: {name!r} is its only adapter; add another one first")
    path = bundle.path(layout.files[name])
    extra = path.with_suffix(".onnx_adapter")
    gone = {layout.files[name], extra.relative_to(folder).as_posix()}
    _write(
        bundle,
        {other: file for other, file in layout.files.items() if other != name},
        {file: entry for file, entry in bundle.manifest.files.items() if file not in gone},
    )
    path.unlink()
    extra.unlink(missing_ok=True)


def _layout(bundle: Bundle) -> AdapterLayout:
    layout = bundle.manifest.adapters
    if all(entry.adapters == "merged" for entry in bundle.manifest.engines):
        raise InputError(
            f"{bundle.folder}: its adapters are merged into its decoders; export it with "
            "--adapters runtime to add or remove adapters"
        )
    return layout


def _write(bundle: Bundle, adapters: dict[str, str], files: dict[str, FileEntry]) -> None:
    """Replace the manifest by one with these adapters and files, at once or not at all."""
    old = bundle.manifest
    engines = tuple(
        dataclasses.replace(
            entry, decoders=dict.fromkeys(adapters, next(iter(entry.decoders.values())))
        )
        if entry.adapters == "runtime"
        else entry
        for entry in old.engines
    )
    manifest: Manifest = dataclasses.replace(
        old,
        engines=engines,
        adapters=dataclasses.replace(_layout(bundle), files=adapters),
        files=dict(sorted(files.items())),
    )
    write_manifest(bundle.folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of the bundle in `folder`, at once or not at all."""
    path = folder / MANIFEST_NAME
    with write_file(path) as partial:
        partial.write_text(manifest_to_json(manifest), encoding="utf-8")
