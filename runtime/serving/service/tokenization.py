"""The runtime's tokenizer with what a server needs besides: offsets, spellings and decoding."""

from collections.abc import Sequence

from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.serving.service.calls import TokenizedText

__all__ = ["ServingTokenizer"]


class ServingTokenizer(TextTokenizer):
    """Encodes as the runtime does, and shows its work; safe to use from several threads."""

    def show(self, texts: Sequence[str], prefix: str, ends: bool = False) -> list[TokenizedText]:
        """Return the tokens of each text behind `prefix`.

        Args:
            texts: without halves of surrogate pairs.
            prefix: e.g. "Query: ", or "" for none.
            ends: whether with the tokens that stand at the ends of every text the model sees; they
                count for no prefix.
        """
        encodings = self._tokenizer.encode_batch(
            [prefix + text for text in texts], add_special_tokens=ends
        )
        return [
            TokenizedText(
                tuple(encoding.ids),
                tuple(encoding.tokens),
                tuple(encoding.offsets),
                # The prefix's last space belongs to the first word's token.
                sum(0 < end <= len(prefix.rstrip()) for _, end in encoding.offsets),
            )
            for encoding in encodings
        ]

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each list of ids, control tokens included."""
        rows = [list(ids) for ids in token_ids]
        return list(self._tokenizer.decode_batch(rows, skip_special_tokens=False))
