"""Figures from the records of a run that is written here by hand."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import BenchError
from bench.reporting.collect import Run, read_run
from bench.reporting.figures import frontier

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
