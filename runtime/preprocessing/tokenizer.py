"""Text to token ids, with the model's own tokenizer.json.

User text never becomes a control token: `<|image_pad|>` typed by a user is the characters it is
spelled with. Only the scaffolding around images is parsed for special tokens, once, at load.
Tokens that the file's post-processor puts before and behind every text, such as an end-of-sequence
token, are kept apart from a text's own, so that a cut leaves them whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import BundleError

__all__ = ["NO_ENDS", "EndTokens", "Scaffold", "TextTokenizer"]

IMAGE_PROMPT_HEAD = "<|im_start|>user\n"
IMAGE_PROMPT_TEXT = "Describe the image."
IMAGE_PROMPT_TAIL = "<|im_end|>\n"


#: What the post-processor is tried on, besides nothing: one token, several, more than one word.
POST_PROCESSOR_PROBES = ("a", "Query: a text", "Passage: 1\n\n2")


@dataclass(frozen=True, slots=True)
class EndTokens:
    """Token ids that stand at the ends of every sequence, int64 [n] each; mostly none."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start) + len(self.end)

    def around(self, token_ids: NDArray[np.int64], max_length: int) -> NDArray[np.int64]:
        """Return `token_ids` (int64 [T]), cut so that all fits `max_length`, between the ends.

        The ends themselves are never cut, as in transformers.
        """
        if not len(self):
            return token_ids[:max_length]
        kept = token_ids[: max(max_length - len(self), 0)]
        return np.concatenate([self.start, kept, self.end])


NO_ENDS = EndTokens(np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Token ids around the vision spans of the published image prompt, int64 [n] each.

    The prompt is `<|im_start|>user\\n` + one `<|vision_start|><|image_pad|>…<|vision_end|>` a
    image + `Describe the image.` + `<|im_end|>\\n`, between the tokenizer's end tokens.
    """

    head: NDArray[np.int64]
    text: NDArray[np.int64]
    tail: NDArray[np.int64]


class TextTokenizer:
    """Encodes texts; safe to use from several threads.

    Args:
        path: of a tokenizer.json.

    Raises:
        BundleError: the file cannot be read as a tokenizer, or its post-processor does something
            else than to put fixed tokens before and behind a text.
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
        self.ends = self._end_tokens(path)
        head, text, tail = (
            np.array(self._tokenizer.encode(part, add_special_tokens=False).ids, np.int64)
            for part in (IMAGE_PROMPT_HEAD, IMAGE_PROMPT_TEXT, IMAGE_PROMPT_TAIL)
        )
        self.scaffold = Scaffold(
            np.concatenate([self.ends.start, head]), text, np.concatenate([tail, self.ends.end])
        )
        # From here on special tokens in a text are encoded as the characters they are.
        self._tokenizer.encode_special_tokens = True

    def _end_tokens(self, path: Path) -> EndTokens:
        """Return what the post-processor puts around any text."""
        found: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
        for text in POST_PROCESSOR_PROBES:
            plain = self._tokenizer.encode(text, add_special_tokens=False).ids
            whole = self._tokenizer.encode(text)
            # A post-processor's own tokens are marked.
            start = next(i for i, own in enumerate(whole.special_tokens_mask) if not own)
            if whole.ids[start : start + len(plain)] != plain:
                raise self._unknown_post_processor(path)
            found.add((tuple(whole.ids[:start]), tuple(whole.ids[start + len(plain) :])))
        start_ids, end_ids = found.pop()
        if found or tuple(self._tokenizer.encode("").ids) != start_ids + end_ids:
            raise self._unknown_post_processor(path)
        return EndTokens(np.array(start_ids, np.int64), np.array(end_ids, np.int64))

    def _unknown_post_processor(self, path: Path) -> BundleError:
        return BundleError(
            f"{path}: its post_processor, {self._tokenizer.post_processor}, does more than to put "
            "the same tokens before and behind every text, which is not supported; take it out of "
            "the file if the model was trained without it"
        )

    @property
    def num_ids(self) -> int:
        """One more than the largest id."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True).values()
        return max(*vocabulary, *self.ends.start.tolist(), *self.ends.end.tolist()) + 1

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its spelling, or None if there is none."""
        token_id = self._tokenizer.token_to_id(token)
        return None if token_id is None else int(token_id)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return int64 [T] for each text, whole, without the end tokens.

        The texts must hold no half of a surrogate pair; the preprocessor checks that.
        """
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]
