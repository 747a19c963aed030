"""Everything this project raises on purpose.

    TrineError
    ├── InputError         the caller's text, image or option cannot be used (also a ValueError)
    ├── CheckpointError    the checkpoint is incomplete, damaged or of an unsupported kind
    ├── BundleError        the bundle is incomplete, damaged, too new or already there
    ├── EngineError        the engine asked for cannot run on this machine
    └── DependencyError    a package is missing; the message has its install line

A message says what was wrong, shows the value, and says how to fix it, in one sentence.
"""

__all__ = [
    "BundleError",
    "CheckpointError",
    "DependencyError",
    "EngineError",
    "InputError",
    "TrineError",
]


class TrineError(Exception):
    """Base of all errors raised on purpose."""


class InputError(TrineError, ValueError):
    """The caller's text, image or option cannot be used. A `ValueError`, as published."""


class CheckpointError(TrineError):
    """The checkpoint is incomplete, damaged or of an unsupported kind."""


class BundleError(TrineError):
    """The bundle is incomplete, damaged, written by a newer version, or in the way."""


class EngineError(TrineError):
    """The engine asked for cannot run on this machine."""


class DependencyError(TrineError, ImportError):
    """An optional package is missing. The message holds the install command."""


def missing_package(package: str, extra: str, purpose: str) -> DependencyError:
    """Return the error for an optional `package` that is not installed.

    Args:
        package: the import name that failed.
        extra: the extra of this project that brings it.
        purpose: what it is needed for, to follow "is needed".
    """
    return DependencyError(
        f"the package {package!r} is needed {purpose} but is not installed: "
        f"pip install 'trine[{extra}]'"
    )
