"""Imports libraries below Trine with their telemetry off: nothing leaves the machine unasked.

ONNX Runtime from 1.29 on resolves its vendor's host when it is imported, and writes a device id and
a database below the home folder. Whoever wants that sets the library's own variable.
"""

import importlib
import os
from types import ModuleType

from trine.runtime.errors import missing_package

__all__ = ["import_hub_client", "import_onnxruntime", "one_line", "quiet_libraries"]

#: Switched off unless the user set the variable: ONNX Runtime's and the Hub client's telemetry.
VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
#: Characters of another library's message that are passed on.
LONGEST_MESSAGE = 300


def quiet_libraries() -> None:
    """Switch telemetry off for libraries that this process, or its children, import from now on."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def import_onnxruntime(extra: str = "cpu", purpose: str = "to run a bundle") -> ModuleType:
    """Return the module `onnxruntime`.

    Args:
        extra: of this project that brings it.
        purpose: what it is needed for, to follow "is needed".

    Raises:
        DependencyError: it is not installed.
    """
    return _import_quietly("onnxruntime", extra, purpose)


def import_hub_client(extra: str, purpose: str) -> ModuleType:
    """Return the module `huggingface_hub`; arguments and errors as of `import_onnxruntime`."""
    return _import_quietly("huggingface_hub", extra, purpose)


def one_line(error: BaseException) -> str:
    """Return what an error of another library says, or its name, in one line of bounded length."""
    return " ".join((str(error) or type(error).__name__).split())[:LONGEST_MESSAGE]


def _import_quietly(name: str, extra: str, purpose: str) -> ModuleType:
    quiet_libraries()
    try:
        return importlib.import_module(name)
    except ImportError as cause:
        raise missing_package(name, extra, purpose) from cause
