"""Memory of a run: the estimate against what the process takes, and the check before it starts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trine.runtime import Embedder, ImageText, InputError
from trine.runtime.bundle import open_bundle
from trine.runtime.doctor.cpu import Cpu, read_cpu
from trine.runtime.engines import ort_memory
from trine.runtime.engines.ort_memory import decoder_bytes, vision_bytes

MEASURE = """
import resource, sys
import numpy as np
from trine.runtime import Embedder, ImageText
from trine.runtime.pipeline import BatchLimits

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
embedder = Embedder.load(
    sys.argv[1], engine="ort-fp32", tasks=["retrieval"], limits=BatchLimits(tokens=1 << 15)
)
pixels = np.zeros((1820, 1820, 3), np.uint8)
long, short = {
    "text": ("a b " * 14_000, "a"),
    "picture": (ImageText((pixels,)), ImageText((pixels[:56, :56],))),
}[sys.argv[2]]
embedder.encode([short], "retrieval")
before = peak()
found = embedder.encode([long], "retrieval", max_pixels=1 << 22)
print(peak() - before, found.num_tokens[0])
"""


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_the_estimate_is_near_what_a_run_takes(nano_bundle: Path, kind: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(nano_bundle), kind]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    taken, num_tokens = map(int, output.split())
    model = open_bundle(nano_bundle).manifest.model
    estimate = decoder_bytes(model.decoder, num_tokens)
    if kind == "picture":
        patches = (1820 // model.vision.patch_size) ** 2
        estimate = max(estimate, vision_bytes(model.vision, patches))
    print(f"{kind}: {taken / 1e6:.0f} MB taken, {estimate / 1e6:.0f} MB estimated")
    assert 0.4 * estimate < taken < 1.6 * estimate


def test_a_run_that_does_not_fit_is_refused_before_it_starts(
    nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder.load(nano_bundle, engine="ort-fp32", tasks=["retrieval"])
    embedder.check()
    cpu = read_cpu()
    full = Cpu(**{name: getattr(cpu, name) for name in cpu.__slots__} | {"available_bytes": 1})
    monkeypatch.setattr(ort_memory, "read_cpu", lambda: full)
    monkeypatch.setattr(ort_memory, "MIN_CHECKED", 0)
    with pytest.raises(InputError, match=r"a run of \d+ tokens needs about .* GB are available"):
        embedder.encode(["a text"], "retrieval")
    with pytest.raises(InputError, match=r"a picture run of 16 patches needs .*max_pixels"):
        embedder.encode([ImageText((np.zeros((56, 56, 3), np.uint8),))], "retrieval")
