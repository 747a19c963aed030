"""Resident memory, and mapped files given back."""

import mmap
import sys
from pathlib import Path

import pytest

from trine.runtime.hardware.memory import release_mapped, resident_bytes

SIZE = 32 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_mapped_file_is_given_back_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        before = resident_bytes()
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        assert resident_bytes() - before > SIZE / 2
        release_mapped(path)
        assert resident_bytes() - before < SIZE / 4
        assert mapped[SIZE - 1] == 255


def test_a_file_that_is_not_mapped_is_let_be(tmp_path: Path) -> None:
    release_mapped(tmp_path / "nothing")
