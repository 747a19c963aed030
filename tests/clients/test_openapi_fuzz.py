"""Requests made from the OpenAPI document by schemathesis, valid and not: none is a fault."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: What every answer is checked for. Left out is what the document cannot say: which valid fields
#: contradict each other, and which names of models there are.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
EXAMPLES = 100
SECONDS = 600


@pytest.mark.clients
def test_no_request_is_answered_with_a_fault(server: str) -> None:
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("schemathesis is not installed")
    done = subprocess.run(
        [
            program, "run", f"{server}/openapi.json", "--checks", ",".join(CHECKS),
            "--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing",
            "--no-color",
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )  # fmt: skip
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-8000:]
