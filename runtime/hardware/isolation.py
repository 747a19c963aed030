"""Runs one probe in a process of its own, so that a crash in native code is a finding, not an end.

The probe's result is the JSON behind a mark on a line of its standard output; libraries print there
too.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["RESULT_MARK", "Outcome", "run_isolated"]

#: Begins the line with the result.
RESULT_MARK = "trine-probe-result "
#: Loading CUDA's libraries from a slow disk takes long; a hang must end all the same.
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a probe: its result, or one sentence on why there is none."""

    result: Mapping[str, object] | None
    problem: str | None


def run_isolated(
    kind: str, name: str, module: str = "trine.runtime.hardware.probe", timeout_s: float = TIMEOUT_S
) -> Outcome:
    """Return the outcome of the probe `kind` of `name`.

    Args:
        kind: one of the names in `trine.runtime.hardware.probe`.
        name: what to probe.
        module: to run in place of that.
        timeout_s: after which the probe is ended.
    """
    command = [sys.executable, "-P", "-m", module, kind, name]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(None, f"no answer within {timeout_s:.0f} s")
    for line in done.stdout.splitlines():
        if line.startswith(RESULT_MARK):
            content = json.loads(line.removeprefix(RESULT_MARK))
            problem = content.pop("problem", None)
            return Outcome(None if problem else content, problem)
    return Outcome(None, _how_it_ended(done.returncode, done.stderr))


def _how_it_ended(code: int, stderr: str) -> str:
    """Return a sentence on a process that gave no result."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = f": {lines[-1].strip()}" if lines else ""
    if code < 0:
        try:
            how = signal.Signals(-code).name
        except ValueError:
            how = f"signal {-code}"
        return f"the process crashed in native code ({how}){last}"
    return f"the process ended with code {code}{last}"
