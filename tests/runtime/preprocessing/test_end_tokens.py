"""Tokens a post-processor adds to every text, against the tokenizers library's own encoding."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.embedder import Embedder
from trine.runtime.errors import BundleError
from trine.runtime.inputs import ImageText
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import check_request
from trine.runtime.serving.service.tokenization import ServingTokenizer

TEXTS = ["", "a", "the answer to the question", "  Straße 7,\n東京 🚀 " * 20]
START, END = "<|im_start|>", "<|endoftext|>"
IMAGE_PROMPT = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|>\n"
)


def template(single: str, tokenizer: Tokenizer) -> processors.PostProcessor:
    ids = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    return processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=ids)


def byte_level_then_end(tokenizer: Tokenizer) -> processors.PostProcessor:
    return processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template(f"$A {END}", tokenizer)]
    )


def roberta(tokenizer: Tokenizer) -> processors.PostProcessor:
    start, end = ((token, tokenizer.token_to_id(token)) for token in (START, END))
    return processors.RobertaProcessing(end, start, True, False)


Making = Callable[[Tokenizer], processors.PostProcessor]
MAKINGS: dict[str, Making] = {
    "end": lambda tokenizer: template(f"$A {END}", tokenizer),
    "start": lambda tokenizer: template(f"{START} $A", tokenizer),
    "both": lambda tokenizer: template(f"{START} $A {END}", tokenizer),
    "two": lambda tokenizer: template(f"{START} {START} $A {END} {END}", tokenizer),
    "byte level, then end": byte_level_then_end,
    "byte level alone": lambda tokenizer: processors.ByteLevel(trim_offsets=False),
    "roberta": roberta,
}


@pytest.fixture(params=MAKINGS)
def path(request: pytest.FixtureRequest, golden_bundle: Path, tmp_path: Path) -> Path:
    """The golden tokenizer with a post-processor."""
    tokenizer = Tokenizer.from_file(str(golden_bundle / "tokenizer.json"))
    tokenizer.post_processor = MAKINGS[request.param](tokenizer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def sequence(path: Path, bundle: Path, item: str | ImageText, max_length: int) -> TokenSequence:
    model = open_bundle(bundle).manifest.model
    request = check_request(
        model.tasks, model, num_items=1, task=model.tasks[0], max_length=max_length
    )
    (made,) = Preprocessor(model, TextTokenizer(path)).sequences([item], request)
    return made


@pytest.mark.parametrize("max_length", [4, 9, 32768])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_have_the_ids_of_the_library(
    path: Path, golden_bundle: Path, text: str, max_length: int
) -> None:
    library = Tokenizer.from_file(str(path))
    whole = library.encode(f"Query: {text}").ids
    library.enable_truncation(max_length)
    made = sequence(path, golden_bundle, text, max_length)
    assert made.token_ids.tolist() == library.encode(f"Query: {text}").ids
    assert made.pooled.all()
    assert (made.positions == np.arange(len(made))).all()
    assert made.truncated == (len(whole) > max_length)


def test_images_have_the_ids_of_the_library(path: Path, golden_bundle: Path) -> None:
    image = np.full((56, 84, 3), 90, np.uint8)
    made = sequence(path, golden_bundle, ImageText((image,)), 32768)
    library = Tokenizer.from_file(str(path))
    prompt = IMAGE_PROMPT.replace("<|image_pad|>", "<|image_pad|>" * len(made.image_slots))
    assert made.token_ids.tolist() == library.encode(prompt).ids
    assert made.pooled.sum() == len(made.image_slots) + 2, "the span of the image, and no end token"
    start = len(TextTokenizer(path).ends.start)
    assert made.positions[:, : start + 3].tolist() == [list(range(start + 3))] * 3
    after = made.positions[0, made.image_slots[-1] + 1 :]
    assert (np.diff(after) == 1).all()


def test_the_server_shows_the_ids_of_the_library(path: Path) -> None:
    shown = ServingTokenizer(path).show(TEXTS, "Query: ", ends=True)
    library = Tokenizer.from_file(str(path))
    assert [list(text.ids) for text in shown] == [library.encode(f"Query: {t}").ids for t in TEXTS]
    plain = ServingTokenizer(path).show(TEXTS, "Query: ")
    assert [t.num_prefix_tokens for t in shown] == [t.num_prefix_tokens for t in plain]


def test_a_post_processor_that_repeats_the_text_is_refused(
    golden_bundle: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(golden_bundle / "tokenizer.json"))
    tokenizer.post_processor = template(f"$A {END} $A", tokenizer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BundleError, match=r"TemplateProcessing.*not supported"):
        TextTokenizer(tmp_path / "tokenizer.json")


def test_an_end_token_changes_the_vectors_a_bundle_gives(
    golden_bundle: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(golden_bundle, tmp_path / "bundle")
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.post_processor = MAKINGS["end"](tokenizer)
    tokenizer.save(str(bundle / "tokenizer.json"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["tokenizer.json"]["size"] = (bundle / "tokenizer.json").stat().st_size
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    ended = Embedder.load(bundle, self_test=False).encode(["a"], "retrieval")
    plain = Embedder.load(golden_bundle, self_test=False).encode(["a"], "retrieval")
    assert ended.num_tokens[0] == plain.num_tokens[0] + 1
    assert not np.allclose(ended.single, plain.single, atol=1e-3)
