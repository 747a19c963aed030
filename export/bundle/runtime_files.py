"""Writes the files of a bundle that the runtime reads itself: tokenizer, embedding table, heads,
and what tells sentence-transformers how to load it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trine.export.bundle.safetensors_writer import TensorEntry, entry_from_array, write_safetensors
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.decoder_weights import merged_weight
from trine.runtime.adapters.layout import PROJECTOR
from trine.runtime.adapters.peft import LoraAdapters
from trine.runtime.bundle.bundle import (
    EMBEDDING_NAME,
    HEADS_NAME,
    MODULE_FILES,
    TOKENIZER_NAME,
)
from trine.runtime.bundle.dtypes import check_finite, widen
from trine.runtime.bundle.model_config import PROMPTS
from trine.runtime.errors import BundleError, CheckpointError
from trine.runtime.inference.embedding_table import EMBEDDING_TENSOR
from trine.runtime.preprocessing.tokenizer import TextTokenizer

__all__ = ["write_embedding", "write_heads", "write_module_files", "write_tokenizer"]

MODULE_CLASS = "trine.runtime.integrations.sentence_transformers.TrineModule"
#: Rows of the embedding table copied at a time.
CHUNK_ROWS = 8192
#: Dtypes the embedding table is kept in; float64 has no use there.
TABLE_DTYPES = ("BF16", "F16", "F32")
#: Tokens whose spelling the image prompt needs, and the config's name for their id, if it has one.
PROMPT_TOKENS = (
    ("<|im_start|>", None),
    ("<|im_end|>", None),
    ("<|vision_start|>", "vision_start"),
    ("<|vision_end|>", "vision_end"),
    ("<|image_pad|>", "image_pad"),
)


def write_tokenizer(checkpoint: Checkpoint, folder: Path) -> TextTokenizer:
    """Copy tokenizer.json into `folder` and return it opened.

    Raises:
        CheckpointError: it is missing, unreadable, lacks a token of the image prompt, has one under
            another id than config.json, has ids beyond the embedding table, or adds tokens to texts
            that mark images.
    """
    source = checkpoint.folder / TOKENIZER_NAME
    if not source.is_file():
        raise CheckpointError(f"{source}: is missing; the checkpoint needs this file")
    try:
        tokenizer = TextTokenizer(source)
    except BundleError as cause:
        raise CheckpointError(str(cause)) from cause
    ids = checkpoint.config.token_ids
    for token, field in PROMPT_TOKENS:
        token_id = tokenizer.token_id(token)
        if token_id is None:
            raise CheckpointError(f"{source}: has no token {token!r}, which the image prompt needs")
        if field is not None and token_id != getattr(ids, field):
            raise CheckpointError(
                f"{source}: {token} has id {token_id}, config.json says {getattr(ids, field)}; "
                "the files are of different models"
            )
    if tokenizer.num_ids > checkpoint.config.decoder.vocab_size:
        raise CheckpointError(
            f"{source}: has {tokenizer.num_ids} ids, the embedding table only "
            f"{checkpoint.config.decoder.vocab_size} rows; the files are of different models"
        )
    marks = {ids.image_pad, ids.vision_start, ids.vision_end}
    if marks & {*tokenizer.ends.start.tolist(), *tokenizer.ends.end.tolist()}:
        raise CheckpointError(
            f"{source}: its post_processor adds a token to every text that marks an image, so each "
            "text would be taken for one; take it out"
        )
    shutil.copyfile(source, folder / TOKENIZER_NAME)
    return tokenizer


def write_module_files(folder: Path) -> None:
    """Write what sentence-transformers reads first: the class to load, and the prompts' names."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": MODULE_CLASS, "kwargs": ["task"]}]
    prompts = {"query": PROMPTS["query"], "document": PROMPTS["passage"], **PROMPTS}
    config = {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    for name, content in zip(MODULE_FILES, (modules, config), strict=True):
        text = json.dumps(content, indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def write_embedding(checkpoint: Checkpoint, folder: Path, written: Callable[[int], None]) -> None:
    """Write the embedding table in the checkpoint's dtype (float64 as float32).

    Raises:
        CheckpointError: a value is not finite.
    """
    info = checkpoint.info(EMBEDDING_TENSOR)
    dtype = info.dtype if info.dtype in TABLE_DTYPES else "F32"

    def chunks() -> Iterator[memoryview]:
        for start in range(0, info.shape[0], CHUNK_ROWS):
            # Mapped anew for each piece, so that pages already copied do not stay resident.
            rows = checkpoint.stored(EMBEDDING_TENSOR)[start : start + CHUNK_ROWS]
            values = check_finite(
                widen(rows, info.dtype), f"{checkpoint.folder}: {EMBEDDING_TENSOR}", CheckpointError
            )
            piece = np.ascontiguousarray(values if dtype != info.dtype else rows)
            written(piece.nbytes)
            yield piece.reshape(-1).view(np.uint8).data

    entry = TensorEntry(name=EMBEDDING_TENSOR, dtype=dtype, shape=info.shape, chunks=chunks())
    write_safetensors(folder / EMBEDDING_NAME, [entry], {})


def write_heads(
    checkpoint: Checkpoint, adapters: LoraAdapters, tasks: tuple[str, ...], folder: Path
) -> None:
    """Write the multi-vector projector, float32: as it is, and with each task's adapter merged."""
    bias = checkpoint.float32(f"{PROJECTOR}.bias")
    entries = [
        entry_from_array("weight", checkpoint.float32(f"{PROJECTOR}.weight"), "F32"),
        entry_from_array("bias", bias, "F32"),
    ]
    for task in tasks:
        weight = merged_weight(checkpoint, adapters, task, PROJECTOR)
        entries += [
            entry_from_array(f"{task}.weight", weight, "F32"),
            entry_from_array(f"{task}.bias", bias, "F32"),
        ]
    write_safetensors(folder / HEADS_NAME, entries, {})
