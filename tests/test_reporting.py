"""Tables and figures from the records of a run that is written here by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import BenchError
from bench.reporting.collect import Estimate, Run, read_run
from bench.reporting.figures import frontier
from bench.reporting.tables import main_table, markdown

POINTS = [
    *(("base", "best_of_n", metric, n) for metric in ("accuracy", "kl", "kl_bound") for n in (1, 2, 4, 8)),
    *((arm, "greedy", "accuracy", 1) for arm in ("base", "tuned", "control")),
    *((arm, "pass", "accuracy", 1) for arm in ("base", "tuned", "control")),
    *((arm, "policy", "kl", 1) for arm in ("base", "tuned", "control")),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "outputs" / "default" / "0123456789"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("selection:\n  _target_: bench.selection.all_correct\n")
    columns = ("policy", "method", "metric", "n", "value", "low", "high")
    rows = [
        dict(zip(columns, (*point, 0.1 * i, 0.1 * i - 0.05, 0.1 * i + 0.05), strict=True))
        for i, point in enumerate(POINTS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "curves.parquet")
    metrics = {"best_of_n/pool_size": 16, "test/prompts": 7, "tuned_vs_control/pass@1/verdict": "better"}
    metrics |= {f"tuned_vs_best_of_{n}/accuracy/verdict": "not resolved" for n in (1, 2, 4, 8)}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return read_run(folder)


def test_every_arm_and_every_n_has_its_row_with_interval_and_verdict(run: Run):
    lines = main_table(run).splitlines()
    names = [line.split("|")[1].strip() for line in lines]
    expected = ["base", "tuned: all_correct", "control: random twin", *(f"Best-of-{n}" for n in (1, 2, 4, 8))]
    assert names[2:] == expected
    assert ".100 [.050, .150]" in lines[6]  # Best-of-2's accuracy is the second point
    assert "better" in lines[4]
    assert all("not resolved" in line for line in lines[5:])


def test_best_of_1_is_shown_where_the_sampler_is_not_the_raw_base(run: Run):
    """In the fixture's numbers Best-of-1 is .4 nats from the base."""
    assert run.series("base", "best_of_n", "kl")[1].value == pytest.approx(0.4)
    assert any(line.startswith("| Best-of-1 ") for line in main_table(run).splitlines())
    raw = replace(run, curves=run.curves | {("base", "best_of_n", "kl", 1): Estimate(0.0, 0.0, 0.0)})
    assert not any(line.startswith("| Best-of-1 ") for line in main_table(raw).splitlines())


def test_report_leaves_out_what_did_not_finish(run: Run, monkeypatch, capsys):
    from bench.report import main

    failed = run.folder.parent / "failed"
    failed.mkdir()
    (failed / "error.txt").write_text("no")
    monkeypatch.setattr("sys.argv", ["report", str(run.folder), str(failed)])
    main()
    printed = capsys.readouterr()
    assert "Best-of-8" in printed.out
    assert f"left out: {failed}" in printed.err


def test_markdown_is_aligned():
    text = markdown([("a", "bb"), ("ccc", "d")])
    assert text == "| a   | bb |\n|-----|----|\n| ccc | d  |"


def test_frontier_draws_every_measured_point(run: Run, monkeypatch):
    drawn = []
    from matplotlib.axes import Axes

    original = Axes.errorbar

    def recorded(axes, x, y, **settings):
        drawn.append((round(float(x), 6), round(float(y), 6)))
        return original(axes, x, y, **settings)

    monkeypatch.setattr(Axes, "errorbar", recorded)
    paths = frontier(run)
    value = {point: round(0.1 * i, 6) for i, point in enumerate(POINTS)}
    expected = {(value["base", "best_of_n", "kl", n], value["base", "best_of_n", "accuracy", n]) for n in (1, 2, 4, 8)}
    expected |= {(value[arm, "policy", "kl", 1], value[arm, "pass", "accuracy", 1]) for arm in ("tuned", "control")}
    assert set(drawn) == expected
    assert [path.suffix for path in paths] == [".png", ".pdf"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_frontier_has_the_same_bytes_from_the_same_records(run: Run):
    first = [path.read_bytes() for path in frontier(run)]
    assert [path.read_bytes() for path in frontier(run)] == first


def test_an_unfinished_run_is_refused(tmp_path: Path):
    with pytest.raises(BenchError, match="no finished run"):
        read_run(tmp_path)
