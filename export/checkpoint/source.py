"""Finds the checkpoint a user named: the built-in one, a folder, or a repository on the Hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trine.runtime.errors import CheckpointError
from trine.runtime.hub import HUB_ID
from trine.runtime.libraries import import_hub_client

__all__ = ["BUILT_IN", "ResolvedSource", "read_license", "resolve_source"]

#: Name of the checkpoint that comes with the package.
BUILT_IN = "nano"
#: What an export reads, as the Hub's download patterns.
NEEDED_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "*/adapter_config.json",
    "*/adapter_model.safetensors",
    "README.md",
)
#: Of them, those that state the numbers of the model.
NUMBER_FILES = NEEDED_FILES[:3]
LICENSE_LINE = re.compile(r"^license(?:_name)?:\s*(\S.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ResolvedSource:
    """A checkpoint on this machine.

    Attributes:
        folder: where its files lie.
        id: the Hub id, "nano", or the folder's name.
        revision: the Hub commit the files are of; None for a folder.
    """

    folder: Path
    id: str
    revision: str | None


def resolve_source(
    source: str, revision: str | None = None, files: Sequence[str] = NEEDED_FILES
) -> ResolvedSource:
    """Return the checkpoint that `source` names, downloaded if need be.

    Args:
        source: "nano", a folder, or a Hub id like "jinaai/jina-embeddings-v4". A folder called
            nano is given as ./nano.
        revision: branch, tag or commit on the Hub; None for its main branch.

    Raises:
        CheckpointError: nothing of that name is found, or the download fails.
        DependencyError: a Hub id was given and huggingface_hub is not installed.
    """
    if source == BUILT_IN:
        return ResolvedSource(Path(__file__).parents[1] / "nano" / "checkpoint", BUILT_IN, None)
    folder = Path(source)
    if source and folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"revision {revision!r} was given for the folder {source}; it is for Hub ids only"
            )
        return ResolvedSource(folder, folder.resolve().name, None)
    if folder.is_file() or not HUB_ID.match(source):
        raise CheckpointError(
            f"{source}: neither a folder nor a Hub id (name/name); "
            f"give a checkpoint's folder, its Hub id, or {BUILT_IN!r}"
        )
    return _download(source, revision, files)


def _download(hub_id: str, revision: str | None, files: Sequence[str]) -> ResolvedSource:
    hub = import_hub_client("export", f"to download {hub_id} from the Hub")
    try:
        # Finished files are kept and unfinished ones resumed; the last folder's name is the commit.
        folder = Path(hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(files)))
    except Exception as cause:  # the client raises its own, httpx's and OSError alike
        first_line = (str(cause) or type(cause).__name__).splitlines()[0]
        raise CheckpointError(
            f"{hub_id} (revision {revision or 'main'}): cannot be downloaded: {first_line} "
            "Check the name and the network, log in if the repository is gated, and run again: "
            "what is there already is kept"
        ) from cause
    return ResolvedSource(folder, hub_id, folder.name)


def read_license(folder: Path) -> str | None:
    """Return the licence that the checkpoint's README states in its front matter, or None."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if not text.startswith("---"):
        return None
    found = LICENSE_LINE.findall(text.split("---", 2)[1])
    return " / ".join(part.strip("'\" ") for part in found) or None
