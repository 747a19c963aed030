"""The texts that are shipped with the exporter, a JSON object a line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["ShippedText", "TextKind", "corpus_texts", "long_text", "range_texts"]

TextKind = Literal["query", "passage", "code"]

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class ShippedText:
    """A text and what it is; `code` is a passage in a programming language."""

    kind: TextKind
    text: str


def range_texts() -> tuple[ShippedText, ...]:
    """Return texts for ranges: many languages and scripts, code, numbers and odd characters."""
    return _read("texts.jsonl")


def corpus_texts() -> tuple[ShippedText, ...]:
    """Return queries and passages for rankings; none of them is among `range_texts`."""
    return _read("corpus.jsonl")


def long_text(texts: Sequence[ShippedText], num_characters: int) -> str:
    """Return `texts` one after the other, again from the first if need be, of that length."""
    joined = "\n\n".join(text.text for text in texts) + "\n\n"
    return (joined * (num_characters // len(joined) + 1))[:num_characters]


def _read(name: str) -> tuple[ShippedText, ...]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return tuple(ShippedText(**json.loads(line)) for line in lines)
