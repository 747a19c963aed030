"""The PyTorch reference against the vectors the published code returned (see tests/data/golden)."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from trine.export.reference.torch_reference import TorchReference
from trine.runtime.errors import CheckpointError, DependencyError, InputError

pytestmark = pytest.mark.reference

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
CHECKPOINTS = {
    "golden": DATA / "golden" / "checkpoint",
    "nano": ROOT / "export" / "nano" / "checkpoint",
}
IMAGE_FOLDERS = (DATA / "golden" / "images", ROOT / "export" / "nano" / "demo" / "images")
#: Where the published outputs are float16: multi-vectors of 200 tokens and more.
HALF_STEP = 2.0**-11
IMAGE_PROMPT = (
    "<|im_start|>user\n<|vision_start|>{images}<|vision_end|>Describe the image.<|im_end|>\n"
)


def stored_names(which, kind):
    with np.load(DATA / which / "reference.npz") as stored:
        return sorted({key.split("/")[1] for key in stored if key.startswith(f"{kind}/")})


IMAGES = [(which, name) for which in CHECKPOINTS for name in stored_names(which, "image")]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs the `reference` extra")


@pytest.fixture(scope="module")
def published():
    return {which: dict(np.load(DATA / which / "reference.npz")) for which in CHECKPOINTS}


@pytest.fixture(scope="module")
def references(torch):
    return {which: TorchReference(folder) for which, folder in CHECKPOINTS.items()}


@pytest.fixture
def golden(references):
    return references["golden"]


@pytest.fixture
def copied(tmp_path, torch):
    """A copy of the golden checkpoint to change."""
    return shutil.copytree(CHECKPOINTS["golden"], tmp_path / "checkpoint")


def tensors_of(path):
    safetensors = pytest.importorskip("safetensors.torch")
    return safetensors.load_file(path)


def save(tensors, path):
    pytest.importorskip("safetensors.torch").save_file(tensors, path)


def text_ids(published, index=3):
    return published["golden"][f"text/{index}/retrieval/query/ids"].tolist()


def smart_size(height, width, factor, low, high):
    """Return the published target size: Python's round, then the area limits."""
    new_height, new_width = (round(side / factor) * factor for side in (height, width))
    if new_height * new_width > high:
        beta = math.sqrt(height * width / high)
        return tuple(max(factor, math.floor(s / beta / factor) * factor) for s in (height, width))
    if new_height * new_width < low:
        beta = math.sqrt(low / (height * width))
        return tuple(math.ceil(s * beta / factor) * factor for s in (height, width))
    return new_height, new_width


def published_patches(torch, path, checkpoint):
    """Return (pixels float32 [P, features], (1, h, w)) by torch's own resize, as published."""
    from PIL import Image

    config = json.loads((checkpoint / "preprocessor_config.json").read_text())
    with Image.open(path) as file:
        image = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
    patch, merge, frames = (
        config[key] for key in ("patch_size", "merge_size", "temporal_patch_size")
    )
    limits = config["min_pixels"], config["max_pixels"]
    size = smart_size(*image.shape[1:], patch * merge, *limits)
    image = torch.nn.functional.interpolate(image[None], size=size, mode="bicubic", antialias=True)[
        0
    ]
    scale = 1.0 / config["rescale_factor"]
    mean, std = (torch.tensor(config[key]) * scale for key in ("image_mean", "image_std"))
    image = (image.float() - mean[:, None, None]) / std[:, None, None]
    rows, columns = size[0] // patch, size[1] // patch
    blocks = image.expand(frames, -1, -1, -1).reshape(
        1, frames, 3, rows // merge, merge, patch, columns // merge, merge, patch
    )
    pixels = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * columns, -1)
    return pixels.numpy(), (1, rows, columns)


def image_ids(checkpoint, grids):
    """Return the published image prompt's ids, one vision span for each grid."""
    tokenizers = pytest.importorskip("tokenizers")
    merge = json.loads((checkpoint / "preprocessor_config.json").read_text())["merge_size"]
    spans = ["<|image_pad|>" * (math.prod(grid) // merge**2) for grid in grids]
    prompt = IMAGE_PROMPT.format(images="<|vision_end|><|vision_start|>".join(spans))
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    return tokenizer.encode(prompt, add_special_tokens=False).ids


def image_span(token_ids, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    start = token_ids.index(config["vision_start_token_id"])
    return start, token_ids.index(config["vision_end_token_id"]) + 1


def image(name):
    return next(f / name for f in IMAGE_FOLDERS if (f / name).exists())


def assert_close(found, expected, limit):
    error = np.abs(found - expected.astype(np.float32))
    assert error.max() <= limit, f"max {error.max():.2e}, mean {error.mean():.2e}"


@pytest.mark.parametrize("which", CHECKPOINTS)
def test_texts_match_the_published_vectors_for_every_task_and_prompt(which, references, published):
    stored = published[which]
    keys = [k for k in stored if k.startswith("text/") and k.endswith("/single")]
    assert {key.split("/")[2] for key in keys} == set(references[which].tasks)
    for key in sorted(keys, key=lambda key: key.split("/")[2]):  # tasks in turn: switching is slow
        _, index, task, prompt, _ = key.split("/")
        ids = stored[f"text/{index}/retrieval/{prompt}/ids"].tolist()
        single, multi = references[which].encode(ids, task)
        assert_close(single, stored[key], 1e-6)
        expected = stored[f"text/{index}/{task}/{prompt}/multi"]
        assert_close(multi, expected, 5e-6 if expected.dtype == np.float32 else HALF_STEP)


@pytest.mark.parametrize(("which", "name"), IMAGES)
def test_images_match_the_published_vectors_for_every_task(
    which, name, references, published, torch
):
    stored = {
        key.removeprefix(f"image/{name}/"): value
        for key, value in published[which].items()
        if key.startswith(f"image/{name}/")
    }
    checkpoint, reference = CHECKPOINTS[which], references[which]
    pixels, grid = published_patches(torch, image(name), checkpoint)
    assert grid == tuple(stored["grid"])
    assert_close(pixels[:8], stored["pixels_head"], 1e-6)
    np.testing.assert_allclose([pixels.mean(), pixels.std()], stored["pixels_mean_std"], atol=1e-4)
    ids = image_ids(checkpoint, [grid])
    assert ids == stored["ids"].tolist()
    for task in reference.tasks:
        single, multi = reference.encode(
            ids, task, pixels=pixels, grids=[grid], pool=image_span(ids, checkpoint)
        )
        expected = stored[f"{task}/multi"]
        assert_close(single, stored[f"{task}/single"], 5e-6)
        assert_close(multi, expected, 5e-5 if expected.dtype == np.float32 else HALF_STEP)
        assert single @ stored[f"{task}/single"] >= 0.999999


def test_vectors_have_length_one_and_the_checkpoints_sizes(golden, published):
    ids = text_ids(published)
    single, multi = golden.encode(ids, "code")
    assert single.shape == (128,)
    assert multi.shape == (len(ids), 32)
    assert single.dtype == multi.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(single), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(multi, axis=1), 1, atol=1e-6)


def test_the_single_vector_is_the_mean_of_the_pooled_hidden_states(golden, published):
    ids = text_ids(published)
    hidden = golden.hidden_states(ids, "retrieval")
    mean = hidden[2:7].mean(axis=0)
    single, _ = golden.encode(ids, "retrieval", pool=(2, 7))
    assert_close(single, mean / np.linalg.norm(mean), 1e-6)


def test_image_positions_are_constant_in_time_and_follow_the_merged_grid(golden, torch):
    grid = (1, 6, 10)  # patches, so 3 by 5 image tokens after four leading tokens
    ids = image_ids(CHECKPOINTS["golden"], [grid])
    positions, _ = golden.model.get_rope_index(torch.tensor([ids]), torch.tensor([grid]))
    lead = [(i, i, i) for i in range(4)]
    image = [(4, 4 + row, 4 + column) for row in range(3) for column in range(5)]
    trail = [(4 + 5 + j,) * 3 for j in range(len(ids) - 4 - 15)]
    assert positions[:, 0].T.tolist() == [list(p) for p in lead + image + trail]


def test_a_second_image_leaves_what_comes_before_it_unchanged(golden, torch):
    folder, checkpoint = IMAGE_FOLDERS[0], CHECKPOINTS["golden"]
    first, first_grid = published_patches(torch, folder / "gray_150x90.png", checkpoint)
    second, second_grid = published_patches(torch, folder / "palette_120.png", checkpoint)
    grids = [first_grid, second_grid]
    pixels = np.concatenate([first, second])
    both_ids = image_ids(checkpoint, grids)
    both = golden.hidden_states(both_ids, "code", pixels=pixels, grids=grids)
    alone = golden.hidden_states(
        image_ids(checkpoint, grids[:1]), "code", pixels=first, grids=grids[:1]
    )
    shared = image_span(both_ids, checkpoint)[1]
    assert_close(both[:shared], alone[:shared], 1e-4)
    assert len(both) == len(alone) + math.prod(second_grid) // 4 + 2


def test_image_features_are_one_row_an_image_token(golden, torch):
    path = IMAGE_FOLDERS[0] / "gray_150x90.png"
    pixels, grid = published_patches(torch, path, CHECKPOINTS["golden"])
    assert golden.image_features(pixels, grid).shape == (math.prod(grid) // 4, 128)


def test_switching_tasks_and_back_gives_the_same_bits(golden, published):
    ids = text_ids(published)
    first = golden.encode(ids, "retrieval")
    other = golden.encode(ids, "code")
    again = golden.encode(ids, "retrieval")
    assert np.abs(first[0] - other[0]).max() > 1e-3
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_one_resaved_float32_file_gives_the_same_bits(golden, published, copied, torch):
    resaved = {"lm_head.weight": torch.zeros(2, 2)}
    for path in sorted(copied.glob("*.safetensors")):
        for name, tensor in tensors_of(path).items():
            inner = name.removeprefix("model.")
            new = f"model.language_model.{inner}" if inner != name else f"model.{name}"
            resaved[name if name.startswith("multi_vector") else new] = tensor.float()
        path.unlink()
    (copied / "model.safetensors.index.json").unlink()
    save(resaved, copied / "model.safetensors")
    ids = text_ids(published)
    for mine, theirs in zip(
        TorchReference(copied).encode(ids, "code"), golden.encode(ids, "code"), strict=True
    ):
        assert np.array_equal(mine, theirs)


def test_names_of_a_model_saved_from_within_peft_are_read(golden, published, copied):
    for path in sorted(copied.glob("*.safetensors")):
        tensors = {f"base_model.model.{name}": tensor for name, tensor in tensors_of(path).items()}
        wrapped = "base_model.model.model.layers.0.mlp.up_proj"
        if f"{wrapped}.weight" in tensors:
            tensors[f"{wrapped}.base_layer.weight"] = tensors.pop(f"{wrapped}.weight")
        save(tensors, path)
    ids = text_ids(published)
    assert np.array_equal(
        TorchReference(copied).encode(ids, "code")[0], golden.encode(ids, "code")[0]
    )


def test_a_float16_checkpoint_is_widened_exactly(published, copied, torch):
    half = copied.parent / "float16"
    shutil.copytree(copied, half)
    for path in sorted(copied.glob("*.safetensors")):
        rounded = {name: tensor.half() for name, tensor in tensors_of(path).items()}
        save(rounded, half / path.name)
        save({name: tensor.float() for name, tensor in rounded.items()}, path)
    ids = text_ids(published)
    from_half = TorchReference(half).encode(ids, "retrieval")
    from_single = TorchReference(copied).encode(ids, "retrieval")
    assert all(np.array_equal(a, b) for a, b in zip(from_half, from_single, strict=True))


def test_rotary_settings_in_the_newer_spelling_are_read(golden, published, copied):
    path = copied / "config.json"
    config = json.loads(path.read_text())
    text = config["text_config"]
    text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}
    path.write_text(json.dumps(config))
    ids = text_ids(published)
    assert np.array_equal(
        TorchReference(copied).encode(ids, "code")[0], golden.encode(ids, "code")[0]
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "layers.1.mlp.up_proj",
        "up_proj",
        r"model.language_model.layers.\d.mlp.up_proj",
        "^model.language_model.*up_proj",
        "multi_vector_projector",
    ],
)
def test_rank_and_alpha_patterns_follow_peft(pattern, golden, published, copied, torch):
    other = pytest.importorskip("peft.utils.other")
    path = copied / "adapters" / "adapter_model.safetensors"
    tensors, matched = tensors_of(path), 0
    for name, tensor in tensors.items():
        module = name.removeprefix("base_model.model.").split(".lora_")[0]
        if other.get_pattern_key([pattern], module) != pattern:
            continue
        matched += 1
        # Twice the rank, filled with zeros, and twice the alpha: the same change of the weight.
        empty = torch.zeros_like(tensor)
        tensors[name] = torch.cat([tensor, empty], dim=0 if ".lora_A." in name else 1)
    assert matched
    save(tensors, path)
    config_path = copied / "adapters" / "adapter_config.json"
    config = json.loads(config_path.read_text())
    config["rank_pattern"] = {pattern: 2 * config["r"]}
    config["alpha_pattern"] = {pattern: 2 * config["lora_alpha"]}
    config_path.write_text(json.dumps(config))
    ids = text_ids(published)
    patterned = TorchReference(copied)
    for mine, theirs in zip(patterned.encode(ids, "code"), golden.encode(ids, "code"), strict=True):
        assert_close(mine, theirs, 1e-6)
    # Without the alpha the change is half as large, so the pattern is seen to count.
    config_path.write_text(json.dumps({**config, "alpha_pattern": {}}))
    halved = TorchReference(copied).encode(ids, "code")
    assert np.abs(halved[1] - golden.encode(ids, "code")[1]).max() > 1e-4


def test_a_missing_and_a_misshaped_tensor_are_both_named(copied, torch):
    path = copied / "model-00001-of-00002.safetensors"
    tensors = tensors_of(path)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["visual.merger.ln_q.weight"] = torch.ones(7)
    save(tensors, path)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up_proj.*visual\.merger\.ln_q"):
        TorchReference(copied)


def test_a_tensor_of_another_model_is_refused(copied, torch):
    save({"encoder.weight": torch.ones(2)}, copied / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.weight"):
        TorchReference(copied)


def test_a_checkpoint_without_the_projector_is_refused(copied, torch):
    for path in copied.glob("*.safetensors"):
        kept = {n: t for n, t in tensors_of(path).items() if not n.startswith("multi_vector")}
        save(kept, path)
    with pytest.raises(CheckpointError, match="multi_vector_projector"):
        TorchReference(copied)


@pytest.mark.parametrize(("setting", "value"), [("use_rslora", "yes"), ("use_dora", True)])
def test_other_kinds_of_adapters_are_refused_by_name(setting, value, copied):
    path = copied / "adapters" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    with pytest.raises(CheckpointError, match=setting):
        TorchReference(copied)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "clustering"}, "clustering.*retrieval"),
        ({"token_ids": []}, "0 token ids"),
        ({"token_ids": [10**6]}, "token ids"),
        ({"pool": (0, 99)}, "pool"),
        ({"pool": (1, 1)}, "pool"),
        ({"pixels": np.zeros((16, 1176), np.float32)}, "belong together"),
        ({"pixels": np.zeros((16, 1176), np.float32), "grids": [(1, 4, 4)]}, "image tokens"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, golden):
    with pytest.raises(InputError, match=message):
        golden.encode(**{"token_ids": [5, 6, 7], "task": "code", **arguments})


def test_pixels_of_another_size_than_the_grid_are_refused(golden):
    with pytest.raises(InputError, match="16 rows"):
        golden.image_features(np.zeros((12, 1176), np.float32), (1, 4, 4))


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DependencyError, match=r"trine\[reference\]"):
        TorchReference(CHECKPOINTS["golden"])
