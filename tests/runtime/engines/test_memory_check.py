"""Memory of a run: the estimate against what the process takes, and the check before it starts."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trine.kernels.cpu.library import why_unavailable
from trine.runtime import Embedder, ImageText, InputError
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.engines import memory_check as run_memory
from trine.runtime.engines.memory_check import (
    native_decoder_bytes,
    native_vision_bytes,
    ort_decoder_bytes,
    ort_vision_bytes,
)
from trine.runtime.hardware.cpu import Cpu, read_cpu

MEASURE = r"""
import re, sys
from pathlib import Path
import numpy as np
from trine.runtime import Embedder, ImageText
from trine.runtime.inference.runner import BatchLimits

# Not getrusage's: that one begins with the memory of the process this one was forked from.
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
embedder = Embedder.load(
    sys.argv[1], engine=sys.argv[3], tasks=["retrieval"], limits=BatchLimits(tokens=1 << 15)
)
pixels = np.zeros((1820, 1820, 3), np.uint8)
long, short = {
    "text": ("a b " * 14_000, "a"),
    "image": (ImageText((pixels,)), ImageText((pixels[:56, :56],))),
}[sys.argv[2]]
embedder.encode([short], "retrieval")
before = peak()
found = embedder.encode([long], "retrieval", max_pixels=1 << 22)
print(peak() - before, found.num_tokens[0])
"""


def taken_and_estimated(bundle: Path, kind: str, engine: str) -> tuple[int, int]:
    command = [sys.executable, "-c", MEASURE, str(bundle), kind, engine]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    taken, num_tokens = map(int, output.split())
    model = open_bundle(bundle).manifest.model
    decoder, vision = {
        "ort-fp32": (ort_decoder_bytes, ort_vision_bytes),
        "native-int8": (native_decoder_bytes, native_vision_bytes),
    }[engine]
    estimate = decoder(model.decoder, num_tokens)
    if kind == "image":
        estimate = max(estimate, vision(model.vision, (1820 // model.vision.patch_size) ** 2))
    print(f"{engine}, {kind}: {taken / 1e6:.0f} MB taken, {estimate / 1e6:.0f} MB estimated")
    return taken, estimate


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_estimate_is_near_what_onnx_runtime_takes(nano_bundle: Path, kind: str) -> None:
    taken, estimate = taken_and_estimated(nano_bundle, kind, "ort-fp32")
    # Its arena grows by doubling, which shows most where all is small.
    assert 0.4 * estimate < taken < 2.4 * estimate


@pytest.mark.slow
@pytest.mark.skipif(why_unavailable() is not None, reason=why_unavailable() or "they are here")
@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_estimate_is_near_what_the_native_engine_takes(
    int8_bundle: Callable[[str], Path], kind: str
) -> None:
    taken, estimate = taken_and_estimated(int8_bundle("merged"), kind, "native-int8")
    assert 0.4 * estimate < taken < 1.6 * estimate


def test_a_run_that_does_not_fit_is_refused_before_it_starts(
    nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder.load(nano_bundle, engine="ort-fp32", tasks=["retrieval"])
    embedder.check()
    cpu = read_cpu()
    full = Cpu(**{name: getattr(cpu, name) for name in cpu.__slots__} | {"available_bytes": 1})
    monkeypatch.setattr(run_memory, "read_cpu", lambda: full)
    monkeypatch.setattr(run_memory, "MIN_CHECKED", 0)
    with pytest.raises(InputError, match=r"a run of \d+ tokens needs about .* GB are available"):
        embedder.encode(["a text"], "retrieval")
    with pytest.raises(InputError, match=r"an image run of 16 patches needs .*max_pixels"):
        embedder.encode([ImageText((np.zeros((56, 56, 3), np.uint8),))], "retrieval")
