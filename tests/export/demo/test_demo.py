"""The demonstration: its files, its page, and one run from checkpoint to page."""

import argparse
import ast
import base64
import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trine.export.commands import demo as demo_command
from trine.export.demo import corpus
from trine.export.demo.bundle import DemoBundle
from trine.export.demo.corpus import Candidate, Query, Section, demo_folder, read_sections
from trine.export.demo.page import page_html
from trine.export.demo.report import report_lines, total_line
from trine.export.demo.search import Answer, Found, Hit, Speed
from trine.runtime.errors import BundleError, InputError

BUNDLE = DemoBundle(
    path=Path("nano.bundle"),
    export_s=1.5,
    load_s=0.25,
    checkpoint_bytes=14_200_000,
    bundle_bytes=1,
    min_cosine=0.999999,
    max_difference=1e-6,
)
SPEED = Speed(texts_per_s=100.0, images_per_s=20.0)
VOID_TAGS = {"meta", "img", "br"}


class PageReader(HTMLParser):
    """Collects what a page refers to and fails on tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.references: list[str] = []
        self.images: set[bytes] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID_TAGS:
            self.open_tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data", "action", "poster"}:
                self.references.append(value or "")
                data = (value or "").removeprefix("data:image/png;base64,")
                self.images.add(base64.b64decode(data, validate=True))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag


def found_by(section: Section, num_right: int) -> Found:
    """Return answers: the first `num_right` have the expected hit first, the others last."""
    answers = []
    for place, query in enumerate(section.queries):
        right = next(c for c in section.candidates if c.key == query.expected)
        others = [c for c in section.candidates if c.key != query.expected][:2]
        ranked = [right, *others] if place < num_right else [*others, right]
        hits = tuple(
            Hit(candidate=c, score=0.9 - 0.2 * i, right=c is right) for i, c in enumerate(ranked)
        )
        answers.append(Answer(query=query, single=hits, multi=hits))
    return Found(section=section, answers=tuple(answers))


def test_demo_files_hold_four_kinds_of_search() -> None:
    sections = read_sections(demo_folder())
    assert [len(section.queries) for section in sections] == [41, 7, 24, 4]
    assert [len(section.candidates) for section in sections] == [40, 40, 24, 12]
    assert all(0 < s.min_multi <= s.min_single < len(s.queries) for s in sections)
    assert all(any(query.shown for query in section.queries) for section in sections)
    images = [candidate.content for candidate in sections[2].candidates]
    assert all(isinstance(path, Path) and path.is_file() for path in images)


def test_each_function_is_python_and_is_named_by_its_key() -> None:
    for candidate in read_sections(demo_folder())[3].candidates:
        (statement,) = ast.parse(str(candidate.content)).body
        assert isinstance(statement, ast.FunctionDef)
        assert statement.name == candidate.key


def test_query_that_expects_nothing_there_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'whale' of 'Animals' expects 'a whale'"):
        Section(
            title="Animals",
            task="retrieval",
            candidates=(Candidate(key="a dog", label="a dog", content="a dog"),),
            queries=(Query(text="whale", expected="a whale", shown=True),),
            min_single=1,
            min_multi=1,
        )


def test_section_is_enough_exactly_from_its_least_number_on() -> None:
    section = dataclasses.replace(read_sections(demo_folder())[0], min_single=33, min_multi=33)
    assert found_by(section, 33).enough
    assert not found_by(section, 32).enough
    assert "too few right hits in: English" in total_line([found_by(section, 32)])
    assert total_line([found_by(section, 33)]).startswith("33 of 41 right by single vectors, 33 by")


def test_report_marks_the_expected_hit_and_no_other() -> None:
    section = read_sections(demo_folder())[3]
    lines = list(report_lines(BUNDLE, [found_by(section, 1)], SPEED))
    marked = [line.split("✓")[1].split(maxsplit=1) for line in lines if "✓" in line]
    assert [label.partition("(")[0] for _, label in marked] == [
        f"def {query.expected}" for query in section.queries for _ in ("single", "multi")
    ]
    assert [score for score, _ in marked] == ["0.900"] * 2 + ["0.500"] * 6
    assert any("14.2 MB" in line for line in lines)


def test_page_is_well_formed_and_needs_nothing_from_outside() -> None:
    sections = read_sections(demo_folder())
    page = page_html(BUNDLE, [found_by(s, len(s.queries)) for s in sections], SPEED)
    reader = PageReader()
    reader.feed(page)
    reader.close()
    assert reader.open_tags == []
    assert reader.images == {file.read_bytes() for file in (demo_folder() / "images").iterdir()}
    assert all(reference.startswith("data:image/png;base64,") for reference in reader.references)
    assert not any(word in page for word in ("http:", "https:", "url(", "@import", "<script"))


def test_page_escapes_what_the_files_hold() -> None:
    section = Section(
        title="a & b",
        task="retrieval",
        candidates=(Candidate(key="k", label="<b>bold</b>", content="<b>bold</b>"),),
        queries=(Query(text="<script>alert(1)</script>", expected="k", shown=True),),
        min_single=1,
        min_multi=1,
    )
    page = page_html(BUNDLE, [found_by(section, 1)], SPEED)
    assert "<script" not in page
    assert "<b>" not in page
    assert "a &amp; b" in page


@pytest.fixture(scope="module")
def demo_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


def run_demo(directory: Path) -> int:
    parser = argparse.ArgumentParser()
    demo_command.register(parser.add_subparsers())
    arguments = parser.parse_args(["demo", str(directory)])
    result: int = arguments.run(arguments)
    return result


def test_demo_goes_from_checkpoint_to_page(
    demo_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_demo(demo_directory) == 0
    printed = capsys.readouterr().out
    assert "single 24 of 24" in printed
    assert "as expected" in printed
    reader = PageReader()
    reader.feed((demo_directory / "index.html").read_text(encoding="utf-8"))
    assert len(reader.images) == 24


def test_demo_keeps_the_bundle_and_fails_when_too_few_hits_are_right(
    demo_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_demo(demo_directory)
    capsys.readouterr()
    first, *rest = read_sections(demo_folder())
    strict = (dataclasses.replace(first, min_single=42), *rest)
    monkeypatch.setattr(corpus, "read_sections", lambda folder: strict)
    assert run_demo(demo_directory) == 1
    printed = capsys.readouterr().out
    assert "kept from an earlier run" in printed
    assert "too few right hits in: English text → text" in printed


def test_demo_replaces_a_damaged_bundle(
    demo_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_demo(demo_directory)
    capsys.readouterr()
    heads = demo_directory / "nano.bundle" / "heads.safetensors"
    content = heads.read_bytes()
    heads.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert run_demo(demo_directory) == 0
    assert "kept from an earlier run" not in capsys.readouterr().out
    assert heads.read_bytes() == content


def test_demo_never_deletes_what_is_no_bundle(tmp_path: Path) -> None:
    mine = tmp_path / "nano.bundle" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(BundleError, match="is no bundle"):
        run_demo(tmp_path)
    assert mine.read_text() == "mine"
