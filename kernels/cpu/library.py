"""Finds and loads the compiled kernels."""

import ctypes
import importlib.util
from functools import cache

__all__ = [
    "ABI_VERSION",
    "NativeLibraryError",
    "has_amx",
    "has_bfloat16",
    "is_compiled",
    "load_library",
    "native_library",
    "why_unavailable",
]

#: Of the structures and layouts in `structures` and `native/`; raised with every change of them.
ABI_VERSION = 4
EXTENSION = "trine.kernels.cpu._native"


class NativeLibraryError(RuntimeError):
    """The kernels cannot be used here; the message says why and what helps."""


def is_compiled() -> bool:
    """Return whether the kernels were compiled when trine was installed."""
    spec = importlib.util.find_spec(EXTENSION)
    return spec is not None and spec.origin is not None


def why_unavailable() -> str | None:
    """Return in one sentence why the kernels cannot be used here; None if they can."""
    try:
        load_library()
    except NativeLibraryError as cause:
        return str(cause)
    return None


def has_amx() -> bool:
    """Return whether the processor has tiles for 8-bit products, which these kernels do not use.

    Raises:
        NativeLibraryError: the kernels cannot be used here.
    """
    return bool(load_library().trine_has_amx_int8())


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 (avx512_bf16).

    Raises:
        NativeLibraryError: the kernels cannot be used here.
    """
    return bool(load_library().trine_has_avx512_bf16())


def load_library() -> ctypes.CDLL:
    """Return the library; calls of it release the interpreter's lock.

    Raises:
        NativeLibraryError: it was not compiled, is of another version, or the processor lacks
            AVX-512 with VNNI.
    """
    spec = importlib.util.find_spec(EXTENSION)
    if spec is None or spec.origin is None:
        raise NativeLibraryError(
            "the native kernels were not compiled when trine was installed; install it again, with "
            "--no-cache-dir, on a machine with a C++ compiler (Debian: apt-get install g++)"
        )
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as cause:
        raise NativeLibraryError(
            f"the native kernels cannot be loaded ({cause}); install trine again on this machine"
        ) from cause
    version = library.trine_abi_version()
    if version != ABI_VERSION:
        raise NativeLibraryError(
            f"{spec.origin}: has version {version} of the native kernels, this code needs "
            f"{ABI_VERSION}; install trine again"
        )
    if not library.trine_has_avx512_vnni():
        raise NativeLibraryError(
            "this processor has no AVX-512 with VNNI (avx512f, avx512bw, avx512dq, avx512vl, "
            "avx512vnni); engines run in ONNX Runtime here"
        )
    return library


@cache
def native_library() -> ctypes.CDLL | None:
    """Return the library, or None where it cannot be used, for kernels that numpy can stand in for.

    The answer cannot change while the process lives, so it is looked for once.
    """
    try:
        return load_library()
    except NativeLibraryError:
        return None
