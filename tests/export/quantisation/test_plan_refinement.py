"""Targets of plans, what tries them out, and the rounding that is imitated."""

from pathlib import Path

import numpy as np
import pytest

from trine.export.accuracy.corpus_run import CorpusRun, corpus_inputs
from trine.export.bundle.runtime_files import write_tokenizer
from trine.export.calibration.corpus import built_in_corpus
from trine.export.calibration.inputs import built_in_calibration
from trine.export.calibration.run import (
    affordable_size,
    calibration_inputs,
    choose_affordable,
    operations_per_token,
)
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.quantisation.observer import RangeScan
from trine.export.quantisation.plan_refinement import LossTarget, Probing, measure_plan
from trine.export.quantisation.precision_plan import plan_engine
from trine.export.reference.model import Reference, ReferenceInput
from trine.runtime.adapters.peft import PeftAdapters
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.preprocessing.preprocessor import Preprocessor

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(GOLDEN)


@pytest.fixture(scope="module")
def peft(checkpoint: Checkpoint) -> PeftAdapters:
    return PeftAdapters(GOLDEN / "adapters", checkpoint.config, checkpoint.config.tasks)


@pytest.fixture(scope="module")
def preprocessor(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Preprocessor:
    tokenizer = write_tokenizer(checkpoint, tmp_path_factory.mktemp("tokenizer"))
    return Preprocessor(checkpoint.config, tokenizer)


@pytest.fixture(scope="module")
def inputs(checkpoint: Checkpoint, preprocessor: Preprocessor) -> list[ReferenceInput]:
    chosen = built_in_calibration("brief")
    return list(calibration_inputs(checkpoint.config, preprocessor, chosen, ("retrieval", "code")))


def test_what_images_lose_is_not_hidden_among_texts(inputs: list[ReferenceInput]) -> None:
    target = LossTarget(mean=1e-3, worst=1e-2)
    losses = [2e-3 if item.sequence.images else 0.0 for item in inputs]
    assert np.mean(losses) < target.mean
    assert target.missed(losses, inputs)
    assert not target.missed([5e-4] * len(inputs), inputs)
    assert target.missed([float("nan")] * len(inputs), inputs)


def test_an_imitated_plan_is_held_against_the_vectors_of_the_pass_before(
    checkpoint: Checkpoint, peft: PeftAdapters, inputs: list[ReferenceInput]
) -> None:
    scan = RangeScan()
    reference = Reference(checkpoint, peft)
    found = Reference(checkpoint, peft, scan).run(inputs)
    probing = Probing(
        reference=reference,
        model=checkpoint.config,
        inputs=inputs,
        singles=np.stack([vectors.single for vectors in found]),
        max_probe_tokens=1,
    )
    exact = measure_plan(probing, plan_engine("fp32", {}).fake_quantisation(None), lambda _: None)
    assert max(np.abs(exact.losses)) < 1e-6
    rounded = measure_plan(
        probing, plan_engine("int8", scan.ranges).fake_quantisation(None), lambda _: None
    )
    assert 1e-6 < rounded.mean < 1e-3


def test_the_observer_is_told_of_calibration_inputs_only(
    checkpoint: Checkpoint,
    peft: PeftAdapters,
    preprocessor: Preprocessor,
    inputs: list[ReferenceInput],
) -> None:
    corpus, tasks = built_in_corpus("brief"), ("retrieval", "code")
    checking = corpus_inputs(checkpoint.config, preprocessor, corpus, tasks)
    alone, beside = RangeScan(), RangeScan()
    Reference(checkpoint, peft, alone).run(inputs)
    vectors = Reference(checkpoint, peft, beside).run([*inputs, *checking])
    assert alone.ranges.keys() == beside.ranges.keys()
    for name, seen in alone.ranges.items():
        np.testing.assert_allclose(
            beside.ranges[name].channel_max, seen.channel_max, rtol=1e-4, atol=1e-5
        )
        assert beside.ranges[name].rows.shape == seen.rows.shape
    run = CorpusRun.of(corpus, tasks, vectors[len(inputs) :])
    assert set(run.vectors) == set(tasks)
    for side in run.vectors.values():
        assert len(side.queries.single) == len(corpus.queries)
        assert len(side.passages.multi) == len(corpus.passages)
        assert len(side.images.single) == len(corpus.images)


def test_small_models_are_tried_with_all_inputs(
    checkpoint: Checkpoint, inputs: list[ReferenceInput]
) -> None:
    assert affordable_size(checkpoint.config) == "small"
    assert choose_affordable(inputs, checkpoint.config) == tuple(range(len(inputs)))


def test_large_models_are_tried_with_some_of_each_kind(
    checkpoint: Checkpoint, inputs: list[ReferenceInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    model: ModelConfig = checkpoint.config
    budget = 200
    monkeypatch.setattr(
        "trine.export.calibration.run.IMITATION_OPERATIONS",
        2.0 * budget * operations_per_token(model),
    )
    chosen = choose_affordable(inputs, model)
    texts = [i for i in chosen if not inputs[i].sequence.images]
    images = [i for i in chosen if inputs[i].sequence.images]
    for kind in (texts, images):
        assert kind
        tokens = [len(inputs[index].sequence) for index in kind]
        assert len(kind) == 1 or sum(tokens) <= budget
    # Not the first or the shortest few: the second half of the texts, with code, is there too.
    num_texts = sum(not item.sequence.images for item in inputs)
    assert min(texts) < num_texts / 2 <= max(texts)
