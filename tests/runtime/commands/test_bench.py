"""`trine bench`: tables, JSON, profile, refusals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trine.runtime.commands.bench import measure, peak, workloads
from trine.runtime.commands.program import main
from trine.runtime.engines.base import Engine
from trine.runtime.engines.opening import open_engine


@pytest.fixture(autouse=True)
def _no_more_calls_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(peak, "SECONDS", 0.0)


@pytest.mark.slow
def test_json_has_rates_stages_and_the_graphs_operators(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(nano_bundle), "--case", "ragged", "--profile", "--json"]
    assert main([*words, "--threads", "1"]) == 0
    (engine,) = json.loads(capsys.readouterr().out)["engines"]
    (result,) = engine["results"]
    assert result["rate"] == pytest.approx(352 / result["p50_ms"] * 1000)
    assert result["p50_ms"] <= result["p95_ms"] <= result["p99_ms"]
    (profile,) = engine["profiles"]
    assert list(profile["stages"]) == ["tokenise", "decoder", "heads"]
    (graph,) = profile["graphs"]
    classes = {entry["name"]: entry for entry in graph["classes"]}
    assert classes["GEMM"]["operations"] > 0
    assert classes["attention"]["seconds"] > 0
    assert "other" not in classes or classes["other"]["seconds"] < classes["GEMM"]["seconds"]
    assert engine["peak"]["operations_per_second"] > 0


@pytest.mark.slow
def test_a_page_passes_the_vision_stage_and_text_names_the_share_of_the_peak(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = replace(workloads.WORKLOADS[-1], images=((112, 168),))
    monkeypatch.setattr(workloads, "WORKLOADS", (page,))
    assert main(["bench", str(nano_bundle), "--case", "page", "--profile"]) == 0
    out = capsys.readouterr().out
    for part in ("images/s", "preprocess", "vision graph", "decoder graph", "float32 peak of"):
        assert part in out


def test_unknown_cases_engines_tasks_and_thread_counts_are_refused(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {"--case": "tea", "--engine": "tea", "--task": "tea", "--threads": "0"}
    for option, value in refused.items():
        assert main(["bench", str(nano_bundle), option, value]) == 2
        assert value in capsys.readouterr().err


@pytest.mark.slow
def test_a_decoder_that_takes_adapters_is_profiled_with_them(
    nano_runtime_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(nano_runtime_bundle), "--case", "query", "--profile", "--json"]
    assert main(words) == 0
    (engine,) = json.loads(capsys.readouterr().out)["engines"]
    (graph,) = engine["profiles"][0]["graphs"]
    classes = {entry["name"]: entry for entry in graph["classes"]}
    config = json.loads((nano_runtime_bundle / "manifest.json").read_text())["model"]["decoder"]
    hidden, layers = config["hidden_size"], config["num_layers"]
    # More than the MLP's products alone.
    assert (
        classes["GEMM"]["operations"] > 2 * 32 * layers * 3 * hidden * (config["intermediate_size"])
    )


class Untimed:
    """An engine with the parts that running needs, and none for profiles."""

    def __init__(self, engine: Engine) -> None:
        self.adapters, self.description = engine.adapters, "untimed"
        self.forward_decoder, self.forward_vision = engine.forward_decoder, engine.forward_vision


def test_an_engine_that_does_not_time_its_operators_says_so(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "open_engine", lambda *given: Untimed(open_engine(*given)))
    assert main(["bench", str(nano_bundle), "--case", "query", "--profile"]) == 2
    assert "does not time its operators" in capsys.readouterr().err
