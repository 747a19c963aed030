"""The documentation does what it says: examples run, commands parse, links and files exist."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from trine.runtime.commands.program import main, make_parser

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "export/nano/README.md", ROOT / "tests/data/golden/README.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Flags of pip that pages name.
PIP_FLAGS = {"--find-links", "--no-cache-dir", "--no-index", "--wheel-dir"}
LINK = re.compile(r"\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def commands(page: Path, program: str) -> list[list[str]]:
    """Return the arguments of each line of the page's sh blocks that calls `program`."""
    whole = (block.replace("\\\n", " ") for block in blocks(page, "sh"))
    lines = [line for block in whole for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words and words[0] == program]


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
    for child in subparsers(parser).values():
        yield from option_strings(child)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples need, made by the documentation's own export commands."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "export/nano/checkpoint/adapters", folder / "peft")
    first = next(words for words in commands(README, "trine") if words[0] == "export")
    quoted = re.findall(r"`trine (export nano [^`]+)`", (ROOT / "docs/api.md").read_text("utf-8"))
    assert first == quoted[0].split()
    for arguments in quoted:
        assert main([str(folder / w) if ".bundle" in w else w for w in arguments.split()]) == 0
    return folder


@pytest.mark.parametrize("page", [README, ROOT / "docs/api.md"], ids=lambda page: page.name)
def test_python_examples_print_what_the_page_shows(page: Path, workplace: Path) -> None:
    program = "\n".join(blocks(page, "python"))
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=workplace,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "".join(blocks(page, "text"))


def make_inputs(folder: Path) -> None:
    """Write the files that the commands of docs/bulk.md read."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet
    from PIL import Image

    for name in ("corpus", "data", "beir"):
        (folder / name).mkdir(parents=True)
    (folder / "corpus/notes.txt").write_text("one\ntwo\nthree\n")
    columns = {"key": [1], "body": ["a text"], "year": [1999], "url": ["u"]}
    parquet.write_table(arrow.table(columns), folder / "data/2024-01.parquet")
    (folder / "more.jsonl").write_text('{"key": 2, "body": "b", "year": 2000, "url": "v"}\n')
    (folder / "beir/corpus.jsonl").write_text('{"_id": "a", "title": "T", "text": "x"}\n')
    pixels = BytesIO()
    Image.new("RGB", (56, 56), "red").save(pixels, "PNG")
    photos = arrow.table({"image": [{"bytes": pixels.getvalue(), "path": None}]})
    parquet.write_table(photos, folder / "photos.parquet")


def test_the_commands_of_the_bulk_page_run(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="needs the `parquet` extra")
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("nano.bundle").symlink_to(workplace / "nano.bundle")
    page = ROOT / "docs/bulk.md"
    shown = commands(page, "trine")
    searches = [arguments for arguments in shown if arguments[0] == "search"]
    assert (len(shown), len(searches)) == (8, 2)
    for arguments in reversed(
        [arguments for arguments in shown if arguments not in searches]
    ):  # the page's Python reads what its first command writes
        shutil.rmtree("vectors", ignore_errors=True)
        assert main(arguments) == 0
        assert Path("vectors/_SUCCESS").exists()
    for arguments in searches:
        assert main(arguments) == 0
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks(page, "python"))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "".join(blocks(page, "text"))


@pytest.mark.parametrize(
    "arguments",
    [words for page in PAGES for words in commands(page, "trine") if "…" not in " ".join(words)],
    ids=" ".join,
)
def test_each_command_on_a_page_is_one_the_program_takes(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    assert parsed.verb == arguments[0]
    assert callable(parsed.run)


def test_every_verb_and_adapter_action_is_shown_on_a_page() -> None:
    verbs = subparsers(make_parser())
    shown = [words for page in PAGES for words in commands(page, "trine")]
    deployment = commands(ROOT / "docs/deploy/README.md", "trine")
    assert {words[0] for words in shown + deployment} == set(verbs)
    actions = {words[1] for words in shown if words[0] == "adapters"}
    assert actions == set(subparsers(verbs["adapters"]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_named_exists_in_full(page: Path) -> None:
    known = set(option_strings(make_parser())) | PIP_FLAGS
    assert set(FLAG.findall(page.read_text("utf-8"))) <= known


def test_the_two_make_targets_come_first_and_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    shown = [line.split()[:2] for line in blocks(README, "sh")[0].splitlines()]
    assert shown == [["make", "demo"], ["make", "test"]]
    assert {"demo", "test"} <= targets


def test_extras_in_the_readme_are_those_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    shown = [
        extra
        for words in commands(README, "pip")
        for group in re.findall(r"\[(.*)\]", words[-1])
        for extra in group.split(",")
    ]
    assert shown
    for extra in shown:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_files_the_architecture_page_names_are_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = set(re.findall(r"`((?:export|runtime|kernels)/[\w./]+)`", page))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_rooms_the_architecture_page_names_are_those_there_are() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    for package in ("export", "runtime"):
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        unnamed = {room for room in rooms - {"_root"} if room not in page}
        assert unnamed <= {"commands", "sample", "calibration", "demo", "verify", "trt"} | {
            "triton_repository"
        }


def test_pages_stay_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150
    assert len((ROOT / "docs/architecture.md").read_text("utf-8").splitlines()) <= 60


def test_changelog_has_this_version_and_this_bundle_format() -> None:
    from trine.runtime.bundle.manifest import FORMAT_VERSION

    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    # The version of a copy without tags: the last release's.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    version = project["tool"]["setuptools_scm"]["fallback_version"]
    assert re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE)
    assert f"Bundle format: version {FORMAT_VERSION}." in text
