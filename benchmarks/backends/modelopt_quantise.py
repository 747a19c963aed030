"""Quantises a float32 decoder with nvidia-modelopt, whose environment this runs in.

`python benchmarks/backends/modelopt_quantise.py FOLDER` reads what `benchmarks/trt_calibration.py
prepare` wrote to the folder, and adds graphs and modelopt.json.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader

Feeds = dict[str, NDArray[np.generic]]
KINDS, METHODS = ("int8", "fp8"), ("max", "entropy")
#: What the runs have besides the graph's inputs.
OTHERS = ("pooled", "lengths")


def _runs(folder: Path) -> Iterator[Feeds]:
    for path in sorted(folder.glob("calibration-*.npz")):
        with np.load(path) as file:
            yield {key: file[key] for key in file.files if key not in OTHERS}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands out the runs, as often as it is asked to begin again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rewind()

    def get_next(self) -> Feeds | None:
        return next(self._left, None)

    def get_first(self) -> Feeds:
        return next(_runs(self._folder))

    def rewind(self) -> None:
        self._left = _runs(self._folder)


def quantise(folder: Path) -> None:
    """Quantise the float32 graph in each way."""
    made: dict[str, object] = {}
    left_out = json.loads((folder / "left-out.json").read_text(encoding="utf-8"))
    for kind, method, same in itertools.product(KINDS, METHODS, (False, True)):
        name = f"modelopt-{kind}-{method}{'-same-layers' if same else ''}"
        started = time.monotonic()
        try:
            quantize(
                onnx_path=str(folder / "fp32.onnx"),
                quantize_mode=kind,
                calibration_data_reader=Reader(folder),
                calibration_method=method,
                calibration_eps=["cpu"],
                high_precision_dtype="fp32",
                output_path=str(folder / f"{name}.onnx"),
                use_external_data_format=False,
                disable_mha_qdq=True,
                nodes_to_exclude=left_out[kind] if same else None,
                op_types_to_quantize=["MatMul"] if same else None,
            )
            made[name] = {"seconds": round(time.monotonic() - started, 1)}
        except Exception as error:  # what happened is the result
            made[name] = {"failed": f"{type(error).__name__}: {error}"[:400]}
        print(name, made[name], flush=True)
    done = {"modelopt": version("nvidia-modelopt"), "made": made}
    (folder / "modelopt.json").write_text(json.dumps(done, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    quantise(parser.parse_args().folder)


if __name__ == "__main__":
    main()
