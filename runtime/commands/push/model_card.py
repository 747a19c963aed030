"""Writes the model card of a bundle on the Hub from its manifest and its measured parity."""

from collections.abc import Iterator, Mapping
from typing import Any

from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.commands.info.bundle_summary import read_parity
from trine.runtime.commands.progress import format_bytes
from trine.runtime.task_names import task_names

__all__ = ["CARD_NAME", "model_card"]

CARD_NAME = "README.md"

CARD = """\
---
library_name: trine
pipeline_tag: feature-extraction
{front}tags:
- trine
- embeddings
- multimodal
- onnx
---

# {name}

A bundle of [{source}]({link}) for Trine: ONNX graphs, weights, tokenizer and reference vectors. It
embeds texts and images without PyTorch: one vector of {dim} dimensions, which may be cut to
{dims}, or one of {multi} dimensions a token. Tasks: {tasks}.

```python
from trine import Embedder

embedder = Embedder.load("{repository}")
documents = embedder.encode_text(["a rose"], task="{task}", prompt_name="passage")
```

```sh
trine embed {repository} --text "a rose" --task {task}
trine serve {repository}
```

Only the files of the engine that suits the machine are fetched.

## Engines

| engine | precision | adapters | tasks | size | worst cosine with float32 |
| --- | --- | --- | --- | --- | --- |
{engines}

The worst cosine is that of single vectors, over the inputs that the export measured.

## Licence

{licence} A bundle stays under the licence of the weights that it was made of.
"""


def model_card(bundle: Bundle, repository: str) -> str:
    """Return the card's text, front matter first.

    Args:
        bundle: to describe.
        repository: its id on the Hub.
    """
    manifest = bundle.manifest
    source = manifest.source
    of_hub = "/" in source.id
    first = manifest.engines[0]
    front = f"base_model: {source.id}\n" if of_hub else ""
    if manifest.license is not None:
        # The publisher's own name of it stands last; the Hub's list knows few of them.
        name = manifest.license.rpartition(" / ")[2].lower()
        front += f"license: other\nlicense_name: {name}\n"
    *smaller, largest = manifest.model.matryoshka_dims
    return CARD.format(
        front=front,
        name=repository.partition("/")[2],
        source=source.id,
        link=f"https://huggingface.co/{source.id}" if of_hub else "#",
        dim=largest,
        dims=", ".join(map(str, smaller)),
        multi=manifest.model.projector_dim,
        tasks=", ".join(task_names(tuple(first.decoders))),
        repository=repository,
        task=next(iter(first.decoders)),
        engines="\n".join(_rows(bundle, read_parity(bundle))),
        licence=(
            f"The publisher of the weights states: {manifest.license}."
            if manifest.license is not None
            else "The checkpoint does not state the licence of its weights."
        ),
    )


def _rows(bundle: Bundle, parity: Mapping[str, Any]) -> Iterator[str]:
    for entry in bundle.manifest.engines:
        measured = parity.get(entry.name, {}).get("vectors", {})
        cosines = [
            found["min_cosine"] for name, found in measured.items() if name.endswith("/single")
        ]
        cells = (
            entry.name,
            entry.precision,
            entry.adapters,
            ", ".join(entry.decoders),
            format_bytes(_size(bundle, entry)),
            f"{min(cosines):.5f}" if cosines else "not measured",
        )
        yield f"| {' | '.join(cells)} |"


def _size(bundle: Bundle, entry: EngineEntry) -> int:
    folder = entry.vision.rpartition("/")[0] + "/"
    files = bundle.manifest.files.items()
    return sum(file.size for name, file in files if name.startswith(folder))
