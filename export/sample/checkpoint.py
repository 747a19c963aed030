"""Writes a seeded random checkpoint in the published layout, of any size, in little memory.

It stands in for the real weights: to try the export, to measure speed and memory at full size, and
as the tests' model. Its vectors mean nothing.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from trine.export.bundle.safetensors_writer import TensorEntry, write_safetensors
from trine.export.sample.config import (
    adapter_config,
    model_config,
    preprocessor_config,
    shard_index,
)
from trine.export.sample.edits import Edit, apply_edits
from trine.export.sample.hardness import hard_edits
from trine.export.sample.layout import (
    SampleTensor,
    adapter_tensors,
    base_tensors,
    shards,
    stored_name,
)
from trine.export.sample.spec import Dtype, SampleSpec
from trine.export.sample.tokenizer import write_sample_tokenizer
from trine.runtime.bundle.atomic import write_folder
from trine.runtime.errors import InputError

__all__ = ["Progress", "SampleSize", "SampleSpec", "sample_size", "write_sample_checkpoint"]

#: Called with (bytes written, bytes in all).
Progress = Callable[[int, int], None]

#: Values drawn at a time; small enough to stay in a processor's cache.
BLOCK_VALUES = 1 << 18
#: Name in the header and item size by the name in `config.json`.
DTYPES: dict[Dtype, tuple[str, int]] = {
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
    "float32": ("F32", 4),
}
#: What texts begin with: their first tokens are those that the trait `first-token` makes large.
PROMPTS = ("Query: ", "Passage: ")
#: Room for the files that are not tensors, the largest of which is a full-size `tokenizer.json`.
OTHER_FILES_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """How large a checkpoint is: values and bytes of all its tensors, adapters included."""

    num_values: int
    num_bytes: int


def sample_size(spec: SampleSpec) -> SampleSize:
    """Return the size of the checkpoint `spec` makes, without making it."""
    values = sum(tensor.num_values for tensor in (*base_tensors(spec), *adapter_tensors(spec)))
    return SampleSize(num_values=values, num_bytes=values * DTYPES[spec.dtype][1])


def write_sample_checkpoint(
    spec: SampleSpec, directory: Path, *, progress: Progress | None = None
) -> None:
    """Write the checkpoint of `spec` as `directory`, complete or not at all.

    The same spec gives the same bytes (with the same numpy: its normal generator is not promised
    across versions). A tensor's values depend on its published name, its shape and the seed, not
    on shards or spelling.

    Args:
        spec: all numbers.
        directory: new or empty; its parents are made.
        progress: called now and then while tensors are written.

    Raises:
        InputError: `directory` is in the way, the disk is too full, or there are more shards than
            tensors.
    """
    tensors = base_tensors(spec)
    if spec.num_shards > len(tensors):
        raise InputError(
            f"num_shards {spec.num_shards} is more than the {len(tensors)} tensors there are; "
            "give fewer"
        )
    size = sample_size(spec)
    with _staged(directory, size.num_bytes + OTHER_FILES_BYTES) as staging:
        report = _byte_counter(size.num_bytes, progress)
        _write_json(staging / "config.json", model_config(spec))
        _write_json(staging / "preprocessor_config.json", preprocessor_config(spec))
        write_sample_tokenizer(staging, spec.first_special_id)
        edits = hard_edits(spec, _first_ids(staging, spec))
        _write_base(spec, tensors, edits, staging, report)
        adapters = staging / "adapters"
        adapters.mkdir()
        _write_json(adapters / "adapter_config.json", adapter_config(spec))
        _write_tensors(
            adapters / "adapter_model.safetensors", adapter_tensors(spec), edits, spec, report
        )


@contextmanager
def _staged(directory: Path, needed_bytes: int) -> Iterator[Path]:
    """Yield a folder beside `directory` that takes its place when the block ends without error."""
    target = directory.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            f"{directory} exists and is not an empty folder; choose another or remove it"
        )
    with write_folder(target, InputError) as staging:
        _check_free_space(target.parent, needed_bytes)
        yield staging


def _check_free_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise InputError(
            f"the checkpoint needs {needed_bytes / 1e9:.2f} GB but {folder} has "
            f"{free / 1e9:.2f} GB free; free some or choose another disk"
        )


def _byte_counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """Return a function that adds to the bytes written and reports the sum to `progress`."""
    done = 0

    def add(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress is not None:
            progress(done, total)

    return add


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _first_ids(directory: Path, spec: SampleSpec) -> tuple[int, ...]:
    """Return the ids that a sequence can begin with, of the tokenizer in `directory`."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    starts = {tokenizer.encode(prompt).ids[0] for prompt in PROMPTS}
    return tuple(sorted(starts | {spec.special_id("<|im_start|>")}))


def _write_base(
    spec: SampleSpec,
    tensors: Sequence[SampleTensor],
    edits: Mapping[str, Sequence[Edit]],
    directory: Path,
    report: Callable[[int], None],
) -> None:
    """Write the base model as one file, or as several with an index."""
    if spec.num_shards == 1:
        _write_tensors(directory / "model.safetensors", tensors, edits, spec, report)
        return
    parts = [
        (f"model-{number:05d}-of-{spec.num_shards:05d}.safetensors", part)
        for number, part in enumerate(shards(tensors, spec.num_shards), start=1)
    ]
    for file, part in parts:
        _write_tensors(directory / file, part, edits, spec, report)
    size = sum(tensor.num_values for tensor in tensors) * DTYPES[spec.dtype][1]
    _write_json(directory / "model.safetensors.index.json", shard_index(parts, spec, size))


def _write_tensors(
    path: Path,
    tensors: Sequence[SampleTensor],
    edits: Mapping[str, Sequence[Edit]],
    spec: SampleSpec,
    report: Callable[[int], None],
) -> None:
    entries = [
        TensorEntry(
            name=stored_name(tensor.name, spec.key_spelling),
            dtype=DTYPES[spec.dtype][0],
            shape=tensor.shape,
            chunks=_chunks(tensor, edits.get(tensor.name, ()), spec, report),
        )
        for tensor in tensors
    ]
    write_safetensors(path, entries, {"format": "pt"})


def _chunks(
    tensor: SampleTensor, edits: Sequence[Edit], spec: SampleSpec, report: Callable[[int], None]
) -> Iterator[memoryview]:
    """Yield the tensor's bytes, one block of values at a time, each drawn when asked for."""
    seed = hashlib.sha256(f"{spec.seed}:{tensor.name}".encode()).digest()
    source = np.random.Generator(np.random.SFC64(int.from_bytes(seed, "little")))
    num_columns = prod(tensor.shape[1:])
    values = np.empty(min(BLOCK_VALUES, tensor.num_values), np.float32)
    for start in range(0, tensor.num_values, BLOCK_VALUES):
        block = values[: tensor.num_values - start]
        source.standard_normal(out=block, dtype=np.float32)
        block *= np.float32(tensor.std)
        block += np.float32(tensor.mean)
        apply_edits(block, start, num_columns, edits)
        chunk = _stored_bytes(block, spec.dtype)
        yield chunk
        report(chunk.nbytes)


def _stored_bytes(values: NDArray[np.float32], dtype: Dtype) -> memoryview:
    """Return finite float32 [n] as little-endian bytes of `dtype`, rounded to nearest even.

    `values` is overwritten.
    """
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        bits += ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
        bits >>= np.uint32(16)
        return bits.astype("<u2").view(np.uint8).data
    stored = values.astype("<f2") if dtype == "float16" else values.astype("<f4", copy=False)
    return stored.view(np.uint8).data
