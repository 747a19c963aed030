"""Locks that the system drops with their process: of fcntl, or of msvcrt on Windows."""

import errno
import os
import sys

__all__ = ["LOCKS_SHOW_LIFE", "lock_file"]

#: What file systems answer that know no locks.
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
#: Whether a file may be written, renamed and removed while it is locked, so that its lock can tell
#: that its writer lives. Windows allows none of them.
LOCKS_SHOW_LIFE = sys.platform != "win32"


def lock_file(file: int, known: bool = True) -> bool:
    """Lock an open file; return whether that succeeded, or `known` where there are no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 0, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as cause:
        if cause.errno in NO_LOCKS:
            return known
        raise
    return True
