"""Tables: what their rows say against the records they come from, and that their LaTeX is sound."""

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy
from made_runs import made_run
from stamps import stamp_of

from bench.errors import BenchError
from bench.estimators.crossing import crossover
from bench.estimators.training_seeds import seed_interval
from bench.records.read import Estimate, Run
from bench.reporting.console import main_table, runs_table
from bench.reporting.contrasts import judged
from bench.reporting.exhibit import Table, records_of
from bench.reporting.exhibits import tables
from bench.reporting.files import write_table
from bench.reporting.groups import distinctions, estimate, grouped
from bench.reporting.ranking import rank
from bench.reporting.tables import inline, latex, markdown
from bench.seeds import generator


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Three selections under three seeds: one good, one as its control, one with a setting of its own."""
    outputs = tmp_path_factory.mktemp("grid")
    skills = {"top_per_prompt": 0.6, "random_per_prompt": 0.2, "softmax": 0.5}
    return [
        made_run(outputs, seed=seed, skill={"tuned": skill}, settings={"selection._target_": f"bench.selection.{name}"})
        for name, skill in skills.items()
        for seed in range(3)
    ]


def by_name(runs: list[Run]) -> dict[str, Table]:
    return {table.name: table for table in tables(runs)}


def test_every_arm_and_every_n_has_its_row_with_interval_and_verdict(run: Run):
    lines = main_table(run).splitlines()
    names = [line.split("|")[1].strip() for line in lines]
    assert names[2:] == ["base", "tuned: top_per_prompt", "random control", "Best-of-2", "Best-of-4"]
    assert str(run.series("base", "best_of_n", "accuracy")[2]) in lines[5]
    sampled, greedy = (run.metrics[f"tuned_vs_control/{of}/verdict"] for of in ("pass@1", "greedy_accuracy"))
    assert (sampled, greedy) == ("better", "not resolved")
    assert lines[4].rstrip("| ").endswith("better (sampled only)")
    assert lines[6].rstrip("| ").endswith(run.metrics["tuned_vs_best_of_4/accuracy/verdict"])


def test_best_of_1_is_shown_where_the_sampler_is_not_the_raw_base(run: Run):
    assert not any(line.startswith("| Best-of-1 ") for line in main_table(run).splitlines())
    cooler = replace(run, curves=run.curves | {("base", "best_of_n", "kl", 1): Estimate(0.4, 0.3, 0.5)})
    assert any(line.startswith("| Best-of-1 ") for line in main_table(cooler).splitlines())


def test_the_largest_kl_of_unsolved_prompts_has_its_column(run: Run):
    rows = {row["arm"]: row for row in by_name([run])["main"].rows}
    assert rows["Best-of-4"]["kl_unsolved"] == run.series("base", "best_of_n", "kl_sensitivity")[4].value
    assert rows["Best-of-4"]["kl_unsolved"] > rows["Best-of-4"]["kl"]


def test_verdicts_of_one_seed_are_those_of_its_metrics(run: Run):
    rows = by_name([run])["contrasts"].rows
    assert len(rows) == sum(name.endswith("/verdict") for name in run.metrics)
    (row,) = (row for row in rows if row["comparison"] == "tuned - Best-of-2")
    assert row["difference"] == run.metrics["tuned_vs_best_of_2/accuracy/difference"]
    assert row["detectable"] == run.metrics["tuned_vs_best_of_2/accuracy/minimum_detectable"]
    assert row["verdict"] == run.metrics["tuned_vs_best_of_2/accuracy/verdict"]


def test_several_seeds_are_compared_over_seeds_and_prompts(grid: list[Run]):
    three = grid[:3]
    found = by_name(three)
    scores = {arm: np.stack([r.per_prompt(arm, "pass", "accuracy", 1) for r in three]) for arm in ("tuned", "control")}
    expected = seed_interval(scores["tuned"] - scores["control"])
    (row,) = (row for row in found["main"].rows if row["arm"] == "random control")
    assert row["difference"] == pytest.approx(expected.mean)
    assert row["difference_low"] == pytest.approx(expected.low)
    assert row["verdict"] == "better"
    assert row["seeds"] == 3
    assert expected.high - expected.mean < row["detectable"] < 2 * (expected.high - expected.mean)


def test_an_accuracy_stays_within_0_and_1_over_seeds():
    values = np.zeros((2, 40))
    values[1, :8] = 1.0
    assert estimate(values).low < 0
    assert estimate(values).high > 1
    found = estimate(values, shares=True)
    assert (found.low, found.high) == (0.0, 1.0)
    assert estimate(np.zeros((3, 300)), shares=True).high == pytest.approx(0.0099, abs=1e-4)


def test_configurations_are_ranked_with_what_sets_them_apart(grid: list[Run]):
    main = by_name(grid)["main"]
    assert [row["config.selection"] for row in main.rows] == ["top_per_prompt", "softmax", "random_per_prompt"]
    assert [row["effect_verdict"] for row in main.rows] == ["better", "better", "not resolved"]
    assert main.rows[0]["ahead"] is None
    assert main.rows[2]["ahead_verdict"] == "better"
    assert next(iter(main.columns)) == "config.selection"
    assert "config.seed" not in main.columns


def test_configurations_without_a_shared_seed_are_adjusted_and_none_is_first(tmp_path: Path):
    """Alone each is resolved; Holm's adjustment for four leaves the weaker ones open."""
    names = ["top_per_prompt", "all_correct", "threshold", "shortest_correct"]
    runs = [
        made_run(
            tmp_path,
            seed=seed,
            skill={"tuned": 0.28, "control": 0.2},
            prompts=120,
            settings={"selection._target_": f"bench.selection.{name}"},
        )
        for seed, name in enumerate(names)
    ]
    main = by_name(runs)["main"]
    alone = {group.label: rank({group.label: group})[0].effect for group in grouped(runs)}
    expected = judged({name: found for name, found in alone.items() if found is not None})
    assert len(expected) == 4
    assert any(found.verdict != expected[name].verdict for name, found in alone.items() if found is not None)
    for row in main.rows:
        found = expected[f"selection={row['config.selection']}"]
        assert row["p_effect"] == pytest.approx(found.p_value)
        assert row["effect_verdict"].partition(" (")[0] == found.verdict
        assert row["ahead_verdict"] == ""
        assert row["ahead"] is None
    assert [row["tuned"] for row in main.rows] == sorted((row["tuned"] for row in main.rows), reverse=True)
    assert "No seed is shared by all: they are not compared." in main.caption
    assert not any(words in main.caption for words in ("pooled", "first row"))


def test_what_configurations_share_is_shown_once(grid: list[Run]):
    found = by_name(grid)
    assert [row["n"] for row in found["best_of_n"].rows] == [1, 2, 4]
    assert [row["arm"] for row in found["coverage"].rows].count("base") == 1


def test_the_table_of_coverage_claims_nothing_for_new_seeds_where_there_is_one(grid: list[Run]):
    for runs, words in (
        (grid[:1], "prompts"),
        (grid[:3], "prompts and seeds"),
        (grid[:4], "prompts (and seeds, where "),
    ):
        caption = by_name(runs)["coverage"].caption
        assert f"band over all k, for new {words}" in caption
        assert ("seeds, excludes 0" in caption) == (words == "prompts and seeds")


def test_the_table_of_coverage_says_at_which_k_a_policy_is_ahead_of_the_base(tmp_path: Path):
    """As estimators.crossover gives it for the values per prompt of all seeds, one by one."""
    skill = {"base": 0.4, "tuned": 0.85, "control": 0.1}
    runs = [made_run(tmp_path, seed=seed, skill=skill, prompts=200) for seed in range(5)]
    rows = {row["arm"]: row["against_base"] for row in by_name(runs)["coverage"].rows}
    assert rows["base"] is None
    names = {"tuned": "tuned", "control": "random control"}
    for arm, word, leader in (("tuned", "ahead", 1), ("control", "behind", -1)):
        ours, theirs = (
            np.array([[run.per_prompt(policy, "pass", "accuracy", k) for k in (1, 2, 4)] for run in runs])
            for policy in (arm, "base")
        )  # [S, K, M]
        found = crossover(
            ours.swapaxes(1, 2), theirs.swapaxes(1, 2), [1, 2, 4], generator(0, "pass@k against the base")
        )
        ((first, last),) = found.where(leader)
        assert first == 1
        assert rows[names[arm]].split(", ")[0] == f"{word} at 1" + (f" to {last}" if last > first else "")


def test_configurations_are_compared_on_the_seeds_that_all_have(grid: list[Run]):
    main = by_name(grid[:-1])["main"]
    assert [row["seeds"] for row in main.rows] == [2, 2, 2]
    assert "Seeds 2 are left out" in main.caption


def test_shared_artifacts_cost_once(grid: list[Run]):
    rows = {row["stage"]: row for row in by_name(grid)["cost"].rows}
    assert rows["generate"]["generated_tokens"] == 3 * 1000  # three seeds
    assert rows["generate"]["generated_tokens_alone"] == 9 * 1000
    assert rows["sft"]["artifacts"] == 9
    assert rows["all"]["seconds"] == pytest.approx(3 * 48 + 9 * 5)


@pytest.mark.parametrize("filtered", ["", ",none", ",strict-match"])  # as lm-eval names what a task's filters give
def test_lm_eval_has_its_intervals(run: Run, filtered):
    assert "lm_eval" not in by_name([run])
    values = {
        f"base/lm_eval/word_problems/exact_match{filtered}": 0.5,
        f"base/lm_eval/word_problems/exact_match_stderr{filtered}": math.sqrt(0.25 / 50),
    }
    values |= {name.replace("base", "tuned"): value for name, value in values.items()}
    (row,) = by_name([replace(run, metrics=run.metrics | values)])["lm_eval"].rows
    assert (row["task"], row["metric"], row["control"]) == ("word_problems", f"exact_match{filtered}", None)
    wilson = scipy.stats.binomtest(25, 50).proportion_ci(method="wilson")
    assert (row["base_low"], row["base_high"]) == pytest.approx((wilson.low, wilson.high))


def test_lm_evals_shares_have_intervals_within_0_and_1(tmp_path: Path):
    values = {0: {"acc": 0.1, "perplexity": 1.0}, 1: {"acc": 0.12, "perplexity": 9.0}}
    runs = [made_run(tmp_path, seed=seed) for seed in values]
    runs = [
        replace(run, metrics=run.metrics | {f"base/lm_eval/other/{name}": value for name, value in found.items()})
        for run, found in zip(runs, values.values(), strict=True)
    ]
    rows = {row["metric"]: row for row in by_name(runs)["lm_eval"].rows}
    assert 0 < rows["acc"]["base_low"] < rows["acc"]["base"] == pytest.approx(0.11)
    assert rows["acc"]["base_high"] < 1
    assert rows["perplexity"]["base_low"] < 0


def test_what_is_undefined_is_empty_in_a_table_and_nan_in_its_csv(tmp_path: Path):
    """An interval that nothing gives, and a number that no prompt gives; a column of those alone is not shown."""
    metrics = {f"{arm}/lm_eval/other/acc": 0.5 for arm in ("base", "tuned")}
    runs = [made_run(tmp_path, seed=seed, metrics=metrics) for seed in (0, 1)]
    for key, values in ((key, values) for run in runs for key, values in run._per_prompt.items()):
        if key[:3] == ("base", "best_of_n", "win_rate") or (*key[:2], key[3]) == ("base", "best_of_n", 4):
            values[:] = np.nan
    made = by_name(runs)
    assert made["lm_eval"].texts[1] == ("other", "acc", "0.500", "0.500", "2")
    assert [cell for cell in made["best_of_n"].texts[3] if cell] == ["4", "0"]  # n, and prompts that have so many
    assert made["best_of_n"].rows[2]["accuracy"] is not None
    assert "win_rate" not in made["best_of_n"].shown_columns
    assert not any("nan" in cell for table in made.values() for row in table.texts for cell in row)


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_column_of_prompts_counts_those_behind_each_row(tmp_path: Path, seeds: int):
    """Under each seed the scorer failed on two prompts of its own. Where it did not, no such column is shown."""
    runs = [made_run(tmp_path, seed=seed) for seed in range(seeds)]
    for name in ("main", "best_of_n"):
        assert "prompts" not in by_name(runs)[name].shown_columns
    for seed, run in enumerate(runs):
        for key, values in run._per_prompt.items():
            if key[:2] == ("base", "best_of_n"):
                values[2 * seed : 2 * seed + 2] = np.nan
    made, left = by_name(runs), 60 - 2 * seeds
    assert [row["prompts"] for row in made["best_of_n"].rows] == [left] * 3
    assert {row["arm"]: row["prompts"] for row in made["main"].rows}["Best-of-4"] == left
    counted = {row["comparison"]: row["prompts"] for row in made["contrasts"].rows}
    assert (counted["tuned - Best-of-4"], counted["tuned - base"]) == (left, 60)
    for name in ("main", "best_of_n", "contrasts"):
        assert "prompts" in made[name].shown_columns


def test_a_scorer_that_is_not_gold_is_in_a_table(run: Run):
    assert "scorer" not in by_name([run])
    measured = {"scorer/equals_gold": 0.0, "scorer/auc": 0.52, "scorer/auc_low": 0.47, "scorer/auc_high": 0.57}
    (row,) = by_name([replace(run, metrics=run.metrics | measured)])["scorer"].rows
    assert (row["scorer"], row["auc"], row["auc_high"], row["tie_rate"]) == ("verify", 0.52, 0.57, None)


def test_rows_have_the_same_keys_and_the_csv_repeats_the_stamp(grid: list[Run]):
    for table in tables(grid):
        assert len({tuple(row) for row in table.rows}) == 1, table.name
        stamp, _, rest = table.as_csv.partition("\n")
        assert stamp == f"# {table.stamp}"
        assert records_of(list(csv.reader(io.StringIO(rest)))) == table.records


def test_a_changed_number_changes_the_records(run: Run):
    table = tables([run])[0]
    rows = [dict(row) for row in table.rows]
    rows[0]["sampled"] = np.nextafter(rows[0]["sampled"], 1)  # processors differ so much
    assert replace(table, rows=rows).records == table.records
    rows[0]["sampled"] *= 1 + 1e-7
    assert replace(table, rows=rows).records != table.records


def test_latex_is_well_formed(grid: list[Run]):
    for table in tables(grid):
        _check_latex(latex(table), columns=len(table.texts[0]), rows=len(table.rows))


def test_latex_sets_special_characters_as_themselves(run: Run):
    hostile = r"a_b & 50% #1 {x} \input{evil} $y$ ~ ^ <tag> | \\"
    table = Table("hostile", hostile, [{"a": hostile, "b": "[1, 2]"}], [run], {"a": hostile, "b": "_"})
    text = latex(table)
    _check_latex(text, columns=2, rows=1)
    assert r"\input" not in text.replace(r"\textbackslash{}input", "")


def test_latex_has_minus_signs_where_numbers_are_negative(run: Run):
    text = latex(Table("m", "log n - 1", [{"a": "-.12 [-.3, .1]", "b": "top-p 0-1"}], [run], {"a": "x - y", "b": "b"}))
    assert "$-$.12 [$-$.3, .1] & top-p 0-1" in text
    assert "x $-$ y & b" in text
    assert "log n $-$ 1" in text


def _check_latex(text: str, *, columns: int, rows: int) -> None:
    """Environments and braces balance, every row has its cells, nothing is left unescaped, nothing is not ASCII."""
    assert text.isascii()
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    body = "\n".join(lines)
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", body):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    plain = re.sub(r"\\[{}]", "", body)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    (preamble,) = re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", body)
    assert len(preamble) == columns
    inside = [line for line in lines if line.endswith(r" \\")]
    assert len(inside) == rows + 1
    commands = {
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
    }
    for line in inside:
        content = line.removesuffix(r" \\").replace("$-$", "")
        assert len(re.findall(r"(?<!\\)&", content)) == columns - 1
        assert not re.search(r"(?<!\\)[%$#_^~]", content)
        assert not content.startswith("[")
        assert set(re.findall(r"\\([a-zA-Z]+)", content)) <= commands


def test_markdown_is_aligned_and_keeps_its_columns():
    assert markdown([("a", "bb"), ("ccc", "d")]) == "| a   | bb |\n|-----|----|\n| ccc | d  |"
    assert markdown([("a",), ("x|y\nz",)]).splitlines()[2] == r"| x\|y z |"


def test_runs_side_by_side_show_only_what_differs(grid: list[Run]):
    header = runs_table(grid).splitlines()[0]
    assert [cell.strip() for cell in header.split("|")[1:4]] == ["run", "selection", "seed"]
    assert runs_table(grid[:3]).splitlines()[-1].startswith("| mean ")
    assert not runs_table(grid).splitlines()[-1].startswith("| mean ")


def test_runs_side_by_side_are_in_the_order_of_their_numbers(tmp_path: Path):
    lines = runs_table([made_run(tmp_path, num_completions=n) for n in (16, 4, 8)]).splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == ["4", "8", "16"]


def test_methods_of_one_function_are_told_apart(tmp_path: Path):
    """As mbr, mbr_tokens and mbr_embeddings are, which differ in what they call similar."""
    similar = "bench.selection.similarity"
    best = made_run(tmp_path)
    runs = [
        made_run(
            tmp_path,
            settings={
                "selection._target_": "bench.selection.mbr",
                "selection.similarity._target_": f"{similar}.{name}",
            },
        )
        for name in ("same_path", "token_overlap")
    ]
    assert [group.label for group in grouped(runs)] == [
        "selection.similarity=same_path",
        "selection.similarity=token_overlap",
    ]
    assert [group.label for group in grouped([best, *runs])] == [
        "selection=top_per_prompt",
        "selection=mbr similarity=same_path",
        "selection=mbr similarity=token_overlap",
    ]


def test_what_a_part_repeats_of_another_is_said_once(tmp_path: Path):
    def run(kinds: str, of_scorer: str) -> Run:
        settings = {"task.templates": kinds, "scoring.task.templates": of_scorer, "scoring.task.train_prompts": 90}
        return made_run(tmp_path / of_scorer, settings=settings)

    alike = grouped([run("chain2", "chain2"), run("events3", "events3")])
    assert [group.label for group in alike] == ["task.templates=chain2", "task.templates=events3"]
    own = grouped([run("chain2", "chain3"), run("events3", "events2")])
    assert own[0].label == "task.templates=chain2 scoring.task.templates=chain3"


def test_a_part_that_keeps_its_seed_does_not_set_seeds_apart(tmp_path: Path):
    """task.seed is 0 under every seed: it equals the run's in one of them, and is no difference."""
    (group,) = grouped([made_run(tmp_path, seed=seed) for seed in (0, 1, 2)])
    assert group.seeds == (0, 1, 2)


def test_a_tasks_seed_is_no_training_seed(tmp_path: Path):
    """Records from before the prompts' content was among them: nothing else tells that the prompts are others."""
    groups = grouped([made_run(tmp_path, seed=seed, settings={"task.seed": seed}) for seed in (0, 1)])
    assert [group.settings for group in groups] == [{"task.seed": "0"}, {"task.seed": "1"}]


def test_other_prompts_under_the_same_ids_are_refused(tmp_path: Path):
    def keyed(number: int, key: str, **task: str | int) -> Run:
        settings = {f"task.{name}": value for name, value in task.items()}
        return made_run(tmp_path, seed=number, settings=settings, metrics={"test/prompts_key": key})

    first = keyed(0, "a")
    assert len(grouped([first, keyed(1, "a")])) == 1
    with pytest.raises(BenchError, match="come from different test prompts"):
        grouped([first, keyed(1, "b", seed=1)])
    with pytest.raises(BenchError, match="come from different test prompts"):
        grouped([first, keyed(2, "b")])
    with pytest.raises(BenchError, match="come from different test prompts"):
        grouped([first, keyed(3, "c", seed=2, system="Be brief.")])
    assert len(grouped([first, keyed(4, "d", system="Be brief.")])) == 2  # the same problems, put otherwise


def test_how_a_training_was_fitted_to_its_machine_sets_no_runs_apart(tmp_path: Path):
    ways = [{}, {"training.checkpoint_every": 50, "training.micro_batch_size": 8}, {"training.keep_every": 5}]
    runs = [made_run(tmp_path / str(seed), seed=seed, settings=way) for seed, way in enumerate(ways)]
    assert [(group.settings, len(group.runs)) for group in grouped(runs)] == [({}, 3)]
    faster = made_run(tmp_path / "faster", settings={"training.learning_rate": 0.5})
    assert [len(group.runs) for group in grouped([*runs, faster])] == [3, 1]


def test_runs_of_different_code_or_prompts_are_refused(tmp_path: Path, run: Run):
    for other, reason in ((made_run(tmp_path, seed=1, code="other"), "different code"),):
        with pytest.raises(BenchError, match=reason):
            tables([run, other])
    with pytest.raises(BenchError, match="different test prompts"):
        tables([run, made_run(tmp_path, seed=2, prompts=50)])
    with pytest.raises(BenchError, match="same settings and seed"):
        tables([run, made_run(tmp_path / "again")])


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r1", "'\n1"),
        ("a\r\n=1\x00", "a\n=1\\x00"),
        ("  =1+1", "'  =1+1"),
        ("\n=1", "'\n=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-0.5", "-0.5"),
        ("+1", "+1"),
        ("-inf", "-inf"),
        (-0.5, "-0.5"),
        (-3, "-3"),
        ("top-p", "top-p"),
        ("a=b", "a=b"),
        (None, ""),
    ],
)
def test_no_cell_of_a_csv_is_a_formula(value: object, cell: str, run: Run):
    table = Table("t", "A table.", [{"=key": value, "b": "x"}], [run], {})
    stamp, _, rest = table.as_csv.partition("\n")
    assert list(csv.reader(io.StringIO(rest, newline=""))) == [["'=key", "b"], [cell, "x"]]
    assert stamp.endswith(records_of(list(csv.reader(io.StringIO(rest, newline="")))))


@pytest.mark.parametrize(
    "name", ["a\n\\input{evil}", "a\r\n=1+1", "a --> <script>", "a\x1b[31m", "a\u2028b", "a_b-c.d e"]
)
def test_a_folders_name_stays_in_the_comment_with_the_stamp(name: str, run: Run, tmp_path: Path):
    table = Table("t", "A table.", [{"a": 1}], [replace(run, folder=Path(name))], {"a": "a"})
    for path in write_table(table, tmp_path):
        assert stamp_of(path) == table.stamp
        assert table.stamp in path.read_text().split("\n")[0]
    assert table.stamp.isprintable()
    assert ">" not in table.stamp
    assert name != "a_b-c.d e" or table.stamp.startswith(f"runs {name};")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", r"\<script>alert(1)\</script>"),
        ("<!-- x -->", r"\<!-- x -->"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("`x`", r"\`x\`"),
        ("[x](javascript:alert(1))", r"[x]\(javascript:alert(1))"),
        ("&lt;b&gt; &#60; AT&T", r"\&lt;b\&gt; \&#60; AT&T"),
        ("a\x1b[2J\nb", r"a\\x1b[2J b"),
        ("<.001, .47 [.43, .51], x < y & z", "<.001, .47 [.43, .51], x < y & z"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, shown: str):
    assert markdown([("a",), (text,)]).splitlines()[2].strip("| ") == shown.strip("| ")
    assert inline(text) == shown.replace("\\|", "|") if "|" in text else inline(text) == shown


def test_the_selection_that_an_online_algorithm_does_not_use_is_in_no_table(tmp_path):
    """Its column has the algorithm's name, and there is none where every run is online."""
    online = {"_target_": "bench.procedures.online.online", "beta": 0.0}
    kept = {"selection._target_": "bench.selection.all_correct", "selection.keep": 2}
    runs = [made_run(tmp_path, settings=kept)] + [
        made_run(tmp_path, settings={"procedure": online | {"algorithm": name}, "selection.keep": i})
        for i, name in enumerate(("grpo", "rloo"))
    ]
    apart = distinctions([run.config for run in runs])
    assert [own["selection"] for own in apart] == ["all_correct", "grpo", "rloo"]
    assert distinctions([run.config for run in runs[1:]]) == [{"procedure.algorithm": n} for n in ("grpo", "rloo")]
    assert "top_per_prompt" not in runs_table(runs)
