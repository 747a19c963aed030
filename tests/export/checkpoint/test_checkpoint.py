"""Checkpoints that differ in form only give the same bundle."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.spec import SampleSpec, changed_spec
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.embedder import Embedder

Tensors = dict[str, NDArray[Any]]
WEIGHTS = "model.safetensors"
#: Names of what the checkpoint and the export say of themselves, not of the model.
SELF_DESCRIPTION = {"manifest.json", "parity.json"}


def hashes(checkpoint: Path, bundle: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a checkpoint's bundle."""
    options = ExportOptions(source=str(checkpoint), bundle=bundle, check=False)
    export_checkpoint(options, io.StringIO())
    files = open_bundle(bundle).manifest.files
    return {name: file.sha256 for name, file in files.items() if name not in SELF_DESCRIPTION}


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return hashes(tiny_checkpoint, tmp_path_factory.mktemp("expected") / "bundle")


@pytest.fixture
def same(checkpoint: Path, tmp_path: Path, expected: dict[str, str]) -> Callable[[], None]:
    """Asserts that the changed checkpoint's bundle is that of the unchanged one."""

    def check() -> None:
        assert hashes(checkpoint, tmp_path / "bundle") == expected

    return check


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def change_tensors(path: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(path)), path)


def test_float64_weights_are_read_as_float32(checkpoint: Path, same: Callable[[], None]) -> None:
    for path in (checkpoint / WEIGHTS, checkpoint / "adapters" / "adapter_model.safetensors"):
        change_tensors(path, lambda tensors: {n: t.astype(np.float64) for n, t in tensors.items()})
    same()


def test_lm_head_is_ignored(checkpoint: Path, same: Callable[[], None]) -> None:
    head = {"lm_head.weight": np.full((800, 64), np.nan, np.float32)}
    change_tensors(checkpoint / WEIGHTS, lambda tensors: tensors | head)
    same()


def test_a_tied_table_may_be_saved_as_the_head(checkpoint: Path, same: Callable[[], None]) -> None:
    def rename(tensors: Tensors) -> Tensors:
        (table,) = (name for name in tensors if name.endswith("embed_tokens.weight"))
        return {"lm_head.weight" if n == table else n: value for n, value in tensors.items()}

    change_tensors(checkpoint / WEIGHTS, rename)
    same()


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}".replace(
            "layers.0.", "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module."
        ),
        lambda name: name.replace("blocks.0.", "blocks.0._orig_mod."),
    ],
    ids=["compile", "ddp", "ddp-compile", "fsdp", "compiled-block"],
)
def test_names_may_hold_what_wrappers_added(
    rename: Callable[[str], str], checkpoint: Path, same: Callable[[], None]
) -> None:
    change_tensors(
        checkpoint / WEIGHTS, lambda tensors: {rename(n): value for n, value in tensors.items()}
    )
    same()


def test_settings_of_images_may_be_where_transformers_5_keeps_them(
    checkpoint: Path, same: Callable[[], None]
) -> None:
    old = checkpoint / "preprocessor_config.json"
    settings = {"processor_class": "JinaEmbeddingsV4Processor", "image_processor": read(old)}
    (checkpoint / "processor_config.json").write_text(json.dumps(settings))
    old.unlink()
    same()


def test_json_files_may_begin_with_a_byte_order_mark(
    checkpoint: Path, same: Callable[[], None]
) -> None:
    for path in checkpoint.rglob("*config.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    same()


def test_adapters_may_have_a_folder_each(checkpoint: Path, same: Callable[[], None]) -> None:
    adapters = checkpoint / "adapters"
    tensors = load_file(adapters / "adapter_model.safetensors")
    for task in read(checkpoint / "config.json")["task_names"]:
        (adapters / task).mkdir()
        shutil.copy(adapters / "adapter_config.json", adapters / task)
        own = {n.replace(f".{task}.", "."): v for n, v in tensors.items() if f".{task}." in n}
        save_file(own, adapters / task / "adapter_model.safetensors")
    (adapters / "adapter_config.json").unlink()
    (adapters / "adapter_model.safetensors").unlink()
    same()


def test_adapters_may_lie_at_the_root(checkpoint: Path, same: Callable[[], None]) -> None:
    for path in (checkpoint / "adapters").iterdir():
        path.rename(checkpoint / path.name)
    (checkpoint / "adapters").rmdir()
    same()


def test_a_checkpoint_with_its_adapter_merged_in_is_of_the_task_that_is_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    shutil.rmtree(checkpoint / "adapters")
    options = ExportOptions(source=str(checkpoint), bundle=tmp_path / "b", tasks=("code",))
    export_checkpoint(options, io.StringIO())
    embedder = Embedder.load(tmp_path / "b")
    assert embedder.tasks == ("code",)
    assert embedder.encode_text("a", "code").ndim == 1


def test_index_may_omit_a_sibling_shard(checkpoint: Path, same: Callable[[], None]) -> None:
    tensors = load_file(checkpoint / WEIGHTS)
    (checkpoint / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, checkpoint / file)
    weight_map = dict.fromkeys(names[::2], "model-1.safetensors")
    (checkpoint / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    same()


def test_both_spellings_of_names_are_read(checkpoint: Path, same: Callable[[], None]) -> None:
    """Each tensor once, every other one in the spelling of newer transformers."""

    def respell(tensors: Tensors) -> Tensors:
        changed = {}
        for number, name in enumerate(sorted(tensors)):
            other = name.replace("model.", "model.language_model.", 1)
            other = "model." + other if name.startswith("visual.") else other
            changed[name if number % 2 else other] = tensors[name]
        return changed

    change_tensors(checkpoint / WEIGHTS, respell)
    assert sum("language_model" in name for name in load_file(checkpoint / WEIGHTS)) > 5
    same()


def test_names_of_a_model_saved_from_within_peft_are_read(
    checkpoint: Path, same: Callable[[], None]
) -> None:
    def respell(tensors: Tensors) -> Tensors:
        adapted = re.compile(r"(\..*_proj|multi_vector_projector)(?=\.(weight|bias)$)")
        return {
            "base_model.model."
            + (name if name.startswith("visual") else adapted.sub(r"\1.base_layer", name)): tensor
            for name, tensor in tensors.items()
        }

    change_tensors(checkpoint / WEIGHTS, respell)
    names = list(load_file(checkpoint / WEIGHTS))
    assert "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias" in names
    assert "base_model.model.multi_vector_projector.base_layer.weight" in names
    same()


def test_hidden_files_are_not_read(checkpoint: Path, same: Callable[[], None]) -> None:
    (checkpoint / f"._{WEIGHTS}").write_bytes(b"Mac OS X")
    same()


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    for dtype, tolerance in (("float16", 2**-11), ("bfloat16", 2**-8)):
        folders = {}
        for stored in (dtype, "float32"):
            folders[stored] = tmp_path / f"{dtype}-as-{stored}"
            spec = changed_spec(SampleSpec.tiny(), {"dtype": stored})
            write_sample_checkpoint(spec, folders[stored])
        narrow, wide = Checkpoint(folders[dtype]), Checkpoint(folders["float32"])
        for name in wide.shapes():
            found, want = narrow.float32(name), wide.float32(name)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, want, rtol=tolerance, atol=1e-7)


def test_tensors_are_read_only_when_asked_for(checkpoint: Path) -> None:
    opened = Checkpoint(checkpoint)
    view = opened.stored("embed_tokens.weight")
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    owned = opened.float32("embed_tokens.weight")
    owned[0, 0] = 99.0
    assert opened.float32("embed_tokens.weight")[0, 0] != 99.0


@pytest.mark.parametrize(
    ("removed", "least", "most"),
    [
        (("min_pixels", "max_pixels"), 7_000, 90_000),
        (("min_pixels",), 7_000, 602_112),
        (("max_pixels",), 3_136, 90_000),
    ],
)
def test_a_limit_of_pixels_that_has_no_name_is_an_edge_of_size(
    checkpoint: Path, removed: tuple[str, ...], least: int, most: int
) -> None:
    """As the published processor reads them, each by itself."""
    path = checkpoint / "preprocessor_config.json"
    content = json.loads(path.read_text())
    content["size"] = {"shortest_edge": 7_000, "longest_edge": 90_000}
    for name in removed:
        del content[name]
    path.write_text(json.dumps(content))
    image = Checkpoint(checkpoint).config.image
    assert (image.min_pixels, image.max_pixels) == (least, most)
