"""Imports libraries below Trine with their telemetry off: nothing leaves the machine unasked.

ONNX Runtime from 1.29 on resolves its vendor's host when it is imported, and writes a device id and
a database below the home folder. Whoever wants that sets the library's own variable.
"""

import importlib
import os
from types import ModuleType

from trine.runtime.errors import missing_package

__all__ = ["import_onnxruntime", "quiet_libraries"]

#: Switched off unless the user set the variable: ONNX Runtime's and the Hub client's telemetry.
VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


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
    quiet_libraries()
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as cause:
        raise missing_package("onnxruntime", extra, purpose) from cause
