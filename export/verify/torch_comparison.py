"""Compares engines with PyTorch on the checkpoint they were made from.

Both get the same token ids and patches, so this measures the exporter's graphs, weights, layouts
and heads, not the tokenizer and the image processor; those two are compared with what the published
code returned in the tests.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from trine.export.accuracy.parity import UNMEASURED
from trine.export.accuracy.thresholds import THRESHOLDS
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.checkpoint.source import resolve_source
from trine.export.reference.torch_reference import TorchReference
from trine.export.verify.inputs import verify_images, verify_texts
from trine.export.verify.report import Check
from trine.runtime.bundle.bundle import TOKENIZER_NAME, Bundle
from trine.runtime.bundle.golden import Modality
from trine.runtime.bundle.manifest import EngineEntry, Tolerance
from trine.runtime.bundle.precision import EnginePrecision
from trine.runtime.embedder import Embedder
from trine.runtime.errors import CheckpointError, missing_package
from trine.runtime.inputs import ImageText, Item, Prompt
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import check_request
from trine.runtime.task_names import SYMMETRIC_TASKS

__all__ = ["TORCH_TOLERANCES", "check_comparison", "compare_with_torch", "torch_tolerance"]

Head = Literal["single", "multi"]
Vectors = NDArray[np.float32]

#: What float32 engines may differ from PyTorch, by modality and head. Images pass through both
#: towers, whose rounding adds up.
TORCH_TOLERANCES: dict[tuple[Modality, Head], Tolerance] = {
    ("text", "single"): Tolerance(min_cosine=0.999999, max_difference=5e-6),
    ("text", "multi"): Tolerance(min_cosine=0.999999, max_difference=5e-5),
    ("image", "single"): Tolerance(min_cosine=0.999999, max_difference=1e-4),
    ("image", "multi"): Tolerance(min_cosine=0.999999, max_difference=5e-4),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Items that one call of an embedder takes: equal in task, prompt and modality.

    A key by identity, for its images cannot be compared.
    """

    task: str
    modality: Modality
    prompt: Prompt
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """Both vectors of one item: float32 [hidden] and [T, projector], normalised."""

    single: Vectors
    multi: Vectors


def torch_tolerance(precision: EnginePrecision, modality: Modality, head: Head) -> Tolerance:
    """Return what an engine may differ from PyTorch.

    Of narrow engines single vectors must keep to the threshold of their precision, and single
    tokens, of which none is promised more, to what the self-test allows an engine that was not
    measured.
    """
    if precision == "fp32":
        return TORCH_TOLERANCES[modality, head]
    if head == "multi":
        return UNMEASURED[precision]
    worst = THRESHOLDS["int8" if precision == "fp8" else precision].worst_cosine
    # |a - b|² = 2 - 2 cos of normalised vectors.
    return Tolerance(min_cosine=worst, max_difference=(2 - 2 * worst) ** 0.5)


def check_comparison(bundle: Bundle, source: str) -> Checkpoint:
    """Return the checkpoint to compare a bundle with, all checked that a comparison needs.

    Args:
        bundle: that was made from it.
        source: "nano", a folder or a Hub id.

    Raises:
        CheckpointError: the source cannot be used, or is of another model.
        DependencyError: a package is missing.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise missing_package(package, "reference", "to compare with PyTorch")
    checkpoint = Checkpoint(resolve_source(source).folder)
    model = bundle.manifest.model
    if dataclasses.replace(checkpoint.config, tasks=model.tasks) != model:
        raise CheckpointError(
            f"{source}: its numbers are not those of the model in {bundle.folder}, which was made "
            f"from {bundle.manifest.source.id!r}; give that checkpoint"
        )
    return checkpoint


def compare_with_torch(
    bundle: Bundle,
    entries: Sequence[EngineEntry],
    checkpoint: Checkpoint,
    threads: int | None,
    said: Callable[[str], None],
) -> dict[str, list[Check]]:
    """Return the checks of each engine, by its name.

    All engines run before PyTorch is loaded, one decoder at a time, so that no two models are in
    memory together.

    Args:
        bundle: of the engines.
        entries: the engines.
        checkpoint: of `check_comparison`.
        threads: of one run of an engine.
        said: called with what is done next.

    Raises:
        EngineError: an engine cannot run here.
    """
    loaded = {task for entry in entries for task in entry.decoders}
    # Adapters added after the export are not of the checkpoint.
    groups = _groups([task for task in checkpoint.config.tasks if task in loaded])
    found = {entry.name: _run_engine(bundle, entry, groups, threads, said) for entry in entries}
    expected = _run_torch(bundle, checkpoint.folder, groups, said)
    return {
        entry.name: _checks(found[entry.name], expected, groups, entry.precision)
        for entry in entries
    }


def _groups(tasks: Sequence[str]) -> list[_Group]:
    images = tuple(ImageText((image,)) for image in verify_images())
    groups = []
    for task in tasks:
        prompts = get_args(Prompt)[: 1 if task in SYMMETRIC_TASKS else None]
        groups += [_Group(task, "text", prompt, verify_texts()) for prompt in prompts]
        groups.append(_Group(task, "image", "query", images))
    return groups


def _run_engine(
    bundle: Bundle,
    entry: EngineEntry,
    groups: Sequence[_Group],
    threads: int | None,
    said: Callable[[str], None],
) -> dict[_Group, list[_Found]]:
    """Return the engine's vectors; a group whose task it has no decoder for is left out."""
    found = {}
    wanted = dict.fromkeys(group.task for group in groups)
    for task in (task for task in wanted if task in entry.decoders):
        said(f"running {entry.name} on {task}")
        embedder = Embedder.open(bundle, entry, tasks=(task,), threads=threads)
        for group in groups:
            if group.task == task:
                result = embedder.encode(
                    group.items, task, prompt_name=group.prompt, return_multivector=True
                )
                pairs = zip(
                    cast(Vectors, result.single), cast(list[Vectors], result.multi), strict=True
                )
                found[group] = [_Found(single, multi) for single, multi in pairs]
    return found


def _run_torch(
    bundle: Bundle, folder: Path, groups: Sequence[_Group], said: Callable[[str], None]
) -> dict[_Group, list[_Found]]:
    model = bundle.manifest.model
    preprocessor = Preprocessor(model, TextTokenizer(bundle.path(TOKENIZER_NAME)))
    said("loading the checkpoint in PyTorch")
    reference = TorchReference(folder)
    found = {}
    for group in groups:
        said(f"running PyTorch on {group.task}: {len(group.items)} items ({group.modality})")
        request = check_request(
            (group.task,),
            model,
            num_items=len(group.items),
            task=group.task,
            prompt_name=group.prompt,
        )
        found[group] = [
            _torch_vectors(reference, sequence, group.task)
            for sequence in preprocessor.sequences(group.items, request)
        ]
    return found


def _torch_vectors(reference: TorchReference, sequence: TokenSequence, task: str) -> _Found:
    pooled = np.flatnonzero(sequence.pooled)
    images = sequence.images
    return _Found(
        *reference.encode(
            sequence.token_ids.tolist(),
            task,
            pixels=np.concatenate([image.patches for image in images]) if images else None,
            grids=[(1, *image.grid) for image in images] if images else None,
            pool=(int(pooled[0]), int(pooled[-1]) + 1),
        )
    )


def _checks(
    found: dict[_Group, list[_Found]],
    expected: dict[_Group, list[_Found]],
    groups: Sequence[_Group],
    precision: EnginePrecision,
) -> list[Check]:
    """Return a check for each task, modality and head, over all prompts."""
    checks = []
    kinds = dict.fromkeys((group.task, group.modality) for group in groups if group in found)
    for task, modality in kinds:
        members = [group for group in groups if (group.task, group.modality) == (task, modality)]
        have = [vectors for group in members for vectors in found[group]]
        want = [vectors for group in members for vectors in expected[group]]
        for head in get_args(Head):
            pairs = [
                (np.atleast_2d(getattr(h, head)), np.atleast_2d(getattr(w, head)))
                for h, w in zip(have, want, strict=True)
            ]
            cosines = np.concatenate([_cosines(h, w) for h, w in pairs])
            checks.append(
                Check(
                    against="torch",
                    task=task,
                    modality=modality,
                    head=head,
                    num_vectors=len(cosines),
                    mean_cosine=float(cosines.mean()),
                    p1_cosine=float(np.percentile(cosines, 1)),
                    min_cosine=float(cosines.min()),
                    max_difference=max(_difference(h, w) for h, w in pairs),
                    tolerance=torch_tolerance(precision, modality, head),
                )
            )
    return checks


def _cosines(have: Vectors, want: Vectors) -> NDArray[np.float64]:
    """Return float64 [T], the cosine of each row with its counterpart; -1 if shapes differ."""
    if have.shape != want.shape:
        return np.full(len(want), -1.0)
    a, b = have.astype(np.float64), want.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / lengths


def _difference(have: Vectors, want: Vectors) -> float:
    if have.shape != want.shape:
        return float("inf")
    return float(np.abs(have.astype(np.float64) - want).max())
