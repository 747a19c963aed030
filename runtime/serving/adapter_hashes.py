"""Which weights a task's vectors came from, as a short hash in responses."""

import hashlib
import threading
from pathlib import Path

from trine.runtime.adapters import AdapterHandle
from trine.runtime.bundle import HEADS_NAME, Bundle, file_sha256
from trine.runtime.manifest import EngineEntry

__all__ = ["AdapterHashes", "bundled_hash", "folder_hash"]

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


class AdapterHashes:
    """The hash of each adapter that was made resident. Safe to call from several threads.

    Handles are told apart by identity: an adapter replaced under its name has a new one, and calls
    that hold the old one still report the old hash.

    Args:
        bundled: by task, of the adapters that the bundle brings.
    """

    def __init__(self, bundled: dict[str, str]) -> None:
        self._by_name = dict(bundled)
        self._by_handle: dict[str, list[tuple[AdapterHandle, str]]] = {}
        self._lock = threading.Lock()

    def announce(self, name: str, digest: str, current: AdapterHandle | None) -> None:
        """Say that the next adapter under `name` will be of that hash.

        Args:
            name: of the task.
            digest: of the adapter that is being loaded.
            current: the adapter resident under the name until then, if any.
        """
        with self._lock:
            if current is not None and name in self._by_name:
                self._by_handle[name] = [(current, self._by_name[name])]
            self._by_name[name] = digest

    def withdraw(self, name: str) -> None:
        """Take back the last `announce` of a name, whose adapter could not be loaded."""
        with self._lock:
            before = self._by_handle.pop(name, [])
            if before:
                self._by_name[name] = before[0][1]
            else:
                self._by_name.pop(name, None)

    def of_name(self, name: str) -> str:
        """Return the hash of the adapter that new calls get under `name`."""
        with self._lock:
            return self._by_name[name]

    def of(self, handle: AdapterHandle) -> str:
        """Return the hash of an adapter that a call holds."""
        with self._lock:
            for known, digest in self._by_handle.get(handle.name, []):
                if known is handle:
                    return digest
            return self._by_name[handle.name]
