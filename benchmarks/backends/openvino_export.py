"""The plain export quantised by NNCF to OpenVINO's static INT8, made once.

Calibrated on texts of 32 to 1,024 tokens from another seed than any case's.

    python benchmarks/backends/openvino_export.py WORK NUM_IDS EXCLUDED_IDS
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from cases.inputs import token_ids
from numpy.typing import NDArray

from backends.padding import padded

__all__ = ["INT8_NAME", "quantise"]

INT8_NAME = "openvino-int8.xml"
#: Ranges grow with the length, but NNCF keeps every score tensor: 4,096 tokens take over 16 GB.
CALIBRATION_LENGTHS = (32, 64, 128, 256, 512, 1024)


def quantise(source: Path, path: Path, num_ids: int, excluded: Sequence[int]) -> None:
    """Write the static INT8 model of an exported graph."""
    import nncf
    import openvino

    model = openvino.Core().read_model(str(source))
    texts = token_ids(CALIBRATION_LENGTHS, num_ids, excluded, seed=1)

    def samples() -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        for text in texts:
            yield padded([text])

    quantised = nncf.quantize(
        model,
        nncf.Dataset(list(samples())),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
    )
    openvino.save_model(quantised, str(path), compress_to_fp16=False)


def main() -> None:
    """Make the file unless it is there: WORK NUM_IDS EXCLUDED_IDS, these joined by commas."""
    work, num_ids = Path(sys.argv[1]), int(sys.argv[2])
    excluded = [int(token) for token in sys.argv[3].split(",") if token]
    if not (work / INT8_NAME).exists():
        quantise(work / "plain.onnx", work / INT8_NAME, num_ids, excluded)


if __name__ == "__main__":
    main()
