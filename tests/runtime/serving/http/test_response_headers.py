from trine.runtime.serving.http.response_headers import MAX_LISTED, list_items
from trine.runtime.serving.service.calls import EmbedCall
from trine.runtime.serving.service.item_fields import ItemField

ONE = EmbedCall(items=())


def test_a_header_lists_numbers_and_stays_short() -> None:
    assert list_items(ONE, []) == ""
    assert list_items(ONE, [0, 3]) == "0,3"
    assert list_items(ONE, list(range(MAX_LISTED))).count(",") == MAX_LISTED - 1
    long = list_items(ONE, list(range(100_000, 102_048)))
    assert long.endswith(f",{100_000 + MAX_LISTED - 1},+{2048 - MAX_LISTED}")
    assert len(long) < 2000


def test_items_of_two_fields_are_listed_with_theirs() -> None:
    call = EmbedCall(items=(), fields=(ItemField("query"), ItemField("documents", 1)))
    assert list_items(call, [0, 3]) == "query:0,documents:2"
