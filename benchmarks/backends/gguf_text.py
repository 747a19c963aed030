"""llama.cpp by its Python binding: Q8_0, the texts of a call behind one another in a batch."""

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backends.contract import Call, Inputs, Setup, UnsupportedCase
from backends.gguf_export import GGUF_NAME

__all__ = ["LlamaCpp"]


class LlamaCpp:
    """One model file; a context of the case's size is made when the case is known."""

    def __init__(self, setup: Setup) -> None:
        import llama_cpp

        path = setup.work / GGUF_NAME
        self._threads = setup.threads
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if self._model is None:
            raise RuntimeError(f"llama.cpp cannot load {path.name}")
        self._hidden = llama_cpp.llama_model_n_embd(self._model)
        self.file_bytes = path.stat().st_size

    def ready(self, inputs: Inputs) -> Call:
        kind = inputs.case.kind
        if kind not in ("texts", "cold"):
            raise UnsupportedCase(f"only texts are run in llama.cpp, no {kind}")
        context = self._context(inputs.texts)
        return lambda: self._embed(context, inputs.texts)

    def _context(self, texts: Sequence[NDArray[np.int64]]) -> ctypes.c_void_p:
        import llama_cpp

        total = sum(len(text) for text in texts)
        settings = llama_cpp.llama_context_default_params()
        # Mean pooling needs all tokens of a text in one pass.
        settings.n_ctx = settings.n_batch = settings.n_ubatch = total
        settings.n_seq_max = len(texts)
        settings.kv_unified = True
        settings.n_threads = settings.n_threads_batch = self._threads
        settings.embeddings = True
        settings.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_MEAN
        context: ctypes.c_void_p | None = llama_cpp.llama_init_from_model(self._model, settings)
        if context is None:
            raise RuntimeError(f"llama.cpp makes no context for {total} tokens")
        return context

    def _embed(
        self, context: ctypes.c_void_p, texts: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.float32]:
        import llama_cpp

        batch = llama_cpp.llama_batch_init(sum(len(text) for text in texts), 0, 1)
        place = 0
        for row, text in enumerate(texts):
            for position, token in enumerate(text.tolist()):
                batch.token[place] = token
                batch.pos[place] = position
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = row
                batch.logits[place] = True
                place += 1
        batch.n_tokens = place
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        status = llama_cpp.llama_decode(context, batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode answers {status}")
        rows = [
            np.ctypeslib.as_array(
                llama_cpp.llama_get_embeddings_seq(context, row), (self._hidden,)
            ).copy()
            for row in range(len(texts))
        ]
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
