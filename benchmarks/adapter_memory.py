"""Measures what three adapters beside one decoder cost in memory against one merged decoder.

Each bundle is loaded in a process of its own, which embeds one text and reads its resident memory:

  merged, 1 task    the decoder of "retrieval" with its adapter merged
  merged, all       one decoder a task
  runtime, all      one decoder, all adapters beside it

Printed are resident memory (anonymous, and mapped from files) with and without what the interpreter
and the libraries took before loading, its ratio to the first row, and the same ratio computed for
a model of the published size from its parameters. The last line is JSON.

    python benchmarks/adapter_memory.py MERGED_BUNDLE RUNTIME_BUNDLE [--threads 1] [--out FILE]
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from machine import machine_record

from trine.export.sample.layout import base_tensors
from trine.export.sample.spec import SampleSpec
from trine.runtime.adapters.costs import adapter_memory_bytes
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import DecoderConfig

TASK, TEXT = "retrieval", "Which inverter warranty covers panels that face east?"
FIELDS = ("VmRSS", "RssAnon", "RssFile")
#: Bytes of the float32 decoder's values, and of those that lie as the checkpoint has them.
ENGINE_BYTES, STORED_BYTES = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident memory in bytes: before loading (`idle`), and after one text."""

    idle: int
    total: int
    anonymous: int
    mapped: int

    @property
    def added(self) -> int:
        return self.total - self.idle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("merged", type=Path, help="a bundle exported with --adapters merged")
    parser.add_argument("runtime", type=Path, help="a bundle exported with --adapters runtime")
    parser.add_argument("--threads", type=int, default=1, help="of a run (default: 1)")
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    parser.add_argument("--child", choices=["one", "all"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(asdict(measure_here(arguments))))
        return
    for folder, kind in ((arguments.merged, "merged"), (arguments.runtime, "runtime")):
        found = open_bundle(folder).manifest.engines[0].adapters
        if found != kind:
            parser.error(f"{folder} has its adapters {found}, not {kind}")
    rows = {
        "merged, 1 task": measure(arguments.merged, "one", arguments.threads),
        "merged, all": measure(arguments.merged, "all", arguments.threads),
        "runtime, all": measure(arguments.runtime, "all", arguments.threads),
    }
    line = report(rows, len(open_bundle(arguments.runtime).manifest.engines[0].decoders))
    if arguments.out is not None:
        arguments.out.write_text(line + "\n", encoding="utf-8")


def measure(bundle: Path, tasks: str, threads: int) -> Memory:
    """Return the memory of a process of its own."""
    command = [sys.executable, __file__, bundle, bundle, "--child", tasks, "--threads", threads]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def measure_here(arguments: argparse.Namespace) -> Memory:
    """Load, embed one text, and return this process's memory."""
    from trine.runtime.embedder import Embedder
    from trine.runtime.libraries import import_onnxruntime

    import_onnxruntime()  # part of what is there before loading
    idle = resident()["VmRSS"]
    embedder = Embedder.load(
        arguments.merged,
        tasks=[TASK] if arguments.child == "one" else None,
        threads=arguments.threads,
        self_test=False,
    )
    for task in embedder.tasks:
        embedder.encode_text(TEXT, task)
    now = resident()
    return Memory(idle=idle, total=now["VmRSS"], anonymous=now["RssAnon"], mapped=now["RssFile"])


def resident() -> dict[str, int]:
    """Return `FIELDS` of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.partition(":")[::2] for line in lines)
    return {key: int(value.split()[0]) * 1024 for key, value in pairs if key in FIELDS}


def published_bytes(num_tasks: int) -> dict[str, int]:
    """Return the bytes that each part takes in a model of the published size, text only."""
    spec = SampleSpec.full()
    tensors = {tensor.name: tensor.num_values for tensor in base_tensors(spec)}
    decoder = DecoderConfig(
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate_size,
        rms_norm_eps=spec.rms_norm_eps,
        rope_theta=spec.rope_theta,
        mrope_section=spec.mrope_section,
        vocab_size=spec.vocab_size,
        max_positions=spec.max_positions,
    )
    layout = AdapterLayout(max_rank=spec.rank, dtype="BF16", files={})
    embedding = "model.embed_tokens.weight"
    return {
        "decoder": ENGINE_BYTES
        * sum(n for name, n in tensors.items() if name.startswith("model.") and name != embedding),
        "embedding": STORED_BYTES * tensors[embedding],
        "projector": ENGINE_BYTES * spec.projector_dim * (spec.hidden_size + 1),
        "adapters": adapter_memory_bytes(decoder, layout) * num_tasks,
    }


def report(rows: dict[str, Memory], num_tasks: int) -> str:
    """Print the table and the record, and return the record as JSON."""
    first = rows["merged, 1 task"]
    print(
        f"{'':16}{'resident':>10}{'anonymous':>11}{'mapped':>9}{'added':>9}{'ratio':>8}{'added':>8}"
    )
    for name, memory in rows.items():
        sizes = (memory.total, memory.anonymous, memory.mapped, memory.added)
        resident_mb, anonymous, mapped, added = (f"{size / 1e6:.1f}" for size in sizes)
        print(
            f"{name:16}{resident_mb:>10}{anonymous:>11}{mapped:>9}{added:>9}"
            f"{memory.total / first.total:>8.3f}{memory.added / first.added:>8.3f}"
        )
    parts = published_bytes(num_tasks)
    one = parts["decoder"] + parts["embedding"] + parts["projector"]
    beside = one + parts["adapters"] + (num_tasks - 1) * parts["projector"]
    print(
        f"MB; published size, computed: merged, 1 task {one / 1e9:.2f} GB, runtime, {num_tasks} "
        f"tasks {beside / 1e9:.2f} GB, ratio {beside / one:.4f}"
    )
    line = json.dumps(
        {
            "benchmark": "adapter_memory",
            "measured": {name: asdict(memory) for name, memory in rows.items()},
            "ratio": rows["runtime, all"].total / first.total,
            "ratio_added": rows["runtime, all"].added / first.added,
            "published": parts,
            "published_ratio": beside / one,
            **machine_record(),
        }
    )
    print(line)
    return line


if __name__ == "__main__":
    main()
