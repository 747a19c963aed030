"""A bundle as a module of sentence-transformers 6: texts and images in, both kinds of vectors out.

`modules.json` of a bundle names this class, so that `SentenceTransformer(BUNDLE,
trust_remote_code=True)` loads it; sentence-transformers asks for that flag for every module that
is not its own. `SentenceTransformer(modules=[TrineModule.load(BUNDLE)])` needs no flag, nor does
`MultiVectorEncoder(modules=…)`, which has no other way to take a bundle.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from sentence_transformers.base.modules import InputModule

from trine.runtime.bundle.bundle import MANIFEST_NAME
from trine.runtime.bundle.model_config import PROMPTS
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText, Item
from trine.runtime.task_names import split_task

__all__ = ["TrineModule"]

#: What sentence-transformers calls the two sides, in `task` and in names of prompts.
SIDES = {"query": "query", "document": "passage", "passage": "passage"}
#: Arguments of `Embedder.load` that `model_kwargs` may have.
LOAD_OPTIONS = ("engine", "device", "tasks", "threads", "limits", "self_test")


class TrineModule(InputModule):
    """Embeds with an `Embedder`; its vectors are the embedder's, of length 1, on the CPU.

    Args:
        embedder: that embeds.
        task: adapter of calls that name none; None for the embedder's own, else "retrieval".
    """

    forward_kwargs: ClassVar[set[str]] = {"task"}

    def __init__(self, embedder: Embedder, task: str | None = None) -> None:
        super().__init__()
        self.embedder = embedder
        self.task = task or embedder.task or "retrieval"

    @classmethod
    def load(  # noqa: PLR0913 - the arguments are the base class's
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        **others: object,
    ) -> "TrineModule":
        """Return the module of a bundle, by folder or Hub id.

        Args:
            model_name_or_path: the bundle.
            subfolder: not used; a bundle has one module.
            token, cache_folder, local_files_only: not used; the Hub client's variables hold.
            revision: of the bundle on the Hub.
            model_kwargs: `task` as in the constructor, and options of `Embedder.load`.
            others: what sentence-transformers passes to every module.

        Raises:
            InputError: an option of `model_kwargs` is not known.
            TrineError: as `Embedder.load`.
        """
        options = {k: v for k, v in (model_kwargs or {}).items() if v is not None}
        task = options.pop("task", None)
        unknown = sorted(set(options) - set(LOAD_OPTIONS))
        if unknown:
            raise InputError(
                f"model_kwargs has {unknown}; a Trine bundle takes task and {list(LOAD_OPTIONS)}"
            )
        return cls(Embedder.load(model_name_or_path, revision=revision, **options), task)

    @property
    def modalities(self) -> list[Any]:
        """What inputs may be: texts, images, and items of both."""
        return ["text", "image", ("image", "text"), ("text", "image")]

    @property
    def max_seq_length(self) -> int:
        """Tokens of a text; longer ones are cut."""
        return self.embedder.bundle.manifest.model.max_tokens

    def get_embedding_dimension(self) -> int:
        """Return how many numbers a single vector has."""
        return self.embedder.bundle.manifest.model.default_dim

    def get_sentence_embedding_dimension(self) -> int:
        """Return the same, by its older name."""
        return self.get_embedding_dimension()

    def preprocess(
        self,
        inputs: Sequence[object],
        prompt: str | None = None,
        task: str | None = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        """Return the items and whose prefix they get; the embedder does the rest.

        Args:
            inputs: texts, images, or mappings with "text" and "image".
            prompt: "Query: " or "Passage: ", or "" and None for the task's own side.
            task: adapter, a side, or both as in "retrieval.passage".
            kwargs: not used.

        Raises:
            InputError: the prompt or the task is not one of the model's.
        """
        adapter, side = self._split(task)
        if prompt:
            sides = [name for name, prefix in PROMPTS.items() if prefix == prompt]
            if not sides:
                raise InputError(
                    f"prompt is {prompt!r}; this model knows {list(PROMPTS.values())}, by "
                    f"prompt_name {list(SIDES)}"
                )
            side = sides[0]
        return {"items": [_item(entry) for entry in inputs], "adapter": adapter, "side": side}

    def forward(self, features: dict[str, Any], **kwargs: object) -> dict[str, Any]:
        """Return `features` with vectors.

        sentence_embedding  float32 [B, D], rows of length 1
        token_embeddings    float32 [B, T, d], rows of length 1, zeros behind an item's last token
        attention_mask      int64 [B, T], which rows are an item's
        """
        found = self.embedder.encode(
            features["items"],
            features["adapter"],
            prompt_name=features["side"],
            return_multivector=True,
        )
        multi = [torch.from_numpy(rows) for rows in found.multi or ()]
        lengths = torch.tensor([len(rows) for rows in multi])
        padded = torch.nn.utils.rnn.pad_sequence(multi, batch_first=True)
        mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
        return {
            "sentence_embedding": torch.from_numpy(found.single),
            "token_embeddings": padded,
            "attention_mask": mask.to(torch.int64),
        }

    def save(
        self, output_path: str, *args: object, safe_serialization: bool = True, **kwargs: object
    ) -> None:
        """Copy the bundle into a folder."""
        bundle, folder = self.embedder.bundle, Path(output_path)
        for name in (*bundle.manifest.files, MANIFEST_NAME):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path(name), folder / name)

    def _split(self, task: str | None) -> tuple[str, str | None]:
        """Return adapter and side that sentence-transformers' `task` names."""
        if task is None or task in SIDES:
            return self.task, None if task is None else SIDES[task]
        found = split_task(task, self.embedder.tasks)
        # What is no task is refused by the embedder, which names those that are.
        return found or (task, None)


def _item(entry: object) -> Item:
    if isinstance(entry, Mapping):
        image, text = entry.get("image"), entry.get("text")
        if image is None:
            return text if isinstance(text, str) else ""
        return ImageText((image,), text)
    return entry if isinstance(entry, str) else ImageText((entry,))
