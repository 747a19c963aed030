"""The small files beside a model that Hub libraries read: numbers, tokenizer, pooling, prompts."""

import json
import shutil
from pathlib import Path

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.checkpoint.config import image_settings_path
from trine.runtime.bundle.model_config import PROMPTS
from trine.runtime.preprocessing.tokenizer import TextTokenizer

__all__ = ["write_model_files"]

#: Fills padding; any token would do, for the attention mask hides it.
PAD_TOKENS = ("<|endoftext|>", "<|im_end|>")
#: sentence-transformers' modules; each is found by the last part of its class's path.
MODULES = "sentence_transformers.models"


def write_model_files(
    checkpoint: Checkpoint, tokenizer: TextTokenizer, task: str, folder: Path
) -> None:
    """Write what libraries of the Hub read beside tokenizer.json.

    The text model is of Qwen2's shape, which is what config.json calls it: that name decides how
    libraries tokenize and which inputs they give, and no code is run by it.

    Args:
        checkpoint: of the numbers.
        tokenizer: of the checkpoint.
        task: whose prompts are written.
        folder: of the task; it is there.
    """
    config = checkpoint.config
    decoder = config.decoder
    pad = next(token for token in PAD_TOKENS if tokenizer.token_id(token) is not None)
    settings = image_settings_path(checkpoint.folder)
    shutil.copyfile(settings, folder / settings.name)
    contents: dict[str, object] = {
        "config.json": {
            "model_type": "qwen2",
            "architectures": ["Qwen2Model"],
            "hidden_act": "silu",
            "hidden_size": decoder.hidden_size,
            "intermediate_size": decoder.intermediate_size,
            "max_position_embeddings": config.max_tokens,
            "num_attention_heads": decoder.num_heads,
            "num_hidden_layers": decoder.num_layers,
            "num_key_value_heads": decoder.num_kv_heads,
            "pad_token_id": tokenizer.token_id(pad),
            "rms_norm_eps": decoder.rms_norm_eps,
            "rope_theta": decoder.rope_theta,
            "vocab_size": decoder.vocab_size,
            "matryoshka_dimensions": list(config.matryoshka_dims),
            "multi_vector_dimension": config.projector_dim,
            "vision_window_tokens": config.vision.window_side,
            "task": task,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": config.max_tokens,
            "pad_token": pad,
            "padding_side": "right",
        },
        "special_tokens_map.json": {"pad_token": pad},
        "modules.json": [
            _module(0, "", "Transformer"),
            _module(1, "1_Pooling", "Pooling"),
            _module(2, "2_Normalize", "Normalize"),
        ],
        "sentence_bert_config.json": {"max_seq_length": config.max_tokens, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": decoder.hidden_size,
            "pooling_mode_mean_tokens": True,
        },
        "config_sentence_transformers.json": {
            "prompts": _prompts(task),
            "default_prompt_name": "query",
            "similarity_fn_name": "cosine",
        },
    }
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    for name, content in contents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def _module(number: int, path: str, kind: str) -> dict[str, object]:
    return {"idx": number, "name": str(number), "path": path, "type": f"{MODULES}.{kind}"}


def _prompts(task: str) -> dict[str, str]:
    """Return prefixes by the names that sentence-transformers' methods look for."""
    # Both sides of text matching are queries, as in the published code.
    passage = PROMPTS["query" if task == "text-matching" else "passage"]
    return {"query": PROMPTS["query"], "passage": passage, "document": passage}
