"""Buffers are used again, and never by two at once."""

import tracemalloc

from trine.runtime.inference.buffer_pool import MAX_KEPT_BYTES, FloatBuffers


def test_a_buffer_is_lent_again() -> None:
    buffers = FloatBuffers()
    with buffers.borrow(100) as first:
        address = first.ctypes.data
        assert (first.shape, str(first.dtype)) == ((100,), "float32")
        assert address % 64 == 0
    with buffers.borrow(40) as second:
        assert second.ctypes.data == address
        assert second.shape == (40,)


def test_two_borrowers_have_different_memory() -> None:
    buffers = FloatBuffers()
    with buffers.borrow(10) as first, buffers.borrow(10) as second:
        first[:] = 1
        second[:] = 2
        assert first.max() == 1


def test_huge_buffers_are_not_kept() -> None:
    buffers = FloatBuffers()
    tracemalloc.start()
    try:
        with buffers.borrow(MAX_KEPT_BYTES // 4 + 1):
            assert tracemalloc.get_traced_memory()[0] > MAX_KEPT_BYTES
        assert tracemalloc.get_traced_memory()[0] < MAX_KEPT_BYTES // 100
    finally:
        tracemalloc.stop()


def test_a_buffer_comes_back_after_an_error() -> None:
    buffers = FloatBuffers()
    lent = buffers.borrow(10)
    address = lent.__enter__().ctypes.data
    assert not lent.__exit__(KeyError, KeyError(), None)
    with buffers.borrow(10) as second:
        assert second.ctypes.data == address
