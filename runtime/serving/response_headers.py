"""Headers that say what computed a response: model, tasks, adapters, engine, precision."""

from urllib.parse import quote

from trine.runtime.serving.calls import EmbedCall, EmbedResult, ModelInfo

__all__ = ["embedding_headers"]


def embedding_headers(info: ModelInfo, call: EmbedCall, result: EmbedResult) -> dict[str, str]:
    """Return the headers of a response with vectors.

    `x-trine-task` lists the tasks of the call in order of first use; `x-trine-adapter` the hash of
    each; `x-trine-truncated` the numbers of the items that were cut. Names are percent-encoded
    where a header could not hold them. Times are in milliseconds, in the form of the standard
    `Server-Timing` header.

    Args:
        info: of the model.
        call: that was answered.
        result: of the call.
    """
    tasks = tuple(dict.fromkeys(item.task for item in call.items))
    times = result.timings
    stages = {
        "prepare": times.prepare_s,
        "queue": times.queue_s,
        "engine": times.engine_s,
        "total": times.total_s,
    }
    return {
        "x-trine-model": quote(info.name, safe="/:"),
        "x-trine-task": ",".join(quote(task) for task in tasks),
        "x-trine-adapter": ",".join(f"{quote(t)}={result.adapter_hashes[t]}" for t in tasks),
        "x-trine-engine": info.engine,
        "x-trine-precision": info.precision,
        "x-trine-truncated": ",".join(str(i) for i in result.truncated.nonzero()[0]),
        "server-timing": ", ".join(f"{k};dur={v * 1000:.1f}" for k, v in stages.items()),
    }
