"""`trine serve` in a process of its own, as users run it."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds that a small bundle may take to load on a busy machine.
PATIENCE_S = 60.0


@contextmanager
def running_server(bundle: Path, *flags: str) -> Iterator[str]:
    """Serve a bundle on a free port; yields the server's URL once it is ready."""
    program = [
        sys.executable,
        "-c",
        "import sys; from trine.runtime.commands.program import main; sys.exit(main())",
    ]
    process = subprocess.Popen(
        [*program, "serve", str(bundle), "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("TRINE_")},
    )
    lines: list[str] = []
    assert process.stdout is not None
    # Read on all the time: a full pipe would stop the server.
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        yield _wait_ready(process, lines)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)
        process.stdout.close()


def _wait_ready(process: "subprocess.Popen[str]", lines: list[str]) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, lines
        for line in list(lines):
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("message") == "listening":
                url = f"http://127.0.0.1:{entry['port']}"
                if _is_ready(url):
                    return url
        time.sleep(0.05)
    raise TimeoutError(lines)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
