"""The web page: its routes, and what it does in a browser with a real server."""

import asyncio
import base64
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runtime.serving.chromium import Page, browser_page, chromium_path
from tests.runtime.serving.server_process import running_server
from trine import Embedder, ImageText
from trine.runtime import maxsim
from trine.runtime.serving import page as page_package

IMAGES = Path(__file__).parents[4] / "export" / "nano" / "demo" / "pictures"
CHOSEN = (
    "00-a-red-circle.png",
    "01-a-blue-square.png",
    "02-a-green-triangle.png",
    "04-a-pink-heart.png",
    "08-a-black-arrow.png",
)
PAGE_FOLDER = Path(page_package.__file__).parent


@pytest.fixture(scope="module")
def url(nano_bundle: Path) -> Iterator[str]:
    """A server of the built-in checkpoint."""
    with running_server(nano_bundle) as address:
        yield address


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    """What the server's vectors are compared with."""
    return Embedder.load(nano_bundle)


def data_uri(name: str) -> str:
    content = base64.b64encode((IMAGES / name).read_bytes()).decode()
    return f"data:image/png;base64,{content}"


def embed(url: str, body: object) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.post(f"{url}/page/embed", json=body)

    return asyncio.run(send())


def array(item: dict[str, object], name: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(str(item[name])), "<f4")


def test_the_page_refers_to_nothing_outside_the_server() -> None:
    for path in PAGE_FOLDER.glob("*.*"):
        if path.suffix in (".html", ".css", ".js"):
            assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", path.read_text()), path


def test_the_page_and_its_parts_are_served_with_a_policy(url: str) -> None:
    for path, kind in (("/", "html"), ("/page/page.css", "css"), ("/page/page.js", "javascript")):
        found = httpx.get(url + path)
        assert found.status_code == 200
        assert f"text/{kind}" in found.headers["content-type"]
        assert "default-src 'none'" in found.headers["content-security-policy"]


def test_answers_hold_the_vectors_of_encode_and_the_grid(url: str, embedder: Embedder) -> None:
    body = {"items": [{"text": "a rose"}, {"image": data_uri(CHOSEN[0])}], "role": "passage"}
    answer = embed(url, body).json()
    wanted = embedder.encode(
        ["a rose", ImageText(((IMAGES / CHOSEN[0]).read_bytes(),))],
        task="retrieval",
        prompt_name="passage",
        return_multivector=True,
    )
    assert wanted.single is not None
    assert wanted.multi is not None
    for index, item in enumerate(answer["items"]):
        np.testing.assert_allclose(array(item, "single"), wanted.single[index], atol=1e-5)
        rows = array(item, "multi").reshape(item["rows"], item["width"])
        np.testing.assert_allclose(rows, wanted.multi[index], atol=5e-5)
    assert answer["items"][0]["images"] == []
    assert "".join(answer["items"][0]["tokens"]) == "Passage: a rose"
    (grid,) = answer["items"][1]["images"]
    # 224 × 224 pixels; a token is 28 × 28 of them.
    assert (grid["rows"], grid["columns"]) == (8, 8)
    assert 0 < grid["start"] < grid["start"] + 64 < answer["items"][1]["rows"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": [], "role": "query"},
        {"items": [{"text": "a"}] * 65, "role": "query"},
        {"items": [{}], "role": "query"},
        {"items": [{"text": "a", "image": "b"}], "role": "query"},
        {"items": [{"image": "not an image"}], "role": "query"},
        {"items": [{"image": "https://example.org/a.png"}], "role": "query"},
        {"items": [{"text": "a"}], "role": "other"},
        {"items": [{"text": "a"}], "role": "query", "task": "unknown"},
        [],
    ],
)
def test_bodies_that_cannot_be_used_are_refused_with_a_sentence(url: str, body: object) -> None:
    found = embed(url, body)
    assert found.status_code == 422
    assert len(found.json()["message"]) > 10


@pytest.fixture(scope="module")
def page(url: str) -> Iterator[Page]:
    """The page, open in a browser with images on it."""
    program = chromium_path()
    if program is None:
        pytest.skip("there is no Chromium on the path")
    with browser_page(program) as opened:
        opened.open(url + "/")
        opened.wait("document.getElementById('task').options.length === 3")
        opened.choose_files("#files", [IMAGES / name for name in CHOSEN])
        opened.wait(f"documents.length === {len(CHOSEN)} && documents.every((d) => d.vectors)")
        yield opened


def search(page: Page, text: str) -> None:
    page.evaluate(
        # Nothing found yet, or a search for the same text would be over before it began.
        f"query = null; document.getElementById('query').value = {text!r};"
        "document.getElementById('query-form').requestSubmit()"
    )
    page.wait(f"query !== null && query.name === {text!r}")


def ranking(page: Page) -> list[str]:
    return list(
        page.evaluate("[...document.querySelectorAll('#results .name')].map((n) => n.textContent)")
    )


def shown(page: Page, name: str) -> list[float]:
    found = page.evaluate(
        f"[...document.querySelectorAll('#results .{name}')].map((n) => n.textContent)"
    )
    return [float(text) for text in found]


@pytest.mark.parametrize("by", ["multi", "single"])
def test_images_are_ranked_as_encode_ranks_them(page: Page, embedder: Embedder, by: str) -> None:
    query = embedder.encode(["a blue square"], task="retrieval", return_multivector=True)
    images = embedder.encode(
        [ImageText((str(IMAGES / name),)) for name in CHOSEN],
        task="retrieval",
        return_multivector=True,
    )
    assert query.single is not None
    assert images.single is not None
    assert query.multi is not None
    assert images.multi is not None
    if by == "multi":
        scores = maxsim(query.multi, images.multi)[0]
    else:
        scores = (query.single @ images.single.T)[0]
    search(page, "a blue square")
    page.evaluate(f"document.querySelector('input[value={by}]').click()")
    assert ranking(page) == [CHOSEN[i] for i in np.argsort(-scores)]
    np.testing.assert_allclose(shown(page, by), np.sort(scores)[::-1], atol=6e-4)


def test_heat_maps_cover_the_grid_and_follow_the_chosen_token(page: Page) -> None:
    search(page, "a blue square")
    sizes = page.evaluate(
        "[...document.querySelectorAll('canvas')].map((c) => [c.width, c.height])"
    )
    assert len(sizes) == len(CHOSEN)
    assert all(columns == rows and columns in (4, 8) for columns, rows in sizes)
    pixels = "document.querySelector('canvas').toDataURL()"
    whole = page.evaluate(pixels)
    tokens = page.evaluate("[...document.querySelectorAll('#tokens button')].map(b => b.innerText)")
    assert "".join(tokens[1:]) == "Query: a blue square"
    page.evaluate("document.querySelectorAll('#tokens button')[4].click()")
    assert page.evaluate("chosenToken") == 3
    page.wait(f"{pixels} !== {whole!r}")
    values = page.evaluate("patchValues(documents[1].vectors, documents[1].vectors.images[0])")
    image = "documents[1].vectors.images[0]"
    assert len(values) == page.evaluate(f"{image}.rows * {image}.columns")
    assert all(-1.001 <= value <= 1.001 for value in values)
    page.evaluate("document.getElementById('heat').click()")
    assert page.evaluate("document.querySelectorAll('canvas').length") == 0
    page.evaluate("document.getElementById('heat').click()")


def test_texts_can_be_added_and_found(page: Page) -> None:
    page.evaluate(
        "document.getElementById('texts').value = 'SQL databases\\nchess games';"
        "document.getElementById('texts-form').requestSubmit()"
    )
    page.wait(f"documents.length === {len(CHOSEN) + 2} && documents.every((d) => d.vectors)")
    search(page, "SQL")
    page.evaluate("document.querySelector('input[value=single]').click()")
    best = page.evaluate("document.querySelector('#results blockquote').textContent")
    assert best == "SQL databases"
    page.evaluate(
        "[...document.querySelectorAll('.remove')].filter((b) =>"
        " !b.closest('.card').querySelector('img')).forEach((b) => b.click())"
    )
    assert page.evaluate("documents.length") == len(CHOSEN)


def test_a_image_is_its_own_best_match(page: Page) -> None:
    page.evaluate("document.querySelector('input[value=single]').click()")
    page.evaluate(f"document.querySelector('[aria-label=\"Find alike: {CHOSEN[3]}\"]').click()")
    assert ranking(page)[0] == CHOSEN[3]
    assert shown(page, "single")[0] == pytest.approx(1.0, abs=1e-3)


def test_times_are_shown(page: Page) -> None:
    search(page, "a heart")
    cells = page.evaluate(
        "[...document.querySelector('#times tr').cells].map((c) => c.textContent)"
    )
    assert cells[0] == "query: a heart"
    assert all(float(cell) >= 0 for cell in cells[1:])
    assert float(cells[4]) <= float(cells[5])


def test_another_task_embeds_anew(page: Page) -> None:
    page.evaluate(
        "document.getElementById('task').value = 'text-matching';"
        "document.getElementById('task').dispatchEvent(new Event('change'))"
    )
    page.wait("documents.every((d) => d.vectors)")
    search(page, "a pink heart")
    assert len(ranking(page)) == len(CHOSEN)


def test_the_page_is_used_by_keyboard_alone(page: Page) -> None:
    page.evaluate("document.getElementById('query').focus()")
    page.evaluate("document.getElementById('query').value = 'green'")
    page.press("Enter", 13, "\r")
    page.wait("query !== null && query.name === 'green'")
    focusable = page.evaluate(
        "[...document.querySelectorAll('input, select, textarea, button')].filter((e) =>"
        " e.offsetParent !== null).every((e) => e.tabIndex >= 0 &&"
        " (e.labels?.length || e.textContent.trim() || e.ariaLabel))"
    )
    assert focusable


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_narrow_and_wide_windows_in_both_schemes(
    page: Page, tmp_path: Path, dark: bool, width: int
) -> None:
    page.screenshot(tmp_path / "page.png", width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    colours = page.evaluate(
        "[...['color', 'backgroundColor']].map((n) => getComputedStyle(document.body)[n])"
    )
    ink, ground = (luminance(colour) for colour in colours)
    # 7 : 1 is the higher of the two ratios that WCAG asks for.
    assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 7
    assert (ground < ink) is dark


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(…)` (https://www.w3.org/TR/WCAG21/)."""
    parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_damaged_images_are_named(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page.choose_files("#files", [broken])
    text = page.wait("document.getElementById('failure').textContent")
    assert text.startswith("broken.png: item 0")
    page.wait(f"documents.length === {len(CHOSEN)}")


def test_the_browser_asked_nobody_else_and_had_nothing_to_complain_about(
    page: Page, url: str
) -> None:
    assert all(asked.startswith((url + "/", "data:", "blob:")) for asked in page.requested)
    # A refused image is logged by the browser as a failed request.
    assert [text for text in page.complaints if "422" not in text] == []
