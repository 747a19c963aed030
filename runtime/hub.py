"""Fetches a bundle from the Hugging Face Hub: its manifest, then the files of the engine to run.

Files lie in the Hub client's own cache, where other programs find them too. What is there is not
fetched again, and half of a file is continued. With `HF_HUB_OFFLINE=1` the cache is all there is.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TypeVar

from trine.runtime.bundle.bundle import (
    MANIFEST_NAME,
    PARITY_NAME,
    Bundle,
    file_sha256,
    open_bundle,
)
from trine.runtime.bundle.manifest import EngineEntry, Manifest, manifest_from_json
from trine.runtime.engines.select import AUTO, Quality, read_host, select_engine
from trine.runtime.errors import BundleError, InputError
from trine.runtime.libraries import import_hub_client, one_line

__all__ = [
    "HUB_ID",
    "describe_bundle",
    "locate_bundle",
    "locate_engines",
    "needed_files",
    "parse_hub_id",
]

#: A name of the Hub, organisation and model. A path may look alike.
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
#: Between a Hub id and a branch, tag or commit.
REVISION_MARK = "@"
#: Folder of the kernels that heads run by on a GPU.
KERNELS = "kernels/"

Found = TypeVar("Found")


def parse_hub_id(name: str) -> tuple[str, str | None] | None:
    """Return id and revision of `org/name` or `org/name@revision`; None if it is no such name."""
    hub_id, _, revision = name.partition(REVISION_MARK)
    return (hub_id, revision or None) if HUB_ID.match(hub_id) else None


def locate_bundle(
    bundle: str | PathLike[str],
    *,
    revision: str | None = None,
    engine: str = "auto",
    quality: Quality | None = None,
    device: int = 0,
    tasks: Sequence[str] | None = None,
) -> Path:
    """Return the folder of a bundle, fetched from the Hub if it is named by its id.

    A folder of that name goes first. Of a bundle of the Hub only what the chosen engine needs is
    fetched, and each file is held against the manifest's SHA-256.

    Args:
        bundle: a folder, or `org/name`, or `org/name@revision`.
        revision: branch, tag or commit, for an id that has none; None for the main branch.
        engine, quality: as in `Embedder.load`.
        device: ordinal of the GPU, likewise.
        tasks: whose decoders to fetch; None for all.

    Raises:
        BundleError: it cannot be fetched, has no engine of that name, or a file is not what the
            manifest says.
        InputError: `bundle` is neither a path nor an id, or the quality is unknown.
        DependencyError: huggingface_hub is not installed.
    """
    if not isinstance(bundle, str | PathLike):
        raise InputError(f"bundle is {bundle!r}; give the path of a folder, or a Hub id")
    folder = Path(bundle)
    named = _hub_name(folder)
    if named is None:
        if revision is not None:
            raise BundleError(
                f"revision is {revision!r}, which is for bundles of the Hub; {folder} is a folder"
            )
        return folder
    hub_id, wanted = named[0], named[1] or revision
    unopened = _fetch_manifest(hub_id, wanted)
    entry = select_engine(unopened, engine, read_host(unopened, device), quality).entry
    _fetch_files(hub_id, unopened, list(needed_files(unopened.manifest, entry, tasks)))
    return unopened.folder


def locate_engines(bundle: Path, engines: Sequence[str], device: int) -> Path:
    """Return the folder of a bundle with the files of several engines, as `locate_bundle`.

    Args:
        bundle: a folder, or a Hub id.
        engines: their names; none for "auto".
        device: ordinal of the GPU.
    """
    folders = [locate_bundle(bundle, engine=name, device=device) for name in engines or [AUTO]]
    return folders[-1]


def describe_bundle(bundle: Path) -> Bundle:
    """Return a bundle to look at: of one on the Hub, nothing but what describes it is fetched.

    Raises:
        BundleError, DependencyError: as `locate_bundle` and `open_bundle`.
    """
    named = _hub_name(bundle)
    if named is None:
        return open_bundle(bundle)
    unopened = _fetch_manifest(*named)
    _fetch_files(named[0], unopened, [PARITY_NAME])
    return unopened


def needed_files(
    manifest: Manifest, entry: EngineEntry, tasks: Sequence[str] | None
) -> Iterator[str]:
    """Yield the files of a bundle that one engine needs, by their paths in it.

    Args:
        manifest: of the bundle.
        entry: of the engine.
        tasks: whose decoders are needed; None for all.
    """
    decoders = [path for task, path in entry.decoders.items() if tasks is None or task in tasks]
    graphs = {entry.vision, *decoders}
    graphs |= {engine.path for engine in entry.built if engine.graph in graphs}
    stems = {PurePosixPath(path).with_suffix("") for path in graphs}
    on_gpu = entry.runner not in ("native", "onnxruntime")
    for name in manifest.files:
        if name.startswith("engines/"):
            needed = name in graphs or PurePosixPath(name).with_suffix("") in stems
        else:
            needed = on_gpu or not name.startswith(KERNELS)
        if needed:
            yield name


def _hub_name(bundle: Path) -> tuple[str, str | None] | None:
    """Return id and revision of a bundle that is no folder here; None if it is, or is no id."""
    return None if bundle.exists() else parse_hub_id(bundle.as_posix())


def _fetch_manifest(hub_id: str, revision: str | None) -> Bundle:
    """Return the folder of a bundle's commit in the cache, and its manifest: not opened yet."""
    hub = _import_client(hub_id)
    path = Path(
        _fetch(
            f"{hub_id} (revision {revision or 'main'})",
            lambda: hub.hf_hub_download(hub_id, MANIFEST_NAME, revision=revision),
        )
    )
    return Bundle(path.parent, manifest_from_json(path.read_text(encoding="utf-8"), str(path)))


def _fetch_files(hub_id: str, bundle: Bundle, names: Sequence[str]) -> None:
    absent = [name for name in names if not bundle.path(name).is_file()]
    if not absent:
        return
    hub = _import_client(hub_id)
    # The folder is named after its commit: a branch that moves meanwhile changes nothing.
    commit = bundle.folder.name
    _fetch(
        f"{hub_id} (commit {commit})",
        lambda: hub.snapshot_download(hub_id, revision=commit, allow_patterns=absent),
    )
    _check_files(hub_id, bundle, absent)


def _import_client(hub_id: str) -> ModuleType:
    return import_hub_client("hub", f"to fetch {hub_id}, which is no folder here, from the Hub")


def _fetch(what: str, fetch: Callable[[], Found]) -> Found:
    try:
        return fetch()
    except Exception as cause:  # the client raises its own, httpx's and OSError alike
        raise BundleError(
            f"{what} is no folder here, and cannot be fetched from the Hub as a bundle: "
            f"{one_line(cause)}; check the name and the network, log in if the repository is "
            "private, and make a bundle of a checkpoint with `trine export`"
        ) from cause


def _check_files(hub_id: str, bundle: Bundle, names: Sequence[str]) -> None:
    """Hold files that were fetched against the manifest; one that differs is removed."""
    wrong = []
    for name in names:
        path = bundle.path(name)
        if not path.is_file():
            wrong.append(f"{name} is not there")
        elif file_sha256(path) != bundle.manifest.files[name].sha256:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            wrong.append(f"{name} has another SHA-256")
    if wrong:
        raise BundleError(
            f"{hub_id}: {len(wrong)} files are not what its manifest says: {'; '.join(wrong)}; "
            "they were removed: fetch again, or have the bundle pushed anew"
        )
