"""A bundle on disk: the folder that the exporter writes and the runtime opens.

manifest.json             what is inside (trine.runtime.bundle.manifest)
tokenizer.json            the model's tokenizer
embedding.safetensors     token embeddings [vocabulary, hidden] in the checkpoint's dtype
heads.safetensors         multi-vector projection, float32: `weight` [projector, hidden] and
                          `bias`; <task>.weight and <task>.bias with an adapter merged in
adapters/*.safetensors    adapters kept beside the decoder (trine.runtime.adapters.file)
engines/<name>/*.onnx     graphs, with their weights in *.data beside them
engines/<name>/built/     engines that `trine build` made of them, for some GPUs
kernels/                  the heads' kernels, compiled for GPUs
output_ranges.npz         ranges of int8 vectors (trine.runtime.scoring.quantisation)
golden.npz                inputs with reference vectors (trine.runtime.bundle.golden)
parity.json               measured distance of each engine from the reference
tuned/                    what `trine tune` found on a machine; not in the manifest
modules.json, config_sentence_transformers.json
                          how sentence-transformers loads it, which rewrites them when it saves a
                          model; not in the manifest
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trine.runtime.bundle.manifest import Manifest, manifest_from_json
from trine.runtime.errors import BundleError

__all__ = [
    "EMBEDDING_NAME",
    "GOLDEN_NAME",
    "HEADS_NAME",
    "MANIFEST_NAME",
    "MODULE_FILES",
    "PARITY_NAME",
    "REQUIRED",
    "TOKENIZER_NAME",
    "Bundle",
    "file_sha256",
    "open_bundle",
]

MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
EMBEDDING_NAME = "embedding.safetensors"
HEADS_NAME = "heads.safetensors"
GOLDEN_NAME = "golden.npz"
PARITY_NAME = "parity.json"
MODULE_FILES = ("modules.json", "config_sentence_transformers.json")
REQUIRED = (TOKENIZER_NAME, EMBEDDING_NAME, HEADS_NAME, GOLDEN_NAME, PARITY_NAME)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: a folder whose manifest was read and whose files are all there."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Return the path of the file `name`, with forward slashes, in the bundle."""
        return self.folder / name

    def check_hashes(self, done: Callable[[int], None] = lambda size: None) -> list[str]:
        """Return a sentence for every file whose content is not what was written.

        Args:
            done: called with the size in bytes of each file that was read.
        """
        problems = []
        for name, entry in self.manifest.files.items():
            if file_sha256(self.path(name)) != entry.sha256:
                problems.append(f"{name}: its SHA-256 is not the manifest's; the file was changed")
            done(entry.size)
        return problems


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_bundle(folder: Path) -> Bundle:
    """Return the bundle in `folder`, its manifest read and its files' presence and sizes checked.

    In the Hub's cache files that nobody asked for are absent: engines and tasks without their files
    are left out there. Anywhere else an absent file is an error.

    Raises:
        BundleError: no bundle is there, it is newer than this code, or files are missing or have
            another size; all such files are listed at once.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as cause:
        raise BundleError(f"{folder}: {_no_bundle(folder)}") from cause
    except (OSError, ValueError) as cause:
        raise BundleError(f"{path}: cannot be read ({cause}); check the path") from cause
    manifest = manifest_from_json(text, str(path))
    if _is_in_hub_cache(folder):
        manifest = _without_absent_engines(folder, manifest)
    problems = [
        f"{name} is missing from the manifest" for name in REQUIRED if name not in manifest.files
    ]
    problems += _unlisted_graphs(manifest)
    for name, entry in manifest.files.items():
        file = folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            problems.append(f"{name} is outside the bundle")
        elif not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != entry.size:
            problems.append(f"{name} has {file.stat().st_size} bytes, not {entry.size}")
    if not manifest.engines:
        problems.append("no engine is listed")
    if problems:
        raise BundleError(
            f"{folder}: {len(problems)} files are not as written: {'; '.join(problems)}; "
            "copy the bundle again or export it again"
        )
    return Bundle(folder, manifest)


def _is_in_hub_cache(folder: Path) -> bool:
    """Return whether a folder is a commit in the cache of the Hub's client."""
    snapshots = folder.absolute().parent
    return snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")


def _without_absent_engines(folder: Path, manifest: Manifest) -> Manifest:
    """Return a manifest of the engines and tasks whose files are there."""
    files = {
        name: entry
        for name, entry in manifest.files.items()
        if (folder / name).is_file() or name in REQUIRED
    }

    def whole(graph: str) -> bool:
        data = str(PurePosixPath(graph).with_suffix(".data"))
        return graph in files and (data in files or data not in manifest.files)

    engines = (
        dataclasses.replace(
            entry,
            decoders={task: path for task, path in entry.decoders.items() if whole(path)},
            built=tuple(engine for engine in entry.built if engine.path in files),
        )
        for entry in manifest.engines
        if whole(entry.vision)
    )
    return dataclasses.replace(
        manifest, files=files, engines=tuple(entry for entry in engines if entry.decoders)
    )


def _no_bundle(folder: Path) -> str:
    """Return what a path without a manifest is, and how to come from it to a bundle."""
    if folder.is_dir():
        what = f"holds no {MANIFEST_NAME}, so it is no bundle"
        if not (folder / "config.json").is_file():
            return f"{what}; make one with `trine export SOURCE DIR`, then give DIR"
        what += " but a checkpoint"
    else:
        return "does not exist; check the path, or make a bundle with `trine export SOURCE DIR`"
    return f"{what}; run `trine export {folder} DIR`, then give DIR"


def _unlisted_graphs(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the engines' files: without a size and a hash none is opened."""
    for entry in manifest.engines:
        if not entry.decoders:
            yield f"engine {entry.name!r} has no decoders"
        built = (engine.path for engine in entry.built)
        for name in dict.fromkeys((entry.vision, *entry.decoders.values(), *built)):
            if name not in manifest.files:
                yield f"{name} is missing from the manifest"
    for name in manifest.adapters.files.values():
        if name not in manifest.files:
            yield f"{name} is missing from the manifest"
