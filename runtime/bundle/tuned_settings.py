"""The settings that `trine tune` found, kept in the bundle's folder `tuned`.

They hold for the processor they were found on; on any other they are left unread.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from trine.runtime.bundle.atomic import write_file
from trine.runtime.errors import BundleError
from trine.runtime.hardware.cpu import read_cpu

__all__ = [
    "TUNED_FOLDER",
    "TunedSettings",
    "read_tuned",
    "tuned_path",
    "write_tuned",
]

#: Folder in a bundle of what belongs to a machine; no part of what was exported.
TUNED_FOLDER = "tuned"
SETTINGS_NAME = "settings.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedSettings:
    """What was fastest.

    Attributes:
        processor: name of the processor, as the system gives it.
        cores: that this process may use.
        engine: of the bundle; what "auto" takes.
        threads: of one run.
        batch_tokens: of one run of the decoder.
    """

    processor: str
    cores: int
    engine: str
    threads: int
    batch_tokens: int


def tuned_path(folder: Path) -> Path:
    """Return where the settings of the bundle in `folder` are kept."""
    return folder / TUNED_FOLDER / SETTINGS_NAME


def read_tuned(folder: Path) -> TunedSettings | None:
    """Return the settings of a bundle that were found on a machine like this; None for none.

    Raises:
        BundleError: the file is damaged.
    """
    path = tuned_path(folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        settings = TunedSettings(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as cause:
        raise BundleError(
            f"{path}: cannot be read ({cause}); delete it, or run `trine tune` again"
        ) from cause
    if min(settings.threads, settings.batch_tokens) < 1:
        raise BundleError(f"{path}: holds numbers below 1; run `trine tune` again")
    cpu = read_cpu()
    return settings if (settings.processor, settings.cores) == (cpu.name, cpu.cores) else None


def write_tuned(folder: Path, settings: TunedSettings) -> None:
    """Write the settings; the file is there whole or not at all."""
    path = tuned_path(folder)
    path.parent.mkdir(exist_ok=True)
    with write_file(path) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(settings), indent=2) + "\n", "utf-8")
