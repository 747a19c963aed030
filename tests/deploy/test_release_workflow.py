"""The workflow that publishes releases: what it may do, and that what it names is there."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github/workflows/release.yml"
TEXT = WORKFLOW.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workflow() -> Any:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, of the `dev` extra")
    return yaml.safe_load(TEXT)


def steps(workflow: Any) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def test_actions_are_pinned_to_commits(workflow: Any) -> None:
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert len(used) > 5
    assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)] == []
    # Who reads a commit's number reads its version beside it.
    assert len(re.findall(r"uses: \S+ # v\d+\.\d+\.\d+$", TEXT, re.MULTILINE)) == len(used)


def test_a_job_has_no_right_that_it_does_not_need(workflow: Any) -> None:
    assert workflow["permissions"] == {}
    rights = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    assert rights == {
        "build": {"contents": "read"},
        "test": {"contents": "read"},
        "publish": {"id-token": "write", "attestations": "write"},
        "images": {"contents": "read", "packages": "write"},
    }
    assert "password:" not in TEXT
    checkouts = [step for step in steps(workflow) if "checkout" in step.get("uses", "")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_only_a_tag_publishes_and_only_what_was_tested(workflow: Any) -> None:
    # YAML reads the key `on` as true.
    assert workflow[True]["push"] == {"tags": ["v*"]}
    publish, images = workflow["jobs"]["publish"], workflow["jobs"]["images"]
    assert publish["if"] == "github.event_name == 'push'"
    assert set(publish["needs"]) == set(images["needs"]) == {"build", "test"}
    assert images["env"]["PUBLISH"] == "${{ github.event_name == 'push' }}"


def test_scripts_are_shell_and_take_values_by_the_environment_only(workflow: Any) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    scripts = [step["run"] for step in steps(workflow) if "run" in step]
    assert len(scripts) > 5
    for script in scripts:
        assert "${{" not in script
        words = [bash, "-n", "-c", script]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_the_workflow_names_is_there(workflow: Any) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"\bmake ([\w-]+)", TEXT)
    assert "test-wheels" in targets
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
    tests = re.findall(r"\btests/[\w/.]+\.py", TEXT)
    assert [path for path in tests if not (ROOT / path).is_file()] == []
    # From the installed wheel the same tests are run as by `make test-wheels`.
    (named,) = re.findall(r"^WHEEL_TESTS := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert set(tests) == set(re.findall(r"tests/\S+\.py", named))
    images = {row["name"] for row in workflow["jobs"]["images"]["strategy"]["matrix"]["include"]}
    assert images == {path.suffix[1:] for path in ROOT.glob("docs/deploy/Dockerfile.???")}


def test_actionlint_finds_nothing() -> None:
    program = shutil.which("actionlint")
    if program is None:
        pytest.skip("actionlint is not installed (https://github.com/rhysd/actionlint)")
    done = subprocess.run([program, str(WORKFLOW)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
