"""Decides whether a request may give token ids instead of a text, and in which vocabulary.

Some clients of OpenAI's API tokenise with its cl100k vocabulary and send ids. Nearly all of these
ids exist in the model's vocabulary too, with other meanings: taken as the model's own they would
give a valid vector of other words. No server can tell the two apart, so ids are refused until the
operator says whose they are.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from trine.runtime.errors import EngineError, missing_package
from trine.runtime.serving.api.requests.items import ParsedItem
from trine.runtime.serving.service.item_fields import ItemFields, ItemPlace, place_of
from trine.runtime.serving.service.refusals import item_error

__all__ = ["TokenIdPolicy", "open_cl100k"]


class TokenIdPolicy:
    """Refuses token ids, passes them on, or decodes them to text, as the operator chose.

    Args:
        accepted: what the operator chose.
        decode: for "cl100k": ids to text, raising `KeyError` for an id it does not know.
    """

    def __init__(
        self,
        accepted: Literal["refuse", "own", "cl100k"] = "refuse",
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        self._accepted = accepted
        self._decode = decode

    def resolve(self, items: Sequence[ParsedItem], fields: ItemFields) -> tuple[ParsedItem, ...]:
        """Return the items, their token ids decoded where they are cl100k's.

        Args:
            items: of a request.
            fields: of the request that held the items, for errors.

        Raises:
            ServiceError: 400 an item is token ids, which are refused; 422 an id is not in cl100k.
        """
        return tuple(
            self._resolved(item, place_of(fields, i)) if isinstance(item, tuple) else item
            for i, item in enumerate(items)
        )

    def _resolved(self, ids: tuple[int, ...], place: ItemPlace) -> str | tuple[int, ...]:
        if self._accepted == "own":
            return ids
        if self._decode is None:
            raise item_error(
                place,
                f"{place} is token ids, which this server refuses: it cannot tell whose vocabulary "
                "they are of. Send the text; LangChain's OpenAIEmbeddings does with "
                "check_embedding_ctx_length=False. Or start the server with --token-ids cl100k to "
                "have ids decoded as OpenAI's, or with --token-ids own to take them as this "
                "model's",
                400,
                "token_ids_refused",
            )
        try:
            return self._decode(ids)
        except (KeyError, OverflowError) as cause:
            raise item_error(
                place,
                f"{place} holds a token id that is not in cl100k ({cause}); send the text",
                code="unknown_token_id",
            ) from cause


def open_cl100k() -> Callable[[Sequence[int]], str]:
    """Return the function from cl100k ids to text.

    The package tiktoken downloads the vocabulary when it is first used, or reads it from the
    folder in its variable TIKTOKEN_CACHE_DIR.

    Raises:
        DependencyError: tiktoken is not installed.
        EngineError: the vocabulary can be neither read nor downloaded.
    """
    try:
        import tiktoken
    except ImportError as cause:
        raise missing_package("tiktoken", "server", "to decode cl100k token ids") from cause
    try:
        encoding = tiktoken.get_encoding("cl100k_base")
    except (OSError, ValueError) as cause:
        raise EngineError(
            f"the cl100k vocabulary is not available ({cause}); put its file where "
            "TIKTOKEN_CACHE_DIR says, or leave --token-ids at refuse"
        ) from cause
    return lambda ids: encoding.decode(list(ids))
