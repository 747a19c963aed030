"""An engine whose graphs are models of the same Triton server, called from its Python backend."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.export.triton_repository.models import VISION, decoder_name
from trine.runtime.adapters.base import AdapterHandle, AdapterSource, MergedAdapters
from trine.runtime.bundle.bundle import HEADS_NAME, Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import DecoderInputs
from trine.runtime.errors import EngineError
from trine.runtime.inference.pooling import load_projectors
from trine.runtime.preprocessing.vision_inputs import VisionInputs

__all__ = ["BlsEngine"]


class BlsEngine:
    """Runs graphs by requests to the server it lives in; safe to call from several threads.

    Args:
        bundle: for the projectors.
        entry: of an engine with merged adapters.
        triton: the module `triton_python_backend_utils`, which only the server has.
    """

    def __init__(self, bundle: Bundle, entry: EngineEntry, triton: Any) -> None:
        self._triton = triton
        self._name = entry.name
        self.adapters: AdapterSource = MergedAdapters(
            load_projectors(bundle.path(HEADS_NAME), tuple(entry.decoders), bundle.manifest.model)
        )

    @property
    def pads_attention(self) -> bool:
        return True

    @property
    def weights_in_memory(self) -> bool:
        return True

    @property
    def description(self) -> str:
        return f"{self._name}: models of this Triton server, tasks {', '.join(self.adapters.names)}"

    def forward_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        return self._run(VISION, "image_tokens", inputs)

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return adapter.name

    def forward_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        return self._run(decoder_name(adapters[0].name), "hidden", inputs)

    def _run(
        self, model: str, output: str, inputs: VisionInputs | DecoderInputs
    ) -> NDArray[np.float32]:
        tensors = []
        for field in dataclasses.fields(inputs):
            # Triton has no scalars on the wire; the model's config reshapes one value to one.
            array = np.atleast_1d(getattr(inputs, field.name))
            tensors.append(self._triton.Tensor(field.name, np.ascontiguousarray(array)))
        request = self._triton.InferenceRequest(
            model_name=model,
            inputs=tensors,
            requested_output_names=[output],
            # Outputs of models on a GPU would stay there, where numpy cannot read them.
            preferred_memory=self._triton.PreferredMemory(self._triton.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise EngineError(
                f"the server's model {model!r} failed: {response.error().message()}; its log has "
                "more"
            )
        tensor = self._triton.get_output_tensor_by_name(response, output)
        return np.array(tensor.as_numpy(), np.float32)
