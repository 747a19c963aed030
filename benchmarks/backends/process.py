"""The driver's side of a backend's process."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from backends.contract import Setup
from backends.messages import Absent, Loaded, Measured, Order, encode

__all__ = ["BackendProcess", "worker_environment"]

WORKER = Path(__file__).parent / "worker.py"
#: This checkout as the package `trine`, for interpreters in which it is not installed.
NAMESPACE = Path(__file__).resolve().parents[2] / "build/ns"
#: How long a process may take for one answer, loading or a round of a long case.
ANSWER_S = 900
#: How long a process may take to end by itself once its input is closed.
END_S = 20


def worker_environment(setup: Setup) -> dict[str, str]:
    """Return the environment variables of a process that belongs to a run."""
    return os.environ | {
        "OMP_NUM_THREADS": str(setup.threads),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(NAMESPACE), os.getenv("PYTHONPATH")])),
        # What torch.compile has compiled once it need not compile again.
        "TORCHINDUCTOR_CACHE_DIR": str(setup.work / "inductor"),
        "HF_HUB_OFFLINE": "1",
        # Nothing that is measured talks to the network meanwhile.
        "ORT_DISABLE_TELEMETRY": "1",
    }


class BackendProcess:
    """One backend on one case, in a process of its own.

    While it is not asked for anything it is stopped, so that its idle threads cannot spin on the
    cores that another backend is being measured on.

    Args:
        order: backend and case.
        python: the interpreter of its environment.
        log: where what it prints goes.
    """

    def __init__(self, order: Order, python: Path, log: Path) -> None:
        self.started = time.perf_counter()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [python, WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                env=worker_environment(order.setup),
            )
        self._log = log
        self._send(encode(order))
        answer = self._receive()
        self.opened: Loaded | Absent
        if answer is None:
            self.opened = self._died()
        elif "reason" in answer:
            self.opened = Absent(**answer)
        else:
            self.opened = Loaded(**answer)

    def __enter__(self) -> "BackendProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def measure(self) -> Measured | Absent:
        """Run one round."""
        self._send("run")
        answer = self._receive()
        return self._died() if answer is None else Measured(**answer)

    def save_vectors(self, path: Path) -> bool:
        """Have the case's vectors written to a .npy file; return whether it has any."""
        self._send(f"vectors {path}")
        self._receive_line()
        return path.exists()

    def pause(self) -> None:
        """Stop the process until it is resumed."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """End the process, by force if it does not by itself."""
        self.resume()
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it has ended
                self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer that does not come says so
            self._process.stdin.write(line + "\n")

    def _receive_line(self) -> str:
        assert self._process.stdout is not None
        timer = threading.Timer(ANSWER_S, self._process.kill)
        timer.start()
        try:
            return self._process.stdout.readline()
        finally:
            timer.cancel()

    def _receive(self) -> dict[str, Any] | None:
        line = self._receive_line()
        return json.loads(line) if line else None

    def _died(self) -> Absent:
        code = self._process.wait()
        cause = (
            f"killed, for want of memory or after {ANSWER_S} s"
            if code == -signal.SIGKILL
            else f"exit {code}"
        )
        return Absent(reason="failed", message=f"its process ended ({cause}); see {self._log}")
