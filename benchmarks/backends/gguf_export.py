"""The text part as a GGUF file for llama.cpp, 8 bits in blocks of 32 (Q8_0), an adapter merged.

Text positions are equal in all three rotary sections, so the decoder is llama.cpp's "qwen2". Ids
are given as they are, so the file has no vocabulary.

    python benchmarks/backends/gguf_export.py CHECKPOINT WORK TASK
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from trine.export.reference.weights import adapter_changes, base_weights

__all__ = ["GGUF_NAME", "write_gguf"]

GGUF_NAME = "text-q8_0.gguf"
ARCHITECTURE = "qwen2"
#: Names in transformers' model → names in GGUF; {} is the layer.
LAYER_NAMES: Mapping[str, str] = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def write_gguf(checkpoint: Path, path: Path, task: str) -> None:
    """Write the decoder with a task's adapter merged; matrices in Q8_0, the rest in float32."""
    import gguf

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _add_sizes(writer, text)
    stored, changes = base_weights(checkpoint), adapter_changes(checkpoint / "adapters")[task]
    for name, target in _names(text["num_hidden_layers"]).items():
        values = stored[f"language_model.{name}"].float32()
        change = changes.get(f"language_model.{name.removesuffix('.weight')}")
        if change is not None:
            values = values + change.scale * (change.up.float32() @ change.down.float32())
        if values.ndim == 1:
            writer.add_tensor(target, values)
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        packed: NDArray[np.uint8] = gguf.quants.quantize(values, kind)
        writer.add_tensor(target, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: Any, text: Mapping[str, Any]) -> None:
    rope = text.get("rope_parameters", text)
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(text["vocab_size"])


def _names(num_layers: int) -> dict[str, str]:
    names = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    for layer in range(num_layers):
        for name, target in LAYER_NAMES.items():
            names[f"layers.{layer}.{name}"] = f"blk.{layer}.{target}"
    return names


def main() -> None:
    """Make the file unless it is there: CHECKPOINT WORK TASK."""
    checkpoint, work, task = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    path = work / GGUF_NAME
    if not path.exists():
        partial = path.with_suffix(".partial")
        write_gguf(checkpoint, partial, task)
        partial.rename(path)


if __name__ == "__main__":
    main()
