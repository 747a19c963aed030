"""Makes a call's result of the vectors that its ticket holds."""

import asyncio
from collections.abc import Mapping

import numpy as np

from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.serving.scheduler.tickets import Ticket
from trine.runtime.serving.scheduler.vectors import stack_multi, stack_single
from trine.runtime.serving.service.calls import EmbedResult, Timings

__all__ = ["call_result"]

#: Items above which vectors are stacked in a thread: below, that takes less than a millisecond.
FEW_ITEMS = 64


async def call_result(ticket: Ticket, model: ModelConfig, hashes: Mapping[str, str]) -> EmbedResult:
    """Return the result of a call whose vectors are all there.

    Args:
        ticket: of the call.
        model: that made them.
        hashes: of the weights of each task's adapter.
    """
    call = ticket.call
    size = model.decoder.hidden_size
    dim = model.truncate_dim if call.dimensions is None else call.dimensions

    def stack() -> EmbedResult:
        vectors = ticket.vectors
        return EmbedResult(
            single=stack_single(vectors, size, dim, call.normalize) if call.single else None,
            multi=stack_multi(vectors, call.multi_dimensions) if call.multi else None,
            num_tokens=np.array(ticket.num_tokens, np.int64),
            num_image_tokens=np.array(ticket.num_image_tokens, np.int64),
            truncated=np.array(ticket.truncated, np.bool_),
            image_spans=tuple(ticket.spans),
            adapter_hashes=hashes,
            timings=ticket.timings()
            if call.items
            else Timings(prepare_s=0.0, queue_s=0.0, engine_s=0.0, total_s=0.0),
        )

    if len(call.items) <= FEW_ITEMS:
        return stack()
    return await asyncio.to_thread(stack)
