"""Hashes the weights a task's vectors came from, for responses."""

import hashlib
from pathlib import Path

from trine.runtime.bundle.bundle import HEADS_NAME, Bundle, file_sha256
from trine.runtime.bundle.manifest import EngineEntry

__all__ = ["bundled_hash", "folder_hash"]

#: Hexadecimal digits shown; 64 bits tell any number of adapters apart.
DIGITS = 16


def bundled_hash(bundle: Bundle, entry: EngineEntry, task: str) -> str:
    """Return the hash of a task as it was exported, from the manifest's own hashes.

    Of a runtime adapter that is its file's; of a merged one those of the decoder it is merged into
    and of the projectors.
    """
    files, adapters = bundle.manifest.files, bundle.manifest.adapters.files
    if entry.adapters == "runtime" and task in adapters:
        return files[adapters[task]].sha256[:DIGITS]
    decoder = Path(entry.decoders[task])
    names = sorted(
        name
        for name in files
        if name == HEADS_NAME or Path(name).with_suffix("") == decoder.with_suffix("")
    )
    whole = "".join(files[name].sha256 for name in names)
    return hashlib.sha256(whole.encode()).hexdigest()[:DIGITS]


def folder_hash(folder: Path) -> str:
    """Return the hash of a PEFT folder's two files.

    Raises:
        OSError: one cannot be read.
    """
    names = ("adapter_config.json", "adapter_model.safetensors")
    whole = "".join(file_sha256(folder / name) for name in names)
    return hashlib.sha256(whole.encode()).hexdigest()[:DIGITS]
