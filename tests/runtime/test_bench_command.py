"""`trine bench`: tables, JSON, profile, refusals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trine.export.cli import main
from trine.runtime.bench import measure, peak, workloads


@pytest.fixture(autouse=True)
def _no_more_calls_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(peak, "SECONDS", 0.0)


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


def test_a_page_passes_the_vision_stage_and_text_names_the_share_of_the_peak(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = replace(workloads.WORKLOADS[-1], pictures=((112, 168),))
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


def test_a_decoder_that_takes_adapters_is_measured_but_not_profiled(
    nano_runtime_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(nano_runtime_bundle), "--case", "query"]
    assert main(words) == 0
    assert "tokens/s" in capsys.readouterr().out
    assert main([*words, "--profile"]) == 2
    assert "--adapters merged" in capsys.readouterr().err
