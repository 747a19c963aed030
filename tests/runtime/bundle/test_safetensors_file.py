"""Safetensors files: read as the reference library reads them, refused whatever is wrong."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from safetensors.numpy import save, save_file

from trine.runtime.bundle.dtypes import check_finite, narrow, widen
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.errors import BundleError, CheckpointError

in_one_folder = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def written(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    "dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u2", "u1", "?"], ids=str
)
def test_files_of_the_reference_library_are_read(tmp_path: Path, dtype: str) -> None:
    source = np.random.default_rng(1)
    tensors = {
        "matrix": source.integers(0, 2, (3, 5)).astype(dtype),
        "scalar": np.array(1, dtype),
        "empty": np.empty((0, 4), dtype),
    }
    save_file(tensors, tmp_path / "t", {"format": "pt"})
    file = TensorFile(tmp_path / "t", BundleError)
    assert file.metadata == {"format": "pt"}
    assert set(file.tensors) == set(tensors)
    for name, want in tensors.items():
        found = file.stored(name)
        assert (found.dtype, found.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(file.float32(name), want.astype(np.float32))
        assert file.float32(name).dtype == np.float32


def test_float32_belongs_to_the_caller_and_stored_does_not(tmp_path: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "t")
    file = TensorFile(tmp_path / "t", BundleError)
    mine = file.float32("a")
    mine[:] = 5
    assert file.float32("a").tolist() == [1, 1, 1]
    assert not file.stored("a").flags.writeable


@given(arrays(np.float32, st.integers(0, 30), elements=finite))
@example(np.array([0.0, -0.0, 1e-45, -1e-45, 65504.0, 1.00390625, 1.01171875], np.float32))
def test_bfloat16_is_rounded_to_nearest_even(values: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore"):
        want = values.astype(ml_dtypes.bfloat16)
    bits = narrow(values, "BF16")
    np.testing.assert_array_equal(bits, want.view(np.uint16))
    np.testing.assert_array_equal(widen(bits, "BF16"), want.astype(np.float32))


@given(arrays(np.float32, st.integers(0, 30), elements=st.floats(-6e4, 6e4, width=32)))
def test_float16_is_rounded_to_nearest_even(values: NDArray[np.float32]) -> None:
    halves = narrow(values, "F16")
    assert halves.dtype == np.float16
    np.testing.assert_array_equal(widen(halves, "F16"), values.astype(np.float16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 11, 23])
def test_one_value_that_is_not_finite_is_found(value: float, place: int) -> None:
    array = np.ones((4, 6), np.float32)
    assert check_finite(array, "here", BundleError) is array
    array.flat[place] = value
    with pytest.raises(BundleError, match="here: 1 values are NaN or infinite; the file is damag"):
        check_finite(array, "here", BundleError)


def test_infinities_of_both_signs_are_counted() -> None:
    array = np.array([np.inf, -np.inf, np.nan, 1], np.float32)
    with pytest.raises(CheckpointError, match="3 values"):
        check_finite(array, "here", CheckpointError)
    assert check_finite(np.empty((0, 3), np.float32), "here", BundleError).size == 0


@pytest.mark.parametrize(
    ("entry", "fragment"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, None),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 12]}, "truncated"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "8 bytes do not hold F32 [3]"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-4, 4]}, "'t'"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}, "'t'"),
        ({"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, "'t'"),
        ({"dtype": "F32", "shape": [2.5], "data_offsets": [0, 8]}, "'t'"),
        ({"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}, "'t'"),
        ({"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}, "'t'"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]}, "'t'"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0]}, "no dtype, shape and offsets"),
        ({"dtype": "F32", "shape": [2]}, "no dtype, shape and offsets"),
        ({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}, "dtype 'F8_E4M3'; known are"),
        ({"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}, "'t'"),
        ({"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 8]}, "'t'"),
        ({"dtype": "F32", "shape": [10**30, 0], "data_offsets": [0, 0]}, "'t'"),
        ([1, 2], "no dtype, shape and offsets"),
        (None, "no dtype, shape and offsets"),
    ],
)
def test_entries_of_the_header_are_checked(
    tmp_path: Path, entry: object, fragment: str | None
) -> None:
    path = written(tmp_path / "t", {"t": entry}, b"\x00" * 8)
    if fragment is None:
        assert TensorFile(path, BundleError).float32("t").tolist() == [0, 0]
        return
    with pytest.raises(BundleError) as caught:
        TensorFile(path, BundleError)
    assert str(path) in str(caught.value)
    assert fragment in str(caught.value)


def read_all(path: Path) -> bool:
    """Read every tensor; return whether the file was refused."""
    try:
        file = TensorFile(path, CheckpointError)
    except CheckpointError:
        return True
    for name in file.tensors:
        file.float32(name)
    return False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(("F32", "U8", "x")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("dtype", "shape", "data_offsets", "__metadata__", "t")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(("F32", "F16", "BF16", "I64", "BOOL")) | JSON,
        "shape": st.lists(st.integers(-2, 5), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-9, 40), min_size=2, max_size=2) | JSON,
    },
)


@in_one_folder
@given(header=st.dictionaries(st.text(max_size=3), ENTRIES | JSON, max_size=3) | JSON)
def test_any_header_is_read_or_refused(tmp_path: Path, header: Any) -> None:
    read_all(written(tmp_path / "t", header, bytes(32)))


@in_one_folder
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(tmp_path: Path, place: int, value: int) -> None:
    tensors = {"a": np.ones((2, 3), np.float32), "b.weight": np.ones(4, np.float16)}
    content = bytearray(save(tensors, {"format": "pt"}))
    content[place % len(content)] = value
    (tmp_path / "t").write_bytes(content)
    read_all(tmp_path / "t")


def test_any_truncation_is_refused(tmp_path: Path) -> None:
    content = save({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)})
    for end in range(len(content)):
        (tmp_path / "t").write_bytes(content[:end])
        assert read_all(tmp_path / "t")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot be read \(No such file"):
        TensorFile(tmp_path / "t", BundleError)
    with pytest.raises(BundleError, match=r"cannot be read \(Is a directory"):
        TensorFile(tmp_path, BundleError)
