"""Chat messages as items: one conversation is one item.

The model has no chat: a conversation is the sum of its users' parts. Texts are joined by line
breaks. Of a text alone, or an image alone, the vector is that of the plain item; images with a
text become one item of both (`ImageText`).
"""

from collections.abc import Mapping

from trine.runtime.serving.api.requests.items import Images, ParsedItem, parse_item
from trine.runtime.serving.service.calls import ServiceError
from trine.runtime.serving.service.item_fields import ItemPlace
from trine.runtime.serving.service.refusals import item_error

__all__ = ["parse_content", "parse_messages"]

#: Roles whose parts are embedded; the model was trained with no other.
ROLES = ("user", "query", "document")


def parse_messages(value: object) -> tuple[ParsedItem, ...]:
    """Return the items of `messages`: a list of messages is one item, a list of such lists many.

    Raises:
        ServiceError: 422 the messages are of no known shape, or hold nothing to embed.
    """
    if not isinstance(value, list) or not value:
        what = "messages is not a list with at least one message"
        raise item_error(ItemPlace("messages", 0), what, code="invalid_messages")
    if all(isinstance(element, list) for element in value):
        return tuple(_parse_conversation(element, i) for i, element in enumerate(value))
    return (_parse_conversation(value, 0),)


def parse_content(content: object, index: int, field: str) -> ParsedItem:
    """Return the item that a message's content is: a string, or a list of parts.

    Args:
        content: from JSON.
        index: of the item in the request, for messages.
        field: likewise.

    Raises:
        ServiceError: 422 a part is of no known shape, or there is none.
    """
    return _join(_parts(content, index, field), ItemPlace(field, index))


def _parse_conversation(messages: object, index: int) -> ParsedItem:
    place = ItemPlace("messages", index)
    parts: list[ParsedItem] = []
    for message in messages if isinstance(messages, list) else [messages]:
        if not isinstance(message, Mapping):
            raise _unusable(place, "a message is not an object with role and content")
        role = message.get("role", "user")
        content = message.get("content")
        if content in (None, "", []):
            continue
        if role not in ROLES:
            raise _unusable(
                place,
                f"a message has the role {role!r}, which means nothing to this model; send its "
                "text as a user's, and name the purpose with task",
            )
        parts += _parts(content, index, "messages")
    return _join(parts, place)


def _parts(content: object, index: int, field: str) -> list[ParsedItem]:
    """Return texts and images of a message's content, in order."""
    if not isinstance(content, list):
        return [parse_item(content, index, field)]
    return [parse_item(part, index, field) for part in content]


def _join(parts: list[ParsedItem], place: ItemPlace) -> ParsedItem:
    if len(parts) == 1:
        return parts[0]
    texts: list[str] = []
    sources: list[str | bytes] = []
    for part in parts:
        if isinstance(part, tuple):
            raise _unusable(place, "token ids are among other parts; send them in input")
        if isinstance(part, Images):
            sources += part.sources
        text = part.text if isinstance(part, Images) else part
        if text is not None:
            texts.append(text)
    if not texts and not sources:
        raise item_error(place, f"{place} holds nothing to embed; give a text or an image")
    joined = "\n".join(texts) if texts else None
    return Images(tuple(sources), joined) if sources else joined or ""


def _unusable(place: ItemPlace, what: str) -> ServiceError:
    return item_error(place, f"{place}: {what}", code="invalid_messages")
