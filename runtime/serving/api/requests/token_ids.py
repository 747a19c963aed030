"""Token ids that are not of the model's vocabulary.

Some clients of OpenAI's API tokenise with its cl100k vocabulary and send ids. Here an id is the
model's own unless the operator says otherwise, because a server cannot tell: nearly all ids exist
in both vocabularies, with different meanings.
"""

import logging
from collections.abc import Callable, Sequence

from trine.runtime.errors import EngineError, missing_package
from trine.runtime.serving.api.requests.items import ParsedItem
from trine.runtime.serving.service.item_fields import ItemFields, ItemPlace, place_of
from trine.runtime.serving.service.refusals import item_error

__all__ = ["ForeignTokenIds", "open_cl100k"]

logger = logging.getLogger(__name__)

#: How the User-Agent of OpenAI's own packages starts, which LangChain sends its ids through.
OPENAI_AGENT = "OpenAI/"


class ForeignTokenIds:
    """Turns token ids into texts where the operator wants that, else warns once.

    Args:
        decode: ids to text, raising `KeyError` for an id it does not know; None to take ids as
            the model's own.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str] | None = None) -> None:
        self._decode = decode
        self._warned = False

    def resolve(
        self, items: Sequence[ParsedItem], user_agent: str | None, fields: ItemFields
    ) -> tuple[ParsedItem, ...]:
        """Return the items with their token ids decoded, or as they are.

        Args:
            items: of a request.
            user_agent: header of the request.
            fields: of the request that held the items, for errors.

        Raises:
            ServiceError: 422 an id is not in the foreign vocabulary.
        """
        if self._decode is not None:
            return tuple(
                _text(self._decode, item, place_of(fields, i)) if isinstance(item, tuple) else item
                for i, item in enumerate(items)
            )
        if (
            not self._warned
            and user_agent is not None
            and user_agent.startswith(OPENAI_AGENT)
            and any(isinstance(item, tuple) for item in items)
        ):
            self._warned = True
            logger.warning(
                "a client of OpenAI's API sends token ids, which are taken as this model's own; "
                "if it is LangChain, they are cl100k ids and the vectors are of other words: set "
                "check_embedding_ctx_length=False there, or foreign_token_ids=cl100k here"
            )
        return tuple(items)


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
            "TIKTOKEN_CACHE_DIR says, or leave foreign_token_ids at own"
        ) from cause
    return lambda ids: encoding.decode(list(ids))


def _text(decode: Callable[[Sequence[int]], str], ids: tuple[int, ...], place: ItemPlace) -> str:
    try:
        return decode(ids)
    except (KeyError, OverflowError) as cause:
        raise item_error(
            place,
            f"{place} holds a token id that is not in cl100k ({cause}); send the text",
            code="unknown_token_id",
        ) from cause
