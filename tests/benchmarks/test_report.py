"""Reports say what the JSON says: fastest first, quality beside speed, nobody left out."""

from pathlib import Path

import pytest
from report.goals import Goal, verdicts
from report.page import html_page
from report.record import Record, Row, read_record, write_record
from report.summary import BEGIN, END, markdown, replace_block
from report.tables import standings


def row(backend: str, rate: float | None, cosine: float | None, absent: str | None = None) -> Row:
    return Row(
        case="ragged",
        title="8 texts <of> 64",
        backend=backend,
        unit="tokens",
        rate=rate,
        worst_cosine=cosine,
        absent=absent,
        precision="int8" if backend == "trine-ort-int8" else None,
        median_ms=None if rate is None else 1000 * 352 / rate,
        peak_mb=None if rate is None else rate,
        versions={"numpy": "2.4"},
    )


@pytest.fixture
def record() -> Record:
    rows = [
        row("openvino-int8", 900.0, 0.88),
        row("transformers-bf16", 200.0, 0.9999),
        row("onnx-int8", 400.0, 0.998),
        row("trine-ort-int8", 600.0, 0.999),
        row("compile-fp32", None, None, "missing: torch is not installed"),
    ]
    settings = {"checkpoint": "slice", "task": "retrieval", "rounds": 5}
    return Record(
        machine={"cpu": "c", "threads": 2, "commit": "abc"},
        settings=settings,
        rows=rows,
        peaks={"register": {"int8": 1000.0}, "onednn": {"int8": 800.0, "shape": [1, 2, 3]}},
        operations={"ragged": 352},
    )


def test_ratios_are_to_the_best_peer_whose_vectors_are_near_enough(record: Record) -> None:
    rows = standings(record)["ragged"]
    assert [s.row.backend for s in rows] == [
        *("openvino-int8", "trine-ort-int8", "onnx-int8", "transformers-bf16", "compile-fp32")
    ]
    assert [s.counts for s in rows] == [False, True, True, True, True]
    assert rows[1].ratio == pytest.approx(1.5)
    assert rows[0].ratio == pytest.approx(2.25)
    assert rows[-1].ratio is None


def test_tables_name_everyone_with_quality_and_absence(record: Record) -> None:
    text = markdown(record)
    assert "| **trine-ort-int8** | 600 tokens/s |" in text
    assert "0.88000 (does not count)" in text
    assert "missing: torch is not installed" in text
    assert "1.50 ×" in text
    assert "numpy 2.4" in text


def test_the_page_stands_alone_and_escapes_what_it_shows(record: Record) -> None:
    page = html_page(record, {"ragged": b"png"})
    assert "8 texts &lt;of&gt; 64" in page
    assert "data:image/png;base64,cG5n" in page
    assert "best competitor, onnx-int8" in page
    assert "1.50 ×" in page
    assert "torch is not installed" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_record_is_read_as_it_was_written(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "results" / "run.json"
    write_record(path, record)
    assert read_record(path) == record


def test_plots_are_png_files_of_what_was_measured(record: Record) -> None:
    pytest.importorskip("matplotlib")
    from report.plots import case_plot

    rows = standings(record)["ragged"]
    drawn = case_plot(rows)
    assert drawn is not None
    assert drawn.startswith(b"\x89PNG")
    assert case_plot(rows[-1:]) is None


def test_goals_are_judged_by_the_run_and_those_not_measured_are_not(record: Record) -> None:
    found = {(v.goal.case, v.goal.against): v for v in verdicts(record)}
    best = found["ragged", "best competitor"]
    assert best.other is not None
    assert (best.other.backend, best.met) == ("onnx-int8", True)
    assert best.reached == "1.50 ×"
    share = found["ragged", "peak"]
    assert share.value == pytest.approx(0.6)
    assert share.met is False
    assert "75.0 % of the best product's" in share.note
    assert found["query", "best competitor"].met is None
    # No float32 engine took part.
    assert found["ragged", "best fp32 competitor"].reached == "not measured"


def test_a_goal_with_a_share_of_memory_needs_both(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(share: float) -> bool | None:
        goal = Goal(case="ragged", against="best competitor", must=1, aim=None, memory_share=share)
        monkeypatch.setattr("report.goals.GOALS", (goal,))
        return verdicts(record)[0].met

    assert judged(2.0) is True
    assert judged(0.25) is False


def test_a_page_keeps_all_but_the_block_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    replace_block(page, ["new", "lines"])
    assert page.read_text() == f"before\n{BEGIN}\nnew\nlines\n{END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        replace_block(page, ["new"])
