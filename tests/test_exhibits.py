"""What every exhibit keeps to, however a report finds it: a package's module, or a user's own function."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_runs import made_run

from bench import report
from bench.errors import BenchError
from bench.records.read import Run
from bench.reporting import build as building
from bench.reporting import exhibits
from bench.reporting.build import check
from bench.reporting.exhibits import figures, from_configs, of_one_run, sentences, tables
from bench.reporting.files import drawn
from bench.reporting.groups import grouped

MODULE = """
from bench.reporting.exhibit import Figure, shows
from bench.reporting.tables import all_runs

@shows("figures", 15)
def seeds(groups, name="seeds"):
    rows = [{"seed": seed} for group in groups for seed in group.seeds]
    return Figure(name, "Seeds.", rows, all_runs(groups), lambda canvas: canvas.subplots())

@shows("sentences", 1)
def counted(groups):
    return f"There are {len(groups)} configurations, 0.5 of them good."
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two seeds of two N, scored by what is not gold, in rounds, with what lm-eval measured."""
    outputs = tmp_path_factory.mktemp("exhibits")
    metrics = {"rounds/run": 1, "base/lm_eval/other/exact_match": 0.5, "base/lm_eval/other/exact_match_stderr": 0.1}
    return [
        made_run(
            outputs,
            seed=seed,
            num_completions=n,
            noise=0.8,
            prompts=40,
            skill={"round_1": 0.4, "round_1_control": 0.2},
            metrics=metrics,
        )
        for seed in (0, 1)
        for n in (4, 8)
    ]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_exhibits.py").write_text(MODULE)
    yield tmp_path
    exhibits.parts.cache_clear()


def test_a_csv_has_the_same_columns_in_every_row_and_a_table_names_its_own(runs: list[Run]):
    for exhibit in (*figures(runs), *tables(runs)):
        assert len({tuple(row) for row in exhibit.rows}) == 1, exhibit.name
        assert exhibit.as_csv.splitlines()[1].split(",") == list(exhibit.rows[0])
        assert exhibit.caption.rstrip().endswith(".")
    for table in tables(runs):
        assert set(table.columns) <= set(table.rows[0]), table.name


def test_names_are_unique_and_legends_have_six_series_at_most(runs: list[Run]):
    made = figures(runs)
    assert len({figure.name for figure in made}) == len(made)
    for figure in made:
        stamp = figure.stamp
        with drawn(figure) as canvas:
            assert all(len(legend.get_texts()) <= 6 for legend in canvas.legends), figure.name
        assert figure.stamp == stamp, figure.name


def test_drawing_adds_nothing_to_the_csv_of_a_figure(tmp_path: Path):
    names = ("top_per_prompt", "softmax")
    selected = [made_run(tmp_path, settings={"selection._target_": f"bench.selection.{name}"}) for name in names]
    (figure,) = (figure for figure in figures(selected) if figure.name == "selection")
    written = figure.as_csv
    with drawn(figure):
        assert figure.as_csv == written


def test_every_part_gives_nothing_where_its_records_are_missing(runs: list[Run]):
    """A run of older code, with neither costs nor the whole pool: what is left is what every run has."""
    curves = {key: value for key, value in runs[0].curves.items() if key[0] != "sampler" and key[1] != "median_of_n"}
    metrics = {
        name: value
        for name, value in runs[0].metrics.items()
        if not name.startswith(("rounds/", "cost/", "base/lm_eval"))
    }
    bare = Run(runs[0].folder, runs[0].config, metrics | {"scorer/equals_gold": 1}, curves)
    assert {table.name for table in tables([bare])} == {"main", "best_of_n", "coverage", "cost", "contrasts"}
    assert [figure.name for figure in of_one_run(bare)] == ["frontier"]


def test_a_module_in_the_package_is_found_without_any_other_edit(runs: list[Run], own_module: Path, monkeypatch):
    monkeypatch.setattr(exhibits, "__path__", [*exhibits.__path__, str(own_module)])
    exhibits.parts.cache_clear()
    assert [figure.name for figure in figures(runs)][:2] == ["frontier", "seeds"]
    assert sentences(runs)[0] == "There are 2 configurations, 0.5 of them good."


def test_a_function_of_ones_own_joins_by_a_yaml_file(runs: list[Run], own_module: Path):
    (own_module / "figure").mkdir()
    path = own_module / "figure" / "mine.yaml"
    path.write_text("_target_: own_exhibits.seeds\n_partial_: true\nname: mine\n")
    own = from_configs(own_module)
    assert figures(runs, own)[-1].name == "mine"
    assert len(tables(runs, own)) == len(tables(runs))
    for content in ("_target_: own_exhibits.missing\n_partial_: true\n", "name: mine\n", "- a\n"):
        path.write_text(content)
        with pytest.raises(BenchError, match=r"mine\.yaml names no exhibit"):
            from_configs(own_module)


def test_the_command_reports_and_checks_with_the_exhibits_of_a_folder(tmp_path: Path, own_module: Path, monkeypatch):
    monkeypatch.setattr(
        building, "figures", lambda runs, own, axes: [made for part in own for made in [part(grouped(runs))]]
    )
    (own_module / "figure").mkdir()
    (own_module / "figure" / "mine.yaml").write_text("_target_: own_exhibits.seeds\n_partial_: true\nname: mine\n")
    folder, run = tmp_path / "report", made_run(tmp_path / "outputs").folder
    for words in ([], ["--check"]):
        monkeypatch.setattr("sys.argv", ["report", *words, str(run), f"folder={folder}", f"config_dir={own_module}"])
        report.main()
    assert (folder / "figures" / "mine.csv").read_text().splitlines()[1:] == ["seed", "0"]
    assert check(folder) == ["figures/mine can't be made any more: its data is missing"]  # without the folder


def test_marked_functions_take_groups_and_have_places_of_their_own(runs: list[Run]):
    kinds = ("figures", "tables", "sentences", "of_one_run", "methods", "methods_after")
    for kind in kinds:
        places = [function.shows[kind] for function in exhibits.parts(kind)]
        assert places == sorted(set(places)), kind
    groups = grouped(runs)
    assert all(isinstance(line, str) for line in exhibits.method_sentences("methods", groups))


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_report_of_one_prompt_is_made(tmp_path: Path, seeds: int):
    runs = [made_run(tmp_path, seed=seed, prompts=1) for seed in range(seeds)]
    assert all(make(runs) for make in (figures, tables, sentences))


def test_a_report_of_seeds_is_made_where_no_prompt_has_as_many_scored_samples_as_the_largest_n(tmp_path: Path):
    runs = [made_run(tmp_path, seed=seed) for seed in (0, 1)]
    for key, values in ((key, values) for run in runs for key, values in run._per_prompt.items()):
        if (*key[:2], key[3]) == ("base", "best_of_n", 4):
            values[:] = np.nan
    assert all(make(runs) for make in (figures, tables, sentences))
