"""Reads a checkpoint's JSON files into `ModelConfig`: all the model's numbers come from there."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

from trine.runtime.bundle.json_file import read_json
from trine.runtime.bundle.model_config import (
    MAX_TOKENS,
    DecoderConfig,
    ImageConfig,
    ModelConfig,
    TokenIds,
    VisionConfig,
)
from trine.runtime.errors import CheckpointError

__all__ = ["read_model_config"]

#: What `read_json` returns: an object of the file, values of any JSON type.
JsonObject: TypeAlias = Mapping[str, object]
Value = TypeVar("Value")

DEFAULT_RESCALE = 1 / 255
#: Of counts: what graphs and arrays can be indexed with.
LARGEST_COUNT = 2**31 - 1
#: Of the numbers in a config that are no counts; float32 ends just above.
LARGEST = 1e38
#: Of mean and deviation of pixels' levels, which are 0 to 255; a deviation may be as small.
LARGEST_LEVEL = 1e6
#: Tasks name files.
TASK_NAME = re.compile(r"[\w-][\w.-]*")


class _Section:
    """One object of a JSON file, with errors that name the file and the key."""

    def __init__(self, content: JsonObject, where: str) -> None:
        self.content = content
        self.where = where

    def fail(self, key: str, want: str) -> CheckpointError:
        shown = repr(self.content[key]) if key in self.content else "missing"
        return CheckpointError(f"{self.where}: {key} is {shown}; {want} is needed")

    def section(self, key: str) -> "_Section":
        value = self.content.get(key)
        if not isinstance(value, dict):
            raise self.fail(key, "a JSON object")
        return _Section(value, f"{self.where}: {key}")

    def count(self, *keys: str, minimum: int = 1) -> int:
        """Return the whole number under the first of `keys` that is there."""
        key = next((k for k in keys if self.content.get(k) is not None), keys[0])
        value = self.content.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.fail(key, f"a whole number of at least {minimum}")
        if value > LARGEST_COUNT:
            raise self.fail(key, f"a whole number of at most {LARGEST_COUNT}")
        return value

    def number(self, key: str) -> float:
        """Return the positive finite number under `key`."""
        value = self.content.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < LARGEST:
            raise self.fail(key, "a positive number")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self.content.get(key)
        if not isinstance(value, list) or not all(type(v) in (int, float) for v in value):
            raise self.fail(key, "a list of numbers")
        return tuple(map(float, value))

    def list_of(self, key: str, kind: type[Value]) -> tuple[Value, ...]:
        value = self.content.get(key)
        if not isinstance(value, list) or not all(isinstance(v, kind) for v in value):
            raise self.fail(key, f"a list of {kind.__name__}")
        return tuple(value)

    def expect(self, key: str, *allowed: object) -> None:
        """Refuse an architecture switch whose value is none of `allowed` (absent is the first)."""
        value = self.content.get(key, allowed[0])
        if value not in allowed:
            raise CheckpointError(
                f"{self.where}: {key} is {value!r}, which is not supported; "
                f"supported: {', '.join(map(repr, allowed))}"
            )


def read_model_config(folder: Path) -> ModelConfig:
    """Return the numbers of the checkpoint in `folder`.

    Raises:
        CheckpointError: a file or key is missing or of another type, the numbers contradict each
            other, or the architecture is not jina-embeddings-v4's.
    """
    top = _Section(read_json(folder / "config.json", CheckpointError), str(folder / "config.json"))
    _check_architecture(top)
    # Text numbers stand at the top level, in `text_config`, or in both; the nested ones are newer.
    text = top.section("text_config") if "text_config" in top.content else top
    decoder = _decoder_config(text)
    vision = _vision_config(top.section("vision_config"))
    if vision.out_hidden_size != decoder.hidden_size:
        raise CheckpointError(
            f"{top.where}: vision_config.out_hidden_size is {vision.out_hidden_size} but "
            f"hidden_size is {decoder.hidden_size}; the image tokens would not fit the decoder"
        )
    dims = top.list_of("matryoshka_dims", int)
    if any(not 0 < dim <= decoder.hidden_size for dim in dims):
        raise top.fail("matryoshka_dims", f"dimensions between 1 and {decoder.hidden_size}")
    top.expect("single_vector_pool_strategy", "mean")
    top.expect("truncate_dim", None, *dims)
    preprocessor = _Section(
        read_json(folder / "preprocessor_config.json", CheckpointError),
        str(folder / "preprocessor_config.json"),
    )
    tasks = top.list_of("task_names", str)
    if not tasks or len(set(tasks)) != len(tasks) or not all(map(TASK_NAME.fullmatch, tasks)):
        raise top.fail("task_names", "a list of distinct names of letters, digits, '_', '-', '.'")
    return ModelConfig(
        decoder=decoder,
        vision=vision,
        image=_image_config(preprocessor, vision),
        token_ids=TokenIds(
            image_pad=top.count("image_token_id", minimum=0),
            vision_start=top.count("vision_start_token_id", minimum=0),
            vision_end=top.count("vision_end_token_id", minimum=0),
        ),
        tasks=tasks,
        projector_dim=top.count("multi_vector_projector_dim"),
        matryoshka_dims=tuple(sorted(dims)),
        truncate_dim=None if top.content.get("truncate_dim") is None else top.count("truncate_dim"),
        max_tokens=min(MAX_TOKENS, decoder.max_positions),
    )


def _check_architecture(top: _Section) -> None:
    names = top.content.get("architectures")
    if names is not None and names != ["JinaEmbeddingsV4Model"]:
        raise CheckpointError(
            f"{top.where}: architectures is {names!r}; this exporter knows "
            "['JinaEmbeddingsV4Model'] only"
        )
    if "vision_config" not in top.content or "task_names" not in top.content:
        raise CheckpointError(
            f"{top.where}: vision_config and task_names are missing, so this is no "
            "jina-embeddings-v4 checkpoint; give the folder that holds its config.json"
        )


def _decoder_config(text: _Section) -> DecoderConfig:
    text.expect("hidden_act", "silu")
    text.expect("use_sliding_window", False, None)
    # transformers 5 renamed rope_scaling and moved the base into it.
    key = "rope_parameters" if "rope_parameters" in text.content else "rope_scaling"
    rope = text.section(key)
    rope.expect("rope_type", "default", "mrope")
    rope.expect("type", "default", "mrope")
    hidden_size, num_heads = text.count("hidden_size"), text.count("num_attention_heads")
    num_kv_heads = text.count("num_key_value_heads")
    if hidden_size % num_heads or num_heads % num_kv_heads:
        raise CheckpointError(
            f"{text.where}: hidden_size {hidden_size}, num_attention_heads {num_heads} and "
            f"num_key_value_heads {num_kv_heads} must divide each other in this order"
        )
    head_dim = hidden_size // num_heads
    text.expect("head_dim", head_dim, None)
    section = rope.list_of("mrope_section", int)
    if len(section) != 3 or min(section) < 0 or 2 * sum(section) != head_dim:
        raise rope.fail("mrope_section", f"three numbers that sum to head_dim / 2 = {head_dim / 2}")
    return DecoderConfig(
        hidden_size=hidden_size,
        num_layers=text.count("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=text.count("intermediate_size"),
        rms_norm_eps=text.number("rms_norm_eps"),
        rope_theta=(rope if "rope_theta" in rope.content else text).number("rope_theta"),
        mrope_section=section,
        vocab_size=text.count("vocab_size"),
        max_positions=text.count("max_position_embeddings"),
    )


def _vision_config(vision: _Section) -> VisionConfig:
    vision.expect("hidden_act", "silu")
    config = VisionConfig(
        hidden_size=vision.count("hidden_size"),
        depth=vision.count("depth"),
        num_heads=vision.count("num_heads"),
        intermediate_size=vision.count("intermediate_size"),
        in_channels=vision.count("in_channels", "in_chans"),
        patch_size=vision.count("patch_size"),
        temporal_patch_size=vision.count("temporal_patch_size"),
        spatial_merge_size=vision.count("spatial_merge_size"),
        window_size=vision.count("window_size"),
        full_attention_blocks=tuple(sorted(vision.list_of("fullatt_block_indexes", int))),
        out_hidden_size=vision.count("out_hidden_size"),
    )
    if config.hidden_size % config.num_heads or config.head_dim % 4:
        raise CheckpointError(
            f"{vision.where}: hidden_size {config.hidden_size} over num_heads {config.num_heads} "
            "must give heads of a multiple of 4 (a sine and a cosine for height and for width)"
        )
    if config.window_side < 1:
        raise vision.fail(
            "window_size", f"at least {config.patch_size * config.spatial_merge_size} pixels"
        )
    return config


def _image_config(preprocessor: _Section, vision: VisionConfig) -> ImageConfig:
    for key, value in (
        ("patch_size", vision.patch_size),
        ("merge_size", vision.spatial_merge_size),
        ("temporal_patch_size", vision.temporal_patch_size),
    ):
        preprocessor.expect(key, value)
    for key in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        preprocessor.expect(key, True)
    preprocessor.expect("resample", 3)  # bicubic
    if vision.in_channels != 3:
        raise CheckpointError(
            f"vision_config: in_channels is {vision.in_channels}; images are RGB, 3 is supported"
        )
    mean, std = preprocessor.numbers("image_mean"), preprocessor.numbers("image_std")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise preprocessor.fail("image_mean", "three means and three positive image_std")
    rescale = DEFAULT_RESCALE
    if "rescale_factor" in preprocessor.content:
        rescale = preprocessor.number("rescale_factor")
    # Levels of pixels are compared with these quotients, in float32.
    if not all(abs(level) < LARGEST_LEVEL * rescale for level in mean):
        raise preprocessor.fail("image_mean", _levels_wanted(rescale))
    if not all(rescale < LARGEST_LEVEL * level < LARGEST_LEVEL**2 * rescale for level in std):
        raise preprocessor.fail("image_std", _levels_wanted(rescale))
    minimum, maximum = _pixel_limits(preprocessor)
    return ImageConfig(
        min_pixels=minimum, max_pixels=maximum, mean=mean, std=std, rescale_factor=rescale
    )


def _levels_wanted(rescale: float) -> str:
    return f"three numbers of the size of rescale_factor ({rescale:g}) times a pixel's 0 to 255"


def _pixel_limits(preprocessor: _Section) -> tuple[int, int]:
    """Return (min_pixels, max_pixels): each under its own name, else an edge of `size`."""
    least, most = (
        preprocessor.count(name)
        if preprocessor.content.get(name) is not None
        else preprocessor.section("size").count(edge)
        for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
    )
    if least > most:
        raise CheckpointError(
            f"{preprocessor.where}: max_pixels is {most}; at least min_pixels ({least}) is needed"
        )
    return least, most
