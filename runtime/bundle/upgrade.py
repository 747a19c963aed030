"""Brings a bundle of an older format version up to date: its manifest alone, never its weights.

Version 3 added built engines; version 4 the rotation of what layers read. Neither changed a file
that was there. Version 1 had no precision maps and no output ranges, which only an export makes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trine.runtime.bundle.atomic import hold, write_file
from trine.runtime.bundle.bundle import MANIFEST_NAME, open_bundle
from trine.runtime.bundle.json_file import read_json
from trine.runtime.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    UPGRADED_VERSIONS,
    manifest_from_json,
    manifest_to_json,
)
from trine.runtime.errors import BundleError

__all__ = ["upgrade_bundle"]


def upgrade_bundle(folder: Path) -> int:
    """Bring the bundle in `folder` up to date, at once or not at all; return its former version.

    Raises:
        BundleError: there is no bundle, it is damaged, newer than this code, or so old that it has
            to be exported again.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        open_bundle(folder)  # says what is there instead
    with hold(path, BundleError):
        content = read_json(path, BundleError)
        version = content.get("format_version") if content.get("format") == FORMAT else None
        if version not in UPGRADED_VERSIONS:
            open_bundle(folder)  # is up to date, or says what is the matter
            return FORMAT_VERSION
        try:
            for step in range(version, FORMAT_VERSION):
                UPGRADES[step](content)
        except (KeyError, TypeError, AttributeError) as cause:
            raise BundleError(
                f"{path}: is no manifest of format version {version} ({cause!r}); export the "
                "bundle again"
            ) from cause
        content["format_version"] = FORMAT_VERSION
        # Read as strictly as any before it is written.
        manifest = manifest_from_json(json.dumps(content), str(path))
        try:
            with write_file(path) as partial:
                partial.write_text(manifest_to_json(manifest), encoding="utf-8")
        except OSError as cause:
            raise BundleError(
                f"{path}: cannot be written ({cause.strerror}); check the folder's permissions"
            ) from cause
    open_bundle(folder)
    return int(version)


def _add_built_engines(content: Mapping[str, Any]) -> None:
    for engine in content["engines"]:
        engine.setdefault("built", [])


def _add_rotation(content: Mapping[str, Any]) -> None:
    for engine in content["engines"]:
        for linear in _linear_precisions(engine["precision_map"]):
            linear.setdefault("rotation", None)
        for built in engine["built"]:
            # One number for the largest bucket became one for each, none of which takes more.
            if not isinstance(built["scratch_bytes"], list):
                built["scratch_bytes"] = [built["scratch_bytes"]] * len(built["profiles"])


def _linear_precisions(precision_map: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for graph in ("vision", "decoder"):
        yield from precision_map[graph]["linears"].values()
        for override in precision_map[graph]["wider"]:
            yield override["precision"]


#: What makes a manifest of the version after, by version.
UPGRADES: Mapping[int, Callable[[Mapping[str, Any]], None]] = {
    2: _add_built_engines,
    3: _add_rotation,
}
