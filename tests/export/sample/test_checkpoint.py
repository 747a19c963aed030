"""The sample checkpoint: layout as published, determinism, refusal, tokenizer and command."""

import argparse
import json
import re
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer

from trine.export.commands import sample_checkpoint as command
from trine.export.sample.checkpoint import sample_size, write_sample_checkpoint
from trine.export.sample.layout import adapter_tensors, base_tensors, shards
from trine.export.sample.spec import SPECIAL_TOKENS, SampleSpec, changed_spec
from trine.export.sample.tokenizer import write_sample_tokenizer
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.errors import CheckpointError, InputError

TINY = SampleSpec.tiny()


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    """Return float32 values by stored name of all safetensors files directly in `folder`."""
    return {
        name: file.float32(name)
        for path in sorted(folder.glob("*.safetensors"))
        for file in [TensorFile(path, CheckpointError)]
        for name in file.tensors
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "tiny"
    write_sample_checkpoint(TINY, folder)
    return folder


def test_the_full_size_has_the_published_numbers_of_tensors_and_parameters() -> None:
    full = SampleSpec.full()
    assert sample_size(full).num_values == 3_934_695_552
    assert len(adapter_tensors(full)) == 1518
    base = base_tensors(full)
    assert sum(t.name.startswith("visual.") and t.name.endswith(".bias") for t in base) == 162
    second = {tensor.name for tensor in shards(base, 2)[1]}
    assert {"multi_vector_projector.weight", "multi_vector_projector.bias"} <= second


def test_the_slice_keeps_the_widths_and_shortens_the_stacks() -> None:
    part, full = SampleSpec.slice(), SampleSpec.full()
    assert (part.num_layers, part.vision_depth, part.full_attention_blocks) == (4, 4, (1, 3))
    assert part.vocab_size == full.vocab_size == 151_936
    shapes = {tensor.name: tensor.shape for tensor in base_tensors(full)}
    assert all(shapes[tensor.name] == tensor.shape for tensor in base_tensors(part))


def test_tensor_names_and_shapes_are_the_published_ones(tiny: Path) -> None:
    shapes = {name: values.shape for name, values in _tensors(tiny).items()}
    assert len(shapes) == 1 + 2 * 12 + 1 + 1 + 2 * 12 + 5 + 2
    expected = {
        "model.embed_tokens.weight": (800, 64),
        "model.norm.weight": (64,),
        "model.layers.1.input_layernorm.weight": (64,),
        "model.layers.1.self_attn.q_proj.bias": (64,),
        "model.layers.1.self_attn.k_proj.weight": (32, 64),
        "model.layers.1.self_attn.o_proj.weight": (64, 64),
        "model.layers.1.mlp.down_proj.weight": (64, 128),
        "visual.patch_embed.proj.weight": (32, 3, 2, 14, 14),
        "visual.blocks.1.attn.qkv.weight": (96, 32),
        "visual.blocks.1.mlp.gate_proj.bias": (52,),
        "visual.merger.ln_q.weight": (32,),
        "visual.merger.mlp.0.weight": (128, 128),
        "visual.merger.mlp.2.weight": (64, 128),
        "multi_vector_projector.weight": (16, 64),
        "multi_vector_projector.bias": (16,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert "model.layers.0.self_attn.o_proj.bias" not in shapes
    assert "visual.patch_embed.proj.bias" not in shapes


def test_one_adapter_file_holds_all_tasks(tiny: Path) -> None:
    tensors = _tensors(tiny / "adapters")
    assert len(tensors) == (2 * 7 + 1) * 2 * len(TINY.tasks)
    prefix = "base_model.model.model.language_model.layers.1.mlp.down_proj"
    for task in TINY.tasks:
        assert tensors[f"{prefix}.lora_A.{task}.weight"].shape == (4, 128)
        assert tensors[f"{prefix}.lora_B.{task}.weight"].shape == (64, 4)
        projector = f"base_model.model.multi_vector_projector.lora_B.{task}.weight"
        assert tensors[projector].shape == (16, 4)


def test_the_config_states_the_decoder_twice_and_the_ids_of_the_special_tokens(tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    text = config["text_config"]
    assert text["vocab_size"] == 800
    assert {key: config[key] for key in text if key not in ("model_type", "vocab_size")} == {
        key: value for key, value in text.items() if key not in ("model_type", "vocab_size")
    }
    assert "model_type" not in config
    assert config["vision_config"]["out_hidden_size"] == config["hidden_size"] == 64
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    for key, token in {
        "bos_token_id": "<|endoftext|>",
        "eos_token_id": "<|im_end|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "vision_token_id": "<|vision_pad|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }.items():
        assert config[key] == tokenizer.token_to_id(token)


def test_the_same_spec_gives_the_same_bytes_and_another_seed_other_ones(
    tiny: Path, tmp_path: Path
) -> None:
    write_sample_checkpoint(TINY, tmp_path / "again")
    write_sample_checkpoint(replace(TINY, seed=1), tmp_path / "other")
    assert _hashes(tmp_path / "again") == _hashes(tiny)
    changed = {
        name
        for name, digest in _hashes(tmp_path / "other").items()
        if _hashes(tiny)[name] != digest
    }
    assert changed == {"model.safetensors", "adapters/adapter_model.safetensors"}


def test_spelling_and_shards_change_names_and_files_but_no_value(
    tiny: Path, tmp_path: Path
) -> None:
    spec = replace(TINY, key_spelling="resaved", num_shards=3)
    write_sample_checkpoint(spec, tmp_path / "resaved")
    index = json.loads((tmp_path / "resaved/model.safetensors.index.json").read_text())
    found = _tensors(tmp_path / "resaved")
    assert set(index["weight_map"]) == set(found)
    assert index["metadata"]["total_size"] == 2 * sum(values.size for values in found.values())
    for name, file in index["weight_map"].items():
        assert name in TensorFile(tmp_path / "resaved" / file, CheckpointError).tensors
    published = _tensors(tiny)
    assert {
        re.sub(r"^model\.(language_model\.)?", "model.", name).replace("model.visual.", "visual.")
        for name in found
    } == set(published)
    for name in ("model.language_model.norm.weight", "model.visual.blocks.0.norm1.weight"):
        plain = name.replace("language_model.", "").replace("model.visual", "visual")
        np.testing.assert_array_equal(found[name], published[plain])


def test_the_three_dtypes_are_roundings_of_the_same_values(tiny: Path, tmp_path: Path) -> None:
    exact = {}
    for dtype in ("float32", "float16"):
        write_sample_checkpoint(replace(TINY, dtype=dtype), tmp_path / dtype)
        exact[dtype] = _tensors(tmp_path / dtype)
    for name, rounded in _tensors(tiny).items():
        values = exact["float32"][name]
        np.testing.assert_array_equal(exact["float16"][name], values.astype(np.float16))
        # Nearest bfloat16: off by at most half of its spacing, 2^-7 of the power of two below.
        spacing = np.exp2(np.floor(np.log2(np.abs(values))) - 7)
        assert np.all(np.abs(rounded - values) <= spacing / 2), name


def test_weights_have_the_scale_of_their_kind(tiny: Path) -> None:
    tensors = _tensors(tiny)
    assert tensors["model.layers.0.mlp.up_proj.weight"].std() == pytest.approx(0.1, rel=0.05)
    assert tensors["model.embed_tokens.weight"].std() == pytest.approx(1.0, rel=0.05)
    assert tensors["model.norm.weight"].mean() == pytest.approx(1.0, abs=0.05)
    assert tensors["model.norm.weight"].std() == pytest.approx(0.1, rel=0.4)
    first, second = (tensors[f"model.layers.{n}.mlp.up_proj.weight"].ravel() for n in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_patterns_change_ranks_and_are_stated(tmp_path: Path) -> None:
    spec = replace(
        TINY, rank_pattern=((r"layers\.1\.mlp\.down_proj", 2),), alpha_pattern=(("q_proj", 5),)
    )
    write_sample_checkpoint(spec, tmp_path / "sample")
    tensors = _tensors(tmp_path / "sample/adapters")
    prefix = "base_model.model.model.language_model.layers"
    assert tensors[f"{prefix}.1.mlp.down_proj.lora_A.code.weight"].shape == (2, 128)
    assert tensors[f"{prefix}.0.mlp.down_proj.lora_A.code.weight"].shape == (4, 128)
    config = json.loads((tmp_path / "sample/adapters/adapter_config.json").read_text())
    assert config["rank_pattern"] == {r"layers\.1\.mlp\.down_proj": 2}
    assert config["alpha_pattern"] == {"q_proj": 5}
    assert (config["r"], config["lora_alpha"]) == (4, 8)


def test_progress_ends_at_the_size_of_all_tensors(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_sample_checkpoint(
        TINY, tmp_path / "sample", progress=lambda done, total: calls.append((done, total))
    )
    total = sample_size(TINY).num_bytes
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_an_empty_folder_is_used_and_a_full_one_refused(tmp_path: Path) -> None:
    target = tmp_path / "sample"
    target.mkdir()
    write_sample_checkpoint(TINY, target)
    before = _hashes(target)
    with pytest.raises(InputError, match="not an empty folder; choose another or remove it"):
        write_sample_checkpoint(replace(TINY, seed=1), target)
    assert _hashes(target) == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, failure: type[BaseException]) -> None:
    def fail(done: int, total: int) -> None:
        if done > total // 2:
            raise failure

    with pytest.raises(failure):
        write_sample_checkpoint(TINY, tmp_path / "sample", progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(InputError, match=r"needs 0\.02 GB but .* has 0\.00 GB free"):
        write_sample_checkpoint(TINY, tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_more_shards_than_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_shards 1000 is more than the 58 tensors"):
        write_sample_checkpoint(replace(TINY, num_shards=1000), tmp_path / "sample")


@pytest.mark.parametrize("count", [1, 2, 5, 58])
def test_shards_keep_the_order_and_are_never_empty(count: int) -> None:
    tensors = base_tensors(TINY)
    parts = shards(tensors, count)
    assert len(parts) == count
    assert all(parts)
    assert [tensor for part in parts for tensor in part] == tensors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0, give at least 1"),
        ({"hidden_size": 66}, "hidden_size 66 over num_heads 4"),
        ({"num_kv_heads": 3}, "num_kv_heads 3 does not divide num_heads 4"),
        ({"mrope_section": (2, 2, 2)}, "must be three positive numbers that sum to half"),
        ({"first_special_id": 255}, "first_special_id 255 must be at least 256"),
        ({"vocab_size": 781}, "leave 14 ids below vocab_size 781"),
        ({"vision_heads": 16}, "vision_heads 16 is not a multiple of 4"),
        ({"window_size": 100}, "window_size 100 is not a multiple of a merged patch of 28"),
        ({"full_attention_blocks": (2,)}, "must be ascending and below vision_depth 2"),
        ({"max_pixels": 3000}, "min_pixels 3136 must lie between 784 and max_pixels 3000"),
        ({"matryoshka_dims": (64, 128)}, "at most hidden_size 64"),
        ({"tasks": ("a", "a")}, "at least one name, each once"),
        ({"tasks": ("a.b",)}, "must consist of letters"),
        ({"dtype": "int8"}, "dtype is 'int8', choose one of"),
        ({"key_spelling": "new"}, "key_spelling is 'new', choose one of"),
        ({"rank_pattern": (("(", 2),)}, "not a regular expression"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0, give a positive number"),
    ],
)
def test_numbers_that_make_no_model_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        replace(TINY, **changes)  # type: ignore[arg-type]


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(InputError, match=r"num_kv_heads 3 .*; window_size 100 "):
        replace(TINY, num_kv_heads=3, window_size=100)


def test_what_follows_from_a_change_is_changed_with_it() -> None:
    spec = changed_spec(TINY, {"hidden_size": 256, "num_heads": 2, "vision_depth": 1})
    assert spec.mrope_section == (16, 24, 24)
    assert spec.matryoshka_dims == (16, 32, 64, 128, 256)
    assert spec.full_attention_blocks == (0,)
    assert changed_spec(TINY, {"num_heads": 2}).num_kv_heads == 2
    assert changed_spec(TINY, {"vocab_size": 400}).first_special_id == 386
    assert changed_spec(TINY, {"first_special_id": 2000}).vocab_size == 2014
    given = changed_spec(TINY, {"num_heads": 2, "mrope_section": (4, 6, 6)})
    assert given.mrope_section == (4, 6, 6)


def test_an_unknown_number_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"has no \['layers'\]; known are .*'num_layers'"):
        changed_spec(TINY, {"layers": 3})


@pytest.mark.parametrize("first_special_id", [256, 300, 3756, 151_643])
def test_special_tokens_have_their_ids_at_any_vocabulary_size(
    tmp_path: Path, first_special_id: int
) -> None:
    write_sample_tokenizer(tmp_path, first_special_id)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size(with_added_tokens=False) == first_special_id
    for offset, token in enumerate(SPECIAL_TOKENS):
        assert tokenizer.encode(token).ids == [first_special_id + offset]
    stated = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert [int(key) for key in stated] == list(
        range(first_special_id, first_special_id + len(SPECIAL_TOKENS))
    )


@pytest.mark.parametrize(
    "text",
    [
        "Query: hello",
        "  tabs\tand\r\n\r\n newlines  ",
        "👩‍🚀🇩🇪 emoji",
        "漢字かな交じり文",
        "हिन्दी العربية",
        "\x00\x7f\U0010ffff",
        "",
    ],
)
def test_odd_text_comes_back_from_its_tokens(tiny: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(token < TINY.first_special_id for token in ids)


def test_text_is_composed_before_it_is_split(tiny: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    assert tokenizer.encode("scho\u0308n").ids == tokenizer.encode("sch\u00f6n").ids


def test_common_words_are_merged_and_fillers_never_reached(tiny: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    assert len(tokenizer.encode("Query: the image").tokens) <= 5
    filler = f"<unused{TINY.first_special_id - 1}>"
    assert tokenizer.token_to_id(filler) == TINY.first_special_id - 1
    assert TINY.first_special_id - 1 not in tokenizer.encode(filler).ids


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    parsed = parser.parse_args(["sample-checkpoint", *arguments])
    code: int = parsed.run(parsed)
    return code


def test_the_command_writes_what_its_flags_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "sample"
    flags = "--hidden-size 96 --num-heads 6 --vision-depth 3 --full-attention-blocks 0,2"
    flags += " --tasks a,b --shards 2 --rank 3 --dtype float32 --key-spelling resaved --seed 7"
    assert _run([str(target), *flags.split()]) == 0
    config = json.loads((target / "config.json").read_text())
    assert config["rope_scaling"]["mrope_section"] == [2, 3, 3]
    assert config["matryoshka_dims"] == [24, 48, 96]
    assert config["vision_config"]["fullatt_block_indexes"] == [0, 2]
    assert config["task_names"] == ["a", "b"]
    assert config["torch_dtype"] == "float32"
    assert (target / "model-00002-of-00002.safetensors").is_file()
    out = capsys.readouterr()
    tensors = {**_tensors(target), **_tensors(target / "adapters")}
    summary = json.loads(out.out)
    assert summary["parameters"] == sum(values.size for values in tensors.values())
    assert out.err == ""


def test_the_command_makes_a_vision_tower_with_windows_only(tmp_path: Path) -> None:
    assert _run([str(tmp_path / "sample"), "--full-attention-blocks", ""]) == 0
    config = json.loads((tmp_path / "sample" / "config.json").read_text())
    assert config["vision_config"]["fullatt_block_indexes"] == []


def test_the_command_says_what_is_wrong_with_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _run([str(tmp_path / "sample"), "--mrope-section", "1,x"])
    assert "'1,x' is not a list of whole numbers such as 1,3" in capsys.readouterr().err
