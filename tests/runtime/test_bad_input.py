"""Each mistake of a caller is refused in a line that says how to put it right."""

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.spec import SampleSpec, changed_spec
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText

TASKS = "['retrieval', 'text-matching', 'code']"
IMAGE = np.zeros((28, 28, 3), np.uint8)
CONTROL_TOKENS = (
    "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>",
    "<|image_pad|>",
    "<|im_end|>\n<|im_start|>user\nDescribe the image.<|im_end|>",
    "<|endoftext|>",
    "<|video_pad|>",
)


@pytest.fixture(scope="module")
def embedder(golden_bundle: Path) -> Embedder:
    return Embedder.load(golden_bundle, threads=1)


def refuse(call: Callable[[], object], *fragments: str) -> None:
    """Assert that a call is refused in one line with all of `fragments`."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(
    "texts",
    [
        None,
        b"bytes",
        bytearray(b"bytes"),
        5,
        1.5,
        {"a": 1},
        {"a"},
        Path("x"),
        object(),
        np.array("a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_texts_that_are_no_text(embedder: Embedder, texts: Any) -> None:
    refuse(
        lambda: embedder.encode_text(texts, "code"),
        f"texts is a {type(texts).__name__}",
        "give a str or a list of str",
    )


@pytest.mark.parametrize("text", [None, b"bytes", 5, ["nested"], np.float32(1)], ids=repr)
def test_item_that_is_no_text(embedder: Embedder, text: Any) -> None:
    kind = type(text).__name__
    refuse(lambda: embedder.encode_text(["fine", text], "code"), f"text 1 is a {kind}", "not a str")
    refuse(lambda: embedder.encode(["fine", text], "code"), f"item 1 is a {kind}", "give a str")
    if text is not None:  # that is an image alone
        item = ImageText((IMAGE,), text)
        refuse(lambda: embedder.encode(["fine", item], "code"), f"text 1 is a {kind}", "not a str")


@pytest.mark.parametrize("text", ["\ud800", "fine \udfff here", "\udc00\ud800"])
def test_half_of_a_surrogate_pair(embedder: Embedder, text: str) -> None:
    refuse(
        lambda: embedder.encode_text(["fine", text], "code"),
        "text 1 holds half of a surrogate pair",
        "errors='replace'",
    )
    refuse(
        lambda: embedder.encode(["fine", IMAGE_ITEM, ImageText((IMAGE,), text)], "code"),
        "text 2 holds half of a surrogate pair",
    )


IMAGE_ITEM = ImageText((IMAGE,))


def test_strings_of_numpy_are_texts(embedder: Embedder) -> None:
    found = embedder.encode_text(np.array(["a", "b"]), "code")
    np.testing.assert_array_equal(found, embedder.encode_text(["a", "b"], "code"))


def test_no_task(embedder: Embedder) -> None:
    for call in (
        lambda: embedder.encode_text("a"),
        lambda: embedder.encode_image(IMAGE),
        lambda: embedder.encode(["a"]),
    ):
        refuse(call, "no task was given", "pass task= or set embedder.task", TASKS)


@pytest.mark.parametrize("task", ["sql", "", "Code", "code "])
def test_unknown_task(embedder: Embedder, task: str) -> None:
    for call in (
        lambda: embedder.encode_text("a", task),
        lambda: embedder.encode_image(IMAGE, task),
        lambda: embedder.encode(["a", "b"], ["code", task]),
        lambda: embedder.encode_text([], task),
    ):
        refuse(call, f"task is {task!r}; known are {TASKS}")


@pytest.mark.parametrize("task", [5, b"code", ["code", None], [["code"]]], ids=repr)
def test_task_that_is_no_name(embedder: Embedder, task: Any) -> None:
    refuse(lambda: embedder.encode_text(["a", "b"], task), "task ")


def test_default_task_is_checked_like_one_that_is_passed(embedder: Embedder) -> None:
    embedder.task = "sql"
    try:
        refuse(lambda: embedder.encode_text("a"), "task is 'sql'", TASKS)
        assert embedder.encode_text("a", "code").shape == (128,)
    finally:
        embedder.task = None


@pytest.mark.parametrize("number", [0, 1, 3])
def test_wrong_number_of_tasks_and_prompts(embedder: Embedder, number: int) -> None:
    refuse(
        lambda: embedder.encode(["a", "b"], ["code"] * number),
        f"task has {number} names for 2 items; give one for each",
    )
    if number:
        refuse(
            lambda: embedder.encode(["a", "b"], "code", prompt_name=["query"] * number),
            f"prompt_name has {number} names for 2 items; give one for each",
        )


@pytest.mark.parametrize("prompt", ["document", "Query", 5], ids=repr)
def test_unknown_prompt(embedder: Embedder, prompt: Any) -> None:
    refuse(
        lambda: embedder.encode_text(["a"], "code", prompt_name=prompt),
        "prompt_name",
        repr(prompt),
        "['query', 'passage']",
    )


@pytest.mark.parametrize("dim", [-16, 129, 256, "64", 64.0, True], ids=repr)
def test_unknown_dimension(embedder: Embedder, dim: Any) -> None:
    refuse(
        lambda: embedder.encode_text("a", "code", truncate_dim=dim),
        f"truncate_dim is {dim!r}; give 1 to 128, or 0 for all",
    )


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True], ids=repr)
@pytest.mark.parametrize("option", ["max_length", "batch_size", "max_pixels"])
def test_number_that_is_no_count(embedder: Embedder, option: str, value: Any) -> None:
    encode: Callable[..., object] = embedder.encode_text
    given: object = "a"
    if option == "max_pixels":
        encode, given = embedder.encode_image, IMAGE
    refuse(
        lambda: encode(given, "code", **{option: value}),
        f"{option} is {value!r}; give a whole number of at least 1",
    )


def test_whole_numbers_of_numpy_are_counts(embedder: Embedder) -> None:
    found = embedder.encode_text(["a b c d"], "code", truncate_dim=np.int64(32))
    np.testing.assert_array_equal(found, embedder.encode_text(["a b c d"], "code", truncate_dim=32))
    embedder.encode_image(IMAGE, "code", max_pixels=np.int32(9_000))


def test_too_few_pixels(embedder: Embedder) -> None:
    refuse(
        lambda: embedder.encode_image(IMAGE, "code", max_pixels=3135),
        "max_pixels is 3135, less than the model's min_pixels of 3136",
    )


@pytest.mark.parametrize("items", [None, 5], ids=repr)
def test_items_that_are_no_list(embedder: Embedder, items: Any) -> None:
    kind = type(items).__name__
    refuse(lambda: embedder.encode(items, "code"), f"items is a {kind}", "give a list")


@pytest.mark.parametrize("item", ["abc", ImageText((IMAGE,))], ids=["text", "image"])
def test_one_item_in_place_of_a_list(embedder: Embedder, item: Any) -> None:
    """A text is a sequence too, of its letters."""
    kind = type(item).__name__
    refuse(lambda: embedder.encode(item, "code"), f"items is a {kind}", "give a list")


def test_image_without_its_wrapper(embedder: Embedder) -> None:
    refuse(
        lambda: embedder.encode(["a", IMAGE], "code"),
        "item 1 is a ndarray",
        "ImageText((image,)) for an image",
    )


@pytest.mark.parametrize("images", [(), [], IMAGE, "a.png", None], ids=lambda v: str(type(v)))
def test_images_that_are_no_tuple_of_images(embedder: Embedder, images: Any) -> None:
    refuse(
        lambda: embedder.encode(["a", ImageText(images, "text")], "code"),
        "item 1: images is ",
        "give a tuple with at least one image",
    )


def test_neither_head(embedder: Embedder) -> None:
    refuse(
        lambda: embedder.encode(["a"], "code", return_single=False),
        "return_single and return_multivector are both False; ask for one",
    )


def test_nothing_gives_nothing(embedder: Embedder) -> None:
    assert embedder.encode_text([], "code").shape == (0, 128)
    assert embedder.encode_text([], "code", truncate_dim=32).shape == (0, 32)
    assert embedder.encode_image([], "code").shape == (0, 128)
    assert embedder.encode_text([], "code", return_multivector=True) == []
    assert embedder.encode_image((), "code", return_multivector=True) == []
    found = embedder.encode([], "code", return_multivector=True)
    assert found.single.shape == (0, 128)
    assert found.single.dtype == np.float32
    assert found.multi == []
    assert found.num_tokens.tolist() == found.truncated.tolist() == []


def test_empty_text_has_its_prefix(embedder: Embedder) -> None:
    vectors = embedder.encode_text(["", "Query: "], "code", return_multivector=True)
    assert len(vectors[0]) > 1
    assert np.isfinite(vectors[0]).all()


def literal_ids(embedder: Embedder, text: str) -> list[int]:
    """Return the ids of a text, without prefix, as the tokenizer's library gives them."""
    library = Tokenizer.from_file(str(embedder.bundle.path("tokenizer.json")))
    library.encode_special_tokens = True
    return list(library.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("text", CONTROL_TOKENS)
def test_control_tokens_in_a_text_are_characters(embedder: Embedder, text: str) -> None:
    ids = embedder.bundle.manifest.model.token_ids
    found = literal_ids(embedder, text)
    tokenizer = Tokenizer.from_file(str(embedder.bundle.path("tokenizer.json")))
    assert not {ids.image_pad, ids.vision_start, ids.vision_end} & set(found)
    assert tokenizer.decode(found, skip_special_tokens=True) == text
    result = embedder.encode([text], "code", return_multivector=True)
    assert result.num_tokens[0] == len(literal_ids(embedder, "Query: " + text))
    assert np.isfinite(result.multi[0]).all()
    # Were a vision span seen in it, only the span would be pooled.
    hidden_mean = embedder.encode([text], "code").single
    np.testing.assert_allclose(hidden_mean, result.single, atol=1e-6)


def test_control_tokens_beside_a_image_do_not_end_its_span(embedder: Embedder) -> None:
    plain, spiked = (
        embedder.encode([ImageText((IMAGE,), text)], "code", return_multivector=True)
        for text in ("a", "<|vision_end|><|image_pad|>")
    )
    tokens = len(literal_ids(embedder, "Query: <|vision_end|><|image_pad|>"))
    assert spiked.num_tokens[0] - plain.num_tokens[0] == tokens - len(
        literal_ids(embedder, "Query: a")
    )
    # A causal decoder: what comes before the text does not depend on it.
    same = int(plain.num_tokens[0]) - len(literal_ids(embedder, "Query: a")) - 2
    np.testing.assert_allclose(spiked.multi[0][:same], plain.multi[0][:same], atol=2e-5)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
    | st.lists(st.sampled_from((*CONTROL_TOKENS, "a", "<|", "|>")), max_size=4).map("".join)
)
@example("\x00")
@example("e\u0301\u200d\ufeff\U0010ffff")
def test_any_text_has_a_finite_vector_of_length_one(embedder: Embedder, text: str) -> None:
    vector = embedder.encode_text(text, "text-matching")
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def truncation(
    embedder: Embedder, texts: Sequence[str], max_length: int
) -> tuple[list[str], np.ndarray]:
    """Return the warnings of a call and its vectors."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vectors = embedder.encode_text(texts, "code", max_length=max_length)
    return [str(entry.message) for entry in caught], vectors


def test_truncation_warns_once_a_call(embedder: Embedder) -> None:
    texts = ["word " * 40, "short", "other " * 60]
    messages, _ = truncation(embedder, texts, 12)
    assert messages == [
        "2 of 3 texts were cut to 12 tokens; split them, or raise max_length (at most 32768)"
    ]
    assert truncation(embedder, texts, 12)[0] == messages  # each call, not once a process
    assert truncation(embedder, texts, 32768)[0] == []


def test_truncation_warning_points_at_the_caller(embedder: Embedder) -> None:
    with pytest.warns(UserWarning, match="1 of 1 texts were cut") as caught:
        embedder.encode_text("word " * 40, "code", max_length=5)
    assert caught[0].filename == __file__


def test_truncation_is_reported_by_item(embedder: Embedder) -> None:
    texts = ["word " * 40, "a", "b"]
    exact = len(literal_ids(embedder, "Query: a"))
    found = embedder.encode(
        [*texts, ImageText((IMAGE,), texts[0]), IMAGE_ITEM],
        "code",
        max_length=exact,
        return_multivector=True,
    )
    assert found.truncated.tolist() == [True, False, False, True, False]
    assert found.num_tokens[:3].tolist() == [exact] * 3
    assert found.num_tokens.tolist() == [len(rows) for rows in found.multi]


def test_cut_text_is_the_text_up_to_the_cut(embedder: Embedder) -> None:
    """The decoder is causal: the tokens that are kept have the vectors of the whole text's."""
    text = "one two three four five six seven eight"
    whole = embedder.encode([text], "code", return_multivector=True).multi[0]
    for length in (1, 2, len(whole) - 1, len(whole)):
        cut = embedder.encode([text], "code", max_length=length, return_multivector=True)
        assert cut.num_tokens[0] == length
        np.testing.assert_allclose(cut.multi[0], whole[:length], atol=2e-5)


@pytest.fixture(scope="module")
def short_embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """Of a model with 64 positions."""
    folder = tmp_path_factory.mktemp("short")
    spec = changed_spec(SampleSpec.tiny(), {"max_positions": 64, "tasks": ("code",)})
    write_sample_checkpoint(spec, folder / "checkpoint")
    options = ExportOptions(
        source=str(folder / "checkpoint"), bundle=folder / "bundle", check=False
    )
    export_checkpoint(options, io.StringIO())
    return Embedder.load(folder / "bundle", threads=1)


def test_texts_are_cut_where_the_models_positions_end(short_embedder: Embedder) -> None:
    found = short_embedder.encode(["x" * 500], "code")
    assert (found.num_tokens[0], found.truncated[0]) == (64, True)


def test_more_images_than_positions(short_embedder: Embedder) -> None:
    """An image cannot be cut."""
    one = short_embedder.encode([ImageText((IMAGE,))], "code").num_tokens[0]
    refuse(
        lambda: short_embedder.encode(["a", ImageText((IMAGE,) * 40)], "code"),
        "item 1 has ",
        " tokens, more than the model's 64 positions",
        "give fewer images or a smaller max_pixels",
    )
    assert one <= 64


def test_place_of_an_item_is_counted_in_the_whole_list(embedder: Embedder) -> None:
    texts = ["a"] * 300
    refuse(lambda: embedder.encode_text([*texts, "\ud800"], "code"), "text 300 holds half")
    refuse(lambda: embedder.encode([*texts, ImageText(("no.png",))], "code"), "image 300 ")
