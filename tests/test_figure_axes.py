"""What stands on the axes of figures where a user can choose it: the rows hold it, and the figure is drawn over it."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from made_runs import made_run
from test_pictures import SCORED, texts_of

import bench
from bench.errors import BenchError
from bench.reporting import figure_settings, plots
from bench.reporting.build import build, check
from bench.reporting.exhibits import figures
from bench.reporting.groups import grouped
from bench.reporting.style import blank

matplotlib.use("agg")


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Any:
    """Two temperatures by two N."""
    outputs = tmp_path_factory.mktemp("swept")
    cells = itertools.product((0.7, 1.3), (4, 8))
    for t, n in cells:
        costs = {"cost/fine_tuning_flops": 1e9 * n}
        made_run(outputs, num_completions=n, prompts=30, settings={"temperature": t}, metrics=costs)
    return bench.load(f"{outputs}/made/*")


@pytest.fixture(scope="module")
def selected(tmp_path_factory) -> Any:
    outputs = tmp_path_factory.mktemp("selected")
    for i, method in enumerate(("mbr", "softmax")):
        settings = {"selection._target_": f"bench.selection.{method}"}
        made_run(outputs, prompts=30, skill={"tuned": 0.3 + 0.2 * i}, settings=settings)
    return bench.load(f"{outputs}/made/*")


@pytest.fixture(scope="module")
def turns(tmp_path_factory) -> Any:
    """Two ways of going in rounds."""
    outputs = tmp_path_factory.mktemp("turns")
    skill = {f"round_{i}{arm}": 0.2 + 0.1 * i for i in (1, 2) for arm in ("", "_control")}
    for start in ("base", "current"):
        settings = {"procedure.start": start}
        made_run(outputs, prompts=30, skill=skill, metrics={"rounds/run": 2}, settings=settings)
    return bench.load(f"{outputs}/made/*")


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Any:
    outputs = tmp_path_factory.mktemp("learned")
    made_run(outputs, prompts=30, num_completions=16, noise=0.8, metrics=SCORED)
    return bench.load(f"{outputs}/made/*")


@pytest.fixture
def pyplot() -> Iterator[Any]:
    """Whose figures are closed after the test."""
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def panels(drawn: Any) -> list[Any]:
    return drawn if isinstance(drawn, list) else [drawn]


def corners(drawn: Any) -> set[tuple[float, float]]:
    """Of every line in every panel, in data units."""
    found = [line.get_xydata() for axes in panels(drawn) for line in axes.lines if len(line.get_xydata())]
    return {(round(float(x), 6), round(float(y), 6)) for x, y in np.concatenate(found)}


CASES = [
    ("frontier", "swept", "n", "value"),
    ("frontier", "swept", "flops", "value"),
    ("accuracy_by_n", "swept", "flops", "accuracy"),
    ("accuracy_by_n", "learned", "flops", "accuracy"),  # one sampler and one N
    ("kl_by_n", "swept", "flops", "kl"),
    ("coverage", "swept", "flops", "accuracy"),
    ("overoptimisation", "learned", "kl", "gold_gain"),
    ("overoptimisation", "learned", "distance", "gold_gain"),
    ("rounds", "turns", "kl", "value"),
]


@pytest.mark.usefixtures("pyplot")
@pytest.mark.parametrize(("name", "which", "x", "y"), CASES)
def test_every_row_is_drawn_over_the_chosen_axis(name, which, x, y, request):
    drawn = getattr(bench.plot, name)(request.getfixturevalue(which), x=x)
    rows = panels(drawn)[0].rows
    assert len(rows) > 2
    assert {(round(a, 6), round(b, 6)) for a, b in zip(rows[x], rows[y], strict=True)} <= corners(drawn)


@pytest.mark.usefixtures("pyplot")
def test_flops_are_those_of_a_query_by_the_records(swept):
    rows = bench.plot.frontier(swept, x="flops").rows
    metrics = swept[0].metrics
    for method, n, name in (("best_of_n", 4, "best_of_4"), ("tuned", 1, "tuned"), ("control", 1, "tuned")):
        shown = rows[(rows["method"] == method) & (rows["n"] == n)]["flops"]
        assert set(shown) == {metrics[f"cost/{name}_query_flops"]}
    assert not {"bound", "soft_best_of_n"} & set(rows["method"])  # they differ from Best-of-n in their KL
    ninth = bench.plot.coverage(swept, x="flops")[0].rows  # n = 16 costs 16 times one sample
    assert set(ninth[ninth["k"] == 16]["flops"]) == {16 * metrics["cost/best_of_1_query_flops"]}
    trained = bench.plot.accuracy_by_n(swept, x="flops")[0].rows.query("of == 'tuned'")
    assert set(zip(trained["n"], trained["flops"], strict=True)) == {(4, 4e9), (8, 8e9)}


@pytest.mark.usefixtures("pyplot")
def test_greedy_accuracies_have_their_own_differences(selected):
    rows = bench.plot.selection(selected, x="greedy_accuracy")[0].rows
    for row in rows.itertuples():
        (run,) = (run for run in selected if run.selection == row.method)
        tuned, control = (run.per_prompt(arm, "greedy", "accuracy", 1) for arm in ("tuned", "control"))
        assert (row.tuned, row.control) == pytest.approx((tuned.mean(), control.mean()))
        assert row.difference == pytest.approx((tuned - control).mean())


@pytest.mark.usefixtures("pyplot")
def test_a_heat_map_is_over_any_two_settings(swept):
    drawn = bench.plot.heat_map(swept, x="num_completions", y="temperature")
    first = drawn[0]
    assert [text.get_text() for text in first.get_xticklabels()] == ["4", "8"]
    assert [text.get_text() for text in first.get_yticklabels()] == ["0.7", "1.3"]
    assert (drawn[-1].get_xlabel(), first.get_ylabel()) == ("num_completions", "temperature")
    for run in swept:
        place = [0.7, 1.3].index(run.config["temperature"]), [4, 8].index(run.config["num_completions"])
        assert first.images[0].get_array()[place] == pytest.approx(run.metrics["tuned/pass@1"])


WRONG = [
    ("frontier", {"x": "loss"}, r"^x=loss is not possible for frontier of these runs: it must be kl, n or flops\.$"),
    ("kl_by_n", {"x": "k"}, r"^x=k is not possible for kl_by_n of these runs: it must be n or flops\.$"),
    ("reward_by_n", {"x": "n"}, r"^x=n is not possible: x of reward_by_n can't be chosen\.$"),
    ("coverage", {"y": "n"}, r"^y=n is not possible: y of coverage can't be chosen; x can be\.$"),
    ("heat_map", {"x": "seed"}, r"^x=seed is not possible for heat_map of these runs: it must be "),
    ("heat_map", {"x": "temperature"}, r"^x=temperature y=temperature is not possible for heat_map: they must be two"),
]


@pytest.mark.parametrize(("name", "axes", "said"), WRONG)
def test_an_axis_that_is_not_possible_is_said_in_both_places(name, axes, said, swept):
    with pytest.raises(BenchError, match=said):
        bench.plot.figure(name, swept, **axes)
    wanted = figure_settings.read([f"figures.{name}.{axis}={value}" for axis, value in axes.items()])
    with pytest.raises(BenchError, match=said):
        wanted.of(figures(list(swept), axes=wanted.axes))


def test_flops_need_recorded_costs(swept):
    for run in swept:
        bare = [
            type(run)(run.folder, run.config, {k: v for k, v in run.metrics.items() if "query" not in k}, run.curves)
        ]
        with pytest.raises(BenchError, match=r"x=flops is not possible for frontier of these runs: it must be kl or n"):
            bench.plot.frontier(bare, x="flops")


@pytest.mark.parametrize(
    ("low", "high"), [(2.1e6, 4.9e6), (1.21e6, 1.39e6), (1e6, 1.6e6), (1.8e6, 1.9e7), (1e3, 1e9), (3e5, 3e14)]
)
@pytest.mark.parametrize("width", [1.7, 3.25, 6.75])
def test_ticks_in_flops_are_several_and_apart_whatever_the_range(low, high, width):
    with blank(width, 1.5) as canvas:
        axes = canvas.subplots()
        axes.plot([low, high], [0, 1])
        plots.flops_axis(axes)
        canvas.draw_without_rendering()
        boxes = [box for text, box in texts_of(canvas) if text.endswith(tuple("kMGT"))]
        assert len(boxes) > 1
        for a, b in itertools.combinations(boxes, 2):
            assert not a.padded(2).overlaps(b)


def test_a_report_is_made_and_checked_with_its_axes(swept, tmp_path: Path):
    words = ["figures.only=[frontier,heat_map]", "figures.frontier.x=flops", "figures.heat_map.x=num_completions"]
    build(swept, tmp_path / "report", title="mine", wanted=figure_settings.read(words))
    assert "flops" in (tmp_path / "report" / "figures" / "frontier.csv").read_text().splitlines()[1]
    assert (tmp_path / "report" / "figures" / "heat_map.png").is_file()
    assert check(tmp_path / "report") == []
    with pytest.raises(BenchError, match=r"figures\.frontier\.x=3 is not allowed: it must be a name, e\.g\. flops"):
        figure_settings.read(["figures.frontier.x=3"])


@pytest.mark.parametrize("which", ["swept", "selected", "turns", "learned"])
def test_the_documented_call_works_for_any_runs(which, request, pyplot):
    """With the base's curve over temperatures where there are several, else its one sample; named in the legend."""
    runs = request.getfixturevalue(which)
    _, ax = pyplot.subplots()
    drawn = bench.plot.frontier(runs, ax=ax, label="selection", curves=["best_of_n", "base_temperature"])
    assert drawn is ax
    base = drawn.rows.query("method == 'base_temperature'")
    assert list(base["temperature"]) == sorted({run.config["temperature"] for run in runs})
    assert "base, one sample" in [text.get_text() for text in ax.get_legend().get_texts()]
    (line,) = (bars.lines[0] for bars in ax.containers if bars.get_label() == "base, one sample")
    assert (line.get_linestyle() == "None") == (len(base) <= 2)
    for row in base.itertuples():
        first = {run.series("base", "best_of_n", "accuracy")[1].value for run in runs}
        assert (row.n, row.value in first) == (1, True)
    with pytest.raises(BenchError, match="label=nope is not a setting in which these runs differ"):
        bench.plot.frontier(runs, label="nope")


def test_the_default_axes_change_nothing(swept):
    plain, chosen = (
        [figure.stamp for figure in figures(list(swept), axes=axes)]
        for axes in ({}, {"frontier": {"x": "kl"}, "kl_by_n": {"x": "n"}, "coverage": {"x": "k"}})
    )
    assert plain == chosen
    assert "heat_map" not in {figure.name for figure in figures(list(swept))}
    assert len(grouped(list(swept))) == 4
