"""Every figure of a report on hard data: long names, twelve series, two seeds, one wild interval."""

import itertools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_runs import made_run
from matplotlib.text import Text
from sharing import Shared

from bench.errors import BenchError
from bench.evaluation.heldout import VALIDATION
from bench.records.read import Estimate, Run
from bench.reporting import exhibits
from bench.reporting.exhibit import Figure
from bench.reporting.figure_settings import settings_of
from bench.reporting.files import drawn
from bench.reporting.groups import grouped
from bench.reporting.style import COLUMN_WIDTH, FULL_WIDTH, blank

SEEDS = (0, 1)
USERS = (3.25, 2.4)  # inches: a size that a user may want
SCORED = {
    "scorer/equals_gold": 0.4,
    "scorer/tie_rate": 0.1,
    "scorer/length_correlation": None,
    **{f"scorer/auc{end}": 0.6 + shift for end, shift in (("", 0.0), ("_low", -0.05), ("_high", 0.05))},
    "scorer/overoptimisation": "not resolved",
    "scorer/calibration": "of the score",
    "scorer/calibration_error": 0.2,
}


def methods(outputs: Path) -> list[Run]:
    """Twelve selection methods with long names; the seeds of one of them differ widely."""
    return [
        made_run(
            outputs,
            seed=seed,
            prompts=24,
            skill={"tuned": 0.2 + 0.02 * i + 0.5 * (i == 5 and seed == 1)},
            settings={"selection._target_": f"bench.selection.the_method_of_{i}_with_a_long_name_for_a_figure"},
        )
        for seed in SEEDS
        for i in range(12)
    ]


def samplers(outputs: Path) -> list[Run]:
    """Four temperatures by three top-p, scored by what is not gold."""
    cells = itertools.product(SEEDS, (0.25, 0.5, 0.75, 1.25), (0.85, 0.9, 0.95))
    runs = [
        made_run(
            outputs,
            seed=seed,
            num_completions=8,
            prompts=24,
            noise=0.8,
            skill={"base": 0.4 - 0.1 * t, "tuned": 0.3 + 0.1 * p},
            settings={"temperature": t, "top_p": p},
            metrics=SCORED,
        )
        for seed, t, p in cells
    ]
    for run in runs:
        _diagnosed(run)
    return runs


def rounds(outputs: Path) -> list[Run]:
    """Twelve ways of going in rounds."""
    ways = itertools.product(("base", "current"), ("last", "union", "best"), (1, 3))
    return [
        made_run(
            outputs,
            prompts=24,
            skill={f"round_{i}{arm}": 0.2 + 0.1 * i for i in (1, 2, 3) for arm in ("", "_control")},
            metrics={"rounds/run": 3},
            settings={f"procedure.{k}": v for k, v in (("start", start), ("train_on", on), ("epochs", epochs))},
        )
        for start, on, epochs in ways
    ]


def hybrids(outputs: Path) -> list[Run]:
    """Twelve gates between full SFT and full RFT."""
    gates = ("random", "final_nll", "initial_nll", "nll_drop", "probe_solves", "length_of_the_answer")
    points = [(gate, inverted, 0.5) for gate in gates for inverted in (False, True)]
    procedure = {
        "_target_": "bench.hybrid.hybrid",
        "hard": "sample",
        "sample_from": "base",
        "foreign": 0.5,
        "noise": 0.0,
    }
    return [
        made_run(
            outputs,
            seed=seed,
            prompts=24,
            skill={"tuned": 0.3 + 0.03 * i},
            settings={
                "control": "none",
                "procedure": procedure | {"easy_by": gate, "inverted": inverted, "easy_share": share},
            },
            metrics={"hybrid/samples_total": 90 * 8, "hybrid/samples_per_prompt": 8 * (1 - share) + 0.01 * i},
        )
        for seed in SEEDS
        for i, (gate, inverted, share) in enumerate([*points, ("random", False, 0.0), ("random", False, 1.0)])
    ]


def plans(outputs: Path) -> list[Run]:
    """Twelve adaptive plans at two N."""
    ways = itertools.product(("none", "accepted"), ("uniform", "hard"), (1, 2, 3), (4, 8))
    return [
        made_run(
            outputs,
            num_completions=n,
            prompts=24,
            settings={f"procedure.{k}": v for k, v in (("stop", stop), ("allocate", allocate), ("look", look))},
            metrics={"adaptive/samples_total": 90 * n * (1.0 if stop == "none" else 0.4 + 0.1 * look)},
        )
        for stop, allocate, look, n in ways
    ]


def mixes(outputs: Path) -> list[Run]:
    """Pools of seven generators with long names."""
    names = ["student", "a_larger_model_of_some_family", *(f"another_model_of_some_family_{i}" for i in range(5))]
    found = []
    for seed, drawn_by in itertools.product(SEEDS, ([names[0]], names[1:2], names[:2], names)):
        metrics: dict[str, Any] = {"generators/names": " ".join(drawn_by)}
        for name in drawn_by:
            metrics[f"generators/{name}/outcomes"] = "base" if name == "student" else f"generator_{name}"
            metrics[f"generators/{name}/selected_share"] = 1 / len(drawn_by)
        skill = {f"generator_{name}": 0.4 for name in drawn_by if name != "student"}
        settings = {"procedure.drawn_by": drawn_by}
        found.append(made_run(outputs, seed=seed, prompts=24, skill=skill, metrics=metrics, settings=settings))
    return found


def alone(outputs: Path) -> list[Run]:
    """One run, trained online, with validation along its training and a scorer that is not gold."""
    metrics = SCORED | {f"{VALIDATION}/prompts": 24, "online/updates": 40}
    run = made_run(outputs, prompts=24, num_completions=16, noise=0.8, metrics=metrics)
    _diagnosed(run)
    updates = [
        {"arm": arm, "samples": 240 * n, "reward": 0.2 + n * rise, "kl": n * rise, "length": 20.0 + n}
        for arm, rise in (("tuned", 0.02), ("control", 0.0))
        for n in range(1, 41)
    ]
    pq.write_table(pa.Table.from_pylist(updates), run.folder / "online.parquet")
    path = {
        (arm, VALIDATION, metric, updates): Estimate(*(scale * (0.1 + 0.01 * updates + d) for d in (0, -0.2, 0.2)))
        for arm in ("tuned", "control")
        for metric, scale in (("accuracy", 1.0), ("kl", 2.0))
        for updates in (0, 5, 10)
    }
    return [replace(run, curves=run.curves | path)]


def _diagnosed(run: Run) -> None:
    curves = {"gold": (0.3, 0.4, 0.35), "proxy": (0.1, 0.2, 0.4), "reliability": (0.2, 0.3, 0.6)}
    rows = [
        {"diagnostic": name, "x": x, "value": value, "low": value - 0.1, "high": value + 0.1, "count": 9}
        for name, values in curves.items()
        for x, value in zip((0.2, 0.5, 0.8) if name == "reliability" else (1.0, 2.0, 4.0), values, strict=True)
    ]
    rows += [{"diagnostic": "auc", "x": i, "value": i / 9, "low": np.nan, "high": np.nan, "count": 1} for i in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), run.folder / "diagnostics.parquet")


HARD = (methods, samplers, rounds, hybrids, plans, mixes, alone)
PARTS = dict.fromkeys((*exhibits.parts("figures"), *exhibits.parts("of_one_run")))


@pytest.fixture(scope="module")
def hard(shared: Shared) -> list[Any]:
    """The groups of all hard data, whose runs one worker makes for all."""

    def save(path: Path) -> None:
        (path / "runs").write_bytes(pickle.dumps([make(path / make.__name__) for make in HARD]))

    return [grouped(runs) for runs in pickle.loads((shared.once("hard_runs", save) / "runs").read_bytes())]


@pytest.fixture(scope="module", params=PARTS, ids=lambda part: part.__name__)
def figures(request: pytest.FixtureRequest, hard: list[Any]) -> list[Figure]:
    """The figures of one part, which all sizes are tried on."""
    return made(request.param, hard)


def made(part: Callable[..., Any], hard: list[Any]) -> list[Figure]:
    """The part's figures of all hard data; the same name from several data, the one with most rows."""
    found: dict[str, Figure] = {}
    for groups in hard:
        if "figures" in part.shows or len(groups) == 1:
            shown = part(groups)
            for figure in shown if isinstance(shown, list) else [shown]:
                if figure and len(figure.rows) > len(getattr(found.get(figure.name), "rows", ())):
                    found[figure.name] = figure
    return list(found.values())


def texts_of(canvas: Any) -> list[tuple[str, Any]]:
    """(text, box in pixels) of every text that is seen, without the lines that lead from labels."""
    found: list[Text] = []
    for axes in canvas.axes:
        found += [axes.title, axes._left_title, *axes.texts]
        for part in (axes, *axes.child_axes):
            for axis in (axis for axis in (part.xaxis, part.yaxis) if part.axison and axis.get_visible()):
                found.append(axis.label)
                low, high = sorted(axis.get_view_interval())
                ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
                found += [
                    label
                    for tick in ticks
                    for label in (tick.label1, tick.label2)
                    if low - 1e-9 * abs(low) <= tick.get_loc() <= high + 1e-9 * abs(high)
                ]
    for part in (canvas, *canvas.subfigs):
        found += [text for legend in part.legends for text in legend.get_texts()]
    shown = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), Text.get_window_extent(text)) for text in shown]


def covering(canvas: Any) -> list[tuple[str, int]]:
    """(text, points of ink below it) of every text in a drawn panel that covers a line or a marker of the data."""
    found = []
    for axes in canvas.axes:
        ink = ink_of(axes)
        for text in axes.texts:
            if text.get_visible() and text.get_text().strip():
                box = Text.get_window_extent(text).padded(-1)
                inside = ((ink > box.p0) & (ink < box.p1)).all(axis=1).sum()
                found += [(text.get_text(), int(inside))] if inside else []
    return found


def ink_of(axes: Any) -> np.ndarray:
    """[K, 2]: pixels along the lines and on the markers of the data, without guides."""
    points = [np.empty((0, 2))]
    for line in axes.lines:
        if line.get_transform() == axes.transData and line.get_zorder() > 0 and len(line.get_xydata()):
            corners = axes.transData.transform(line.get_xydata())
            if line.get_marker() not in ("", "None", None):
                points.append(corners)
            if line.get_linestyle() != "None":
                parts = np.linspace(0, 1, 200)[:, None, None]
                points.append((corners[:-1] + parts * (corners[1:] - corners[:-1])).reshape(-1, 2))
    return np.concatenate(points)


@pytest.mark.parametrize("size", [(COLUMN_WIDTH,), (FULL_WIDTH,), USERS], ids=str)
def test_no_text_overlaps_another_covers_data_or_is_clipped(figures, size):
    """At a user's size, too, unless its lack of room is said."""
    assert figures, "no hard data for this figure"
    for figure in figures:
        if size == USERS:
            has_room(figure)
        else:
            with drawn(at_width(figure, *size)) as canvas:
                canvas.draw_without_rendering()  # it places the texts of legends
                problems = unclear(canvas)
            assert not problems, f"{figure.name}: {problems}"


def unclear(canvas: Any) -> list[Any]:
    """What is clipped, overlaps another text or covers data, and each legend that is too long."""
    boxes = texts_of(canvas)
    edge = canvas.bbox.padded(1.5)
    clipped = [text for text, box in boxes if not (edge.contains(*box.p0) and edge.contains(*box.p1))]
    legends = [legend for part in (canvas, *canvas.subfigs) for legend in part.legends if legend.handlelength]
    words = [[text.get_text() for text in legend.get_texts()] for legend in legends]
    return [*clipped, *overlaps(boxes), *covering(canvas), *(shown for shown in words if len(shown) > 6)]


def has_room(figure: Figure) -> bool:
    """Whether the figure has room at a user's size, where it is then clear."""
    problems: list[Any] = []

    @contextmanager
    def looked_at(*given: Any) -> Iterator[Any]:
        with blank(*given) as canvas:
            yield canvas
            problems.extend(unclear(canvas))

    with patch("bench.reporting.figure_settings.blank", looked_at):
        try:
            settings_of({"figures": {"size": list(USERS)}}).of([figure])
        except BenchError as error:
            if "has no room in 3.25 x 2.4 inches" not in str(error):
                raise
            return False
    assert not problems, f"{figure.name}: {problems}"
    return True


def overlaps(boxes: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    """The pairs of texts of which each box reaches more than half a pixel into the other."""
    inner = np.array([box.padded(-0.5).get_points() for _, box in boxes]).reshape(-1, 2, 2)  # [K, corner, x or y]
    low, high = inner.min(axis=1), inner.max(axis=1)
    meet = (low[:, None] <= high[None]).all(axis=2)
    return [(boxes[i][0], boxes[j][0]) for i, j in zip(*np.nonzero(np.triu(meet & meet.T, 1)), strict=True)]


@pytest.mark.parametrize("count", [1, 3])
def test_figures_of_few_methods_are_clear_at_a_users_size(count, tmp_path):
    """They are drawn, and no text covers data. Of three methods, break_even has no room; cost_by_stage is not tried."""
    chosen = ("top_per_prompt", "distinct_correct", "most_probable_correct")[:count]
    runs = [
        made_run(
            tmp_path,
            seed=seed,
            prompts=24,
            skill={"tuned": 0.3 + 0.03 * i},
            settings={"selection._target_": f"bench.selection.{name}"},
        )
        for seed in SEEDS
        for i, name in enumerate(chosen)
    ]
    groups = grouped(runs)
    found = [part(groups) for part in exhibits.parts("figures")]
    figures = [figure for shown in found for figure in (shown if isinstance(shown, list) else [shown]) if figure]
    for figure in figures:
        if count > 1 and figure.name in ("break_even", "cost_by_stage"):
            continue
        assert has_room(figure), figure.name


def test_a_text_on_a_line_or_a_marker_is_found():
    with blank(3, 3) as canvas:
        axes = canvas.subplots()
        axes.plot([0, 1], [0, 1], "-")
        axes.plot([0.2], [0.8], "o")
        axes.axhline(0.1, zorder=0)  # a guide
        for x, y, text in ((0.5, 0.5, "on the line"), (0.2, 0.8, "on it"), (0.8, 0.3, "free"), (0.8, 0.1, "guided")):
            axes.text(x, y, text, ha="center", va="center")
        canvas.draw_without_rendering()
        assert [text for text, _ in covering(canvas)] == ["on the line", "on it"]


def at_width(figure: Figure, width: float) -> Figure:
    return replace(figure, width=width, height=figure.height * max(1.0, figure.width / width))
