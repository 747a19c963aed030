"""The contestants by name: what each can do, which environment it needs, how it is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cases.case import Case, Kind

from peers.contract import Contestant, Setup
from peers.padding import BATCH

__all__ = ["PEERS", "Peer", "contestants_of", "load_contestant"]

#: Which Python runs it: the driver's, one with PyTorch, torchvision or OpenVINO.
Environment = Literal["trine", "torch", "torchvision", "openvino"]
OPENVINO_PRECISIONS: Mapping[str, Literal["fp32", "bf16", "int8"]] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "int8": "int8",
}
TEXTS: tuple[Kind, ...] = ("texts", "cold", "load")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A contestant before it is loaded.

    Attributes:
        environment: whose Python runs it.
        kinds: of cases it takes part in.
        packages: whose versions are recorded.
        exported: whether it needs the plain export in the work folder.
        sorts: whether it also runs sorted by length, as `<name>-sorted`.
    """

    environment: Environment
    kinds: tuple[Kind, ...] = TEXTS
    packages: tuple[str, ...] = ()
    exported: bool = False
    sorts: bool = True


_TORCH = ("torch", "transformers")
_VINO = ("openvino", "nncf", "onnx")
_SINGLE = {
    "transformers-fp32": Peer(environment="torch", kinds=(*TEXTS, "images"), packages=_TORCH),
    "transformers-bf16": Peer(environment="torch", kinds=(*TEXTS, "images"), packages=_TORCH),
    "compile-fp32": Peer(environment="torch", packages=_TORCH, sorts=False),
    "compile-bf16": Peer(environment="torch", packages=_TORCH, sorts=False),
    "onnx-fp32": Peer(environment="trine", packages=("onnxruntime",), exported=True),
    "onnx-int8": Peer(environment="trine", packages=("onnxruntime",), exported=True),
    "openvino-fp32": Peer(environment="openvino", packages=_VINO, exported=True),
    "openvino-bf16": Peer(environment="openvino", packages=_VINO, exported=True),
    "openvino-int8": Peer(environment="openvino", packages=_VINO, exported=True),
    "processor-torchvision": Peer(
        environment="torchvision",
        kinds=("preprocessing",),
        packages=(*_TORCH, "torchvision"),
        sorts=False,
    ),
    "processor-pillow": Peer(
        environment="torch", kinds=("preprocessing",), packages=(*_TORCH, "pillow"), sorts=False
    ),
    "numpy": Peer(environment="trine", kinds=("maxsim",), packages=("numpy",), sorts=False),
    "torch": Peer(environment="torch", kinds=("maxsim",), packages=("torch",), sorts=False),
}
#: Every peer by name.
PEERS = {
    name: peer
    for single, peer in _SINGLE.items()
    for name in ((single, f"{single}-sorted") if peer.sorts else (single,))
}


def contestants_of(case: Case, engines: Sequence[str], peers: Sequence[str]) -> list[str]:
    """Return who takes part: engines as `trine-<engine>`, then the peers that the case is for.

    Sorting by length changes nothing where there is one rectangle anyway; such peers are left out.
    """
    if case.kind in ("preprocessing", "maxsim"):
        own = ["trine"]
    else:
        own = [f"trine-{engine}" for engine in engines]
    few = len(case.lengths) <= BATCH or case.kind == "load"
    return own + [
        name
        for name in peers
        if case.kind in PEERS[name].kinds and not (few and name.endswith("-sorted"))
    ]


def load_contestant(name: str, setup: Setup, case: Case) -> Contestant:
    """Return a contestant, loaded. Its packages are imported here.

    Args:
        name: "reference", "trine", "trine-<engine>" or one of `PEERS`.
        setup: the model.
        case: that it is loaded for.
    """
    if name == "reference" or name.startswith("trine"):
        return _load_own(name, setup, case)
    if name.startswith(("processor-", "numpy", "torch")):
        from peers.thin_parts import NumpyMaxSim, PublishedProcessor, TorchMaxSim

        if name == "processor-torchvision":
            return PublishedProcessor(setup, "torchvision")
        if name == "processor-pillow":
            return PublishedProcessor(setup, "pillow")
        return NumpyMaxSim(setup) if name == "numpy" else TorchMaxSim(setup)
    batch = BATCH if name.endswith("-sorted") else None
    family, precision = name.removesuffix("-sorted").split("-")
    if family == "onnx":
        from peers.plain_onnx import PlainOnnx

        return PlainOnnx(setup, precision == "int8", batch)
    if family == "openvino":
        from peers.openvino_cpu import OpenVino

        return OpenVino(setup, OPENVINO_PRECISIONS[precision], batch)
    from peers.published_model import PublishedModel

    dtype: Literal["float32", "bfloat16"] = "float32" if precision == "fp32" else "bfloat16"
    return PublishedModel(setup, dtype, batch, compiled=family == "compile")


def _load_own(name: str, setup: Setup, case: Case) -> Contestant:
    if name == "reference":
        from peers.reference import Reference

        return Reference(setup)
    from peers.trine_engine import TrineEngine, TrineThinParts

    if name == "trine":
        return TrineThinParts(setup)
    return TrineEngine(setup, name.removeprefix("trine-"), all_tasks=case.kind == "mixed")
