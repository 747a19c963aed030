"""Checkpoints as other programs save them: adapters' folders, names, settings and marks."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trine.export.checkpoint.adapters import find_adapters
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.checkpoint.config import read_model_config
from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.runtime.adapters.peft import short_name
from trine.runtime.embedder import Embedder
from trine.runtime.errors import CheckpointError

Refuse = Callable[..., str]

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_model.safetensors"


def vectors(checkpoint: Path, bundle: Path, task: str, *tasks: str) -> np.ndarray:
    options = ExportOptions(source=str(checkpoint), bundle=bundle, tasks=tasks or None, check=False)
    export_checkpoint(options, io.StringIO())
    return Embedder.load(bundle).encode_text(["a chess game"], task)


def rename(path: Path, new: Callable[[str], str]) -> None:
    save_file({new(name): tensor for name, tensor in load_file(path).items()}, path)


def split(checkpoint: Path, base: Path) -> None:
    """Put each task's adapter into a folder of its own, without its name, as PEFT saves it."""
    adapters = checkpoint / "adapters"
    tensors, config = load_file(adapters / ADAPTER), adapters / "adapter_config.json"
    for task in ("retrieval", "text-matching", "code"):
        folder = base / task
        folder.mkdir(parents=True)
        own = {n.replace(f".{task}.", "."): t for n, t in tensors.items() if f".{task}." in n}
        save_file(own, folder / ADAPTER)
        shutil.copy(config, folder)
    (adapters / ADAPTER).unlink()
    config.unlink()
    if base != adapters:
        adapters.rmdir()


@pytest.mark.parametrize("base", ["adapters", "."])
def test_a_folder_an_adapter(checkpoint: Path, tmp_path: Path, base: str) -> None:
    want = vectors(checkpoint, tmp_path / "a", "code")
    split(checkpoint, checkpoint / base)
    assert (vectors(checkpoint, tmp_path / "b", "code") == want).all()


def test_one_folder_is_enough_for_its_task(
    checkpoint: Path, tmp_path: Path, refuse: Refuse
) -> None:
    split(checkpoint, checkpoint / "adapters")
    shutil.rmtree(checkpoint / "adapters" / "code")
    refuse(
        checkpoint, "tasks ['code'] have no adapter", "['retrieval', 'text-matching']", "--tasks"
    )
    assert vectors(checkpoint, tmp_path / "b", "retrieval", "retrieval").shape == (1, 64)


def test_adapters_at_the_root(checkpoint: Path, tmp_path: Path) -> None:
    want = vectors(checkpoint, tmp_path / "a", "code")
    for name in (ADAPTER, "adapter_config.json"):
        (checkpoint / "adapters" / name).rename(checkpoint / name)
    (checkpoint / "adapters").rmdir()
    assert (vectors(checkpoint, tmp_path / "b", "code") == want).all()


def test_one_adapter_without_a_task_is_named_by_tasks(
    checkpoint: Path, tmp_path: Path, refuse: Refuse
) -> None:
    want = vectors(checkpoint, tmp_path / "a", "code")
    split(checkpoint, checkpoint)
    for name in (ADAPTER, "adapter_config.json"):
        (checkpoint / "code" / name).rename(checkpoint / name)
    for task in ("code", "retrieval", "text-matching"):
        shutil.rmtree(checkpoint / task)
    refuse(checkpoint, ADAPTER, "does not say of which task", "--tasks")
    assert (vectors(checkpoint, tmp_path / "b", "code", "code") == want).all()


def test_adapters_in_two_layouts_are_refused(checkpoint: Path, refuse: Refuse) -> None:
    shutil.copytree(checkpoint / "adapters", checkpoint / "code")
    refuse(checkpoint, "has adapters in", "adapters and in", "remove those")


def test_an_adapter_merged_into_the_weights(
    checkpoint: Path, tmp_path: Path, refuse: Refuse
) -> None:
    want = vectors(checkpoint, tmp_path / "a", "code")
    config = read_model_config(checkpoint)
    adapters = find_adapters(checkpoint, config, config.tasks, named=False)
    base = Checkpoint(checkpoint)
    merged = load_file(checkpoint / WEIGHTS)
    for module in adapters.modules("code"):
        pair = adapters.pair(module, "code")
        assert pair is not None
        stored = next(name for name in merged if short_name(name) == f"{module}.weight")
        merged[stored] = base.float32(f"{module}.weight") + pair.delta()
    save_file(merged, checkpoint / WEIGHTS)
    shutil.rmtree(checkpoint / "adapters")
    refuse(checkpoint, "adapters", "cannot be read", "merged into the weights", "--tasks")
    found = vectors(checkpoint, tmp_path / "b", "code", "code")
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize(
    ("folder", "old", "new"),
    [("adapters", ADAPTER, "adapter_model.bin"), ("", WEIGHTS, "pytorch_model.bin")],
)
def test_pickles_are_refused_with_the_conversion(
    checkpoint: Path, refuse: Refuse, folder: str, old: str, new: str
) -> None:
    (checkpoint / folder / old).rename(checkpoint / folder / new)
    refuse(checkpoint, new, "weights_only=True", "safetensors")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}".replace(
            ".layers.0.", ".layers.0._fsdp_wrapped_module._checkpoint_wrapped_module."
        ),
    ],
)
def test_names_of_wrapped_modules(
    checkpoint: Path, tmp_path: Path, wrap: Callable[[str], str]
) -> None:
    want = vectors(checkpoint, tmp_path / "a", "code")
    rename(checkpoint / WEIGHTS, wrap)
    rename(checkpoint / "adapters" / ADAPTER, wrap)
    assert (vectors(checkpoint, tmp_path / "b", "code") == want).all()


def test_an_embedding_under_the_heads_name(
    checkpoint: Path, tmp_path: Path, refuse: Refuse
) -> None:
    want = Checkpoint(checkpoint).float32("embed_tokens.weight")
    rename(
        checkpoint / WEIGHTS,
        lambda name: "lm_head.weight" if name.endswith("embed_tokens.weight") else name,
    )
    assert (Checkpoint(checkpoint).float32("embed_tokens.weight") == want).all()
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}))
    refuse(checkpoint, "embed_tokens.weight is missing")


def test_names_that_are_there_are_said_beside_those_that_are_not(
    checkpoint: Path, refuse: Refuse
) -> None:
    rename(checkpoint / WEIGHTS, lambda name: name.replace("visual.", "vision_tower."))
    refuse(checkpoint, "is missing", "unknown ones instead", "vision_tower.")


# Settings


def image_settings(checkpoint: Path) -> dict[str, object]:
    content = json.loads((checkpoint / "preprocessor_config.json").read_text())
    assert isinstance(content, dict)
    return content


def test_image_settings_of_transformers_5(checkpoint: Path) -> None:
    want = read_model_config(checkpoint)
    settings = image_settings(checkpoint)
    limits = {
        "shortest_edge": settings.pop("min_pixels"),
        "longest_edge": settings.pop("max_pixels"),
    }
    nested = {"image_processor": settings | {"size": limits}, "processor_class": "P"}
    (checkpoint / "preprocessor_config.json").unlink()
    (checkpoint / "processor_config.json").write_text(json.dumps(nested))
    assert read_model_config(checkpoint) == want


def test_a_processor_config_without_image_settings_is_passed_over(checkpoint: Path) -> None:
    want = read_model_config(checkpoint)
    (checkpoint / "processor_config.json").write_text('{"processor_class": "P"}')
    assert read_model_config(checkpoint) == want


@pytest.mark.parametrize("names", [("shortest_edge", "longest_edge"), ("min_pixels", "max_pixels")])
def test_pixel_limits_in_size(checkpoint: Path, names: tuple[str, str]) -> None:
    want = read_model_config(checkpoint)
    settings = image_settings(checkpoint)
    limits = (settings.pop("min_pixels"), settings.pop("max_pixels"))
    settings["size"] = dict(zip(names, limits, strict=True))
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(settings))
    assert read_model_config(checkpoint) == want


@pytest.mark.parametrize("nested", ["all", "null"])
def test_text_settings_nested_or_flat(checkpoint: Path, nested: str) -> None:
    want = read_model_config(checkpoint)
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    text = {**config, **(config.get("text_config") or {})}
    rope = text.pop("rope_scaling")
    theta = text.pop("rope_theta")
    flat = {k: v for k, v in text.items() if k not in ("text_config", "torch_dtype")}
    modern = {"rope_parameters": {**rope, "rope_theta": theta}, "dtype": "bfloat16"}
    if nested == "all":
        own = ("vision_config", "task_names", "matryoshka_dims", "multi_vector_projector_dim")
        inner = {k: flat.pop(k) for k in list(flat) if "token_id" not in k and k not in own}
        flat["architectures"] = ["JinaEmbeddingsV4Model"]
        flat["text_config"] = inner | modern
    else:
        flat |= {"text_config": None, "rope_scaling": None} | modern
    path.write_text(json.dumps(flat))
    assert read_model_config(checkpoint) == want


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_before_json_is_no_damage(checkpoint: Path, tmp_path: Path, encoding: str) -> None:
    want = vectors(checkpoint, tmp_path / "a", "code")
    paths = [*checkpoint.glob("*config.json"), checkpoint / "adapters" / "adapter_config.json"]
    assert len(paths) >= 3
    for path in paths:
        path.write_text(path.read_text(), encoding=encoding)
    assert (vectors(checkpoint, tmp_path / "b", "code") == want).all()
    for path in [tmp_path / "b" / "manifest.json"]:
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert (Embedder.load(tmp_path / "b").encode_text(["a chess game"], "code") == want).all()


def test_json_that_is_damaged_is_still_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_bytes(b"\xff{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_model_config(checkpoint)
