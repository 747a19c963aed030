"""`trine embed`: what it reads: standard input, text files, base64 and PDFs."""

import base64
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.inputs import ImageText

TEXTS = ("How far is the moon?", "", "Straße 東京 🚀", "def area(r): return 3 * r * r")


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    return Embedder.load(nano_bundle, self_test=False)


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def embed(bundle: Path, *arguments: object) -> int:
    return main(["embed", str(bundle), *map(str, arguments)])


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_pages_of_a_pdf_are_images(
    nano_bundle: Path, embedder: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pypdfium2", reason="needs the `pdf` extra")
    red, blue = Image.new("RGB", (144, 72), "red"), Image.new("RGB", (72, 144), "blue")
    path = tmp_path / "pages.pdf"
    red.save(path, save_all=True, append_images=[blue], resolution=72, quality=100)
    assert embed(nano_bundle, path, "--task", "retrieval", "--dpi", 72) == 0
    rows = json_lines(capsys.readouterr().out)
    assert [row["id"] for row in rows] == [f"{path}#page=1", f"{path}#page=2"]
    want = embedder.encode([ImageText((red,)), ImageText((blue,))], "retrieval")
    assert want.single is not None
    found = np.array([row["embedding"] for row in rows])
    assert [row["num_tokens"] for row in rows] == want.num_tokens.tolist()
    cosines = (found * want.single).sum(axis=1)
    print("cosines of pages with their images", cosines)
    # Pillow stores pages as JPEG, so colours come back a level or two off.
    assert cosines.min() > 0.99
    assert cosines.min() > found[0] @ want.single[1]


def test_a_pdf_without_its_package_names_the_extra(
    nano_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    path = tmp_path / "pages.pdf"
    Image.new("RGB", (28, 28)).save(path)
    assert embed(nano_bundle, path, "--task", "retrieval") == 2
    assert "trine[pdf]" in capsys.readouterr().err


@pytest.mark.parametrize("blank", [b"", b"\n \n"])
def test_json_lines_on_stdin_are_read_as_in_a_file(
    nano_bundle: Path,
    embedder: Embedder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    blank: bytes,
) -> None:
    give_stdin(monkeypatch, blank + b'{"id": 7, "text": "a", "prompt": "passage"}\n{"text": "b"}\n')
    assert embed(nano_bundle, "--task", "retrieval") == 0
    rows = json_lines(capsys.readouterr().out)
    want = embedder.encode(["a", "b"], "retrieval", prompt_name=["passage", "query"]).single
    assert rows[0]["id"] == "7"
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], np.float32), want)


@pytest.mark.parametrize(
    ("options", "text"),
    [(("--format", "text"), '{"text": "a"}'), ((), "{a} is a set"), ((), "[1, 2]"), ((), '"a"')],
)
def test_texts_on_stdin_that_look_like_json_stay_texts(
    nano_bundle: Path,
    embedder: Embedder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    text: str,
) -> None:
    give_stdin(monkeypatch, f"{text}\n".encode())
    assert embed(nano_bundle, "--task", "retrieval", *options) == 0
    row = json_lines(capsys.readouterr().out)[0]
    want = embedder.encode_text(text, "retrieval")
    np.testing.assert_array_equal(np.array(row["embedding"], np.float32), want)


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ((), '{\n  "text": "a"\n}\n'),
        ((), '[{"text": "a"}]\n'),
        (("--format", "jsonl"), "plain\n"),
    ],
)
def test_stdin_that_is_no_object_a_line_is_refused(
    nano_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    content: str,
) -> None:
    give_stdin(monkeypatch, content.encode())
    assert embed(nano_bundle, "--task", "retrieval", *options) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "stdin:1: " in captured.err


def test_a_text_file_may_be_one_item(
    nano_bundle: Path, embedder: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufefffirst line\r\n\r\nStraße\n".encode())
    options = ("--task", "retrieval", "--prompt", "passage", "--txt", "document")
    assert embed(nano_bundle, path, *options) == 0
    captured = capsys.readouterr()
    (row,) = json_lines(captured.out)
    text = "first line\n\nStraße"
    want = embedder.encode_text(text, "retrieval", prompt_name="passage")
    assert row["id"] == str(path)
    np.testing.assert_array_equal(np.array(row["embedding"], np.float32), want)
    assert "--txt" not in captured.err


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        (("--task", "retrieval"), True),
        (("--task", "retrieval", "--prompt", "query"), False),
        (("--task", "retrieval", "--prompt", "passage"), False),
        (("--task", "text-matching"), False),
    ],
)
def test_a_side_that_is_guessed_for_a_file_is_said(
    nano_bundle: Path,
    texts_file: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    warned: bool,
) -> None:
    assert embed(nano_bundle, texts_file, *options) == 0
    err = capsys.readouterr().err
    assert err.count("--prompt passage") == int(warned)
    assert "--txt document" in err


def test_a_text_of_the_command_line_is_a_query_without_a_word(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(nano_bundle, "--text", "a", "--task", "retrieval") == 0
    assert "--prompt" not in capsys.readouterr().err


@pytest.mark.parametrize("spelling", ["data:image/png;base64,{}", "{}"])
def test_base64_in_a_jsonl_is_the_file_it_encodes(
    nano_bundle: Path,
    embedder: Embedder,
    image_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spelling: str,
) -> None:
    encoded = spelling.format(base64.b64encode(image_file.read_bytes()).decode())
    path = write_lines(tmp_path / "rows.jsonl", [{"image": encoded}])
    assert embed(nano_bundle, path, "--task", "retrieval") == 0
    (row,) = json_lines(capsys.readouterr().out)
    want = embedder.encode_image(image_file, "retrieval")
    np.testing.assert_array_equal(np.array(row["embedding"], np.float32), want)


@pytest.mark.parametrize(
    "image",
    ["data:image/png,abc", "data:image/png;base64,iVBOR€", "x" * 5000 + "!", "a\x00b", "QUJD" * 99],
)
def test_an_image_that_is_neither_path_nor_base64_is_named_by_its_line(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], image: str
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "fine"}, {"image": image}])
    assert embed(nano_bundle, path, "--task", "retrieval", "-o", tmp_path / "out.npy") == 2
    err = capsys.readouterr().err
    assert f"{path}:2" in err
    assert len(err) < 1000
    assert not (tmp_path / "out.npy").exists()


def encrypted_pdf(password: bytes) -> bytes:
    """Return a PDF of one empty page, encrypted as the standard's first revision has it."""
    padding = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")

    def rc4(key: bytes, data: bytes) -> bytes:
        box, j = list(range(256)), 0
        for i in range(256):
            j = (j + box[i] + key[i % len(key)]) % 256
            box[i], box[j] = box[j], box[i]
        out, j = bytearray(), 0
        for number, byte in enumerate(data, 1):
            i = number % 256
            j = (j + box[i]) % 256
            box[i], box[j] = box[j], box[i]
            out.append(byte ^ box[(box[i] + box[j]) % 256])
        return bytes(out)

    padded = (password + padding)[:32]
    owner = rc4(hashlib.md5(padded).digest()[:5], padded)
    permissions = b"\xfc\xff\xff\xff"  # -4
    key = hashlib.md5(padded + owner + permissions + b"0" * 16).digest()[:5]
    user = rc4(key, padding)
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>",
        f"<</Filter/Standard/V 1/R 2/O<{owner.hex()}>/U<{user.hex()}>/P -4>>",
    ]
    body, starts = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        starts.append(len(body))
        body += f"{number} 0 obj{content}endobj\n".encode()
    table = "".join(f"{start:010} 00000 n \n" for start in starts)
    end = f"xref\n0 5\n0000000000 65535 f \n{table}trailer<</Size 5/Root 1 0 R/Encrypt 4 0 R"
    identity = (b"0" * 16).hex()
    return body + f"{end}/ID[<{identity}><{identity}>]>>\nstartxref\n{len(body)}\n%%EOF".encode()


def test_a_password_opens_an_encrypted_pdf(
    nano_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pypdfium2", reason="needs the `pdf` extra")
    path = tmp_path / "a.pdf"
    path.write_bytes(encrypted_pdf(b"secret"))
    options = (path, "--task", "retrieval", "--dpi", 36)
    assert embed(nano_bundle, *options) == 2
    assert "is encrypted" in capsys.readouterr().err
    assert embed(nano_bundle, *options, "--pdf-password", "wrong") == 2
    err = capsys.readouterr().err
    assert "not opened by the password" in err
    assert "wrong" not in err
    assert embed(nano_bundle, *options, "--pdf-password", "secret") == 0
    given = capsys.readouterr().out
    monkeypatch.setenv("TRINE_PDF_PASSWORD", "secret")
    assert embed(nano_bundle, *options) == 0
    assert capsys.readouterr().out == given


def test_a_damaged_pdf_is_not_told_of_passwords(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pypdfium2", reason="needs the `pdf` extra")
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.4 and no more")
    assert embed(nano_bundle, path, "--task", "retrieval") == 2
    err = capsys.readouterr().err
    assert "damaged" in err
    assert "password" not in err
