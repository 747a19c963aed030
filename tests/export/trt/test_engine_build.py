"""Engines from the real builder, made once; its refusals and crashes as one sentence."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from trine.export.bundle.adapter_files import choose_layout
from trine.export.bundle.engine_files import EngineSource, save_graphs
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.trt.precision import Half, Quantisation, WeightQuantisation, uniform_plan
from trine.export.quantisation.trt.graph_plans import TrtPlans
from trine.export.trt import engine_build
from trine.export.trt.build_spec import BuildSpec, DecoderBucket, VisionBucket
from trine.export.trt.build_worker import scratch_by_profile
from trine.export.trt.bundle_engines import trt_models
from trine.export.trt.engine_build import build_engine
from trine.export.trt.lint import lint_file
from trine.runtime.adapters.peft import PeftAdapters
from trine.runtime.bundle.manifest import AdapterMode
from trine.runtime.errors import EngineError

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"
CHECKPOINT = Checkpoint(GOLDEN)
CONFIG = CHECKPOINT.config
SPEC = BuildSpec(
    builder="tensorrt_rtx",
    sms=(86, 89, 120),
    decoder=(DecoderBucket(64, 4, 32),),
    vision=(VisionBucket(256, 2),),
    max_rank=32,
)
needs_builder = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="the extra tensorrt-rtx is not installed",
)
#: Formats of graphs: (half, quantised or None, processors).
FORMATS: dict[str, tuple[Half, str | None, tuple[int, ...]]] = {
    "bf16": ("bf16", None, (86, 89, 120)),
    "fp16": ("fp16", None, (86, 89, 120)),
    "int8": ("bf16", "int8", (86, 89, 120)),
    "fp8": ("bf16", "fp8", (89, 120)),
    "int4": ("bf16", "int4", (86, 89, 120)),
}

#: The first two have all that differs between formats; the rest takes long.
CASES = [
    ("bf16", "merged"),
    ("int8", "runtime"),
    ("int4", "merged"),
    *(
        pytest.param(name, mode, marks=pytest.mark.slow)
        for name, mode in (
            ("bf16", "runtime"),
            ("fp16", "merged"),
            ("fp16", "runtime"),
            ("int8", "merged"),
            ("fp8", "merged"),
            ("fp8", "runtime"),
            ("int4", "runtime"),
        )
    ),
]


def _write(folder: Path, name: str, mode: AdapterMode) -> dict[str, Path]:
    half, kind, _ = FORMATS.get(name, ("fp32", None, ()))
    layers = [
        f"layers.{i}.{role}"
        for i in range(CONFIG.decoder.num_layers)
        for role in ("self_attn.qkv", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    ] + [f"blocks.{i}.attn.qkv" for i in range(CONFIG.vision.depth)]
    plan = uniform_plan(half)
    if kind == "int4":
        four_bits = {n: WeightQuantisation(block=64) for n in layers if n.startswith("layers.")}
        plan = dataclasses.replace(plan, weight_only=four_bits)
    elif kind is not None:
        plan = uniform_plan(half, {n: Quantisation(kind=kind, input_max=8.0) for n in layers})
    peft = PeftAdapters(GOLDEN / "adapters", CONFIG, CONFIG.tasks)
    source = EngineSource(
        checkpoint=CHECKPOINT,
        adapters=peft,
        tasks=CONFIG.tasks[:1],
        adapter_mode=mode,
        layout=choose_layout(peft, CONFIG.tasks, mode, None),
    )
    plans = TrtPlans(vision=plan, decoder=plan)
    folder.mkdir(parents=True, exist_ok=True)
    return save_graphs(source, trt_models(source, plans), folder, lambda _: None)


@needs_builder
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_every_graph_is_clean_and_builds_with_fused_attention(
    tmp_path: Path, name: str, mode: AdapterMode
) -> None:
    # No Attention here may be decomposed, so an engine exists only if all have a fused kernel.
    spec = dataclasses.replace(SPEC, sms=FORMATS[name][2])
    for stem, graph in _write(tmp_path, name, mode).items():
        assert lint_file(graph, spec.sms) == []
        kind = "vision" if stem == "vision" else "decoder"
        engine, is_new = build_engine(graph, kind, spec, CONFIG.vision, tmp_path / "built")
        assert is_new
        assert (tmp_path / "built" / engine.engine).stat().st_size == engine.engine_bytes
        (scratch,) = engine.scratch_bytes
        assert 0 < scratch < 20 << 20


@needs_builder
def test_an_engine_is_built_once_and_again_for_another_spec(tmp_path: Path) -> None:
    graph = _write(tmp_path, "bf16", "merged")["vision"]
    spec = dataclasses.replace(SPEC, sms=(89,))
    first, is_new = build_engine(graph, "vision", spec, CONFIG.vision, tmp_path / "built")
    again, is_new_again = build_engine(graph, "vision", spec, CONFIG.vision, tmp_path / "built")
    assert (is_new, is_new_again) == (True, False)
    assert again == first
    other = dataclasses.replace(spec, vision=(VisionBucket(128, 1),))
    third, is_new = build_engine(graph, "vision", other, CONFIG.vision, tmp_path / "built")
    assert is_new
    assert third.key != first.key


@needs_builder
def test_each_bucket_has_its_own_memory(tmp_path: Path) -> None:
    graph = next(p for stem, p in _write(tmp_path, "bf16", "merged").items() if stem != "vision")
    buckets = (DecoderBucket(32, 2, 16), DecoderBucket(512, 8, 128), DecoderBucket(2048, 1, 2048))
    spec = dataclasses.replace(SPEC, decoder=buckets)
    engine, _ = build_engine(graph, "decoder", spec, CONFIG.vision, tmp_path / "built")
    small, middle, large = engine.scratch_bytes
    assert 0 < small < middle < large


def test_the_builders_log_is_read_by_bucket() -> None:
    log = [
        "Constructing optimization profile number 0 [1/2].",
        "Total Activation Memory: 10 bytes",
        "Constructing optimization profile number 1 [2/2].",
        "Total Activation Memory: 300 bytes",
        "Constructing optimization profile number 0 [1/2].",
        "Total Activation Memory: 20 bytes",
        "Total Weights Memory: 999 bytes",
    ]
    assert scratch_by_profile(log, 2) == [20, 300]
    assert scratch_by_profile(log[1:2], 1) == [10]


def test_a_graph_the_lint_refuses_is_not_given_to_the_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "_builder_version", lambda spec: "1")
    monkeypatch.setattr(engine_build, "_run_worker", None)
    graph = _write(tmp_path, "fp32", "merged")["vision"]
    with pytest.raises(EngineError, match="no fused attention for float"):
        build_engine(graph, "vision", SPEC, CONFIG.vision, tmp_path / "built")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "crashed .SIGSEGV"),
        ("raise RuntimeError('no driver')", "ended with 1: RuntimeError: no driver"),
    ],
)
def test_a_crash_of_the_builder_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text(content, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(engine_build, "_builder_version", lambda spec: "1")
    graph = _write(tmp_path / "graphs", "bf16", "merged")["vision"]
    with pytest.raises(EngineError, match=message):
        build_engine(graph, "vision", SPEC, CONFIG.vision, tmp_path / "built")
    assert not list((tmp_path / "built").iterdir())
