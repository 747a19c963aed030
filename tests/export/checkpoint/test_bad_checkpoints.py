"""Checkpoints that are incomplete, damaged or of another kind are refused; nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.spec import SampleSpec, changed_spec
from trine.runtime.errors import InputError

Refuse = Callable[..., str]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 421384\n"


def change_tensors(path: Path, change: Callable[[dict[str, NDArray[Any]]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_json(path: Path, keys: tuple[str, ...], value: object) -> None:
    """Set the value under a path of keys; `KeyError` as the value removes it."""
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value is KeyError:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    write_sample_checkpoint(changed_spec(SampleSpec.tiny(), {"num_shards": 3}), folder)
    return folder


def test_missing_folder(refuse: Refuse, tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "nowhere", "neither a folder nor a Hub id", "give a checkpoint")


def test_file_in_place_of_a_folder(refuse: Refuse, checkpoint: Path) -> None:
    refuse(checkpoint / WEIGHTS, WEIGHTS, "neither a folder nor a Hub id", "give a checkpoint")


def test_folder_that_is_no_checkpoint(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    refuse(tmp_path / "photos", "photos/config.json", "cannot be read", "is needed")


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[]", "holds a list, not a JSON object"),
        (GIT_LFS_POINTER, "not valid JSON"),
    ],
    ids=["empty", "cut", "not-utf8", "list", "lfs"],
)
@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "adapters/adapter_config.json"]
)
def test_damaged_json(
    refuse: Refuse, checkpoint: Path, name: str, content: bytes, fragment: str
) -> None:
    (checkpoint / name).write_bytes(content)
    refuse(checkpoint, name, fragment)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "adapters/adapter_config.json",
        "adapters/adapter_model.safetensors",
    ],
)
def test_missing_file(refuse: Refuse, checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    refuse(checkpoint, name)


def test_missing_adapters_folder(refuse: Refuse, checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "adapters")
    refuse(checkpoint, "adapters/adapter_config.json", "cannot be read", "is needed")


def test_other_architecture(refuse: Refuse, checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", ("architectures",), ["BertModel"])
    refuse(checkpoint, "config.json", "['BertModel']", "knows ['JinaEmbeddingsV4Model'] only")


@pytest.mark.parametrize("key", ["vision_config", "task_names"])
def test_config_of_another_kind_of_model(refuse: Refuse, checkpoint: Path, key: str) -> None:
    change_json(checkpoint / "config.json", (key,), KeyError)
    refuse(checkpoint, "config.json", key, "no jina-embeddings-v4 checkpoint", "give the folder")


@pytest.mark.parametrize(
    ("keys", "value", "fragments"),
    [
        ("text_config", 3, ("text_config is 3", "a JSON object is needed")),
        ("text_config.hidden_size", KeyError, ("hidden_size is missing", "at least 1")),
        ("text_config.num_hidden_layers", "2", ("num_hidden_layers is '2'", "a whole number")),
        ("text_config.num_hidden_layers", True, ("num_hidden_layers is True", "a whole number")),
        ("text_config.num_hidden_layers", 3, ("12 tensors do not match", "layers.2", "missing")),
        ("text_config.num_attention_heads", 5, ("num_attention_heads 5", "must divide")),
        ("text_config.num_key_value_heads", 3, ("num_key_value_heads 3", "must divide")),
        ("text_config.num_key_value_heads", 0, ("num_key_value_heads is 0", "at least 1")),
        ("text_config.head_dim", 32, ("head_dim is 32", "supported: 16")),
        ("text_config.rms_norm_eps", "1e-6", ("rms_norm_eps is '1e-6'", "number is needed")),
        ("text_config.rms_norm_eps", float("nan"), ("rms_norm_eps is nan", "positive number")),
        ("text_config.rope_theta", 0, ("rope_theta is 0", "positive number is needed")),
        ("text_config.rope_theta", float("inf"), ("rope_theta is inf", "positive number")),
        ("text_config.rope_theta", 10**400, ("rope_theta is 1000", "positive number")),
        ("text_config.hidden_act", "gelu", ("hidden_act is 'gelu'", "supported: 'silu'")),
        ("text_config.use_sliding_window", True, ("use_sliding_window is True", "not supported")),
        ("text_config.rope_scaling", None, ("rope_scaling is None", "a JSON object is needed")),
        ("text_config.rope_scaling.rope_type", "yarn", ("rope_type is 'yarn'", "supported:")),
        ("text_config.rope_scaling.mrope_section", [4, 4], ("mrope_section", "head_dim / 2 = 8")),
        ("text_config.rope_scaling.mrope_section", ["2", 3, 3], ("mrope_section", "list of int")),
        ("text_config.vocab_size", 801, ("embed_tokens.weight is [800, 64], not [801, 64]",)),
        ("vision_config.depth", 0, ("depth is 0", "at least 1")),
        ("vision_config.num_heads", 3, ("num_heads 3", "multiple of 4")),
        ("vision_config.out_hidden_size", 32, ("out_hidden_size is 32", "hidden_size is 64")),
        ("vision_config.window_size", 14, ("window_size is 14", "at least 28 pixels")),
        ("vision_config.fullatt_block_indexes", 1, ("fullatt_block_indexes is 1", "list of int")),
        ("vision_config.window_size", 10**30, ("window_size is 1000", "at most 2147483647")),
        ("vision_config.hidden_act", "gelu", ("hidden_act is 'gelu'", "supported: 'silu'")),
        ("task_names", [], ("task_names is []", "distinct names")),
        ("task_names", ["code", "code"], ("task_names", "distinct names")),
        ("task_names", [1], ("task_names is [1]", "list of str")),
        ("task_names", ["../code"], ("task_names", "'../code'", "letters, digits")),
        ("matryoshka_dims", [16, 65], ("matryoshka_dims is [16, 65]", "between 1 and 64")),
        ("matryoshka_dims", "64", ("matryoshka_dims is '64'", "list of int")),
        ("single_vector_pool_strategy", "last", ("'last'", "not supported", "'mean'")),
        ("multi_vector_projector_dim", KeyError, ("multi_vector_projector_dim is missing",)),
        ("multi_vector_projector_dim", 32, ("2 tensors do not match", "not [32, 64]")),
        ("image_token_id", -1, ("image_token_id is -1", "at least 0")),
        ("vision_start_token_id", KeyError, ("vision_start_token_id is missing",)),
    ],
)
def test_unusable_number_in_config(
    refuse: Refuse, checkpoint: Path, keys: str, value: object, fragments: tuple[str, ...]
) -> None:
    change_json(checkpoint / "config.json", tuple(keys.split(".")), value)
    refuse(checkpoint, str(checkpoint), *fragments)


@pytest.mark.parametrize(
    ("key", "value", "fragments"),
    [
        ("patch_size", 16, ("patch_size is 16", "supported: 14")),
        ("do_rescale", False, ("do_rescale is False", "supported: True")),
        ("resample", 2, ("resample is 2", "supported: 3")),
        ("image_mean", [0.5], ("image_mean is [0.5]", "three means")),
        ("image_std", [0.5, 0.0, 0.5], ("three positive image_std",)),
        ("image_std", "0.5", ("image_std is '0.5'",)),
        ("image_mean", [0.5, 0.5, float("nan")], ("image_mean is [0.5, 0.5, nan]",)),
        ("image_mean", [0.5, 1e38, 0.5], ("image_mean is [0.5, 1e+38, 0.5]", "of the size of")),
        ("image_std", [0.5, 1e-300, 0.5], ("image_std is [0.5, 1e-300, 0.5]", "of the size of")),
        ("image_std", [0.5, 0.5, float("inf")], ("image_std is [0.5, 0.5, inf]",)),
        ("rescale_factor", 0.0, ("rescale_factor is 0.0", "a positive number is needed")),
        ("rescale_factor", True, ("rescale_factor is True", "a positive number is needed")),
        ("rescale_factor", 1e-30, ("image_mean", "rescale_factor (1e-30)")),
        ("rescale_factor", 1e30, ("image_std", "rescale_factor (1e+30)")),
        ("min_pixels", 700_000, ("max_pixels is 602112", "at least min_pixels (700000)")),
        ("max_pixels", "many", ("max_pixels is 'many'", "at least 1")),
    ],
)
def test_unusable_number_in_preprocessor_config(
    refuse: Refuse, checkpoint: Path, key: str, value: object, fragments: tuple[str, ...]
) -> None:
    change_json(checkpoint / "preprocessor_config.json", (key,), value)
    refuse(checkpoint, "preprocessor_config.json", *fragments)


def test_preprocessor_config_without_a_limit(refuse: Refuse, checkpoint: Path) -> None:
    path = checkpoint / "preprocessor_config.json"
    change_json(path, ("max_pixels",), KeyError)
    change_json(path, ("size", "longest_edge"), KeyError)
    refuse(checkpoint, "preprocessor_config.json: size: longest_edge is missing", "at least 1")
    change_json(path, ("size",), KeyError)
    refuse(checkpoint, "preprocessor_config.json: size is missing", "a JSON object is needed")


def test_several_missing_shards_are_named_at_once(refuse: Refuse, sharded: Path) -> None:
    shards = sorted(sharded.glob("*.safetensors"))
    for shard in shards[:2]:
        shard.unlink()
    refuse(sharded, INDEX, "2 files that are not there", shards[0].name, shards[1].name, "download")


def test_index_that_names_a_file_elsewhere(refuse: Refuse, sharded: Path) -> None:
    outside = sharded.parent / "outside.safetensors"
    shutil.copyfile(next(sharded.glob("*.safetensors")), outside)
    change_json(sharded / INDEX, ("weight_map", "norm.weight"), "../outside.safetensors")
    refuse(sharded, INDEX, "../outside.safetensors")
    change_json(sharded / INDEX, ("weight_map", "norm.weight"), str(outside))
    refuse(sharded, INDEX, str(outside))


def test_index_without_a_weight_map(refuse: Refuse, sharded: Path) -> None:
    change_json(sharded / INDEX, ("weight_map",), None)
    refuse(sharded, INDEX, "weight_map is missing", "download it again")


def test_shard_without_an_index_and_its_siblings(refuse: Refuse, sharded: Path) -> None:
    (sharded / INDEX).unlink()
    sorted(sharded.glob("*.safetensors"))[0].unlink()
    refuse(sharded, "tensors do not match config.json", "missing", "Check that the download")


def test_no_weights(refuse: Refuse, checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).rename(checkpoint / "pytorch_model.bin")
    refuse(checkpoint, "holds no .safetensors file", "only safetensors are read")


@pytest.mark.parametrize("name", [WEIGHTS, "adapters/adapter_model.safetensors"])
@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_truncated_weights(refuse: Refuse, checkpoint: Path, name: str, keep: int) -> None:
    path = checkpoint / name
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    refuse(checkpoint, name, f"{len(whole[:keep])}", "download or copy it again")


def test_git_lfs_pointer_in_place_of_weights(refuse: Refuse, checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).write_bytes(GIT_LFS_POINTER)
    refuse(checkpoint, WEIGHTS, "not a whole safetensors file", "download")


def test_missing_misshapen_and_integer_tensors_are_listed_at_once(
    refuse: Refuse, checkpoint: Path
) -> None:
    def damage(tensors: dict[str, NDArray[Any]]) -> None:
        del tensors["model.norm.weight"]
        tensors["visual.merger.ln_q.weight"] = np.ones(31, np.float32)
        tensors["multi_vector_projector.bias"] = np.ones(16, np.int32)

    change_tensors(checkpoint / WEIGHTS, damage)
    refuse(
        checkpoint,
        "3 tensors do not match config.json",
        "norm.weight is missing",
        "visual.merger.ln_q.weight is [31], not [32]",
        "multi_vector_projector.bias is I32",
        "Check that the download is whole",
    )


def test_tensor_that_is_there_twice(refuse: Refuse, checkpoint: Path) -> None:
    """Which of the two is meant, no file says."""
    weights = load_file(checkpoint / WEIGHTS)
    other = {"model.language_model.norm.weight": weights["model.norm.weight"] + 1}
    save_file(other, checkpoint / "left-over.safetensors")
    refuse(checkpoint, "norm.weight", "left-over.safetensors", WEIGHTS, "remove")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.0.self_attn.k_proj.bias",
        "model.embed_tokens.weight",
        "model.norm.weight",
        "visual.blocks.0.attn.qkv.weight",
        "visual.patch_embed.proj.weight",
        "multi_vector_projector.weight",
    ],
)
def test_weight_that_is_not_finite(
    refuse: Refuse, checkpoint: Path, name: str, value: float
) -> None:
    def damage(tensors: dict[str, NDArray[Any]]) -> None:
        tensors[name].flat[5] = value

    change_tensors(checkpoint / WEIGHTS, damage)
    refuse(
        checkpoint, name.removeprefix("model."), "1 values are NaN or infinite", "file is damaged"
    )


def test_bfloat16_weight_that_is_not_finite(refuse: Refuse, sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[-1]
    content = bytearray(shard.read_bytes())
    content[-2:] = b"\xc0\x7f"  # the last value of the file, as a bfloat16 NaN
    shard.write_bytes(content)
    refuse(sharded, shard.name, "1 values are NaN or infinite", "file is damaged")


@pytest.mark.parametrize(
    ("name", "factor", "words"),
    [
        ("model.norm.weight", 1e38, "not finite, for its weights are too large"),
        ("multi_vector_projector.weight", 1e42, "not finite, for its weights are too large"),
        ("model.norm.weight", 0.0, "zero, for its weights are too small"),
    ],
)
def test_weights_whose_vectors_are_no_vectors(
    refuse: Refuse, checkpoint: Path, name: str, factor: float, words: str
) -> None:
    def damage(tensors: dict[str, NDArray[Any]]) -> None:
        tensors["multi_vector_projector.bias"] *= np.float32(0)
        grown = tensors[name].astype(np.float64) * factor
        tensors[name] = np.clip(grown, -3e38, 3e38).astype(np.float32)

    change_tensors(checkpoint / WEIGHTS, damage)
    refuse(checkpoint, f"vectors of the model are {words} for float32", "check that the files")


def test_unknown_tasks(refuse: Refuse, checkpoint: Path) -> None:
    refuse(
        checkpoint,
        "['poetry', 'sql']",
        "it has ['retrieval', 'text-matching', 'code']",
        error=InputError,
        tasks=("code", "poetry", "sql"),
    )
    refuse(checkpoint, "tasks []", "it has ['retrieval'", error=InputError, tasks=())


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\x01", GIT_LFS_POINTER])
def test_damaged_tokenizer(refuse: Refuse, checkpoint: Path, content: bytes) -> None:
    (checkpoint / "tokenizer.json").write_bytes(content)
    refuse(checkpoint, "tokenizer.json", "not a readable tokenizer", "copy it again")


@pytest.mark.parametrize(
    ("key", "token"),
    [
        ("image_token_id", "<|image_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
    ],
)
def test_tokenizer_with_other_ids(refuse: Refuse, checkpoint: Path, key: str, token: str) -> None:
    change_json(checkpoint / "config.json", (key,), 5)
    refuse(checkpoint, "tokenizer.json", token, "config.json says 5", "of different models")


def test_tokenizer_without_the_tokens_of_the_image_prompt(refuse: Refuse, checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_start|>", "<|other|>"))
    refuse(checkpoint, "tokenizer.json", "no token '<|im_start|>'", "image prompt")


def test_tokenizer_with_more_ids_than_the_table_has_rows(refuse: Refuse, checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", ("text_config", "vocab_size"), 781)
    change_tensors(
        checkpoint / WEIGHTS,
        lambda tensors: tensors.update(
            {"model.embed_tokens.weight": tensors["model.embed_tokens.weight"][:781].copy()}
        ),
    )
    refuse(checkpoint, "tokenizer.json", "782 ids", "781 rows", "of different models")
