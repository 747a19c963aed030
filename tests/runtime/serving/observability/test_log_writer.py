"""Log lines that wait for a reader, and those that nobody reads."""

import json
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from trine.runtime.serving.observability.log_writer import LogWriter, bounded_stderr


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def read_lines(descriptor: int) -> list[bytes]:
    """Return what is in the pipe now."""
    os.set_blocking(descriptor, False)
    found = b""
    try:
        while piece := os.read(descriptor, 65536):
            found += piece
    except BlockingIOError:
        pass
    finally:
        os.set_blocking(descriptor, True)
    return found.splitlines()


def test_lines_come_whole_and_in_order(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1])
    for number in range(100):
        writer.write(f"line {number} ")
        writer.write("ends\n")
    writer.write("the last has no line break")
    writer.finish()
    lines = read_lines(pipe[0])
    assert lines[:100] == [b"line %d ends" % number for number in range(100)]
    assert lines[100:] == [b"the last has no line break"]


def test_a_pipe_that_nobody_reads_holds_up_no_write_and_no_end(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], max_bytes=10_000)
    counted: list[int] = []
    writer.write("x" * 99 + "\n")
    writer.report_drops(counted.append)
    done = threading.Event()

    def write_much() -> None:
        for _ in range(5_000):
            writer.write("x" * 99 + "\n")
        writer.finish(0.1)
        done.set()

    threading.Thread(target=write_much, daemon=True).start()
    assert done.wait(10)
    assert writer.dropped == sum(counted)
    # The pipe holds 64 KiB, the writer one piece and what may wait.
    assert 4_000 < writer.dropped < 5_000


def test_what_was_dropped_is_said_once_the_pipe_is_read_again(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], max_bytes=1_000)
    for _ in range(5_000):
        writer.write("x" * 99 + "\n")
    lines: list[bytes] = []
    while not any(line.startswith(b"{") for line in lines):
        lines += read_lines(pipe[0])
    writer.finish()
    lines += read_lines(pipe[0])
    told = [json.loads(line) for line in lines if line.startswith(b"{")]
    assert {(line["level"], line["process"]) for line in told} == {("warning", os.getpid())}
    assert sum(line["dropped"] for line in told) == writer.dropped > 0
    assert len(lines) - len(told) + writer.dropped == 5_000


def test_a_reader_that_left_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(writing)
    writer.write("one\n")
    writer.write("two\n")
    writer.finish()
    os.close(writing)


def test_prints_and_tracebacks_go_the_same_way(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with os.fdopen(os.dup(pipe[1]), "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with bounded_stderr():
            print("a print", file=sys.stderr)
            sys.__excepthook__(ValueError, ValueError("a traceback"), None)
        assert sys.stderr is stream
    text = b"\n".join(read_lines(pipe[0]))
    assert b"a print" in text
    assert b"ValueError: a traceback" in text
