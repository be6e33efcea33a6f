"""The library: runs as frames, the report's figures on any axes, and the estimators by name."""

import doctest
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from made_runs import made_run
from PIL import Image

import bench
from bench import estimators
from bench.errors import BenchError
from bench.estimators.policy_divergence import policy_kl
from bench.models import loading
from bench.reporting import figure_settings
from bench.reporting.build import build, check
from bench.reporting.exhibits import figures
from bench.reporting.files import drawn

matplotlib.use("agg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two temperatures, two top-p, two N and two selections, scored by what is not gold; a report beside the runs."""
    outputs = tmp_path_factory.mktemp("outputs")
    for t, p, n, method in itertools.product((0.7, 1.3), (0.9, 1.0), (4, 8), ("top_per_prompt", "softmax")):
        made_run(
            outputs,
            num_completions=n,
            prompts=40,
            noise=0.8,
            skill={"base": 0.3 - 0.1 * t, "tuned": 0.3 + 0.02 * n},
            settings={"temperature": t, "top_p": p, "selection._target_": f"bench.selection.{method}"},
        )
    (outputs / "made" / "report").mkdir()
    return outputs / "made"


@pytest.fixture(scope="module")
def runs(folder):
    """In the order in which they were made: selections of one sampler and N beside each other."""
    return bench.load(sorted(folder.glob("[0-9a-f]*"), key=lambda path: path.stat().st_ctime_ns))


def test_nothing_is_imported_before_it_is_used():
    code = (
        "import sys, bench; assert not {'numpy', 'pandas', 'matplotlib', 'torch'} & set(sys.modules); "
        "bench.load, bench.estimators.pass_at_k; assert not {'pandas', 'matplotlib', 'torch'} & set(sys.modules); "
        "assert dir(bench) == ['estimators', 'import_pool', 'load', 'plot']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bench.nothing  # noqa: B018


def test_frames_hold_the_records_and_one_column_joins_them(runs):
    assert len(runs) == len(bench.load(f"{runs[0].folder.parent}/*")) == 16
    assert list(runs.metrics.index) == [run.folder.name for run in runs] == list(runs.config.index)
    assert runs.metrics.loc[runs[3].folder.name, "tuned/pass@1"] == runs[3].metrics["tuned/pass@1"]
    assert set(runs.config["temperature"]) == {0.7, 1.3}
    assert runs.config["training.learning_rate"].eq(0.001).all()
    kl = runs.curves.query("policy == 'tuned' and method == 'policy' and metric == 'kl'").set_index("run")
    assert kl.loc[runs[5].folder.name, "value"] == runs[5].curves["tuned", "policy", "kl", 1].value
    one = runs.per_prompt.query("policy == 'tuned' and method == 'pass' and metric == 'accuracy' and n == 1")
    means = one.groupby("run")["value"].mean().reindex(runs.metrics.index)
    np.testing.assert_allclose(means, runs.metrics["tuned/pass@1"])
    assert set(runs.samples["run"]) == set(runs.metrics.index)
    assert len(runs.curves.merge(runs.config[["temperature"]], on="run")) == len(runs.curves)
    assert [run.folder for run in runs[2:4]] == [runs[2].folder, runs[3].folder]


def test_what_can_not_be_loaded_is_said(folder, tmp_path):
    with pytest.raises(BenchError, match=r"report holds no finished run"):
        bench.load(folder / "report")
    with pytest.raises(BenchError, match=rf"holds no finished run .*; its runs are '{re.escape(str(folder))}/\*'"):
        bench.load(folder)
    with pytest.raises(BenchError, match=r"nowhere/\* finds no finished run"):
        bench.load("nowhere/*")
    with pytest.raises(BenchError, match=r"nowhere holds no finished run .*; there is no such folder"):
        bench.load("nowhere")
    with pytest.raises(BenchError, match="given no path"):
        bench.load([])
    twice = next(path for path in sorted(folder.iterdir()) if path.name != "report")
    (tmp_path / twice.name).symlink_to(twice)
    with pytest.raises(BenchError, match="have one id"):
        bench.load([twice, tmp_path / twice.name])
    assert len(bench.load([twice, str(twice)])) == 1


@pytest.mark.parametrize("name", ["frontier", "accuracy_by_n", "kl_by_n", "selection", "heat_map", "coverage"])
def test_a_figure_is_that_of_the_report_on_any_axes(name, runs):
    """Alone in our style, and in the place of a user's axes, with the same lines and the numbers left there."""
    from matplotlib import pyplot

    some = runs if name == "heat_map" else runs[:4]
    report = next(figure for figure in figures(list(some)) if figure.name == name)
    own = getattr(bench.plot, name)(some)
    _, places = pyplot.subplots(1, 2, figsize=(12, 6))
    given = getattr(bench.plot, name)(some, ax=places[1])

    def lines(panels) -> list[list[list[float]]]:
        panels = panels if isinstance(panels, list) else [panels]
        found = [line.get_xydata().round(6).tolist() for panel in panels for line in panel.lines]
        return sorted(line for line in found if line)

    assert lines(own) == lines(given)
    assert lines(own) or name == "heat_map"
    first = given[0] if isinstance(given, list) else given
    pd.testing.assert_frame_equal(first.rows, pd.DataFrame(list(report.rows)))
    assert (first is places[1]) == (not isinstance(given, list))
    assert not places[0].lines
    pyplot.close("all")


def test_curves_labels_and_size_can_be_chosen(runs):
    axes = bench.plot.frontier(runs[:2], curves=["best_of_n"], labels={"Best-of-n": "best"}, size=(5, 4))
    assert set(axes.rows["method"]) == {"best_of_n"}
    assert axes.get_figure().get_size_inches().tolist() == [5, 4]
    legend = [text.get_text() for text in axes.get_figure().legends[0].get_texts()]
    assert any(text.startswith("best") for text in legend)
    assert not any("fine-tuned" in text or "Best-of-n" in text for text in legend)
    with pytest.raises(BenchError, match=r"curves=nope is not a curve of frontier: it has best_of_n, "):
        bench.plot.frontier(runs, curves=["nope"])
    with pytest.raises(BenchError, match=r"do not hold the numbers of rounds; they hold those of frontier"):
        bench.plot.rounds(runs)
    with pytest.raises(BenchError, match=r"metric='loss' is not allowed"):
        bench.plot.frontier(runs, metric="loss")
    with pytest.raises(BenchError, match="do not hold the numbers of frontier_reward"):  # the verifier is gold
        bench.plot.frontier(runs, metric="reward")


def test_arguments_of_another_kind_are_refused_and_one_run_is_enough(runs):
    from matplotlib import pyplot

    figure, places = pyplot.subplots(1, 2)
    for wrong in ([], "outputs/default/*", runs[:0]):
        with pytest.raises(BenchError, match=r"draws one or more finished runs, as bench\.load"):
            bench.plot.frontier(wrong)
    for wrong in (places, figure):
        with pytest.raises(BenchError, match=r"ax of type (ndarray|Figure) is not allowed: it must be"):
            bench.plot.frontier(runs[:2], ax=wrong)
    for wrong in ("tuned", []):
        with pytest.raises(BenchError, match=r"curves=.* is not allowed: it must be a list of curves"):
            bench.plot.frontier(runs[:2], curves=wrong)
    assert bench.plot.frontier(runs[0], ax=places[0]).lines
    pyplot.close("all")


@pytest.mark.parametrize("name", ["frontier", "accuracy_by_n", "kl_by_n", "coverage"])
def test_each_curve_can_be_drawn_alone(name, runs):
    from matplotlib import pyplot

    report = next(figure for figure in figures(list(runs[:4])) if figure.name == name)
    column = next(column for column in figure_settings.CURVE if column in report.rows[0])
    for curve in {row[column] for row in report.rows}:
        axes = bench.plot.figure(name, runs[:4], curves=[curve])
        assert set((axes[0] if isinstance(axes, list) else axes).rows[column]) == {curve}
    pyplot.close("all")


def test_series_are_named_by_the_setting_that_is_chosen(runs):
    """And the base at one sample over its temperatures is a curve where there are several."""
    axes = bench.plot.frontier(runs[:4], label="selection", curves=["tuned"])
    assert set(axes.rows["label"]) == {"softmax", "top_per_prompt"}
    assert set(bench.plot.frontier(runs[:4], curves=["tuned"]).rows["label"]) > {"softmax N=4"}
    with pytest.raises(BenchError, match="label=nope is not a setting in which these runs differ: they differ in "):
        bench.plot.frontier(runs[:4], label="nope")
    base = bench.plot.frontier(runs, curves=["base_temperature"])
    rows = base[0].rows if isinstance(base, list) else base.rows
    assert sorted(set(rows["temperature"])) == [0.7, 1.3]
    for row in rows.itertuples():
        like = (run for run in runs if run.config["temperature"] == row.temperature)
        values = {run.series("base", "best_of_n", "kl")[1].value for run in like}
        assert row.n == 1
        assert row.kl in values


def test_a_crowd_is_drawn_in_blocks_on_axes_of_ones_own(tmp_path):
    from matplotlib import pyplot

    crowd = [made_run(tmp_path, prompts=20, settings={"temperature": 0.1 * t}, noise=0.5) for t in range(1, 9)]
    loaded = bench.load([run.folder for run in crowd])
    _, ax = pyplot.subplots(figsize=(9, 5), layout="constrained")
    panels = bench.plot.figure("reward_by_n", loaded, ax=ax)
    assert len(panels) == 2
    assert len({panel.get_ylim() for panel in panels}) == 1
    free = pyplot.figure(figsize=(7, 5)).add_axes((0.1, 0.1, 0.8, 0.8))  # in no grid
    assert len(bench.plot.figure("reward_by_n", loaded, ax=free)) == 2
    pyplot.close("all")


def test_words_are_replaced_whole_wherever_they_stand(runs):
    panels = bench.plot.selection(runs[:2], labels={"top_per_prompt": "best"})
    assert {"best", "softmax"} <= {tick.get_text() for tick in panels[0].get_yticklabels()}
    with pytest.raises(BenchError, match=r"labels: soft is not a text of selection; its texts are .*random control"):
        bench.plot.selection(runs[:2], labels={"soft": "?"})


def test_a_report_has_the_figures_that_are_wanted(runs, tmp_path):
    """From a file and the command line; --check makes them as they were made, and says what is stale."""
    file = tmp_path / "figures.yaml"
    file.write_text("figures: {only: [frontier, kl_by_n], size: [3.25, 2.4], labels: {Best-of-n: best}}\nstyle: talk\n")
    words = ["figures.frontier.curves=[best_of_n]", "figures.kl_by_n.size=[5,3]"]
    wanted = figure_settings.read([f"figures={file}", *words])
    folder = tmp_path / "report"
    build(runs[:2], folder, title="mine", wanted=wanted)
    assert sorted(path.name for path in (folder / "figures").glob("*.png")) == ["frontier.png", "kl_by_n.png"]
    with Image.open(folder / "figures" / "kl_by_n.png") as image:
        assert image.size == (1500, 900)
    assert "tuned" not in (folder / "figures" / "frontier.csv").read_text()
    assert check(folder) == []
    assert any("selection is not in the report" in line for line in check(made_again(folder, "wanted")))


def made_again(folder: Path, without: str) -> Path:
    manifest = json.loads((folder / "report.json").read_text())
    del manifest[without]
    (folder / "report.json").write_text(json.dumps(manifest))
    return folder


def test_slides_have_larger_text_and_figures(runs):
    paper, talk = (
        figure_settings.settings_of({"figures": {"only": ["frontier"]}, "style": style}).of(figures(list(runs[:2])))[0]
        for style in ("paper", "talk")
    )
    assert (talk.width, talk.height) == (1.5 * paper.width, 1.5 * paper.height)
    with drawn(paper) as small, drawn(talk) as large:
        sizes = [canvas.axes[0].xaxis.label.get_fontsize() for canvas in (small, large)]
    assert sizes == [8, 12]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["figures.only=[nope]"], r"figures: nope is not a figure of these runs; they have frontier, "),
        (["figures.nope.size=[3,2]"], r"figures: nope is not a figure of these runs"),
        (["figures.only=[fronteir]"], r"figures: fronteir is not a figure of .*; did you mean frontier\?"),
        (["figures.frontier.curves=[nope]"], r"curves=nope is not a curve of frontier: it has best_of_n, "),
        (["figures.only=frontier"], r"figures\.only=frontier is not allowed: it must be a list of figures"),
        (["figures.size=[]"], r"figures\.size=\[\] is not allowed: it must be width in inches and perhaps height"),
        (
            ["figures.only=[frontier]", "figures.size=[1]"],
            r"frontier has no room in 1 x .* inches for text of 8",
        ),
        (
            ["figures.frontier.size=[2,1.5]", "style=talk"],
            r"frontier has no room in 2 x 1\.5 inches for text of 12",
        ),
        (["figures.labels={nope: a}"], r"figures\.labels: nope is not a text of any figure; texts are .*fine-tuned"),
        (["figures.frontier.labels={nope: a}"], r"figures\.frontier\.labels: nope is not a text of this figure"),
        (["figures.size=[1,.nan]"], r"figures\.size=\[1, nan\] is not allowed"),
        (["figures.frontier.colour=red"], r"figures\.frontier\.colour is not known: a setting of figures\.frontier is"),
        (["figures.frontier=3"], r"figures\.frontier is not known"),
        (["figures=3"], r"figures=3 can't be read"),
        (["figures=nowhere.yaml"], r"figures=nowhere\.yaml can't be read"),
        (["figures.labels={a: [b]}"], r"figures\.labels=.* is not allowed: it must be texts"),
        (["style=nope"], r"style=nope can't be read \(No such file or directory\); give paper, talk or the path"),
    ],
)
def test_a_wish_that_can_not_be_met_is_said(words, said, runs):
    with pytest.raises(BenchError, match=said):
        figure_settings.read(words).of(figures(list(runs[:2])))


@pytest.mark.parametrize("module", [found.name for found in pkgutil.iter_modules(estimators.__path__)])
def test_examples_in_docstrings_are_true(module):
    failed, _ = doctest.testmod(importlib.import_module(f"bench.estimators.{module}"))
    assert failed == 0


@pytest.mark.parametrize("name", dir(estimators))
def test_every_estimator_has_an_example(name):
    """And shows a number, a word or a truth: an example without output can't be wrong."""
    value = getattr(estimators, name)
    (test,) = (test for test in doctest.DocTestFinder(recurse=False).find(value, name))
    assert any(example.want.strip() for example in test.examples)
    assert any(f"{name}(" in example.source for example in test.examples)


@pytest.mark.parametrize(
    "name", [name for name in dir(estimators) if "default_rng(0)" in getattr(estimators, name).__doc__]
)
def test_a_seed_in_place_of_a_generator_is_refused(name):
    """In the example of each estimator that draws."""
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(estimators, name), name)
    source = "".join(example.source for example in test.examples).replace("np.random.default_rng(0)", "0")
    with pytest.raises(ValueError, match=r"rng=0 is not allowed; a generator is expected, such as np\.random\."):
        exec(source, {"np": np, **test.globs})


def test_every_estimator_has_one_name():
    names = dir(estimators)
    wanted = {"best_of_n", "best_of_n_kl", "pass_at_k", "pass_at_k_of_counts", "policy_kl", "paired_contrast"}
    assert wanted | {"vote_weights"} <= set(names)  # of which the docstring of weighted_majority_at_k speaks
    homes = [
        (found.name, name)
        for found in pkgutil.iter_modules(estimators.__path__)
        for name, value in vars(importlib.import_module(f"bench.estimators.{found.name}")).items()
        if name in names and value.__module__ == f"bench.estimators.{found.name}"
    ]
    assert sorted(name for _, name in homes) == names
    internal = {"arrays", "distributions"}
    public = {
        name
        for found in pkgutil.iter_modules(estimators.__path__)
        for name, value in vars(importlib.import_module(f"bench.estimators.{found.name}")).items()
        if found.name not in internal and not name.startswith("_") and inspect.isfunction(value)
        if value.__module__ == f"bench.estimators.{found.name}"
    }
    sources = "".join(path.read_text() for path in (Path(bench.__file__).parent).rglob("*.py"))
    for name in public - set(names):  # what is no name of the package is used inside
        assert len(re.findall(rf"\b{name}\b", sources)) > 1, name
    assert not {found.name for found in pkgutil.iter_modules(estimators.__path__)} & set(names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        estimators.nothing  # noqa: B018


def test_counts_give_the_pass_at_k_of_their_samples():
    correct = np.random.default_rng(0).random((30, 12)) < 0.3
    ragged = np.where(np.random.default_rng(1).random((30, 12)) < 0.2, np.nan, correct)
    counts = np.nansum(ragged, axis=1), (~np.isnan(ragged)).sum(axis=1)
    np.testing.assert_array_equal(
        estimators.pass_at_k_of_counts(*counts, [1, 3, 12]), estimators.pass_at_k(ragged, [1, 3, 12])
    )
    for wrong in ([3], [-1], [0.5]):
        with pytest.raises(ValueError, match="whole numbers with 0 <= correct <= samples"):
            estimators.pass_at_k_of_counts(wrong, [2], 1)


def test_the_kl_of_two_models_is_that_of_an_evaluation(random_policy, stopping_policy, few_prompts, store):
    from drawing import generate

    from bench.models import chat
    from bench.models.logprobs import divergence_samples

    pool = generate(few_prompts, random_policy, num_completions=2)
    other = loading.load_model(stopping_policy)
    for weights in other.parameters():
        weights.data *= 1.1
    model = loading.load_model(random_policy)
    tokenizer = loading.load_tokenizer(random_policy)
    starts = [chat.encode(tokenizer, messages) for messages in few_prompts.messages]
    sequences = [[*start, *pool.token_ids[row, 0].tolist()] for row, start in enumerate(starts)]
    found = policy_kl(model, other, sequences, [len(start) for start in starts])
    assert (found > 0.01).all()
    same = policy_kl(model, model, sequences, [len(start) for start in starts])
    assert same.tolist() == [0.0] * len(starts)
    own = loading.load_model(stopping_policy)  # the same weights: only generation ends elsewhere
    expected = divergence_samples(random_policy, stopping_policy, few_prompts, pool, temperature=1.0, top_p=1.0)
    ours = policy_kl(model, own, sequences, [len(start) for start in starts])
    np.testing.assert_allclose(ours, expected.rao_blackwell[:, 0], atol=1e-4)
    ends = [sequence[-1] for sequence in sequences]
    for sequence, start, end, value in zip(sequences, starts, ends, found, strict=True):
        if end not in sequence[len(start) : -1]:  # padding behind EOS does not count
            padded = policy_kl(model, other, [[*sequence, 0, 0]], [len(start)], end=end)
            assert padded[0] == pytest.approx(value, rel=1e-6)
            assert policy_kl(model, other, [[*sequence, 0, 0]], [len(start)])[0] > value
    with pytest.raises(ValueError, match="sequence 0 has 3 tokens"):
        policy_kl(model, other, [[1, 2, 3]], [3])
