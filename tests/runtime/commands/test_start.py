"""Interrupts while the program loads end in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs the program, which is interrupted when it begins to import a module.
PROGRAM = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from trine.runtime.commands.start import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("trine.runtime.commands.program", ["info"]),
        ("numpy", ["embed"]),
        ("trine.runtime.serving.workers.server", ["serve"]),
        ("uvicorn", ["serve"]),
        ("trine.runtime.serving.workers.worker", ["serve"]),
    ],
)
def test_an_interrupt_while_modules_load_is_one_line(
    module: str, words: list[str], golden_bundle: Path
) -> None:
    program = PROGRAM.format(module=module)
    ended = subprocess.run(
        [sys.executable, "-c", program, *words, str(golden_bundle)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr in ("trine: interrupted\n", f"trine {words[0]}: interrupted\n")


def test_a_program_that_is_told_to_ignore_interrupts_does() -> None:
    program = PROGRAM.format(module="trine.runtime.commands.program")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `nohup` and shells' `&` have it
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ended.returncode, ended.stderr) == (0, "")
