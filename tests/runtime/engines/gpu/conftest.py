"""Bundles with engines for the simulated GPU, exported once a test run."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest

from tests.runtime.engines.gpu.simulated_tensorrt import VERSION, write_kernels
from trine.export.bundle.adapter_files import choose_layout
from trine.export.bundle.edit import write_manifest
from trine.export.bundle.engine_files import EngineSource, save_graphs
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.export import export_checkpoint
from trine.export.graphs.trt.precision import Half, uniform_plan
from trine.export.options import ExportOptions
from trine.export.quantisation.trt.graph_plans import TrtPlans
from trine.export.trt.build_spec import BuildSpec, parse_buckets, profiles
from trine.export.trt.bundle_engines import BUILT_FOLDER, BuiltGraph, record_engines, trt_models
from trine.export.trt.engine_build import BuildRecord
from trine.runtime.adapters.peft import PeftAdapters
from trine.runtime.bundle.bundle import file_sha256, open_bundle
from trine.runtime.bundle.manifest import FileEntry

GOLDEN = Path(__file__).parents[3] / "data" / "golden" / "checkpoint"
BUCKETS = "text=64x4x32,text=160x3x80,text=512x8x400,image=256x1,image=1024x2"
Mode = Literal["merged", "runtime"]
MakeBundle = Callable[..., Path]


def _add_engines(folder: Path, graphs: Path, buckets: str, sms: Sequence[int]) -> None:
    """Write engines that stand for `graphs` into the bundle, as `trine build` writes real ones."""
    bundle = open_bundle(folder)
    entry = next(e for e in bundle.manifest.engines if e.runner == "tensorrt")
    decoder, vision = parse_buckets(buckets)
    model = bundle.manifest.model
    spec = BuildSpec(
        builder="tensorrt",
        sms=(sms[0],),
        decoder=decoder,
        vision=vision,
        max_rank=bundle.manifest.adapters.max_rank,
    )
    place = bundle.path(entry.vision).parent / BUILT_FOLDER
    place.mkdir()
    built = []
    for name in dict.fromkeys((entry.vision, *entry.decoders.values())):
        stem = Path(name).stem
        sizes = tuple(profiles(spec, "vision" if stem == "vision" else "decoder", model.vision))
        content = {
            "graph": str(graphs / f"{stem}.onnx"),
            "profiles": [{dim: (r.least, r.most) for dim, r in p.items()} for p in sizes],
        }
        (place / f"{stem}.engine").write_text(json.dumps(content), encoding="utf-8")
        (place / f"{stem}.json").write_text("{}", encoding="utf-8")
        record = BuildRecord(
            graph=f"{stem}.onnx",
            key="0" * 64,
            builder="tensorrt",
            version=VERSION,
            sms=tuple(sms),
            engine=f"{stem}.engine",
            layers=1,
            engine_bytes=1,
            scratch_bytes=(1,) * len(sizes),
            seconds=0.1,
            peak_bytes=0,
        )
        built.append(BuiltGraph(record, sizes))
    record_engines(bundle, entry, built)


def _add_kernels(folder: Path) -> None:
    write_kernels(folder / "kernels")
    bundle = open_bundle(folder)
    files = dict(bundle.manifest.files)
    for path in (folder / "kernels").iterdir():
        files[f"kernels/{path.name}"] = FileEntry(
            size=path.stat().st_size, sha256=file_sha256(path)
        )
    write_manifest(folder, dataclasses.replace(bundle.manifest, files=files))


def _write_graphs(folder: Path, mode: Mode, half: Half) -> Path:
    """Write graphs in another format than the bundle's, for the simulated engines to run."""
    checkpoint = Checkpoint(GOLDEN)
    config = checkpoint.config
    peft = PeftAdapters(GOLDEN / "adapters", config, config.tasks)
    source = EngineSource(
        checkpoint=checkpoint,
        adapters=peft,
        tasks=config.tasks,
        adapter_mode=mode,
        layout=choose_layout(peft, config.tasks, mode, None),
    )
    plan = uniform_plan(half)
    plans = TrtPlans(vision=plan, decoder=plan)
    save_graphs(source, trt_models(source, plans), folder, lambda _: None)
    return folder


@pytest.fixture(scope="session")
def trt_exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mode], Path]:
    """Exports the golden checkpoint with graphs for TensorRT, once a mode. Not to be changed."""
    made: dict[Mode, Path] = {}

    def export(mode: Mode) -> Path:
        if mode not in made:
            made[mode] = tmp_path_factory.mktemp("trt") / mode
            options = ExportOptions(
                source=str(GOLDEN), bundle=made[mode], adapters=mode, tensorrt=("fp16",)
            )
            export_checkpoint(options, io.StringIO())
        return made[mode]

    return export


@pytest.fixture(scope="session")
def make_bundle(
    trt_exports: Callable[[Mode], Path], tmp_path_factory: pytest.TempPathFactory
) -> MakeBundle:
    """Makes a bundle with engines for the simulated GPU; each is one's own.

    Arguments: mode, half (of the graphs the engines stand for), buckets, sms, kernels.
    """

    def make(
        mode: Mode = "merged",
        half: Half = "fp32",
        buckets: str = BUCKETS,
        sms: Sequence[int] = (89,),
        kernels: bool = True,
    ) -> Path:
        place = tmp_path_factory.mktemp("simulated")
        folder = Path(shutil.copytree(trt_exports(mode), place / "bundle"))
        graphs = folder / "engines" / "trt-fp16"
        if half != "fp16":
            (place / "graphs").mkdir()
            graphs = _write_graphs(place / "graphs", mode, half)
        _add_engines(folder, graphs, buckets, sms)
        if kernels:
            _add_kernels(folder)
        return folder

    return make
