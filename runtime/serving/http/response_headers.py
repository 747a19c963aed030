"""Headers that say what computed a response: model, tasks, adapters, engine, precision."""

import re
from urllib.parse import quote

from trine.runtime.serving.service.calls import EmbedCall, EmbedResult, ModelInfo

__all__ = ["embedding_headers", "list_items"]

#: Names that stand in a header as they are: nearly all.
PLAIN = re.compile(r"[A-Za-z0-9_.~/:-]*")
#: Items that `x-trine-truncated` lists: clients and proxies refuse headers of some 4 kB or more.
MAX_LISTED = 200


def embedding_headers(info: ModelInfo, call: EmbedCall, result: EmbedResult) -> dict[str, str]:
    """Return the headers of a response with vectors.

    `x-trine-task` lists the tasks of the call in order of first use; `x-trine-adapter` the hash of
    each; `x-trine-truncated` the numbers of the items that were cut, the first `MAX_LISTED` of them
    and then how many more. Names are percent-encoded where a header could not hold them. Times are
    in milliseconds, in the form of the standard `Server-Timing` header.

    Args:
        info: of the model.
        call: that was answered.
        result: of the call.
    """
    tasks = {item.task: _quoted(item.task) for item in call.items}
    times = result.timings
    return {
        "x-trine-model": _quoted(info.name),
        "x-trine-task": ",".join(tasks.values()),
        "x-trine-adapter": ",".join(
            [f"{name}={result.adapter_hashes[task]}" for task, name in tasks.items()]
        ),
        "x-trine-engine": info.engine,
        "x-trine-precision": info.precision,
        "x-trine-truncated": list_items(call, result.truncated.nonzero()[0].tolist()),
        "server-timing": (
            f"prepare;dur={times.prepare_s * 1000:.1f}, queue;dur={times.queue_s * 1000:.1f}, "
            f"engine;dur={times.engine_s * 1000:.1f}, total;dur={times.total_s * 1000:.1f}"
        ),
    }


def list_items(call: EmbedCall, numbers: list[int]) -> str:
    """Return items as a header lists them, e.g. "0,3" or, of very many, "0,1,…,199,+1848".

    Where a request had items in two fields, it says in which: "query:0,documents:2".
    """
    places = [call.place(number) for number in numbers[:MAX_LISTED]]
    one = len(call.fields) == 1
    listed = ",".join([str(p.index) if one else f"{p.field}:{p.index}" for p in places])
    more = len(numbers) - MAX_LISTED
    return f"{listed},+{more}" if more > 0 else listed


def _quoted(name: str) -> str:
    """Return a name percent-encoded where a header could not hold it."""
    return name if PLAIN.fullmatch(name) else quote(name, safe="/:")
