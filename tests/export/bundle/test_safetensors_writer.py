"""The safetensors writer, read back by the `safetensors` package and by this project's reader."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trine.export.bundle.safetensors_writer import TensorEntry, entry_from_array, write_safetensors
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.errors import BundleError

safetensors = pytest.importorskip("safetensors")


def _mixed_entries() -> list[TensorEntry]:
    rng = np.random.default_rng(0)
    return [
        entry_from_array("odd", rng.integers(0, 9, 3).astype(np.uint8), "U8"),
        entry_from_array("bits", rng.integers(0, 9, (3, 5)).astype(np.uint16), "BF16"),
        entry_from_array("wide", rng.standard_normal((2, 3, 4)).astype(np.float32), "F32"),
        entry_from_array("half", rng.standard_normal(7).astype(np.float16), "F16"),
        entry_from_array("scalar", np.array(2.5, np.float32), "F32"),
        entry_from_array("empty", np.zeros((0, 4), np.float32), "F32"),
    ]


def test_the_reference_reader_finds_the_same_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    entries = _mixed_entries()
    write_safetensors(path, entries, {"format": "pt"})
    found = dict(safetensors.deserialize(path.read_bytes()))
    assert set(found) == {entry.name for entry in entries}
    for entry in entries:
        assert found[entry.name]["dtype"] == entry.dtype
        assert tuple(found[entry.name]["shape"]) == entry.shape
        assert bytes(found[entry.name]["data"]) == b"".join(bytes(c) for c in entry.chunks)


def test_the_projects_reader_finds_the_same_values_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    values = np.arange(24, dtype=np.float32).reshape(4, 6).T  # not C-contiguous
    write_safetensors(path, [entry_from_array("größe", values, "F32")], {"format": "pt"})
    file = TensorFile(path, BundleError)
    assert file.metadata == {"format": "pt"}
    np.testing.assert_array_equal(file.float32("größe"), values)


def test_every_tensor_begins_at_a_multiple_of_its_item_size(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    entries = _mixed_entries()
    write_safetensors(path, entries, {})
    infos = TensorFile(path, BundleError).tensors
    assert min(info.offset for info in infos.values()) % 8 == 0
    for entry in entries:
        assert infos[entry.name].offset % entry.item_bytes == 0


def test_the_order_of_the_entries_does_not_change_the_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", _mixed_entries(), {"format": "pt"})
    write_safetensors(tmp_path / "b", reversed(_mixed_entries()), {"format": "pt"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_metadata_the_header_has_none(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", _mixed_entries(), {})
    data = (tmp_path / "a").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert "__metadata__" not in header


def test_chunks_are_asked_for_one_tensor_after_the_other(tmp_path: Path) -> None:
    asked: list[str] = []

    def chunks(name: str) -> Iterator[bytes]:
        for _ in range(2):
            asked.append(name)
            yield b"\0\0"

    entries = [
        TensorEntry(name=name, dtype="U8", shape=(4,), chunks=chunks(name)) for name in ("b", "a")
    ]
    write_safetensors(tmp_path / "a", entries, {})
    assert asked == ["a", "a", "b", "b"]


def test_chunks_of_the_wrong_length_are_an_error_that_leaves_no_file(tmp_path: Path) -> None:
    entry = TensorEntry(name="short", dtype="F32", shape=(3,), chunks=[b"\0" * 8])
    with pytest.raises(ValueError, match=r"'short': its chunks hold 8 bytes.*needs 12"):
        write_safetensors(tmp_path / "a", [entry], {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"\0" * 4
        raise KeyboardInterrupt

    entry = TensorEntry(name="a", dtype="F32", shape=(3,), chunks=chunks())
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "a", [entry], {})
    assert list(tmp_path.iterdir()) == []


def test_a_name_given_twice_is_an_error(tmp_path: Path) -> None:
    entry = TensorEntry(name="a", dtype="U8", shape=(1,), chunks=[b"\0"])
    with pytest.raises(ValueError, match="'a' was given twice"):
        write_safetensors(tmp_path / "a", [entry, entry], {})


def test_an_unknown_dtype_is_an_error(tmp_path: Path) -> None:
    entry = TensorEntry(name="a", dtype="F8", shape=(1,), chunks=[b"\0"])
    with pytest.raises(ValueError, match=r"dtype 'F8'; known are"):
        write_safetensors(tmp_path / "a", [entry], {})


def test_an_array_of_another_dtype_is_an_error() -> None:
    with pytest.raises(ValueError, match="float64 cannot be written as F32"):
        entry_from_array("a", np.zeros(3), "F32")
