"""Text to token ids, with the model's own tokenizer.json.

User text never becomes a control token: `<|image_pad|>` typed by a user is the characters it is
spelled with. Only the scaffolding around images is parsed for special tokens, once, at load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import BundleError

__all__ = ["Scaffold", "TextTokenizer"]

IMAGE_PROMPT_HEAD = "<|im_start|>user\n"
IMAGE_PROMPT_TEXT = "Describe the image."
IMAGE_PROMPT_TAIL = "<|im_end|>\n"


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Token ids around the vision spans of the published image prompt, int64 [n] each.

    The prompt is `<|im_start|>user\\n` + one `<|vision_start|><|image_pad|>…<|vision_end|>` a
    image + `Describe the image.` + `<|im_end|>\\n`.
    """

    head: NDArray[np.int64]
    text: NDArray[np.int64]
    tail: NDArray[np.int64]


class TextTokenizer:
    """Encodes texts; safe to use from several threads.

    Args:
        path: of a tokenizer.json.

    Raises:
        BundleError: the file cannot be read as a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as cause:  # the library raises bare Exception for every kind of damage
            raise BundleError(
                f"{path}: not a readable tokenizer ({cause}); copy it again"
            ) from cause
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.scaffold = Scaffold(
            *(
                np.array(self._tokenizer.encode(part, add_special_tokens=False).ids, np.int64)
                for part in (IMAGE_PROMPT_HEAD, IMAGE_PROMPT_TEXT, IMAGE_PROMPT_TAIL)
            )
        )
        # From here on special tokens in a text are encoded as the characters they are.
        self._tokenizer.encode_special_tokens = True

    @property
    def num_ids(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its spelling, or None if there is none."""
        token_id = self._tokenizer.token_to_id(token)
        return None if token_id is None else int(token_id)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return int64 [T] for each text, whole, without any added tokens.

        The texts must hold no half of a surrogate pair; `trine.runtime.preprocessing.preprocessor` checks that.
        """
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]
