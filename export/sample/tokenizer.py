"""A small byte-level BPE tokenizer in the published form, trained on a few sentences.

Normaliser, splitting and byte mapping are the published tokenizer's; only the vocabulary is small.
Between the trained tokens and the special ones lie entries no text can reach, so that the special
tokens have the ids `config.json` states. The chat template, which embedding never uses, is left
out.
"""

import json
import re
from collections import Counter
from pathlib import Path

from trine.export.sample.spec import NUM_BYTE_SYMBOLS, SPECIAL_TOKENS

__all__ = ["write_sample_tokenizer"]

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_LENGTH = 131_072
#: More merges than this would only spell out `TRAINING_TEXT`.
MAX_MERGES = 400
TRAINING_TEXT = """
Query: what is the answer to the question? Passage: the answer is in the text of the document.
user Describe the image. user Describe the image. Query: Passage: Query: Passage:
The quick brown fox jumps over the lazy dog, and the other dogs are looking at the fox.
An embedding is a vector that represents the meaning of a text or of an image in one space.
A query and a passage with the same meaning should have vectors that point in the same direction.
def search(query, documents): return sorted(documents, key=lambda document: score(query, document))
for index in range(len(values)): total += values[index] * weights[index]  # the sum of the products
Wie ist das Wetter heute? Das Wetter ist schön, aber der Wind ist kalt und die Straße ist nass.
Où est la bibliothèque? La bibliothèque est près de la gare, à côté du café et de l'école.
¿Dónde está la estación? La estación está en el centro de la ciudad, cerca del mercado.
Где находится библиотека? Библиотека находится в центре города, рядом с вокзалом.
図書館はどこですか。図書館は駅の近くにあります。今日の天気はとても良いです。
图书馆在哪里?图书馆在火车站附近。今天的天气很好,我们去公园吧。
도서관은 어디에 있습니까? 도서관은 역 근처에 있습니다. 오늘 날씨가 좋습니다.
"""


def write_sample_tokenizer(directory: Path, first_special_id: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `directory`.

    Args:
        directory: an existing folder.
        first_special_id: id of the first special token, at least 256; the vocabulary before it
            has exactly this many entries.
    """
    vocabulary, merges = _train(TRAINING_TEXT, min(MAX_MERGES, first_special_id - NUM_BYTE_SYMBOLS))
    for index in range(len(vocabulary), first_special_id):
        vocabulary[f"<unused{index}>"] = index
    added = [
        {"id": first_special_id + offset, "content": token, **_added_token_flags()}
        for offset, token in enumerate(SPECIAL_TOKENS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated"}
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{**split, "invert": False}, {**byte_level, "use_regex": False}],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in merges],
        },
    }
    _write_json(directory / "tokenizer.json", tokenizer)
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(first_special_id))


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _added_token_flags() -> dict[str, bool]:
    return {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _tokenizer_config(first_special_id: int) -> dict[str, object]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(first_special_id + offset): {"content": token, **_added_token_flags()}
            for offset, token in enumerate(SPECIAL_TOKENS)
        },
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": {},
        "model_max_length": MAX_LENGTH,
        "pad_token": "<|endoftext|>",
        "processor_class": "JinaEmbeddingsV4Processor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _byte_symbols() -> list[str]:
    """Return the printable character that stands for each byte value, by byte value.

    The mapping every byte-level BPE uses: printable Latin-1 characters stand for themselves, the
    other bytes for the characters from U+0100 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _train(text: str, max_merges: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return (vocabulary, merges) of at most `max_merges` merges of pairs that occur twice.

    Ties go to the pair that sorts first, so the result depends on nothing but the arguments.
    """
    symbols = _byte_symbols()
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(symbols))}
    words = Counter(re.findall(r" ?[^\W\d_]+|\d| ?[^\w\s]+", text))
    spelled = {word: [symbols[byte] for byte in word.encode()] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < max_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(spelled[word], spelled[word][1:], strict=False):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        vocabulary.setdefault("".join(best), len(vocabulary))
        for word, parts in spelled.items():
            spelled[word] = _merged(parts, best)
    return vocabulary, merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Return `parts` with every occurrence of `pair` joined, from the left."""
    joined: list[str] = []
    for part in parts:
        # NOTE: a part just joined cannot be the pair's left half, since it is longer than either.
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined
