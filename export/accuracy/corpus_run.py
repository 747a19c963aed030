"""The built-in corpus in the float32 reference: what engines' vectors and rankings should be."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trine.export.accuracy.rank_agreement import CorpusVectors, Vectors
from trine.export.calibration.corpus import RankingCorpus
from trine.export.reference.model import ReferenceInput, ReferenceVectors
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.request import check_request

__all__ = ["CorpusRun", "corpus_inputs"]


@dataclass(frozen=True, slots=True)
class CorpusRun:
    """A corpus and the reference's vectors of it by task."""

    corpus: RankingCorpus
    vectors: dict[str, CorpusVectors]

    @classmethod
    def of(
        cls, corpus: RankingCorpus, tasks: Sequence[str], vectors: Sequence[ReferenceVectors]
    ) -> "CorpusRun":
        """Sort the vectors of `corpus_inputs` by task and side."""
        result, start = {}, 0
        for task in tasks:
            sides = []
            for items, _ in corpus.sides:
                rows = vectors[start : start + len(items)]
                start += len(items)
                single = np.stack([row.single for row in rows])
                sides.append(Vectors(single=single, multi=[row.multi for row in rows]))
            result[task] = CorpusVectors(queries=sides[0], passages=sides[1], images=sides[2])
        return cls(corpus, result)


def corpus_inputs(
    model: ModelConfig, preprocessor: Preprocessor, corpus: RankingCorpus, tasks: Sequence[str]
) -> list[ReferenceInput]:
    """Return a corpus as the reference takes it, for each task, kept from its observer.

    Args:
        model: the model's numbers.
        preprocessor: of the bundle's tokenizer.
        corpus: to embed.
        tasks: to embed it for.
    """
    inputs: list[ReferenceInput] = []
    images: dict[int, TokenSequence] = {}
    for task in tasks:
        for items, prompt in corpus.sides:
            request = check_request(
                model.tasks, model, num_items=len(items), task=task, prompt_name=prompt
            )
            for index, sequence in enumerate(preprocessor.sequences(items, request)):
                shared = sequence
                if sequence.images:
                    # The vision tower has no tasks: it sees each image once.
                    first = images.setdefault(index, sequence)
                    shared = dataclasses.replace(sequence, images=first.images)
                inputs.append(ReferenceInput(shared, task, observed=False))
    return inputs
