"""Builds one engine in a process of its own, which a crash of the native builder may end.

`python -m trine.export.trt.build_worker REQUEST.json` writes the engine and, beside the request,
REPORT.json. The request and the report are those of `trine.export.trt.engine_build`.
"""

import importlib
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["build", "scratch_by_profile"]

#: What the builder's log says of the memory a run takes: the profile it turns to, and what runs of
#: that one hold beside weights, inputs and outputs.
PROFILE = re.compile(r"Constructing optimization profile number (\d+)")
SCRATCH = re.compile(r"Total Activation Memory: (\d+)")
#: Messages kept for the report.
KEPT_MESSAGES = 20


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Return what became of a request; the engine is written to its `engine`.

    Args:
        request: `builder`, `graph`, `engine`, `sms`, `workspace_bytes`, and `profiles`, each with
            the least, best and largest shape of every input by name.
    """
    trt = importlib.import_module(request["builder"])
    log = _make_log(trt)
    started = time.monotonic()
    builder = trt.Builder(log)
    # TensorRT 11 has no other kind of network, and then no flag for it.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log)
    report: dict[str, Any] = {"version": trt.__version__, "parsed": False, "built": False}
    if not parser.parse_from_file(request["graph"]):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        return report | {"messages": [f"{e.node()}: {e.desc()}" for e in errors]}
    config = builder.create_builder_config()
    if request["workspace_bytes"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace_bytes"])
    if request["builder"] == "tensorrt_rtx":
        config.num_compute_capabilities = len(request["sms"])
        for place, sm in enumerate(request["sms"]):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), place)
    for shapes in request["profiles"]:
        profile = builder.create_optimization_profile()
        for name, triple in shapes.items():
            profile.set_shape(name, *triple)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is not None:
        Path(request["engine"]).write_bytes(memoryview(plan))
    return report | {
        "parsed": True,
        "built": plan is not None,
        "layers": network.num_layers,
        "engine_bytes": 0 if plan is None else plan.nbytes,
        "scratch_bytes": scratch_by_profile(log.texts, len(request["profiles"])),
        "seconds": time.monotonic() - started,
        "peak_bytes": _peak_bytes(),
        "messages": log.errors[-KEPT_MESSAGES:],
    }


def scratch_by_profile(messages: Sequence[str], num_profiles: int) -> list[int]:
    """Return bytes of memory beside the weights that runs of each profile take.

    Args:
        messages: the builder's log. Built for several processors at once, it tells of a profile
            several times, of which the largest holds.
        num_profiles: that were asked for; without any, the builder makes one.
    """
    found, profile = [0] * max(num_profiles, 1), 0
    for text in messages:
        if match := PROFILE.search(text):
            profile = int(match[1])
        elif match := SCRATCH.search(text):
            found[profile] = max(found[profile], int(match[1]))
    return found


def _peak_bytes() -> int:
    """Return the largest resident memory of this process; 0 where it is not told."""
    # `getrusage` would count the memory of the process that started this one.
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def _make_log(trt: Any) -> Any:
    """Return a logger that keeps errors, and all texts to read figures from."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.texts: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.texts.append(message)
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Log()


def main() -> None:
    """Build what the file named on the command line asks for."""
    path = Path(sys.argv[1])
    report = build(json.loads(path.read_text(encoding="utf-8")))
    path.with_name("report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
