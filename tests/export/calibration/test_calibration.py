"""Calibration inputs: built in, the same on each run; and the user's own, read or refused."""

import json
import re
import unicodedata
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trine.export.calibration import images, user_files
from trine.export.calibration.corpus import built_in_corpus
from trine.export.calibration.inputs import CalibrationSize, CalibrationText, built_in_calibration
from trine.export.calibration.texts import FOLDER, corpus_texts, long_text, range_texts
from trine.export.calibration.user_files import read_calibration
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText

SMALL_BYTES = 60_000
SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL")
SCRIPTS += ("THAI", "HIRAGANA", "KATAKANA", "CJK", "HANGUL")


def _digest(images: tuple[NDArray[np.uint8], ...]) -> str:
    return sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def test_shipped_texts_are_small_and_of_many_scripts() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.jsonl")) < SMALL_BYTES
    letters = {letter for text in range_texts() for letter in text.text if letter.isalpha()}
    found = {unicodedata.name(letter).split()[0] for letter in letters}
    assert set(SCRIPTS) <= found
    assert sum(text.kind == "code" for text in range_texts()) >= 10


def test_what_is_ranked_is_not_what_calibrates() -> None:
    assert not {text.text for text in range_texts()} & {text.text for text in corpus_texts()}
    seen = {image.tobytes() for image in built_in_calibration("full").images}
    assert not seen & {image.tobytes() for image in built_in_corpus("full").images}
    texts = [text.text for text in corpus_texts()]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("size", ["brief", "small", "full"])
def test_the_built_in_set_is_the_same_each_time(size: CalibrationSize) -> None:
    first, second = built_in_calibration(size), built_in_calibration(size)
    assert first.texts == second.texts
    assert _digest(first.images) == _digest(second.images)
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in first.images)
    assert len({_digest((image,)) for image in first.images}) == len(first.images)
    assert {text.prompt for text in first.texts} == {"query", "passage"}
    assert first.source == f"built in, {size}"


def test_lengths_and_shapes_range_widely() -> None:
    small, full = built_in_calibration("small"), built_in_calibration("full")
    lengths = [len(text.text) for text in full.texts]
    assert min(lengths) == 1
    assert max(lengths) == 6_000
    assert max(len(text.text) for text in small.texts) < 1_000
    assert sum(image.shape[0] * image.shape[1] for image in small.images) < 500_000
    shapes = [image.shape[:2] for image in full.images]
    assert (1350, 1800) in shapes
    assert max(width / height for height, width in shapes) >= 40
    assert min(width / height for height, width in shapes) <= 0.1
    assert set(small.texts) - set(full.texts) == {small.texts[-1]}


def test_the_brief_set_has_code_and_many_scripts() -> None:
    kinds = {text.text: text.kind for text in range_texts()}
    brief = [text.text for text in built_in_calibration("brief").texts]
    assert [kinds.get(text) for text in brief].count("code") >= 2
    letters = {letter for text in brief for letter in text if letter.isalpha()}
    scripts = {unicodedata.name(letter).split()[0] for letter in letters}
    assert {"LATIN", "CYRILLIC", "ARABIC", "THAI", "CJK"} <= scripts
    assert sum(len(text) for text in brief) < 3_000


def test_the_small_set_has_the_checkerboard_that_overflows_float16() -> None:
    board = built_in_calibration("small").images[0]
    assert set(np.unique(board)) == {0, 255}
    assert (board[:56, :56] == 0).all()
    assert (board[:56, 56:112] == 255).all()


def test_the_corpus_has_texts_and_images() -> None:
    full, small = built_in_corpus("full"), built_in_corpus("small")
    assert (len(full.queries), len(full.passages), len(full.images)) == (60, 139, 24)
    assert (len(small.queries), len(small.passages), len(small.images)) == (20, 47, 12)
    brief = built_in_corpus("brief")
    assert (len(brief.queries), len(brief.passages), len(brief.images)) == (9, 11, 4)
    documents = full.documents
    assert documents[:139] == full.passages
    assert all(isinstance(document, ImageText) for document in documents[139:])


def test_noise_is_uniform_and_photos_are_smooth() -> None:
    noise, photo = images.noise((90, 110), seed=3), images.photo((90, 110), seed=3)
    assert abs(float(noise.mean()) - 127.5) < 2
    steps = [np.abs(np.diff(image.astype(int), axis=0)).mean() for image in (noise, photo)]
    assert steps[1] < steps[0] / 8
    assert photo.std() > 15


def test_noise_has_the_same_bytes_on_every_machine() -> None:
    assert images.noise((1, 2), seed=1).ravel().tolist() == [255, 228, 34, 121, 243, 189]


def test_charts_show_their_values() -> None:
    chart = images.bar_chart((200, 300), (20, 80))
    red, blue = ((chart == np.array(colour, np.uint8)).all(axis=2) for colour in images.COLOURS[:2])
    assert blue.sum() == pytest.approx(4 * red.sum(), rel=0.1)
    pie = images.pie_chart((200, 200), (75, 25))
    parts = [(pie == np.array(c, np.uint8)).all(axis=2).sum() for c in images.COLOURS[:2]]
    assert parts[0] == pytest.approx(3 * parts[1], rel=0.1)


def test_a_page_is_filled_with_letters_inside_its_margins() -> None:
    page = images.text_page((200, 300), "word " * 400, points=12)
    assert (page[:, :10] == 255).all()
    assert (page < 128).any(axis=(1, 2)).sum() > 100
    dark = images.text_page((200, 300), "word " * 400, points=12, dark=True)
    assert np.median(dark) == 0


def test_a_long_text_repeats_what_there_is() -> None:
    texts = range_texts()[:3]
    assert len(long_text(texts, 500)) == 500
    assert long_text(texts, 5) == long_text(texts, 500)[:5]


def _image(path: Path, shade: int) -> None:
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(path)


def test_a_file_of_texts_is_read_and_images_are_built_in(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("first\n\nsecond\n", encoding="utf-8")
    found = read_calibration(tmp_path / "own.txt")
    assert found.texts == (
        CalibrationText("first", "passage"),
        CalibrationText("second", "passage"),
    )
    assert _digest(found.images) == _digest(built_in_calibration("small").images)
    assert found.source == f"{tmp_path / 'own.txt'}, images built in"


def test_a_jsonl_file_has_texts_and_images(tmp_path: Path) -> None:
    _image(tmp_path / "a.png", 10)
    _image(tmp_path / "b.png", 20)
    rows = [
        {"text": "what?", "prompt": "query"},
        {"image": "a.png"},
        {"text": "both", "image": ["b.png", "a.png"]},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_calibration(path)
    assert found.texts == (CalibrationText("what?", "query"), CalibrationText("both", "passage"))
    assert [int(image[0, 0, 0]) for image in found.images] == [10, 20, 10]
    assert found.source == str(path)


def test_a_folder_is_read_in_the_order_of_paths(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_text("b\n", encoding="utf-8")
    (folder / "a.txt").write_text("a\n", encoding="utf-8")
    (folder / ".notes").write_text("hidden", encoding="utf-8")
    _image(folder / "sub" / "c.png", 30)
    found = read_calibration(folder)
    assert [text.text for text in found.texts] == ["a", "b"]
    assert [image.shape for image in found.images] == [(30, 40, 3)]


def _refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_calibration(path)
    return str(caught.value)


def test_bad_input_is_refused_with_its_place(tmp_path: Path) -> None:
    assert re.search(r"'.*none' do not exist; check the path", _refusal(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "holds no text and no image" in _refusal(tmp_path / "empty")
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    assert "holds no text and no image" in _refusal(tmp_path / "empty.txt")
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    assert "'.xlsx' is of no known kind" in _refusal(tmp_path / "table.xlsx")
    (tmp_path / "latin.txt").write_bytes(b"fine\nStra\xdfe\n")
    assert "latin.txt:2: byte 5 of the line is not UTF-8" in _refusal(tmp_path / "latin.txt")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    assert "torn.png" in _refusal(tmp_path / "torn.png")
    (tmp_path / "long.txt").write_text("x" * 20_001, encoding="utf-8")
    assert "long.txt:1: the text has 20001 characters" in _refusal(tmp_path / "long.txt")
    (tmp_path / "bad.jsonl").write_text('{"txt": "a"}', encoding="utf-8")
    assert "bad.jsonl:1: fields ['txt'] are unknown" in _refusal(tmp_path / "bad.jsonl")


def test_too_many_inputs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "many.txt").write_text("line\n" * (user_files.MAX_TEXTS + 1), encoding="utf-8")
    assert "holds more than 1000 texts" in _refusal(tmp_path / "many.txt")
    monkeypatch.setattr(user_files, "MAX_IMAGES", 2)
    for number in range(3):
        _image(tmp_path / f"{number}.png", number)
    (tmp_path / "many.txt").unlink()
    assert "holds more than 2 images" in _refusal(tmp_path)
