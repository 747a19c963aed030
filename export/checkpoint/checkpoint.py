"""A checkpoint on disk: its tensors under one spelling, checked against its config, read lazily.

Two spellings of the same names are in use: the published `model.layers…` / `visual…` and the
`model.language_model.layers…` / `model.visual…` of checkpoints saved again by newer transformers;
saved from within PEFT, they have `base_model.model.` before and `.base_layer` in them, and saved
from within a wrapper of training, such as FSDP, that wrapper's name.
Here every tensor has the shortest form: `layers.0.self_attn.q_proj.weight`, `embed_tokens.weight`,
`norm.weight`, `visual.blocks.0.…`, `multi_vector_projector.weight`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.export.checkpoint.config import read_model_config
from trine.runtime.adapters.peft import WEIGHTS_NAME, conversion, short_name
from trine.runtime.bundle.dtypes import FLOATS, check_finite
from trine.runtime.bundle.json_file import read_json
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.bundle.safetensors_file import TensorFile, TensorInfo
from trine.runtime.errors import CheckpointError

__all__ = ["Checkpoint", "expected_shapes"]

INDEX_NAME = "model.safetensors.index.json"
EMBEDDING, TIED = "embed_tokens.weight", "lm_head.weight"


class Checkpoint:
    """The base model's tensors and numbers.

    Args:
        folder: holds config.json, preprocessor_config.json, tokenizer.json, the shards and
            adapters/.

    Raises:
        CheckpointError: files, tensors or shapes are missing or contradict the config; all of them
            are listed at once.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder; give a checkpoint folder or a Hub id")
        self.folder = folder
        self.config: ModelConfig = read_model_config(folder)
        self.shards = [TensorFile(path, CheckpointError) for path in _shard_paths(folder)]
        self._homes = {
            short_name(name): (shard, name) for shard in self.shards for name in shard.tensors
        }
        self._take_tied_embedding()
        self._check_tensors()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of the model by short name, in order of execution."""
        return expected_shapes(self.config)

    def info(self, name: str) -> TensorInfo:
        """Return dtype and shape of the tensor with the short name `name`."""
        shard, stored_name = self._homes[name]
        return shard.tensors[stored_name]

    def stored(self, name: str) -> NDArray[np.generic]:
        """Return a read-only map of a tensor in its storage dtype (bfloat16 as uint16 bits)."""
        shard, stored_name = self._homes[name]
        return shard.stored(stored_name)

    def float32(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32, owned by the caller.

        Raises:
            CheckpointError: a value is not finite.
        """
        shard, stored_name = self._homes[name]
        where = f"{shard.path}: {stored_name}"
        return check_finite(shard.float32(stored_name), where, CheckpointError)

    def _take_tied_embedding(self) -> None:
        """Read the embedding under the language-model head's name, if it was saved so.

        Of tensors that share memory, safetensors files keep one.
        """
        head = self._homes.pop(TIED, None)
        if head is not None and EMBEDDING not in self._homes and self._is_tied():
            self._homes[EMBEDDING] = head

    def _is_tied(self) -> bool:
        config = read_json(self.folder / "config.json", CheckpointError)
        nested = config.get("text_config")
        of_text = nested.get("tie_word_embeddings") if isinstance(nested, dict) else None
        return False not in (config.get("tie_word_embeddings"), of_text)

    def _doubled(self) -> list[str]:
        """Return what is wrong with tensors that are there twice: no file says which is meant."""
        problems = []
        for shard in self.shards:
            for name in shard.tensors:
                home, kept = self._homes.get(short_name(name), (shard, name))
                if (home, kept) != (shard, name):
                    problems.append(
                        f"{name} in {shard.path.name} is also {kept} in {home.path.name}, remove "
                        "the file that is left over"
                    )
        return problems

    def _check_tensors(self) -> None:
        num_blocks = self.config.decoder.num_layers + self.config.vision.depth
        if num_blocks > len(self._homes):
            # Said at once: a list of what a mistyped number of layers lacks could be endless.
            raise CheckpointError(
                f"{self.folder}: config.json has {num_blocks} layers and blocks, the weights only "
                f"{len(self._homes)} tensors; check that the files are of one model"
            )
        problems = self._doubled()
        expected = expected_shapes(self.config)
        for name, shape in expected.items():
            if name not in self._homes:
                problems.append(f"{name} is missing")
            elif self.info(name).shape != shape:
                problems.append(f"{name} is {list(self.info(name).shape)}, not {list(shape)}")
            elif self.info(name).dtype not in FLOATS:
                problems.append(f"{name} is {self.info(name).dtype}, not one of {FLOATS}")
        if problems:
            shown = "; ".join(problems[:6]) + ("; …" if len(problems) > 6 else "")
            others = [stored for name, (_, stored) in self._homes.items() if name not in expected]
            if others:
                listed = ", ".join(others[:4]) + (", …" if len(others) > 4 else "")
                shown += f"; there are {len(others)} unknown ones instead: {listed}"
            raise CheckpointError(
                f"{self.folder}: {len(problems)} tensors do not match config.json: {shown}. "
                "Check that the download is whole and of one model"
            )


def _shard_paths(folder: Path) -> list[Path]:
    """Return the weight files: those the index names and any other at the root."""
    named: set[str] = set()
    if (folder / INDEX_NAME).exists():
        weight_map = read_json(folder / INDEX_NAME, CheckpointError).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(
                f"{folder / INDEX_NAME}: weight_map is missing; download it again"
            )
        named = {str(name) for name in weight_map.values()}
    outside = sorted(name for name in named if Path(name).name != name)
    if outside:
        raise CheckpointError(
            f"{folder / INDEX_NAME} names {outside}, which lie elsewhere; shards lie beside it"
        )
    missing = sorted(name for name in named if not (folder / name).is_file())
    if missing:
        raise CheckpointError(
            f"{folder / INDEX_NAME} names {len(missing)} files that are not there: "
            f"{', '.join(missing)}; download them into {folder}"
        )
    # Hidden files are none of the model's: some systems put one beside each file they copy.
    paths = {folder / name for name in named} | set(folder.glob("[!.]*.safetensors"))
    paths -= {folder / WEIGHTS_NAME}
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if not paths and pickles:
        command = conversion(pickles[0], pickles[0].with_suffix(".safetensors"))
        raise CheckpointError(
            f"{folder}: holds no .safetensors file but {', '.join(p.name for p in pickles)}; only "
            f"safetensors are read, so convert each where torch is: {command}"
        )
    if not paths:
        raise CheckpointError(f"{folder}: holds no .safetensors file; only safetensors are read")
    return sorted(paths)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor the model needs by short name, in order of execution."""
    decoder, vision = config.decoder, config.vision
    hidden, kv = decoder.hidden_size, decoder.num_kv_heads * decoder.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (decoder.vocab_size, hidden)}
    for layer in range(decoder.num_layers):
        prefix = f"layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        for name, width in (("q", hidden), ("k", kv), ("v", kv)):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (width, hidden)
            shapes[f"{prefix}.self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        for name in ("gate", "up"):
            shapes[f"{prefix}.mlp.{name}_proj.weight"] = (decoder.intermediate_size, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, decoder.intermediate_size)
    shapes["norm.weight"] = (hidden,)
    shapes["multi_vector_projector.weight"] = (config.projector_dim, hidden)
    shapes["multi_vector_projector.bias"] = (config.projector_dim,)
    width, inner = vision.hidden_size, vision.intermediate_size
    shapes["visual.patch_embed.proj.weight"] = (
        width,
        vision.in_channels,
        vision.temporal_patch_size,
        vision.patch_size,
        vision.patch_size,
    )
    for block in range(vision.depth):
        prefix = f"visual.blocks.{block}"
        shapes[f"{prefix}.norm1.weight"] = (width,)
        shapes |= _linear(f"{prefix}.attn.qkv", 3 * width, width)
        shapes |= _linear(f"{prefix}.attn.proj", width, width)
        shapes[f"{prefix}.norm2.weight"] = (width,)
        shapes |= _linear(f"{prefix}.mlp.gate_proj", inner, width)
        shapes |= _linear(f"{prefix}.mlp.up_proj", inner, width)
        shapes |= _linear(f"{prefix}.mlp.down_proj", width, inner)
    merged = width * vision.spatial_merge_size**2
    shapes["visual.merger.ln_q.weight"] = (width,)
    shapes |= _linear("visual.merger.mlp.0", merged, merged)
    shapes |= _linear("visual.merger.mlp.2", vision.out_hidden_size, merged)
    return shapes


def _linear(module: str, num_out: int, num_in: int) -> dict[str, tuple[int, ...]]:
    return {f"{module}.weight": (num_out, num_in), f"{module}.bias": (num_out,)}
