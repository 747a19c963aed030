"""The backends by name: what each can do, which environment it needs, how it is loaded.

Not among them: optimum-onnx, which has no export of Qwen2.5-VL (0.1.0; the plain export stands for
what it would make of the decoder); images in anything but PyTorch, for torch.onnx.export fails on
the vision tower's data-dependent windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cases.case import Case, Kind

from backends.contract import Backend, EngineChoice, Setup
from backends.padding import BATCH
from backends.preparation import Step

__all__ = ["COMPETITORS", "Competitor", "backends_of", "load_backend"]

#: Which Python runs it: the driver's, one with PyTorch, torchvision, OpenVINO or llama.cpp.
Environment = Literal["trine", "torch", "torchvision", "openvino", "llama"]
OPENVINO_PRECISIONS: Mapping[str, Literal["fp32", "bf16", "int8"]] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "int8": "int8",
}
TEXTS: tuple[Kind, ...] = ("texts", "cold", "load")
PUBLISHED: tuple[Kind, ...] = (*TEXTS, "images", "mixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Competitor:
    """A backend before it is loaded.

    Attributes:
        environment: whose Python runs it.
        kinds: of cases it takes part in.
        packages: whose versions are recorded.
        makes: steps of `backends.preparation` whose files it loads.
        sorts: whether it also runs sorted by length, as `<name>-sorted`.
    """

    environment: Environment
    kinds: tuple[Kind, ...] = TEXTS
    packages: tuple[str, ...] = ()
    makes: tuple[Step, ...] = ()
    sorts: bool = True


_TORCH = ("torch", "transformers")
_VINO = ("openvino", "nncf", "onnx")
_SINGLE = {
    "transformers-fp32": Competitor(environment="torch", kinds=PUBLISHED, packages=_TORCH),
    "transformers-bf16": Competitor(environment="torch", kinds=PUBLISHED, packages=_TORCH),
    "compile-fp32": Competitor(environment="torch", packages=_TORCH, sorts=False),
    "compile-bf16": Competitor(environment="torch", packages=_TORCH, sorts=False),
    "onnx-fp32": Competitor(environment="trine", packages=("onnxruntime",), makes=("export",)),
    "onnx-int8": Competitor(environment="trine", packages=("onnxruntime",), makes=("export",)),
    "openvino-fp32": Competitor(environment="openvino", packages=_VINO, makes=("export",)),
    "openvino-bf16": Competitor(environment="openvino", packages=_VINO, makes=("export",)),
    "openvino-int8": Competitor(
        environment="openvino", packages=_VINO, makes=("export", "openvino")
    ),
    "llama.cpp-q8": Competitor(
        environment="llama",
        kinds=("texts", "cold"),
        packages=("llama_cpp_python",),
        makes=("gguf",),
        sorts=False,
    ),
    "processor-torchvision": Competitor(
        environment="torchvision",
        kinds=("preprocessing",),
        packages=(*_TORCH, "torchvision"),
        sorts=False,
    ),
    "processor-pillow": Competitor(
        environment="torch", kinds=("preprocessing",), packages=(*_TORCH, "pillow"), sorts=False
    ),
    "numpy": Competitor(environment="trine", kinds=("maxsim",), packages=("numpy",), sorts=False),
    "torch": Competitor(environment="torch", kinds=("maxsim",), packages=("torch",), sorts=False),
}
#: Every competitor by name.
COMPETITORS = {
    name: competitor
    for single, competitor in _SINGLE.items()
    for name in ((single, f"{single}-sorted") if competitor.sorts else (single,))
}


def backends_of(
    case: Case, engines: Sequence[EngineChoice], competitors: Sequence[str] | None
) -> list[str]:
    """Return who takes part: engines as `trine-<label>`, then the competitors that the case is for.

    Sorting by length changes nothing where there is one rectangle anyway: those that sort are
    left out there.

    Args:
        case: the case.
        engines: of the bundles; float32 ones where the case has them.
        competitors: who may; None for those that the case names.
    """
    if case.kind in ("preprocessing", "maxsim"):
        own = ["trine"]
    else:
        own = [
            engine.backend
            for engine in engines
            if case.float32 or engine.precision != "fp32" or len(engines) == 1
        ]
    few = len(case.lengths) <= BATCH or case.kind == "load"
    if competitors is None:
        competitors = list(COMPETITORS) if case.competitors is None else case.competitors
    return own + [
        name
        for name in competitors
        if case.kind in COMPETITORS[name].kinds and not (few and name.endswith("-sorted"))
    ]


def load_backend(name: str, setup: Setup, case: Case) -> Backend:
    """Return a backend, loaded. Its packages are imported here.

    Args:
        name: "reference", "trine", "trine-<label>" of an engine, or one of `COMPETITORS`.
        setup: the model.
        case: that it is loaded for.
    """
    if name == "reference" or name.startswith("trine"):
        return _load_own(name, setup, case)
    if name.startswith(("processor-", "numpy", "torch")):
        from backends.thin_parts import NumpyMaxSim, PublishedProcessor, TorchMaxSim

        if name == "processor-torchvision":
            return PublishedProcessor(setup, "torchvision")
        if name == "processor-pillow":
            return PublishedProcessor(setup, "pillow")
        return NumpyMaxSim(setup) if name == "numpy" else TorchMaxSim(setup)
    if name == "llama.cpp-q8":
        from backends.gguf_text import LlamaCpp

        return LlamaCpp(setup)
    batch = BATCH if name.endswith("-sorted") else None
    family, precision = name.removesuffix("-sorted").split("-")
    if family == "onnx":
        from backends.plain_onnx import PlainOnnx

        return PlainOnnx(setup, precision == "int8", batch)
    if family == "openvino":
        from backends.openvino_cpu import OpenVino

        return OpenVino(setup, OPENVINO_PRECISIONS[precision], batch)
    from backends.published_model import PublishedModel

    dtype: Literal["float32", "bfloat16"] = "float32" if precision == "fp32" else "bfloat16"
    return PublishedModel(
        setup,
        dtype,
        batch=batch,
        compiled=family == "compile",
        all_tasks=case.kind == "mixed",
    )


def _load_own(name: str, setup: Setup, case: Case) -> Backend:
    if name == "reference":
        from backends.reference import Reference

        return Reference(setup)
    from backends.trine_engine import TrineEngine, TrineThinParts

    if name == "trine":
        return TrineThinParts(setup)
    return TrineEngine(setup, setup.engine(name), all_tasks=case.kind == "mixed")
