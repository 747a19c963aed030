"""The probes that touch native libraries; each runs in a process of its own.

    python -m trine.runtime.hardware.probe cuda libcuda.so.1
    python -m trine.runtime.hardware.probe import tensorrt
    python -m trine.runtime.hardware.probe providers onnxruntime
    python -m trine.runtime.hardware.probe provider CUDAExecutionProvider

Each prints one line of JSON behind `RESULT_MARK`; `problem` in it says why there is no result.
"""

import ctypes
import importlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from trine.runtime.hardware.isolation import RESULT_MARK
from trine.runtime.libraries import import_onnxruntime, quiet_libraries

__all__ = ["TINY_GRAPH", "main", "probe_cuda", "probe_import"]

#: An ONNX graph, opset 17: y = x · x, float32 [2, 2]. A product, so that the libraries a provider
#: multiplies with must load as well. Written out because the runtime does not depend on `onnx`.
TINY_GRAPH = bytes.fromhex(
    "08083a430a110a01780a017812017922064d61744d756c120474696e795a130a0178120e0a0c08"
    "0112080a0208020a02080262130a0179120e0a0c080112080a0208020a02080242040a001011"
)
#: CUDA's numbers of the device attributes "compute capability major" and "… minor".
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
#: ONNX Runtime's log level for errors, which say why a provider's library did not load.
LOG_ERRORS = 3
#: The part of such a message that names the cause, as the dynamic loader words it.
LOADER_MESSAGE = re.compile(r"[^\s:]+\.(?:so|dll)[\w.]*: (?:cannot open|undefined)[^\n\\]*")


def main(arguments: list[str] | None = None) -> int:
    """Run the probe that (kind, name) name, print its result, and return 0."""
    kind, name = sys.argv[1:] if arguments is None else arguments
    kinds = {
        "cuda": _load_cuda,
        "import": probe_import,
        "providers": probe_providers,
        "provider": probe_provider,
    }
    result = kinds[kind](name)
    # On a line of its own: libraries print without ending theirs.
    sys.stdout.write(f"\n{RESULT_MARK}{json.dumps(result)}\n")
    sys.stdout.flush()
    return 0


def probe_import(name: str) -> dict[str, object]:
    """Return the version of an importable module."""
    quiet_libraries()
    try:
        module = importlib.import_module(name)
    except Exception as cause:  # a package of native code raises what it likes at import
        return {"problem": f"{type(cause).__name__}: {_first_line(str(cause))}"}
    return {"version": str(getattr(module, "__version__", "unknown"))}


def _load_cuda(name: str) -> dict[str, object]:
    try:
        library = ctypes.CDLL(name)
    except OSError as cause:
        return {"problem": f"no NVIDIA driver ({_first_line(str(cause))})"}
    return probe_cuda(library)


def probe_cuda(library: Any) -> dict[str, object]:
    """Return the driver's CUDA version and devices.

    Args:
        library: the driver's, as ctypes loads it.

    Returns:
        `cuda` [major, minor] and `gpus`, a list of objects with the fields of `Gpu`.
    """
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    cuda = [version.value // 1000, version.value % 1000 // 10]
    code = library.cuInit(0)
    if code:
        return {"problem": f"the driver is there, but cuInit failed: {_error_text(library, code)}"}
    count = ctypes.c_int()
    library.cuDeviceGetCount(ctypes.byref(count))
    return {"cuda": cuda, "gpus": [_device(library, index) for index in range(count.value)]}


def _device(library: Any, index: int) -> dict[str, object]:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    library.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
    library.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
    return {
        "index": index,
        "name": name.value.decode(errors="replace"),
        "sm": 10 * major.value + minor.value,
        "memory_bytes": memory.value,
    }


def _error_text(library: Any, code: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode(errors='replace')} (CUDA error {code})"


def probe_providers(name: str) -> dict[str, object]:
    """Return `version` and the `providers` that the module `name`, ONNX Runtime, was built with."""
    found = probe_import(name)
    if "problem" in found:
        return found
    quiet_libraries()
    module = importlib.import_module(name)
    return {**found, "providers": list(module.get_available_providers())}


def probe_provider(name: str) -> dict[str, object]:
    """Make and run a session on the provider `name` alone; a fall-back to the CPU is a problem.

    Returns:
        `version` of ONNX Runtime.
    """
    onnxruntime = import_onnxruntime()
    # Where NVIDIA's libraries came as packages, this finds them; it prints what it does not find.
    if name != "CPUExecutionProvider" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    values = np.array([[1, 2], [3, 4]], np.float32)
    errors = _NativeErrors()
    try:
        with errors:
            session = onnxruntime.InferenceSession(TINY_GRAPH, options, providers=[name])
            (result,) = session.run(None, {"x": values})
    except Exception as cause:  # onnxruntime has no common base for its own exceptions
        return {"problem": errors.missing_library() or _first_line(str(cause))}
    if name not in session.get_providers():
        found = ", ".join(session.get_providers())
        return {"problem": errors.missing_library() or f"ONNX Runtime fell back to {found}"}
    if not np.allclose(result, values @ values):
        return {"problem": f"a 2×2 product came out as {np.asarray(result).tolist()}"}
    return {"version": onnxruntime.__version__}


class _NativeErrors:
    """Keeps what native code writes to stderr, where alone the cause of a failed load is said."""

    def __init__(self) -> None:
        self._text = ""

    def __enter__(self) -> "_NativeErrors":
        self._stderr = os.dup(2)
        # In memory where there is such a file: no disk need be writable.
        anonymous = getattr(os, "memfd_create", None)
        self._file = tempfile.TemporaryFile() if anonymous is None else _opened(anonymous)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, *error: object) -> None:
        os.dup2(self._stderr, 2)
        os.close(self._stderr)
        self._file.seek(0)
        self._text = self._file.read().decode(errors="replace")
        self._file.close()

    def missing_library(self) -> str | None:
        """Return the dynamic loader's words on what it did not find, if it said any."""
        found = LOADER_MESSAGE.search(self._text)
        return None if found is None else found.group().strip()


def _opened(make: Callable[[str], int]) -> IO[bytes]:
    return os.fdopen(make("stderr"), "w+b")


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else "no message"


if __name__ == "__main__":
    sys.exit(main())
