"""The documentation does what it says: examples run, commands parse, links and files exist."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trine.runtime.commands import program as cli

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "export/nano/README.md", ROOT / "tests/data/golden/README.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
PATH_CELL = re.compile(r"`([\w./-]+/[\w./-]*)`")


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def commands(page: Path, program: str) -> list[list[str]]:
    """Return the arguments of each line of the page's sh blocks that calls `program`."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words and words[0] == program]


def section(page: Path, title: str) -> str:
    return page.read_text("utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


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
        assert cli.main([str(folder / w) if ".bundle" in w else w for w in arguments.split()]) == 0
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


@pytest.mark.parametrize("arguments", commands(README, "trine"), ids=" ".join)
def test_each_command_in_the_readme_is_one_the_program_takes(arguments: list[str]) -> None:
    parsed = cli._parser().parse_args(arguments)
    assert parsed.verb == arguments[0]
    assert callable(parsed.run)


def test_every_verb_and_adapter_action_is_in_the_readme() -> None:
    verbs = subparsers(cli._parser())
    shown = commands(README, "trine")
    assert {words[0] for words in shown} == set(verbs)
    actions = {words[1] for words in shown if words[0] == "adapters"}
    assert actions == set(subparsers(verbs["adapters"]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_named_exists_in_full(page: Path) -> None:
    known = set(option_strings(cli._parser()))
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


def test_file_map_names_what_is_there_in_under_ten_words() -> None:
    rows = [line.split("|")[1:3] for line in section(README, "Files").splitlines()[3:] if line]
    assert len(rows) > 10
    for paths, purpose in rows:
        named = PATH_CELL.findall(paths)
        assert named
        assert [path for path in named if not (ROOT / path).exists()] == []
        assert len(purpose.split()) < 10
    named = {path.split("/")[0] for paths, _ in rows for path in PATH_CELL.findall(paths)}
    assert named == {"export", "runtime", "kernels", "benchmarks", "tests", "docs"}


@pytest.mark.parametrize("package", ["runtime", "export", "kernels"])
def test_architecture_page_names_every_module_of(package: str) -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    files = (ROOT / package).rglob("*.py")
    names = {
        file.relative_to(ROOT / package).with_suffix("").as_posix()
        for file in files
        if file.name != "__init__.py"
    }
    assert names
    # A folder of its own may be named as a whole.
    folders = {n: ["/".join(n.split("/")[:i]) for i in range(1, n.count("/") + 1)] for n in names}
    unnamed = {
        n
        for n in names
        if f"`{n}`" not in text and not any(f"`{folder}/`" in text for folder in folders[n])
    }
    assert sorted(unnamed) == []


def test_pages_stay_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 300
    assert len((ROOT / "docs/architecture.md").read_text("utf-8").splitlines()) <= 80


def test_changelog_has_this_version_and_this_bundle_format() -> None:
    from trine.runtime.bundle.manifest import FORMAT_VERSION

    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert re.search(rf"^## \[{re.escape(version[1])}\] - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE)
    assert f"Bundle format: version {FORMAT_VERSION}." in text
