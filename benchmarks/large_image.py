"""Embeds one image of 20 megapixels at the most tokens an image can have: time and memory.

    python benchmarks/large_image.py BUNDLE [--engine NAME] [--reference NAME] [--size 5164 3884]
        [--max-pixels 12845056] [--out FILE]

Each engine runs in a process of its own. Memory is the most that was resident (VmHWM) meanwhile,
beside what was resident before, and beside what the runtime foretells and checks before it starts.
"""

import argparse
import io
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from cases.inputs import image_pixels
from machine import machine_record
from PIL import Image

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.embedder import Embedder
from trine.runtime.engines.memory_check import (
    native_decoder_bytes,
    native_vision_bytes,
    ort_decoder_bytes,
    ort_vision_bytes,
)
from trine.runtime.inputs import ImageText
from trine.runtime.preprocessing.image_processor import patch_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One engine with one image; sizes in bytes.

    Attributes:
        engine: its name.
        patches, tokens: of the image.
        seconds: from the file's bytes to the vector.
        resident_before, peak: of the process.
        foretold: what the larger of the two graphs' runs takes beside what was resident.
        vector: float32 [D], normalised.
    """

    engine: str
    patches: int
    tokens: int
    seconds: float
    resident_before: int
    peak: int
    foretold: int
    vector: list[float]


def status(field: str) -> int:
    """Return a size in bytes from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def measure(bundle: Path, engine: str, size: tuple[int, int], max_pixels: int) -> Run:
    """Return what one engine does in this process."""
    file = io.BytesIO()
    Image.fromarray(image_pixels(*size)).save(file, "JPEG", quality=90)
    embedder = Embedder.load(bundle, engine=engine, tasks=["retrieval"])
    small = ImageText((image_pixels(56, 56),))
    embedder.encode([small], "retrieval")
    model = open_bundle(bundle).manifest.model
    grid = patch_image(
        np.zeros((size[1], size[0], 3), np.uint8), model.image, model.vision, max_pixels
    ).grid
    patches = grid[0] * grid[1]
    tokens = patches // model.vision.spatial_merge_size**2
    native = engine.startswith("native")
    vision, decoder = (
        (native_vision_bytes, native_decoder_bytes)
        if native
        else (ort_vision_bytes, ort_decoder_bytes)
    )
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, started = status("VmRSS"), time.perf_counter()
    found = embedder.encode(
        [ImageText((file.getvalue(),))], "retrieval", max_pixels=max_pixels
    ).single[0]
    return Run(
        engine=engine,
        patches=patches,
        tokens=tokens,
        seconds=round(time.perf_counter() - started, 2),
        resident_before=before,
        peak=status("VmHWM"),
        foretold=max(vision(model.vision, patches), decoder(model.decoder, tokens)),
        vector=np.asarray(found, np.float32).tolist(),
    )


def in_its_own_process(arguments: argparse.Namespace, engine: str) -> Run:
    """Return what an engine does in a new process."""
    command = [sys.executable, __file__, str(arguments.bundle), "--one", engine]
    command += ["--max-pixels", str(arguments.max_pixels), "--size", *map(str, arguments.size)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Run(**json.loads(found.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="native-int8")
    parser.add_argument("--reference", help="a float32 engine, whose vector is compared")
    parser.add_argument("--size", type=int, nargs=2, default=(5164, 3884))
    parser.add_argument("--max-pixels", type=int, default=12_845_056)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        size = (arguments.size[0], arguments.size[1])
        run = measure(arguments.bundle, arguments.one, size, arguments.max_pixels)
        print(json.dumps(asdict(run)))
        return
    names = [name for name in (arguments.engine, arguments.reference) if name]
    runs = [in_its_own_process(arguments, name) for name in names]
    for run in runs:
        print(
            f"{run.engine}: {arguments.size[0]}x{arguments.size[1]} as {run.patches:,} patches, "
            f"{run.tokens:,} tokens: {run.seconds} s, peak {run.peak / 1e9:.2f} GB, of which "
            f"{(run.peak - run.resident_before) / 1e9:.2f} for the run, {run.foretold / 1e9:.2f} "
            "foretold for its larger graph"
        )
    cosine = float(np.dot(runs[0].vector, runs[1].vector)) if len(runs) > 1 else None
    if cosine is not None:
        print(f"cosine of the two vectors: {cosine:.5f}")
    if arguments.out:
        rows = [{k: v for k, v in asdict(run).items() if k != "vector"} for run in runs]
        record = machine_record() | {
            "bundle": arguments.bundle.name,
            "size": list(arguments.size),
            "max_pixels": arguments.max_pixels,
            "runs": rows,
            "cosine": cosine,
        }
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
