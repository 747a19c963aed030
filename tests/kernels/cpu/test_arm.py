"""The kernels of ARM, compiled across and run by an emulator: right numbers, no speed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernels.cpu.compiled import ROOT, compile_objects, setup_module

PROGRAM = ROOT / "tests/kernels/cpu/native/all_kernels.cpp"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", ("qemu-aarch64-static", "qemu-aarch64")
#: Processors of the emulator, and what the program says there.
NO_DOTPROD = "neon_dotprod not here: this processor has no 8-bit dot products"
NO_I8MM = "neon_i8mm not here: this processor has no 8-bit matrix products (i8mm)"
PROCESSORS = {
    "cortex-a53": ["portable ok", "neon ok", NO_DOTPROD, NO_I8MM],
    "cortex-a76": ["portable ok", "neon ok", "neon_dotprod ok", NO_I8MM],
    "max": ["portable ok", "neon ok", "neon_dotprod ok", "neon_i8mm ok"],
}


def linked(compiler: str, folders: dict[str, list[str]], target: Path, *flags: str) -> Path:
    """Return the program that checks the kernels of some folders."""
    objects = compile_objects(compiler, folders, target, ["-O1"])
    program = target / "all_kernels"
    files = [PROGRAM, *(path for built in objects.values() for path in built)]
    words = [compiler, "-std=c++17", "-O1", "-pthread", *flags, *map(str, files)]
    subprocess.run([*words, "-o", str(program)], check=True, timeout=300)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"there is no {COMPILER} (Debian: apt-get install g++-aarch64-linux-gnu)")
    folders = setup_module().ARM_FOLDERS
    return linked(COMPILER, folders, tmp_path_factory.mktemp("arm"), "-static")


@pytest.fixture(scope="module")
def emulator() -> str:
    found = next((name for name in EMULATOR if shutil.which(name)), None)
    if found is None:
        pytest.skip(f"there is no {EMULATOR[0]} (Debian: apt-get install qemu-user-static)")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_kernel_of_arm_is_that_of_plain_loops(
    processor: str, emulator: str, program: Path
) -> None:
    done = subprocess.run(
        [emulator, "-cpu", processor, str(program)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.splitlines() == PROCESSORS[processor], done.stderr
    assert done.returncode == 0


@pytest.mark.slow
def test_the_program_finds_a_kernel_that_does_nothing(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    built = linked("g++", {"portable": []}, tmp_path)
    right = subprocess.run([built], capture_output=True, text=True, timeout=60, check=False)
    wrong = subprocess.run([built, "x"], capture_output=True, text=True, timeout=60, check=False)
    assert (right.returncode, right.stdout.splitlines()[0]) == (0, "portable ok")
    assert wrong.returncode == 1
    assert wrong.stdout.startswith("portable gelu: [0] is ")


@pytest.mark.parametrize(
    ("platform", "folders"),
    [
        ("linux-x86_64", ["portable", "avx2"]),
        ("win-amd64", ["portable", "avx2"]),
        ("linux-aarch64", ["portable", "neon", "neon_dotprod", "neon_i8mm"]),
        ("macosx-14.0-arm64", ["portable", "neon", "neon_dotprod", "neon_i8mm"]),
        ("linux-riscv64", ["portable"]),
    ],
)
def test_folders_are_those_of_the_machine_compiled_for(platform: str, folders: list[str]) -> None:
    found = list(setup_module().folders_of(platform))
    assert found[: len(folders)] == folders
    assert ("neon" in found) == ("neon" in folders)
