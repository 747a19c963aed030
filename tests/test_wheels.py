"""Built wheels: one a platform, whole, and their kernels right on processors of both kinds.

`make test-wheels` builds them and names their folder, then runs other tests from an installed one.
"""

import ctypes
import os
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.kernels.cpu.compiled import ROOT, setup_module

NATIVE_TESTS = ROOT / "tests/kernels/cpu/native"
MEMBER = "trine/kernels/cpu/_native.so"
#: By machine: its number in an ELF header, then a compiler for it and what runs its programs.
MACHINES = {
    "x86_64": (62, "g++", []),
    "aarch64": (
        183,
        "aarch64-linux-gnu-g++",
        ["qemu-aarch64-static", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"],
    ),
}


@pytest.fixture(scope="module")
def wheels() -> dict[str, Path]:
    """The wheels by machine."""
    folder = os.environ.get("TRINE_WHEELS")
    if not folder:
        pytest.skip("TRINE_WHEELS names no folder of built wheels; run make test-wheels")
    found = {path.stem.split("_", 3)[3]: path for path in Path(folder).glob("*manylinux*.whl")}
    assert set(found) == set(MACHINES)
    return found


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def library(wheels: dict[str, Path], machine: str, tmp_path: Path) -> Path:
    with zipfile.ZipFile(wheels[machine]) as wheel:
        return Path(wheel.extract(MEMBER, tmp_path))


def test_a_wheel_is_for_one_platform_and_every_python(wheels: dict[str, Path]) -> None:
    versions = set()
    for machine, path in wheels.items():
        name, version, python, abi, tag = path.stem.split("-")
        assert (name, python, abi) == ("trine", "py3", "none")
        assert re.fullmatch(rf"manylinux_2_\d+_{machine}", tag)
        versions.add(version)
        with zipfile.ZipFile(path) as wheel:
            libraries = [one for one in wheel.namelist() if re.search(r"\.so(\.|$)", one)]
            assert not [one for one in wheel.namelist() if one.endswith((".cpp", ".h", ".pyc"))]
        assert libraries == [MEMBER]
    assert len(versions) == 1


def test_the_library_is_of_its_machine_and_knows_nothing_of_python(
    library: Path, machine: str
) -> None:
    content = library.read_bytes()
    assert content[:4] == b"\x7fELF"
    assert int.from_bytes(content[18:20], "little") == MACHINES[machine][0]
    assert re.search(rb"\0_?Py[A-Z_]", content) is None
    assert b"libstdc++" not in content


def test_all_instruction_sets_are_inside_and_compute_as_plain_loops(
    library: Path, machine: str, tmp_path: Path
) -> None:
    _, compiler, emulator = MACHINES[machine]
    emulated = [] if platform.machine() == machine else emulator
    if platform.machine() != machine and not emulated:
        pytest.skip(f"no emulator of {machine} is known here")
    for program in (compiler, *emulated[:1]):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    sources = [NATIVE_TESTS / "all_kernels.cpp", NATIVE_TESTS / "library_levels.cpp"]
    words = [compiler, "-std=c++17", "-O1", *map(str, sources), "-ldl", "-o", str(tmp_path / "all")]
    subprocess.run(words, check=True, timeout=120)
    done = subprocess.run(
        [*emulated, str(tmp_path / "all")],
        env={**os.environ, "TRINE_LIBRARY": str(library)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(answers) == list(setup_module().folders_of(f"linux-{machine}"))
    assert answers["portable"] == "ok"
    assert [said for said in answers.values() if "compiler" in said] == []


def test_the_wheel_of_this_machine_is_loaded(library: Path, machine: str) -> None:
    if platform.machine() != machine:
        pytest.skip(f"this machine is no {machine}")
    functions = ctypes.CDLL(str(library))
    assert functions.trine_abi_version() > 0
