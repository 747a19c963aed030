"""Items of requests are parsed by their shape, and what has none is refused with its index."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.inputs import ImageText
from trine.runtime.serving.api.requests.images import read_images
from trine.runtime.serving.api.requests.items import Images, is_image_uri, parse_input
from trine.runtime.serving.api.requests.messages import parse_messages
from trine.runtime.serving.service.calls import ServiceError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["text", "image", "url", "bytes", "image_url", "content", "role"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", ""], ("a", "")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ({"text": "a"}, ("a",)),
        ([{"text": "a", "image": None}], ("a",)),
        ([{"type": "text", "text": "a"}], ("a",)),
        ([{"image": "x"}], (Images(("x",)),)),
        ([{"bytes": "x"}], (Images(("x",)),)),
        ([{"url": "https://x"}], (Images(("https://x",)),)),
        ([{"image_url": {"url": "x"}}], (Images(("x",)),)),
        ([{"image_url": "x", "text": "a"}], (Images(("x",), "a"),)),
        ([{"image": ["x", "y"]}], (Images(("x", "y")),)),
        (["data:image/png;base64,xx"], (Images(("data:image/png;base64,xx",)),)),
        (["https://example.org/a.png"], ("https://example.org/a.png",)),
        (["data:text/plain;base64,xx"], ("data:text/plain;base64,xx",)),
    ],
)
def test_each_shape_of_an_item_is_known(value: object, items: tuple[object, ...]) -> None:
    assert parse_input(value) == items


def test_strings_are_images_where_the_modality_says_so() -> None:
    assert parse_input(["https://x"], modality="image") == (Images(("https://x",)),)
    assert parse_input(["https://x"], modality="text") == ("https://x",)
    with pytest.raises(ServiceError, match="modality is 'audio'"):
        parse_input(["x"], modality="audio")


@pytest.mark.parametrize(
    ("value", "index"),
    [
        (None, None), ([], None), (1, 0), (True, 0), ([True], 0), (["a", 1], 1), ([[]], 0),
        ([[1], ["a"]], 1), ([{"text": 1}], 0), ([{}], 0), (["a", {"image": 3}], 1),
        ([[1, True]], 0), ([{"image": {"url": None}}], 0), ([1.0], 0), ([None], 0),
    ],
)  # fmt: skip
def test_other_shapes_are_refused_with_their_index(value: object, index: int | None) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_input(value)
    assert (caught.value.status, caught.value.index) == (422, index)
    assert caught.value.param == "input"


@given(JSON)
def test_any_json_is_parsed_or_refused(value: Any) -> None:
    for parse in (parse_input, parse_messages):
        try:
            items = parse(value)
        except ServiceError as refused:
            if refused.status != 422:
                raise
        else:
            assert items
            assert all(isinstance(item, str | tuple | Images) for item in items)


@given(st.text())
def test_texts_stay_as_they_are(text: str) -> None:
    if not is_image_uri(text):
        assert parse_input(text) == (text,)
        assert parse_input([text, {"text": text}]) == (text, text)


def _user(*parts: object) -> dict[str, object]:
    return {"role": "user", "content": list(parts)}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}
TEXT = {"type": "text", "text": "a"}


@pytest.mark.parametrize(
    ("messages", "items"),
    [
        ([{"role": "user", "content": "a"}], ("a",)),
        ([_user(TEXT)], ("a",)),
        ([_user(IMAGE)], (Images(("data:image/png;base64,xx",)),)),
        ([_user(IMAGE, TEXT)], (Images(("data:image/png;base64,xx",), "a"),)),
        ([_user(TEXT), _user(TEXT)], ("a\na",)),
        ([{"role": "system", "content": ""}, _user(TEXT)], ("a",)),
        ([[_user(TEXT)], [_user(IMAGE)]], ("a", Images(("data:image/png;base64,xx",)))),
    ],
)
def test_a_conversation_is_one_item(messages: object, items: tuple[object, ...]) -> None:
    assert parse_messages(messages) == items


@pytest.mark.parametrize(
    ("messages", "index"),
    [
        ([], 0), ("a", 0), ([{"role": "system", "content": "be brief"}], 0), ([_user()], 0),
        ([[_user(TEXT)], [{"role": "assistant", "content": "a"}]], 1), ([1], 0),
        ([_user([1, 2], TEXT)], 0), ([_user({"type": "audio", "audio": "x"})], 0), ([[]], 0),
    ],
)  # fmt: skip
def test_conversations_with_nothing_to_embed_are_refused(messages: object, index: int) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_messages(messages)
    assert (caught.value.status, caught.value.index) == (422, index)


def count_nothing(size: int) -> None:
    """Holds images without counting them."""


async def _read(source: str | bytes) -> bytes:
    if source == "bad":
        raise ServiceError(422, "invalid_image", "the image is bad")
    if source == "fault":
        raise RuntimeError("a fault")
    return source if isinstance(source, bytes) else source.encode()


def test_images_are_read_in_order_and_texts_kept() -> None:
    items = ("a", Images(("x", b"y"), "t"), (1, 2), Images(("z",)))
    contents = asyncio.run(read_images(items, _read, max_items=4, hold=count_nothing))
    assert contents == ("a", ImageText((b"x", b"y"), "t"), (1, 2), ImageText((b"z",)))


def test_the_first_bad_image_is_named_and_faults_are_not_hidden() -> None:
    items = ("a", Images(("x",)), Images(("bad",)), Images(("bad",)))
    with pytest.raises(ServiceError, match=r"item 2 of input: the image is bad") as caught:
        asyncio.run(read_images(items, _read, max_items=4, hold=count_nothing))
    assert caught.value.index == 2
    with pytest.raises(RuntimeError, match="a fault"):
        asyncio.run(
            read_images((*items, Images(("fault",))), _read, max_items=5, hold=count_nothing)
        )


def test_too_many_items_are_refused_before_a_image_is_read() -> None:
    with pytest.raises(ServiceError) as caught:
        asyncio.run(read_images((Images(("fault",)),) * 3, _read, max_items=2, hold=count_nothing))
    assert caught.value.status == 413


def test_images_are_counted_however_they_are_spread_over_items() -> None:
    with pytest.raises(ServiceError) as caught:
        asyncio.run(read_images((Images(("fault",) * 3),), _read, max_items=2, hold=count_nothing))
    assert (caught.value.status, caught.value.code) == (413, "too_many_images")


def test_only_images_that_were_fetched_are_held() -> None:
    held: list[int] = []
    items = (Images(("abc", b"defg")), Images(("http://img.example/a.png",)))
    asyncio.run(read_images(items, _read, max_items=4, hold=held.append))
    assert held == [len("http://img.example/a.png")]
