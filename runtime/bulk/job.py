"""The job of a dataset folder: what was asked for, and whether it is still the same.

`_job.json` states the job: settings, inputs, and what the first reading of them found. It says
nothing of what is done; the shards do.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trine.runtime.bulk.inputs.sources import SourceFile
from trine.runtime.bulk.inputs.tables import import_pyarrow
from trine.runtime.bulk.shards import SHARD_NAME, Shard, read_shard, shard_name, stored_durably
from trine.runtime.bundle.json_file import read_json
from trine.runtime.errors import InputError

__all__ = [
    "ERRORS_NAME",
    "JOB_NAME",
    "MANIFEST_NAME",
    "SUCCESS_NAME",
    "Job",
    "finished_shards",
    "read_job",
    "remove_dataset",
    "write_job",
]

JOB_NAME = "_job.json"
MANIFEST_NAME = "_manifest.json"
SUCCESS_NAME = "_SUCCESS"
ERRORS_NAME = "_errors.parquet"
FORMAT = "trine-dataset"
FORMAT_VERSION = 1

#: Value of a setting.
Setting = str | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a dataset folder is made of.

    Attributes:
        settings: all that decides what is in the output, by the names of messages.
        sources: the input files.
        num_rows: of each.
        tasks: of the rows.
        kept_schema: Arrow schema of the columns that travel.
        shard_rows: rows of the inputs that a slice has; the last may have fewer.
    """

    settings: Mapping[str, Setting]
    sources: tuple[SourceFile, ...]
    num_rows: tuple[int, ...]
    tasks: frozenset[str]
    kept_schema: Any
    shard_rows: int

    @property
    def total_rows(self) -> int:
        """Rows of all inputs."""
        return sum(self.num_rows)

    @property
    def num_slices(self) -> int:
        """Number of slices; inputs without rows have one."""
        return max(1, -(-self.total_rows // self.shard_rows))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings and inputs."""
        stated = [dict(self.settings), [asdict(source) for source in self.sources]]
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    def slice_rows(self, number: int) -> range:
        """Return which rows of the inputs, one behind the other, a slice has."""
        first = number * self.shard_rows
        return range(first, min(first + self.shard_rows, self.total_rows))

    def check_same(
        self, output: Path, settings: Mapping[str, Setting], sources: Sequence[SourceFile]
    ) -> None:
        """Check that what is asked for now is this job.

        Raises:
            InputError: it is another; the first difference is named.
        """
        difference = _changed_setting(self.settings, settings) or _changed_source(
            self.sources, sources
        )
        if difference is not None:
            raise InputError(
                f"{output}: holds another job: {difference}; give the same again, another folder, "
                "or --restart to remove what is there and begin anew"
            )


def _changed_setting(before: Mapping[str, Setting], now: Mapping[str, Setting]) -> str | None:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            return f"{name} was {before.get(name)!r} and is {now.get(name)!r} now"
    return None


def _changed_source(before: Sequence[SourceFile], now: Sequence[SourceFile]) -> str | None:
    former, present = ({source.path: source for source in files} for files in (before, now))
    for path in {**former, **present}:
        if path not in present:
            return f"{path} was an input and is none now"
        if path not in former:
            return f"{path} is an input now and was none"
        if former[path] != present[path]:
            return f"{path} was changed since"
    if list(before) != list(now):
        return "the inputs are in another order"
    return None


def write_job(output: Path, job: Job) -> None:
    """Write the statement of a job that begins.

    Raises:
        InputError: it cannot be written.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": job.fingerprint,
        "settings": dict(job.settings),
        "tasks": sorted(job.tasks),
        "shard_rows": job.shard_rows,
        "kept_schema": base64.b64encode(job.kept_schema.serialize()).decode(),
        "inputs": [
            {**asdict(source), "rows": count}
            for source, count in zip(job.sources, job.num_rows, strict=True)
        ],
    }
    with stored_durably(output / JOB_NAME) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8") + b"\n")


def read_job(output: Path) -> Job | None:
    """Return the job of a folder; None where none was begun.

    Raises:
        InputError: the folder holds something else, or a newer version's dataset.
    """
    path = output / JOB_NAME
    if not path.exists():
        others = sorted(entry.name for entry in output.iterdir() if not _is_partial(entry.name))
        if others:
            raise InputError(
                f"{output}: holds {others[0]!r} and no dataset of this program; give a new or "
                "empty folder"
            )
        return None
    content: Any = read_json(path, InputError)
    try:
        if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
            raise ValueError("of another version")
        arrow = import_pyarrow()
        stored = arrow.py_buffer(base64.b64decode(content["kept_schema"]))
        return Job(
            settings=content["settings"],
            sources=tuple(
                SourceFile(entry["path"], entry["size"], entry["mtime_ns"])
                for entry in content["inputs"]
            ),
            num_rows=tuple(entry["rows"] for entry in content["inputs"]),
            tasks=frozenset(content["tasks"]),
            kept_schema=arrow.ipc.read_schema(stored),
            shard_rows=content["shard_rows"],
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise InputError(
            f"{path}: is not as this program wrote it ({cause}); give another folder, or remove it"
        ) from cause


def finished_shards(output: Path, job: Job) -> dict[int, Shard]:
    """Return the shards that are there, by the numbers of their slices.

    Raises:
        InputError: one is damaged, or of another job.
    """
    found: dict[int, Shard] = {}
    fingerprint = job.fingerprint
    for entry in sorted(output.iterdir()):
        if not SHARD_NAME.fullmatch(entry.name):
            continue
        shard = read_shard(entry)
        expected = len(job.slice_rows(shard.slice))
        if (
            shard.fingerprint != fingerprint
            or shard.name != shard_name(shard.slice)
            or shard.num_read != expected
        ):
            raise InputError(
                f"{entry}: is a shard of another job; remove it, and the same command makes it anew"
            )
        found[shard.slice] = shard
    return found


def remove_dataset(output: Path) -> None:
    """Remove what this program wrote into a folder, and nothing else."""
    if read_job(output) is None:
        return
    names = {MANIFEST_NAME, SUCCESS_NAME, ERRORS_NAME}
    for entry in output.iterdir():
        if SHARD_NAME.fullmatch(entry.name) or entry.name in names or _is_partial(entry.name):
            entry.unlink()
    (output / JOB_NAME).unlink()  # last: until then the folder is known as a dataset


def _is_partial(name: str) -> bool:
    """Whether a killed process of this program left a file of this name."""
    return name.startswith((".part-", "._")) and name.endswith(".partial")
