"""The JSON files of a sample checkpoint, with the keys of the published ones.

Like the published files, `config.json` states the decoder's numbers twice: at the top and in
`text_config`. `model_type` is left out at the top, as there.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trine.export.checkpoint.config import read_model_config
from trine.export.sample.layout import IN_CHANNELS, SampleTensor, stored_name
from trine.export.sample.spec import SampleSpec
from trine.runtime.bundle.model_config import ModelConfig

__all__ = ["adapter_config", "model_config", "preprocessor_config", "sample_model", "shard_index"]

BASE_MODEL = "jinaai/jina-embeddings-v4"
#: Which modules are adapted, as published: all linear decoder layers and the projector.
TARGET_MODULES = (
    "(.*(model).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$"
    "|.*(single_vector_projector|multi_vector_projector).*$)"
)
#: Channel statistics of the published image pre-processing.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def sample_model(spec: SampleSpec) -> ModelConfig:
    """Return the numbers of a sample checkpoint as an export reads them, without writing one.

    `SampleSpec.full()` has every number of the published model.
    """
    files = {
        "config.json": model_config(spec),
        "preprocessor_config.json": preprocessor_config(spec),
        "adapters/adapter_config.json": adapter_config(spec),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "adapters").mkdir()
        for path, content in files.items():
            (folder / path).write_text(json.dumps(content), encoding="utf-8")
        return read_model_config(folder)


def model_config(spec: SampleSpec) -> dict[str, object]:
    """Return the content of `config.json`."""
    text = _text_config(spec)
    return {
        "_name_or_path": BASE_MODEL,
        "architectures": ["JinaEmbeddingsV4Model"],
        "auto_map": {
            "AutoConfig": "configuration_jina_embeddings_v4.JinaEmbeddingsV4Config",
            "AutoModel": "modeling_jina_embeddings_v4.JinaEmbeddingsV4Model",
        },
        **text,
        "image_token_id": spec.special_id("<|image_pad|>"),
        "video_token_id": spec.special_id("<|video_pad|>"),
        "vision_start_token_id": spec.special_id("<|vision_start|>"),
        "vision_end_token_id": spec.special_id("<|vision_end|>"),
        "vision_token_id": spec.special_id("<|vision_pad|>"),
        "multi_vector_projector_dim": spec.projector_dim,
        "single_vector_pool_strategy": "mean",
        # Only text_config states these two.
        "text_config": {**text, "model_type": "qwen2_5_vl_text", "vocab_size": spec.vocab_size},
        "vision_config": _vision_config(spec),
        "task_names": list(spec.tasks),
        "matryoshka_dims": list(spec.matryoshka_dims),
        "truncate_dim": None,
        "transformers_version": "4.52.0",
    }


def preprocessor_config(spec: SampleSpec) -> dict[str, object]:
    """Return the content of `preprocessor_config.json`."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "image_processor_type": "Qwen2VLImageProcessor",
        "max_pixels": spec.max_pixels,
        "merge_size": spec.spatial_merge_size,
        "min_pixels": spec.min_pixels,
        "patch_size": spec.patch_size,
        "processor_class": "JinaEmbeddingsV4Processor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": spec.max_pixels, "shortest_edge": spec.min_pixels},
        "temporal_patch_size": spec.temporal_patch_size,
    }


def adapter_config(spec: SampleSpec) -> dict[str, object]:
    """Return the content of `adapters/adapter_config.json`."""
    return {
        "base_model_name_or_path": BASE_MODEL,
        "bias": "none",
        "exclude_modules": ".*visual.*",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": "gaussian",
        "lora_alpha": spec.alpha,
        "lora_bias": False,
        "lora_dropout": 0.1,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": spec.rank,
        "rank_pattern": dict(spec.rank_pattern),
        "alpha_pattern": dict(spec.alpha_pattern),
        "target_modules": TARGET_MODULES,
        "task_type": "FEATURE_EXTRACTION",
        "use_dora": False,
        "use_rslora": False,
    }


def shard_index(
    parts: Sequence[tuple[str, Sequence[SampleTensor]]], spec: SampleSpec, size_bytes: int
) -> dict[str, object]:
    """Return the content of `model.safetensors.index.json`.

    Args:
        parts: (file name, its tensors) of every shard.
        spec: for the spelling of the names.
        size_bytes: of all tensors together.
    """
    files = {
        stored_name(tensor.name, spec.key_spelling): file
        for file, tensors in parts
        for tensor in tensors
    }
    return {
        "metadata": {"total_size": size_bytes},
        "weight_map": dict(sorted(files.items())),
    }


def _text_config(spec: SampleSpec) -> dict[str, object]:
    """Return the decoder's numbers, which appear twice."""
    return {
        "attention_dropout": 0.0,
        "bos_token_id": spec.special_id("<|endoftext|>"),
        "eos_token_id": spec.special_id("<|im_end|>"),
        "hidden_act": "silu",
        "hidden_size": spec.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": spec.intermediate_size,
        "max_position_embeddings": spec.max_positions,
        "max_window_layers": 70,
        "num_attention_heads": spec.num_heads,
        "num_hidden_layers": spec.num_layers,
        "num_key_value_heads": spec.num_kv_heads,
        "rms_norm_eps": spec.rms_norm_eps,
        "rope_scaling": {
            "mrope_section": list(spec.mrope_section),
            "rope_type": "default",
            "type": "default",
        },
        "rope_theta": spec.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": spec.dtype,
        "use_cache": True,
        "use_sliding_window": False,
    }


def _vision_config(spec: SampleSpec) -> dict[str, object]:
    return {
        "depth": spec.vision_depth,
        "fullatt_block_indexes": list(spec.full_attention_blocks),
        "hidden_act": "silu",
        "hidden_size": spec.vision_hidden_size,
        "in_channels": IN_CHANNELS,
        "in_chans": IN_CHANNELS,
        "initializer_range": 0.02,
        "intermediate_size": spec.vision_intermediate_size,
        "model_type": "qwen2_5_vl",
        "num_heads": spec.vision_heads,
        "out_hidden_size": spec.hidden_size,
        "patch_size": spec.patch_size,
        "spatial_merge_size": spec.spatial_merge_size,
        "spatial_patch_size": spec.patch_size,
        "temporal_patch_size": spec.temporal_patch_size,
        "tokens_per_second": 2,
        "torch_dtype": spec.dtype,
        "window_size": spec.window_size,
    }
