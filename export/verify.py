"""Checks a bundle: its files, its engines against golden vectors, and against PyTorch if asked."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

from trine.export.torch_comparison import Head, compare_with_torch
from trine.export.verify_report import Check, EngineVerification, VerifyReport
from trine.runtime.bundle import Bundle, open_bundle
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.golden import Modality, worst
from trine.runtime.manifest import EngineEntry

__all__ = ["verify_bundle"]


def verify_bundle(
    folder: Path,
    *,
    engine: str | None = None,
    source: str | None = None,
    threads: int | None = None,
    said: Callable[[str], None] = lambda step: None,
) -> VerifyReport:
    """Check the bundle in `folder`, and return what was found, good or bad.

    Args:
        folder: of the bundle.
        engine: to run; None for all of them.
        source: the checkpoint it was made from, to compare with PyTorch: "nano", a folder or a Hub
            id. None leaves PyTorch out.
        threads: of one run of an engine; None for one a processor.
        said: called with what is done next.

    Raises:
        BundleError: the folder holds no bundle, files are missing or of another size, or it has no
            such engine.
        CheckpointError: the source is not usable, or is of another model.
        EngineError: an engine cannot run here.
        InputError: threads is not a number of at least 1.
        DependencyError: a package is missing.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; give a number of at least 1")
    bundle = open_bundle(folder)
    entries = bundle.manifest.engines if engine is None else (bundle.engine(engine),)
    files = bundle.manifest.files
    said(f"hashing {len(files)} files")
    problems = bundle.check_hashes()
    engines = [] if problems else _engines(bundle, entries, source, threads, said)
    return VerifyReport(
        bundle=folder,
        num_files=len(files),
        num_bytes=sum(entry.size for entry in files.values()),
        problems=tuple(problems),
        engines=tuple(engines),
    )


def _engines(
    bundle: Bundle,
    entries: tuple[EngineEntry, ...],
    source: str | None,
    threads: int | None,
    said: Callable[[str], None],
) -> list[EngineVerification]:
    checks = {entry.name: list(_golden(bundle, entry, threads, said)) for entry in entries}
    if source is not None:
        for name, more in compare_with_torch(bundle, entries, source, threads, said).items():
            checks[name] += more
    return [
        EngineVerification(
            name=entry.name,
            checks=tuple(checks[entry.name]),
            unchecked=tuple(
                task for task in entry.decoders if task not in {c.task for c in checks[entry.name]}
            ),
        )
        for entry in entries
    ]


def _golden(
    bundle: Bundle, entry: EngineEntry, threads: int | None, said: Callable[[str], None]
) -> Iterator[Check]:
    """Yield the checks against the golden vectors, task by task, so one decoder is in memory."""
    for task in entry.decoders:
        said(f"running {entry.name} on the golden inputs of {task}")
        embedder = Embedder.open(bundle, entry, tasks=(task,), threads=threads)
        for modality in get_args(Modality):
            found = embedder.deviations(modality)
            for head in get_args(Head):
                members = [deviation for deviation in found if deviation.head == head]
                if not members:
                    continue  # an adapter added after the export
                cosine, difference = worst(members)
                yield Check(
                    against="golden",
                    task=task,
                    modality=modality,
                    head=head,
                    num_vectors=len(members),
                    mean_cosine=None,
                    p1_cosine=None,
                    min_cosine=cosine,
                    max_difference=difference,
                    tolerance=entry.tolerance,
                )
