"""A backend's process: loads it, runs its case when told to, answers on stdout.

python benchmarks/backends/worker.py     (started by the driver; see competitors/messages.py)
"""

import contextlib
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from cases.case import Case
from cases.inputs import image_pixels, page_pixels, token_ids
from cases.loops import closed_loop, open_loop
from numpy.typing import NDArray

from backends.contract import Backend, Call, Inputs, UnsupportedCase
from backends.messages import Absent, Loaded, Measured, Order, decode_order, encode
from backends.registry import COMPETITORS, load_backend

#: Threads that send requests in the closed loop.
CLIENTS = 4
#: Part of the closed loop's rate at which requests arrive in the open loop.
OPEN_SHARE = 0.7
#: A page is drawn where the case is of pages, a photograph otherwise.
PAGE_CASE = "page"
#: Where Linux shows the energy counters of Intel's and AMD's processors.
RAPL = Path("/sys/class/powercap")


def main() -> None:
    """Serve one order, from stdin to stdout. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    order = decode_order(sys.stdin.readline())
    case = order.resolved_case()
    found = _load(order, case, answers)
    if found is None:
        return
    call = _Remembering(found)
    for _ in range(case.warm_ups):
        call()
    _reset_peak()
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "vectors":
            vectors = call() if call.last is None else call.last
            if vectors is not None:
                np.save(argument, vectors)
            print(argument, file=answers)
        else:
            print(encode(measure(call, case)), file=answers)


class _Remembering:
    """A call that keeps its last vectors: long cases need not be run once more for them."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.last: NDArray[np.float32] | None = None

    def __call__(self) -> NDArray[np.float32] | None:
        self.last = self._call()
        return self.last


def measure(call: Call, case: Case) -> Measured:
    """Run one round of a case."""
    joules, cpu = package_joules(), time.process_time()
    if case.kind == "load":
        wall, seconds = _loaded_round(call, case)
    else:
        seconds = []
        for _ in range(case.calls):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
            if sum(seconds) > case.round_s:
                break
        wall = sum(seconds)
    cpu_s, ended = time.process_time() - cpu, package_joules()
    return Measured(
        seconds=seconds,
        wall_s=wall,
        cpu_s=cpu_s,
        peak_bytes=_peak_bytes(),
        joules=None if joules is None or ended is None else ended - joules,
    )


def package_joules() -> float | None:
    """Return the joules that the processors' own counters have counted; None if unreadable.

    They cover the whole machine, so they mean something on a quiet one. Virtual machines have none.
    """
    try:
        counters = [path.read_text() for path in RAPL.glob("intel-rapl:[0-9]/energy_uj")]
    except OSError:
        return None
    return sum(map(int, counters)) * 1e-6 if counters else None


def _loaded_round(call: Callable[[], object], case: Case) -> tuple[float, list[float]]:
    count = len(case.lengths)
    if case.name == "closed-loop":
        return closed_loop(call, CLIENTS, count)
    wall, _ = closed_loop(call, CLIENTS, count // 4)
    return open_loop(call, OPEN_SHARE * (count // 4) / wall, count)


def _load(order: Order, case: Case, answers: TextIO) -> Call | None:
    """Answer `Loaded` or `Absent`; return the call, or None."""
    started = time.perf_counter()
    try:
        backend = load_backend(order.backend, order.setup, case)
        elapsed = time.perf_counter() - started
        call = backend.ready(_inputs(order, case))
    except ModuleNotFoundError as cause:
        print(encode(Absent(reason="missing", message=missing_text(cause))), file=answers)
    except UnsupportedCase as cause:
        print(encode(Absent(reason="unsupported", message=str(cause))), file=answers)
    except (
        Exception
    ) as cause:  # whatever a competitor raises is its result; the trace is in its log
        traceback.print_exc()
        message = f"{type(cause).__name__}: {cause}".splitlines()[0][:300]
        print(encode(Absent(reason="failed", message=message)), file=answers)
    else:
        print(encode(_loaded(order, backend, elapsed)), file=answers)
        return call
    return None


def missing_text(cause: ModuleNotFoundError) -> str:
    """Return which package is not installed, as far as the error says."""
    return f"{cause.name} is not installed" if cause.name else str(cause).splitlines()[0][:300]


def _loaded(order: Order, backend: Backend, load_s: float) -> Loaded:
    competitor = COMPETITORS.get(order.backend)
    packages = ("numpy", *(competitor.packages if competitor else ("trine", "onnxruntime")))
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return Loaded(
        load_s=load_s,
        load_peak_bytes=_peak_bytes(),
        file_bytes=backend.file_bytes,
        versions=versions,
    )


def _inputs(order: Order, case: Case) -> Inputs:
    draw = page_pixels if case.name == PAGE_CASE else image_pixels
    lengths = () if case.kind in ("preprocessing", "maxsim") else case.lengths
    return Inputs(
        case=case,
        texts=token_ids(lengths, order.setup.num_ids, order.setup.excluded),
        images=[draw(*size, seed) for seed, size in enumerate(case.images)],
    )


def _reset_peak() -> None:
    """Start counting peak memory anew, so that loading is not counted; Linux only."""
    with contextlib.suppress(OSError):  # then the peak includes loading
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    """Return the most resident memory, mapped files included, since it was last reset."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
