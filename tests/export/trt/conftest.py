"""Runs the typed graphs on ONNX Runtime's CPU provider, in the place of TensorRT."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from trine.export.bundle.adapter_files import choose_layout
from trine.export.bundle.engine_files import EngineSource, save_graphs
from trine.export.bundle.golden_inputs import GOLDEN_TEXTS, golden_image, golden_inputs
from trine.export.bundle.runtime_files import write_embedding, write_heads, write_tokenizer
from trine.export.calibration.inputs import built_in_calibration
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.trt.precision import Half, TensorRtPrecision
from trine.export.quantisation.observer import LinearRange, RangeScan
from trine.export.quantisation.planning import Planning
from trine.export.quantisation.trt.graph_making import plan_graphs
from trine.export.quantisation.trt.graph_plans import TrtPlans
from trine.export.reference.forward import run_reference
from trine.export.reference.model import Reference, ReferenceInput
from trine.export.trt.bundle_engines import trt_models
from trine.runtime.adapters.base import AdapterHandle, AdapterSource, MergedAdapters
from trine.runtime.adapters.file import adapter_from_peft
from trine.runtime.adapters.peft import PeftAdapters
from trine.runtime.adapters.projector import load_base_projector, load_projectors
from trine.runtime.adapters.store import AdapterBank
from trine.runtime.bundle.bundle import EMBEDDING_NAME, HEADS_NAME
from trine.runtime.bundle.dtypes import widen
from trine.runtime.engines.base import DecoderInputs
from trine.runtime.engines.ort.decoders import ONNX_TYPES, rank_mask
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.runner import Runner
from trine.runtime.inputs import ImageText
from trine.runtime.outputs import Heads
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.vision_inputs import VisionInputs
from trine.runtime.request import check_request

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"
#: Of the built-in calibration inputs, for plans in tests.
NUM_TEXTS, NUM_IMAGES = 12, 3
FLOAT = TensorProto.FLOAT
HALVES: dict[Half, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
Adapters = Literal["merged", "runtime"]


def _imitate(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in float32 with every 16-bit result rounded to its grid, or to infinity.

    ONNX Runtime has no products of bfloat16 on a CPU, and keeps float16 in float32 between nodes,
    which hides what overflows.
    """
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.value_info}
    for tensor in model.graph.initializer:
        if tensor.data_type in HALVES.values():
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in model.graph.input:
        if value.type.tensor_type.elem_type in HALVES.values():
            value.type.tensor_type.elem_type = FLOAT
    nodes = []
    for node in model.graph.node:
        narrow = [name for name in node.output if types.get(name) in HALVES.values()]
        if node.op_type == "Cast" and narrow:
            node.attribute[0].i = FLOAT
        exact = {name: f"{name}.exact" for name in narrow}
        node.output[:] = [exact.get(name, name) for name in node.output]
        nodes.append(node)
        for name in narrow:
            low = f"{name}.low"
            nodes.append(helper.make_node("Cast", [exact[name]], [low], to=types[name]))
            nodes.append(helper.make_node("Cast", [low], [name], to=FLOAT))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return model


def _square_masks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a row of its mask for each query, which this provider insists on."""
    users = [n for n in model.graph.node if n.op_type == "Attention" and len(n.input) > 3]
    if not users:
        return model
    (mask,) = {node.input[3] for node in users}
    for node in users:
        node.input[3] = "square"
    ones = numpy_helper.from_array(np.array([1, 1]), "square.ones")
    one = numpy_helper.from_array(np.array([1]), "square.one")
    model.graph.initializer.extend([ones, one])
    added = [
        helper.make_node("Shape", [mask], ["square.length"], start=3, end=4),
        helper.make_node(
            "Concat", ["square.ones", "square.length", "square.one"], ["square.shape"], axis=0
        ),
        helper.make_node("Expand", [mask, "square.shape"], ["square"]),
    ]
    place = next(i for i, node in enumerate(model.graph.node) if mask in node.output) + 1
    nodes = [*model.graph.node[:place], *added, *model.graph.node[place:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _open(path: Path, half: Half) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    model = onnx.load(path)
    if half != "fp32":
        # The optimiser would remove the pairs of casts that round.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        model = _imitate(model)
    content = _square_masks(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class GraphRunner:
    """An engine of the runtime (`trine.runtime.engines.base`) that runs typed graphs."""

    adapters: AdapterSource
    sessions: Mapping[str, onnxruntime.InferenceSession]
    bank: AdapterBank | None
    half: Half
    weights_in_memory: bool = True
    pads_attention: bool = True
    description: str = "typed graphs on the CPU"

    def forward_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        num_images = int(inputs.num_images[0])
        feeds = {
            name: array.reshape(num_images, -1, *array.shape[1:])
            for name, array in (
                ("patches", inputs.patches),
                ("rope_cos", inputs.rope_cos),
                ("rope_sin", inputs.rope_sin),
                ("window_scatter", inputs.window_scatter),
            )
        }
        feeds["window_gather"] = inputs.window_gather
        feeds["window_lengths"] = inputs.window_lengths
        return np.asarray(self.sessions["vision"].run(None, feeds)[0])

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return adapter.name if self.bank is None else 0

    def forward_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        names = ("embeddings", "rope_cos", "rope_sin", "pad_index", "unpad_index")
        feeds: dict[str, object] = {name: getattr(inputs, name) for name in names}
        if self.bank is None:
            session = self.sessions[f"decoder-{adapters[0].name}"]
            return np.asarray(session.run(None, feeds)[0])
        view = self.bank.view([adapter.slot for adapter in adapters])
        layout = self.bank.layout
        for name, array in view.arrays.items():
            feeds[name] = (
                widen(array, layout.dtype)
                if self.half != "fp32" and ONNX_TYPES[layout.dtype] in HALVES.values()
                else onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
                    array, ONNX_TYPES[layout.dtype]
                )
            )
        slots = np.repeat([adapter.slot for adapter in adapters], inputs.last_index + 1)
        feeds["lora_mask"] = rank_mask(slots, view, layout.max_rank)
        feeds["lora_mask_qkv"] = rank_mask(slots, view, 3 * layout.max_rank)
        return np.asarray(self.sessions["decoder"].run(None, feeds)[0])


@dataclass(frozen=True)
class Agreement:
    """Cosines with the reference's of single vectors and of multi-vectors' rows, and the graphs."""

    singles: NDArray[np.float64]
    rows: NDArray[np.float64]
    graphs: Mapping[str, Path]


Cosines = Callable[[TrtPlans, Half, Adapters], NDArray[np.float64]]


@dataclass(frozen=True)
class PlannedGraphs:
    """Plans, and why they are below their accuracy threshold by imitation."""

    plans: TrtPlans
    below: tuple[str, ...]


PlanFor = Callable[[Path, TensorRtPrecision], PlannedGraphs]
Agree = Callable[[Path, TrtPlans, Adapters], Agreement]


def _agreement(
    source: Path, folder: Path, plans: TrtPlans, half: Half, mode: Adapters
) -> Agreement:
    checkpoint = Checkpoint(source)
    config = checkpoint.config
    peft = PeftAdapters(source / "adapters", config, config.tasks)
    engines = EngineSource(
        checkpoint=checkpoint,
        adapters=peft,
        tasks=config.tasks,
        adapter_mode=mode,
        layout=choose_layout(peft, config.tasks, mode, None),
    )
    tokenizer = write_tokenizer(checkpoint, folder)
    write_embedding(checkpoint, folder, lambda _: None)
    write_heads(checkpoint, peft, config.tasks, folder)
    paths = save_graphs(engines, trt_models(engines, plans), folder, lambda _: None)
    sessions = {name: _open(path, half) for name, path in paths.items()}
    bank = None
    source_of: AdapterSource
    if mode == "merged":
        heads = load_projectors(folder / HEADS_NAME, config.tasks, config)
        source_of = MergedAdapters(heads)
    else:
        bank = AdapterBank(config, engines.layout, load_base_projector(folder / HEADS_NAME, config))
        for task in config.tasks:
            bank.add(task, adapter_from_peft(peft, task, engines.layout))
        source_of = bank
    engine = GraphRunner(source_of, sessions, bank, half)
    table = EmbeddingTable(folder / EMBEDDING_NAME, config.decoder)
    runner = Runner(config, engine, table, BatchLimits())
    preprocessor = Preprocessor(config, tokenizer)
    items = [*GOLDEN_TEXTS, ImageText((golden_image(),))]
    inputs = []
    for task in config.tasks:
        request = check_request(config.tasks, config, num_items=len(items), task=task)
        sequences = preprocessor.sequences(items, request)
        inputs.extend(ReferenceInput(sequence, task) for sequence in sequences)
    want = Reference(checkpoint, peft).run(inputs)
    heads = Heads(single=True, multi=True, dim=config.decoder.hidden_size)
    with source_of.hold(config.tasks) as handles:
        have = runner.encode([i.sequence for i in inputs], [handles[i.task] for i in inputs], heads)
    assert have.single is not None
    assert have.multi is not None
    singles, rows = [], []
    for a, single, multi in zip(want, have.single, have.multi, strict=True):
        singles.append(a.single.astype(np.float64) @ single)
        rows.extend((a.multi.astype(np.float64) * multi).sum(axis=1))
    return Agreement(np.array(singles), np.array(rows), paths)


@pytest.fixture
def golden_cosines(tmp_path: Path) -> Cosines:
    """Returns the cosines of the golden checkpoint's vectors with the float32 reference's."""

    def cosines(plans: TrtPlans, half: Half, mode: Adapters) -> NDArray[np.float64]:
        found = _agreement(GOLDEN, tmp_path, plans, half, mode)
        return np.concatenate([found.singles, found.rows])

    return cosines


@pytest.fixture
def agree(tmp_path: Path) -> Agree:
    """Returns how vectors of a checkpoint's typed graphs agree with the reference's."""
    return lambda source, plans, mode: _agreement(
        source, _new_folder(tmp_path), plans, "bf16", mode
    )


def _new_folder(folder: Path) -> Path:
    """Return a new folder in another."""
    place = folder / f"graphs-{len(list(folder.iterdir()))}"
    place.mkdir()
    return place


@pytest.fixture
def plan(tmp_path: Path) -> PlanFor:
    """Returns the plans of a checkpoint from some built-in texts and images."""
    return lambda source, precision: _plan(source, precision, _new_folder(tmp_path))


def _plan(source: Path, precision: TensorRtPrecision, folder: Path) -> PlannedGraphs:
    checkpoint = Checkpoint(source)
    config = checkpoint.config
    peft = PeftAdapters(source / "adapters", config, config.tasks)
    tokenizer = write_tokenizer(checkpoint, folder)
    chosen = built_in_calibration("small")
    chosen = dataclasses.replace(
        chosen, texts=chosen.texts[:NUM_TEXTS], images=chosen.images[:NUM_IMAGES]
    )
    engines = EngineSource(
        checkpoint=checkpoint,
        adapters=peft,
        tasks=config.tasks,
        adapter_mode="merged",
        layout=choose_layout(peft, config.tasks, "merged", None),
    )
    reference = run_reference(engines, tokenizer, chosen, None, lambda _: None)
    planning = Planning(source=engines, reference=reference, allow_below_threshold=False)
    planned = plan_graphs(planning, precision, tokenizer, lambda _: None)
    return PlannedGraphs(planned.refined.plan, planned.refused)


@pytest.fixture(scope="session")
def golden_ranges(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, LinearRange]:
    """What the golden inputs put through the golden checkpoint."""
    checkpoint = Checkpoint(GOLDEN)
    config = checkpoint.config
    peft = PeftAdapters(GOLDEN / "adapters", config, config.tasks)
    tokenizer = write_tokenizer(checkpoint, tmp_path_factory.mktemp("tokenizer"))
    scan = RangeScan()
    reference = Reference(checkpoint, peft, scan)
    inputs = golden_inputs(config, tokenizer, config.tasks).inputs
    reference.run([dataclasses.replace(item, observed=True) for item in inputs])
    return scan.ranges
