"""The figures of a report: what is drawn is their rows, their rows are the records, and a reader can tell all apart."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import made_run
from sharing import Shared
from stamps import stamp_of

from bench.errors import BenchError
from bench.estimators.kl import best_of_n_kl_bias
from bench.records.read import Estimate, Run, read_run
from bench.reporting.exhibit import Figure
from bench.reporting.exhibits import figures, of_one_run
from bench.reporting.files import FORMATS, drawn, write_figure
from bench.reporting.plots import WIDEST, beside
from bench.reporting.style import COLUMN_WIDTH, FULL_WIDTH, LOOKS, sequence

ALONE = {"frontier", "reward_by_n", "coverage", "paths", "kl_by_n", "break_even", "cost_by_stage"}


@pytest.fixture(scope="session")
def made_once(shared: Shared) -> Callable[[str, Callable[[Path], list[Run]]], list[Run]]:
    """Runs that one worker makes and all read, in the order in which they are made."""

    def once(name: str, make: Callable[[Path], list[Run]]) -> list[Run]:
        def write(folder: Path) -> None:
            (folder / "runs").write_text("\n".join(str(run.folder) for run in make(folder)))

        folder = shared.once(f"figures_{name}", write)
        return [read_run(Path(line)) for line in (folder / "runs").read_text().splitlines()]

    return once


@pytest.fixture(scope="module")
def one(made_once) -> Run:
    return made_once("one", lambda outputs: [made_run(outputs, prompts=80, num_completions=8)])[0]


@pytest.fixture(scope="module")
def swept(made_once) -> list[Run]:
    """Two seeds of two temperatures by two N, scored by what is not gold."""
    return made_once(
        "swept",
        lambda outputs: [
            made_run(
                outputs,
                seed=seed,
                num_completions=n,
                prompts=40,
                noise=0.8,
                skill={"base": 0.3 - 0.1 * t, "tuned": 0.3 + 0.02 * n + 0.1 * t},
                settings={"temperature": t},
            )
            for seed, t, n in itertools.product((0, 1), (0.7, 1.3), (4, 8))
        ],
    )


@pytest.fixture(scope="module")
def selected(made_once) -> list[Run]:
    """Three seeds of six selection methods."""
    methods = ("worst_per_prompt", "mbr", "softmax", "all_correct", "rso", "shortest_correct")
    return made_once(
        "selected",
        lambda outputs: [
            made_run(
                outputs,
                seed=seed,
                prompts=40,
                skill={"tuned": 0.2 + 0.1 * i},
                settings={"selection._target_": f"bench.selection.{method}"},
            )
            for seed in range(3)
            for i, method in enumerate(methods)
        ],
    )


@pytest.fixture(scope="module")
def of_one(one: Run) -> list[Figure]:
    return figures([one])


@pytest.fixture(scope="module")
def of_swept(swept: list[Run]) -> list[Figure]:
    return figures(swept)


@pytest.fixture(scope="module")
def of_selected(selected: list[Run]) -> list[Figure]:
    return figures(selected)


def named(found: list[Figure], name: str) -> Figure:
    return next(figure for figure in found if figure.name == name)


def points(figure: Figure, sizes: str = "") -> set[tuple[float, float]]:
    """`points_on` of a figure that is drawn for it alone."""
    with drawn(figure) as canvas:
        return points_on(canvas, figure, sizes)


def points_on(canvas: Any, figure: Figure, sizes: str = "") -> set[tuple[float, float]]:
    """Of every line in every panel: its corners and markers in data units.

    sizes: where x is n, its name in the rows; each point is then taken for the n that it stands beside.
    """
    found = np.concatenate([line.get_xydata() for axes in canvas.axes for line in axes.lines])
    if sizes:
        known = np.array(sorted({row[sizes] for row in figure.rows}), float)
        found = found[found[:, 0] > 0]  # a guide across the panel starts at 0
        steps = np.abs(np.log2(found[:, :1]) - np.log2(known))
        assert (steps.min(axis=1) <= WIDEST / 2 + 1e-9)[found[:, 1] > 0].all()
        found[:, 0] = known[steps.argmin(axis=1)]
    return {(round(float(x), 9), round(float(y), 9)) for x, y in found}


def of(rows: Any, x: str, y: str, **wanted: Any) -> set[tuple[float, float]]:
    kept = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return {(round(float(row[x]), 9), round(float(row[y]), 9)) for row in kept}


def test_which_figures_the_records_hold(one, of_one, of_swept, of_selected):
    assert {figure.name for figure in of_one} == ALONE
    assert {figure.name for figure in of_swept} == ALONE - {"break_even"} | {"accuracy_by_n", "pessimism_by_n"}
    assert {figure.name for figure in of_selected} == ALONE - {"break_even"} | {"selection"}
    assert [figure.name for figure in of_one_run(one)] == ["frontier"]


def test_records_of_older_code_give_the_figures_that_they_hold(one):
    old = {key: value for key, value in one.curves.items() if key[0] != "sampler" and key[1] != "median_of_n"}
    bare = Run(one.folder, one.config, {k: v for k, v in one.metrics.items() if "_query_" not in k}, old)
    assert {figure.name for figure in figures([bare])} == {"frontier", "kl_by_n", "cost_by_stage"}


def test_runs_of_different_code_are_not_drawn_together(one, tmp_path):
    with pytest.raises(BenchError, match="different code"):
        figures([one, made_run(tmp_path, seed=1, prompts=80, num_completions=8, code="other")])


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(BenchError, match="no finished run"):
        read_run(tmp_path)


def test_the_frontier_is_the_records(one, of_one):
    rows = named(of_one, "frontier").rows
    for n in (1, 2, 4, 8):
        (row,) = [row for row in rows if row["method"] == "best_of_n" and row["n"] == n]
        kl, accuracy = (one.series("base", "best_of_n", metric)[n] for metric in ("kl", "accuracy"))
        low = max(kl.low - best_of_n_kl_bias(n, 16), 0.0)
        assert (row["kl"], row["kl_low"], row["kl_high"]) == (kl.value, low, kl.high)
        assert (row["value"], row["value_low"], row["value_high"]) == (accuracy.value, accuracy.low, accuracy.high)
        assert row["extrapolates"] == (n > 4)  # of 16 samples
    assert [row["kl"] for row in rows if row["method"] == "tuned"] == [one.series("tuned", "policy", "kl")[1].value]
    soft = [row for row in rows if row["method"] == "soft_best_of_n"]
    assert [row["temperature"] for row in soft] == [0.25, 0.5, 1, 2]
    assert [row["value"] for row in soft] == sorted((row["value"] for row in soft), reverse=True)


def test_a_series_keeps_its_order_and_its_middle_beside_others():
    rows = [{"n": 4, "y": 1.0}]
    for count in (1, 2, 5, 30):
        placed = [beside(rows, "n", place, count)[0]["n"] for place in range(count)]
        assert placed == sorted(set(placed))
        assert np.prod(placed) == pytest.approx(4.0**count)
        assert np.log2(placed[-1] / placed[0]) <= WIDEST + 1e-9
    assert rows == [{"n": 4, "y": 1.0}]


def test_means_of_seeds_have_intervals_for_new_seeds(swept, of_swept):
    row = next(row for row in named(of_swept, "accuracy_by_n").rows if row["of"] == "tuned")
    runs = [run for run in swept if run.config["num_completions"] == 4 and run.config["temperature"] == 0.7]
    assert row["name"] == "T=0.7"
    assert row["accuracy"] == pytest.approx(np.mean([run.metrics["tuned/pass@1"] for run in runs]))
    alone = runs[0].series("tuned", "pass", "accuracy")[1]
    assert row["accuracy_high"] - row["accuracy_low"] != pytest.approx(alone.high - alone.low)


def test_runs_that_share_a_pool_share_its_curve(of_swept, of_selected):
    curves = [row for row in named(of_swept, "frontier").rows if row["method"] == "best_of_n"]
    assert [(row["series"], row["n"]) for row in curves] == [(t, n) for t in ("T=0.7", "T=1.3") for n in (1, 2, 4, 8)]
    shared = [row for row in named(of_selected, "frontier").rows if row["method"] == "best_of_n"]
    assert [row["n"] for row in shared] == [1, 2, 4]


def test_the_selection_figure_has_one_panel_without_a_control(tmp_path):
    runs = [
        made_run(tmp_path, prompts=24, settings={"selection._target_": f"bench.selection.{name}", "control": "none"})
        for name in ("mbr", "rso")
    ]
    figure = named(figures(runs), "selection")
    assert "control" not in figure.caption
    assert "paired difference" not in figure.caption
    with drawn(figure) as canvas:
        assert [axes.get_xlabel() for axes in canvas.axes] == ["sampled accuracy"]


def test_the_selection_figure_is_ordered_and_paired(of_selected):
    figure = named(of_selected, "selection")
    assert [row["tuned"] for row in figure.rows] == sorted(row["tuned"] for row in figure.rows)
    for row in figure.rows:
        assert row["difference"] == pytest.approx(row["tuned"] - row["control"])
    with drawn(figure) as canvas:
        left, right = canvas.axes
        assert [text.get_text() for text in left.get_yticklabels()] == [row["method"] for row in figure.rows]
        shown = [line for line in right.lines if line.get_marker() == "o"]
        hollow = [line.get_markerfacecolor() == "white" for line in shown]
    assert hollow == [row["verdict"] == "not resolved" for row in figure.rows]
    assert True in hollow
    assert False in hollow


@pytest.fixture(scope="module")
def grid(made_once) -> list[Run]:
    """Three temperatures by two top-p."""
    return made_once(
        "grid",
        lambda outputs: [
            made_run(outputs, prompts=40, settings={"temperature": t, "top_p": p}, skill={"tuned": 0.2 * t + 0.3 * p})
            for t in (0.7, 1.0, 1.3)
            for p in (0.8, 1.0)
        ],
    )


def test_a_heat_map_has_each_cell_in_its_place(grid):
    figure = named(figures(grid), "heat_map")
    with drawn(figure) as canvas:
        axes = canvas.axes[0]
        shown = axes.images[0].get_array()
        across, down = (
            [label.get_text() for label in labels()] for labels in (axes.get_xticklabels, axes.get_yticklabels)
        )
    assert (across, down) == (["0.8", "1.0"], ["0.7", "1.0", "1.3"])
    for run in grid:
        place = down.index(str(run.config["temperature"])), across.index(str(run.config["top_p"]))
        assert shown[place] == pytest.approx(run.metrics["tuned/pass@1"])


def test_a_crowd_of_samplers_gets_panels_and_a_colour_each(grid):
    figure = named(figures(grid), "frontier")
    curves = [row for row in figure.rows if row["method"] == "best_of_n" and row["n"] == 1]
    panels = [(row["panel"], row["series"]) for row in curves]
    assert sorted(panels) == [(f"top-p={p}", f"T={t}") for p in (0.8, 1.0) for t in (0.7, 1.0, 1.3)]
    assert of(figure.rows, "kl", "value") <= points(figure)
    with drawn(figure) as canvas:
        left = canvas.axes[0]
        tuned = [line for line in left.lines if line.get_marker() == "D" and len(line.get_xdata())]
        best = [line for line in left.lines if len(line.get_xdata()) == 3 and line.get_color() != LOOKS["base"].colour]
    by_series = sequence(range(3)).values()
    assert [line.get_color() for line in best] == [look.colour for look in by_series]
    assert {line.get_color() for line in tuned} == {look.colour for look in by_series}


def test_other_axes_of_a_sweep_get_panels_of_their_own(tmp_path):
    cells = itertools.product((0.7, 1.3), (0.8, 1.0), ("mbr", "rso"))
    runs = [
        made_run(
            tmp_path,
            prompts=20,
            settings={"temperature": t, "top_p": p, "selection._target_": f"bench.selection.{method}"},
        )
        for t, p, method in cells
    ]
    names = [figure.name for figure in figures(runs)]
    assert len(set(names)) == len(names)
    heat, methods = (named(figures(runs), name) for name in ("heat_map", "selection"))
    assert [row["panel"] for row in heat.rows] == ["mbr"] * 4 + ["rso"] * 4
    assert len({row["panel"] for row in methods.rows}) == 4
    with drawn(heat) as canvas:
        assert [axes.get_title() for axes in canvas.axes] == ["mbr", "rso", ""]
        assert canvas.axes[2].get_label() == "<colorbar>"
    with drawn(methods) as canvas:
        panels = {
            axes.get_title(): {round(float(x), 9) for line in axes.lines for x in line.get_xdata()}
            for axes in canvas.axes
        }
    for row in methods.rows:
        assert round(row["tuned"], 9) in panels[row["panel"]]
        assert round(row["control"], 9) in panels[row["panel"]]


def test_coverage_names_its_law_and_leaves_out_what_repeats_it(of_one, of_swept):
    methods = {row["method"] for row in named(of_one, "coverage").rows}
    assert {name for name in methods if not name.startswith("power law")} == {"pass", "majority"}  # gold is the scorer
    assert sum(name.startswith("power law: a=") for name in methods) == 1
    assert "one of the k by majority vote;" in named(of_one, "coverage").caption
    shown = named(of_swept, "coverage")
    assert "one of the k by the scorer, majority vote or weighted majority vote;" in shown.caption
    noisy = {row["method"] for row in shown.rows}
    assert {"pass", "best_of_n", "majority", "weighted_majority"} < noisy


def test_the_lines_of_the_break_even_cross_where_the_record_says(of_one):
    rows = named(of_one, "break_even").rows
    (crossing,) = [row for row in rows if row["what"] == "crossing"]
    assert (crossing["queries"], crossing["queries_low"], crossing["queries_high"]) == (1700, 1400, 2100)
    tuned, best = ([row for row in rows if row["what"] == f"total {name}"] for name in ("tuned", "best_of_n"))
    assert tuned[0]["flops"] == 5e9  # paid before the first query
    at = [
        start["flops"] + (end["flops"] - start["flops"]) * 0.5 for start, end in (tuned, best)
    ]  # they end at 2 · 1700
    assert at[0] == pytest.approx(crossing["flops"])
    assert at[1] == pytest.approx(1700 * 2.5 * 2e6)


def test_a_break_even_at_the_best_temperature_is_with_the_way_of_least_cost(tmp_path):
    """The vote, which is not scored. Both policies are at their best temperatures."""
    ends = {"difference": 0.1, "difference_low": 0.05, "difference_high": 0.15, "p_adjusted": 0.01}
    metrics: dict[str, float | None] = {f"tuned_vs_base/at_best/{key}": value for key, value in ends.items()}
    for way, n, queries in (("one_sample", None, None), ("majority", 2.5, 1700), ("best_of_n", 2.4, 1600)):
        for end in ("", "_low", "_high"):
            metrics |= {f"break_even/at_best/{way}/n{end}": n, f"break_even/at_best/{way}/queries{end}": queries}
    run = made_run(tmp_path, metrics=metrics | {"cost/tuned_query_flops": 1.5e6})  # scoring one sample takes 0.5e6
    for policy, accuracy in (("base", 0.4), ("tuned", 0.7)):
        run._per_prompt[policy, "at_best", "accuracy", 1] = np.full(60, accuracy)
        run.curves[policy, "at_best", "accuracy", 1] = Estimate(accuracy, 0.3, 0.8)
    figure = named(figures([run]), "break_even")
    accuracies = {row["what"]: row["accuracy"] for row in figure.rows if row["what"] in ("base", "tuned")}
    assert accuracies == {"base": 0.4, "tuned": 0.7}
    (crossing,) = [row for row in figure.rows if row["what"] == "crossing"]
    assert (crossing["n"], crossing["queries"]) == (2.5, 1700)
    _, end = [row for row in figure.rows if row["what"] == "total majority"]
    assert end["flops"] / end["queries"] == pytest.approx(2.5 * 1.5e6)
    assert "total best_of_n" not in [row["what"] for row in figure.rows]
    with drawn(figure) as canvas:
        assert canvas.axes[1].get_title(loc="left") == "Majority vote, n = 2.5: as accurate"


def test_an_arrow_marks_a_break_even_without_an_end(tmp_path):
    """The points of the seed at 1,700 queries, and the arrows at the ends of an axis to twice as many and a margin."""
    shown = {}
    for ends in ((), ("_high",), ("_low", "_high")):
        none = {f"break_even/queries{end}": None for end in ends}
        figure = named(figures([made_run(tmp_path / str(len(ends)), metrics=none)]), "break_even")
        with drawn(figure) as canvas:
            lines = canvas.axes[1].lines
            shown[ends] = {line.get_marker(): line.get_xdata().tolist() for line in lines if line.get_marker()}
        (crossing,) = [row for row in figure.rows if row["what"] == "crossing"]
        assert [crossing[f"queries{end}"] for end in ends] == [None] * len(ends)
    assert shown[()] == {"d": [1700]}
    assert shown["_high",] == {"d": [1700], ">": pytest.approx([3570])}
    assert shown["_low", "_high"] == {"d": [1700], ">": pytest.approx([3570]), "<": [0]}


def test_no_break_even_is_said(tmp_path):
    never = {f"break_even/queries{end}": None for end in ("", "_low", "_high")}
    figure = named(figures([made_run(tmp_path, metrics=never)]), "break_even")
    assert not [row for row in figure.rows if row["what"] == "crossing"]
    with drawn(figure) as canvas:
        assert any("no break-even" in text.get_text() for text in canvas.axes[1].texts)


def test_no_break_even_is_drawn_where_the_verdict_gives_none(one):
    ends = {"difference": 0.1, "difference_low": -0.1, "difference_high": 0.3, "p_adjusted": 0.4, "verdict": "any"}
    metrics = one.metrics | {f"tuned_vs_best_of_1/accuracy/{key}": value for key, value in ends.items()}
    figure = named(figures([Run(one.folder, one.config, metrics, one.curves)]), "break_even")
    reason = "the tuned policy is not shown to be better than one sample of the base"
    assert [row["what"] for row in figure.rows][-1] == f"no break-even: {reason}"
    assert not [row for row in figure.rows if row["what"] in ("crossing", "total tuned")]
    with drawn(figure) as canvas:
        (text,) = canvas.axes[1].texts
        assert text.get_text().replace("\n", " ") == f"no break-even: {reason}"


def test_paths_of_two_configurations_look_different(swept):
    """By the colour, the marker or the line, whatever the size."""
    pair = [run for run in swept if run.config["temperature"] == swept[0].config["temperature"]]
    with drawn(named(figures(pair), "paths")) as canvas:
        handles, labels = canvas.axes[0].get_legend_handles_labels()
        looks = [(str(line.get_color()), line.get_marker(), line._unscaled_dash_pattern) for line, *_ in handles]
    assert len(set(labels)) == len(labels) == 5  # the base, and both arms of both
    assert len(set(map(str, looks))) == 5


def test_captions_speak_of_the_curves_that_are_there(swept, of_swept):
    pair = [run for run in swept if run.config["temperature"] == swept[0].config["temperature"]]
    assert "Best-of-n (oracle): " in named(of_swept, "accuracy_by_n").caption
    shown = named(figures(pair), "accuracy_by_n")  # one sampler
    assert "Best-of-n" not in shown.caption
    assert "Fine-tuned: " in shown.caption


def test_the_legend_of_the_kl_has_no_bar(of_one):
    with drawn(named(of_one, "kl_by_n")) as canvas:
        handles, labels = canvas.axes[0].get_legend_handles_labels()
    bars = {label: handle.has_yerr for handle, label in zip(handles, labels, strict=True)}
    assert bars["log n bound"] is bars["measured"] is False


def test_costs_count_what_runs_share_once(swept, of_swept):
    rows = {row["stage"]: row for row in named(of_swept, "cost_by_stage").rows}
    assert (rows["pretrain"]["seconds"], rows["pretrain"]["seconds_unshared"]) == (80, 320)  # one per seed, eight runs
    assert (rows["sft"]["seconds"], rows["sft"]["seconds_unshared"]) == (40, 40)
    assert rows["generate"]["generated_tokens"] == 2000
    for runs, is_shared in ((swept, True), ([swept[0], swept[4]], False)):  # the seeds of one configuration share none
        assert ("Pale: " in named(figures(runs), "cost_by_stage").caption) is is_shared


def test_a_scorer_that_is_not_gold_is_diagnosed_in_the_run_that_has_one(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = {
        "scorer/equals_gold": 0.4,
        "scorer/tie_rate": 0.1,
        "scorer/length_correlation": None,
        "scorer/auc": 0.7,
        "scorer/auc_low": 0.6,
        "scorer/auc_high": 0.8,
        "scorer/overoptimisation": "not resolved",
        "scorer/calibration": "of the score",
        "scorer/calibration_error": 0.2,
    }
    run = made_run(tmp_path, prompts=20, noise=0.5, num_completions=8, metrics=found)
    keys = ("diagnostic", "x", "value", "low", "high", "count")
    cells = [("gold", n, 0.2 + 0.1 * n, 0.1 + 0.1 * n, 0.3 + 0.1 * n, 9) for n in (1.0, 2.0, 4.0)]
    cells += [("proxy", n, 0.1 * n, 0.05 * n, 0.15 * n, 9) for n in (1.0, 2.0, 4.0)]
    cells += [("auc", float(i), i / 9, math.nan, math.nan, 1) for i in range(9)]
    cells += [("reliability", 0.25, 0.3, 0.2, 0.4, 5), ("reliability", 0.75, 0.6, 0.5, 0.7, 5)]
    rows = [dict(zip(keys, cell, strict=True)) for cell in cells]
    pq.write_table(pa.Table.from_pylist(rows), run.folder / "diagnostics.parquet")
    figure = named(of_one_run(run), "reward_diagnostics")
    assert "rank correlation with length undefined" in figure.caption
    curves = {(row["x"], row["value"]) for row in rows if row["diagnostic"] != "auc"}
    drawn_at = {(2.0 ** round(math.log2(x)) if x >= 0.9 else x, y) for x, y in points(figure) if x > 0}
    assert {(round(x, 9), round(y, 9)) for x, y in curves} <= drawn_at
    assert "frontier_reward" in [one.name for one in of_one_run(run)]


@pytest.fixture(scope="module")
def written(of_one, tmp_path_factory) -> tuple[Figure, list[Path]]:
    figure = named(of_one, "frontier")
    return figure, write_figure(figure, tmp_path_factory.mktemp("written"))


def test_every_format_carries_the_stamp(written):
    figure, paths = written
    assert [path.name for path in paths] == [f"frontier.{kind}" for kind in FORMATS]
    assert figure.runs[0].folder.name in figure.stamp
    assert figure.records in figure.stamp
    assert {stamp_of(path) for path in paths} == {figure.stamp}


def test_a_stamp_survives_what_formats_escape(written, tmp_path, one, monkeypatch):
    stamp = r"runs a(b)\c & <d>; records 0123"
    monkeypatch.setattr(Figure, "stamp", stamp)
    paths = write_figure(written[0], tmp_path)
    assert [stamp_of(path) for path in paths] == [stamp] * 4


def test_what_has_no_stamp_is_refused(tmp_path):
    bare = tmp_path / "bare.csv"
    bare.write_text("a,b\n1,2\n")
    with pytest.raises(BenchError, match="carries no stamp"):
        stamp_of(bare)
    for name, content in (("bare.png", b"no"), ("bare.txt", b"# no"), ("missing.pdf", None)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BenchError, match="can't be read"):
            stamp_of(tmp_path / name)


def test_equal_records_give_equal_bytes_whatever_the_machine_prefers(written, tmp_path):
    import matplotlib

    figure, paths = written
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": None, "pdf.compression": 0}):
        again = write_figure(figure, tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_changed_records_give_another_stamp(of_one, tmp_path):
    from dataclasses import replace

    figure = named(of_one, "frontier")
    changed = replace(figure, rows=[{**figure.rows[0], "kl": 0.1234}, *figure.rows[1:]])
    assert changed.stamp != figure.stamp
    assert changed.stamp.split(";")[0] == figure.stamp.split(";")[0]


def test_fonts_are_embedded_and_sizes_are_those_of_a_paper(written):
    from PIL import Image

    figure, (png, pdf, svg, _) = written
    content = pdf.read_bytes()
    assert b"/FontFile2" in content  # TrueType, the stream that type 42 embeds
    assert b"/Subtype /Type3" not in content
    assert "<text" not in svg.read_text()  # outlines, so that no reader's machine needs the font
    assert f"/MediaBox [ 0 0 {figure.width * 72:.6g}".encode() in content
    with Image.open(png) as image:
        assert image.width == pytest.approx(300 * figure.width, abs=1)


def grey(colour: str) -> float:
    """Rec. 709 luminance of what a grey printer sees, 0 black to 1 white."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_series_are_told_apart_without_colour():
    looks = list(LOOKS.values())
    assert len({str(look.line) for look in looks}) == len(looks)
    assert len({look.marker for look in looks}) == len(looks)
    for count in (2, 3, 4, 5, 6):
        shades = [grey(look.colour) for look in sequence(range(count)).values()]
        assert all(light - dark > 0.04 for light, dark in itertools.pairwise(shades))  # in order, from light to dark
        assert len({look.marker for look in sequence(range(count)).values()}) == count


def test_every_colour_stands_out_on_white():
    for look in (*LOOKS.values(), *sequence(range(6)).values()):
        assert (1.0 + 0.05) / (grey(look.colour) + 0.05) > 1.5


DRAWN = {  # whose rows are points of its lines: which runs and figure -> x and y
    ("one", "frontier"): ("kl", "value"),
    ("one", "reward_by_n"): ("n", "reward"),
    ("one", "kl_by_n"): ("n", "kl"),
    ("one", "paths"): ("k", "value"),
    ("swept", "frontier"): ("kl", "value"),
    ("swept", "accuracy_by_n"): ("n", "accuracy"),
    ("swept", "coverage"): ("k", "accuracy"),
}
BESIDE = {("swept", name) for name in ("accuracy_by_n", "reward_by_n", "pessimism_by_n", "coverage", "paths")}


@pytest.mark.parametrize("which", ["one", "swept", "selected"])
def test_every_figure_shows_its_rows_has_a_columns_width_and_cuts_and_covers_nothing(which, request):
    """Each is drawn once for all of this."""
    seen = set()
    for figure in request.getfixturevalue(f"of_{which}"):
        seen.add((which, figure.name))
        assert figure.width in (COLUMN_WIDTH, FULL_WIDTH)
        assert figure.caption.rstrip().endswith(".")
        assert len({tuple(row) for row in figure.rows}) == 1
        with drawn(figure) as canvas:
            canvas.draw_without_rendering()  # it places labels and the texts of legends
            has_all_within_its_edges(canvas, figure.name)
            has_labels_apart_from_each_other(canvas, figure.name)
            if (which, figure.name) in DRAWN:
                x, y = DRAWN[which, figure.name]
                assert of(figure.rows, x, y) <= points_on(canvas, figure, "" if x == "kl" else x)
            if (which, figure.name) in BESIDE:
                has_bars_side_by_side(canvas)
            if (which, figure.name) == ("one", "reward_by_n"):
                has_bars_to_their_ends(canvas, figure)
    assert {key for key in {*DRAWN, *BESIDE} if key[0] == which} <= seen


def has_all_within_its_edges(canvas: Any, name: str) -> None:
    whole, shown = canvas.bbox, canvas.get_tightbbox().transformed(canvas.dpi_scale_trans)
    assert shown.x0 >= whole.x0 - 1, name
    assert shown.x1 <= whole.x1 + 1, name
    assert shown.y0 >= whole.y0 - 1, name
    assert shown.y1 <= whole.y1 + 1, name


def has_labels_apart_from_each_other(canvas: Any, name: str) -> None:
    """The texts in each panel, without the lines that lead from them."""
    from matplotlib.text import Text

    for axes in canvas.axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts if text.get_text()]
        for a, b in itertools.combinations(boxes, 2):
            assert not a.overlaps(b), name


def has_bars_side_by_side(canvas: Any) -> None:
    """The bars of several series at one n."""
    for axes in canvas.axes:
        bars = {tuple(path.vertices.ravel()) for part in axes.collections for path in part.get_paths()}
        apart = np.diff(np.sort(np.log2([bar[0] for bar in bars])))
        assert len(bars) > 2
        assert apart.min() > 0.03, axes.get_title()  # octaves: a point or more, where a bar is .7 wide


def has_bars_to_their_ends(canvas: Any, figure: Figure) -> None:
    bars = [path.vertices for part in canvas.axes[0].collections for path in part.get_paths()]
    ends = {(2.0 ** round(math.log2(x)), round(float(y), 9)) for bar in bars for x, y in bar}
    assert ends == of(figure.rows, "n", "reward_low") | of(figure.rows, "n", "reward_high")
