import pytest

from trine.runtime.serving.service.calls import ServiceError
from trine.runtime.serving.service.item_fields import INPUT, ItemField, place_of
from trine.runtime.serving.service.refusals import at_item

SIDES = (ItemField("query"), ItemField("documents", 2))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "item 0 of query"), (1, "item 1 of query"), (2, "item 0 of documents")],
)
def test_an_item_is_named_as_the_request_had_it(number: int, text: str) -> None:
    assert str(place_of(SIDES, number)) == text
    assert str(place_of(INPUT, number)) == f"item {number} of input"


def test_a_field_without_items_names_none() -> None:
    assert place_of((ItemField("query"), ItemField("documents", 0)), 0).field == "documents"


def test_an_error_of_an_item_keeps_all_else() -> None:
    found = at_item(place_of(SIDES, 3), ServiceError(429, "busy", "later", retry_after=2))
    assert (found.status, found.code, found.retry_after) == (429, "busy", 2)
    assert (found.param, found.index) == ("documents", 1)
    assert found.message == "item 1 of documents: later"
