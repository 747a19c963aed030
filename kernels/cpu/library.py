"""Finds the compiled kernels and chooses those of the best instruction set that is here."""

import ctypes
import os
from ctypes import c_char_p, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trine.kernels.cpu.structures import STRUCTURES

__all__ = [
    "ABI_VERSION",
    "LEVEL_VARIABLE",
    "CpuLevel",
    "CpuLevelError",
    "NativeLibrary",
    "NativeLibraryError",
    "cpu_levels",
    "describe_kernels",
    "has_amx",
    "is_compiled",
    "load_library",
    "native_library",
    "why_unavailable",
]

#: Of the structures and layouts in `structures` and `native/`; raised with every change of them.
ABI_VERSION = 6
#: A plain shared library: it knows nothing of Python.
LIBRARY = Path(__file__).with_name("_native.so")
#: The environment variable that names the instruction set to use instead of the best.
LEVEL_VARIABLE = "TRINE_CPU"
#: Answers of kernels: `Status` of calls.h.
DONE, NO_MEMORY = 0, 1


class NativeLibraryError(RuntimeError):
    """The kernels cannot be used here; the message says why and what helps."""


class CpuLevelError(NativeLibraryError, ValueError):
    """The instruction set asked for is unknown, or the machine lacks it."""


@dataclass(frozen=True, slots=True)
class CpuLevel:
    """An instruction set that kernels were written for.

    Attributes:
        name: as `TRINE_CPU` takes it.
        problem: why it cannot be used here, a clause; None if it can.
    """

    name: str
    problem: str | None


class NativeLibrary:
    """The kernels of one instruction set. Calls release the interpreter's lock.

    Attributes:
        level: the instruction set's name.
        bfloat16: whether attention can multiply in bfloat16.
    """

    def __init__(self, functions: ctypes.CDLL, index: int) -> None:
        functions.trine_level_name.restype = c_char_p
        functions.trine_level_kernels.restype = c_void_p
        self.level: str = functions.trine_level_name(c_int32(index)).decode()
        self._functions = functions
        self._kernels = c_void_p(functions.trine_level_kernels(c_int32(index)))
        self.bfloat16 = bool(functions.trine_multiplies_bfloat16(self._kernels))

    def run(self, kernel: str, call: ctypes.Structure) -> None:
        """Run a kernel on its arguments.

        Raises:
            MemoryError: there was no memory for what it holds between.
            NativeLibraryError: the system refused it something else.
        """
        status = self._functions[f"trine_{kernel}"](self._kernels, ctypes.byref(call))
        if status == DONE:
            return
        if status == NO_MEMORY:
            raise MemoryError(
                f"the native kernel {kernel} got no memory for its work; give it fewer or shorter "
                "items at once, or end other processes"
            )
        raise NativeLibraryError(
            f"the native kernel {kernel} failed with status {status}; see the limits of this "
            "process, or take another engine of the bundle"
        )


def is_compiled() -> bool:
    """Return whether the kernels were compiled when trine was installed."""
    return LIBRARY.is_file()


def why_unavailable() -> str | None:
    """Return in one sentence why the kernels cannot be used here; None if they can.

    Raises:
        CpuLevelError: `TRINE_CPU` names an instruction set that is unknown or not here.
    """
    try:
        load_library()
    except CpuLevelError:
        raise
    except NativeLibraryError as cause:
        return str(cause)
    return None


def cpu_levels() -> tuple[CpuLevel, ...]:
    """Return the instruction sets, the best last.

    Raises:
        NativeLibraryError: the kernels were not compiled, or are of another version.
    """
    return _levels(_open())


def describe_kernels() -> str:
    """Return which kernels are taken, and why no better ones: "avx2 (this processor has no …)".

    Raises:
        NativeLibraryError: the kernels cannot be used here.
    """
    taken = load_library().level
    levels = cpu_levels()
    better = levels[[level.name for level in levels].index(taken) + 1 :]
    # What is possible and not taken was not wanted.
    reasons = [level.problem or f"{LEVEL_VARIABLE} is {taken}" for level in better]
    return f"{taken} ({'; '.join(dict.fromkeys(reasons))})" if reasons else taken


def has_amx() -> bool:
    """Return whether this process may use tiles for 8-bit products, which these kernels do not.

    Raises:
        NativeLibraryError: the kernels were not compiled, or are of another version.
    """
    return bool(_open().trine_has_amx_int8())


def load_library(level: str | None = None) -> NativeLibrary:
    """Return the kernels of one instruction set.

    Args:
        level: its name; None for the one that `TRINE_CPU` names, or else the best.

    Raises:
        NativeLibraryError: the kernels were not compiled, or are of another version.
        CpuLevelError: the instruction set asked for is unknown, or the machine lacks it.
    """
    functions = _open()
    levels = _levels(functions)
    here = [found.name for found in levels if found.problem is None]
    wanted = level or os.environ.get(LEVEL_VARIABLE) or here[-1]
    asked = "the instruction set asked for" if level else LEVEL_VARIABLE
    help_text = f"give one of {', '.join(here)}" + ("" if level else ", or leave it unset")
    problems = {found.name: found.problem for found in levels}
    if wanted not in problems:
        raise CpuLevelError(f"{asked} is {wanted!r}, which no kernels are for; {help_text}")
    if problems[wanted] is not None:
        raise CpuLevelError(f"{asked} is {wanted!r}, but {problems[wanted]}; {help_text}")
    return NativeLibrary(functions, list(problems).index(wanted))


@cache
def native_library() -> NativeLibrary | None:
    """Return the library, or None where it cannot be used, for kernels that numpy can stand in for.

    The answer cannot change while the process lives, so it is looked for once.

    Raises:
        CpuLevelError: `TRINE_CPU` names an instruction set that is unknown or not here.
    """
    try:
        return load_library()
    except CpuLevelError:
        raise
    except NativeLibraryError:
        return None


def _open() -> ctypes.CDLL:
    """Return the library's functions, its version and the sizes of its structures checked."""
    if not is_compiled():
        raise NativeLibraryError(
            "the native kernels were not compiled when trine was installed; install it again, with "
            "--no-cache-dir, on a machine with a C++ compiler (Debian: apt-get install g++)"
        )
    try:
        functions = ctypes.CDLL(str(LIBRARY))
    except OSError as cause:
        raise NativeLibraryError(
            f"the native kernels cannot be loaded ({cause}); install trine again on this machine"
        ) from cause
    version = functions.trine_abi_version()
    if version != ABI_VERSION:
        raise NativeLibraryError(
            f"{LIBRARY}: has version {version} of the native kernels, this code needs "
            f"{ABI_VERSION}; install trine again"
        )
    functions.trine_structure_sizes.restype = ctypes.POINTER(c_int64)
    sizes = functions.trine_structure_sizes()[: len(STRUCTURES) + 1]
    if sizes != [*(ctypes.sizeof(structure) for structure in STRUCTURES), 0]:
        raise NativeLibraryError(
            f"{LIBRARY}: its structures have {sizes} bytes, other than this code's; install "
            "trine again"
        )
    return functions


def _levels(functions: ctypes.CDLL) -> tuple[CpuLevel, ...]:
    functions.trine_level_name.restype = c_char_p
    functions.trine_level_problem.restype = c_char_p
    found = []
    for index in range(functions.trine_level_count()):
        problem = functions.trine_level_problem(c_int32(index))
        name = functions.trine_level_name(c_int32(index)).decode()
        found.append(CpuLevel(name, None if problem is None else problem.decode()))
    return tuple(found)
