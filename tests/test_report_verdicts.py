"""Sentences of a report: they claim what the comparison behind them resolves, and no more."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import made_run

from bench.estimators.compute import first_reached
from bench.records.read import Run
from bench.reporting.exhibits import sentences as verdicts
from bench.reporting.exhibits.harness import transfers
from bench.reporting.groups import grouped


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("one"))


def told(run: Run, **metrics: Any) -> str:
    return "\n".join(verdicts([replace(run, metrics=run.metrics | metrics)]))


NUMBERS = {"better": (0.2, 0.1, 0.3, 0.01), "worse": (-0.2, -0.3, -0.1, 0.01), "not resolved": (0.1, -0.1, 0.3, 0.4)}


def judging(verdict: str, *sizes: int) -> dict[str, Any]:
    """Comparisons with Best-of-n as they are recorded: the verdict and the numbers that it is read from."""
    made: dict[str, Any] = {}
    for n in sizes:
        made |= recorded(f"tuned_vs_best_of_{n}/accuracy", verdict)
    return made


def recorded(name: str, verdict: str) -> dict[str, Any]:
    keys = ("difference", "difference_low", "difference_high", "p_adjusted")
    return {f"{name}/{key}": value for key, value in zip(keys, NUMBERS[verdict], strict=True)} | {
        f"{name}/verdict": verdict
    }


def test_what_is_shown_is_said_with_its_interval(run: Run):
    text = told(run, **judging("better", 1), **judging("worse", 4))
    assert "better than its random control (+" in text
    assert "(60 test prompts, 1 seed)" in text
    assert "fine-tuning pays after 1,700 [1,400, 2,100] queries." in text
    assert "The base is as accurate as the tuned policy by Best-of-n (oracle) at n = 2.5 [2.1, 3]" in text


def test_no_break_even_where_the_comparison_is_not_resolved(run: Run):
    text = told(run, **judging("not resolved", 1))
    assert "No break-even is given: the tuned policy is not shown to be better than one sample of the base." in text
    assert "1,700" not in text


def test_break_even_of_a_worse_policy_and_of_one_that_no_n_reaches(run: Run):
    assert "Fine-tuning never pays for itself: one sample of the base is more accurate." in told(
        run, **judging("worse", 1)
    )
    text = told(run, **judging("better", 1, 2, 4), **{"break_even/n": None, "break_even/queries": None})
    assert "No break-even is given: no Best-of-n up to n = 4 is as accurate." in text


def test_a_seed_with_the_accuracy_of_one_sample_of_the_base_is_said_apart_from_one_that_no_n_reaches(tmp_path: Path):
    never = dict.fromkeys(("break_even/queries", "break_even/queries_high"))
    odd = {2: never | {"break_even/n": 1.0}, 4: never | {"break_even/n": None}}
    for last, more in ((4, ""), (5, "no Best-of-n up to n = 4 is as accurate under 1 of 5 seeds, and ")):
        runs = [made_run(tmp_path / str(last), seed=seed, metrics=odd.get(seed)) for seed in range(last)]
        reason = f"No break-even is given: {more}one sample of the base is as accurate under 1 of {last} seeds."
        assert reason in verdicts(runs)


def test_ends_that_are_not_bounded_are_said(run: Run):
    unbounded = {"break_even/queries_high": None, "break_even/n_high": None}
    assert "1,700 [1,400, never] queries" in told(run, **judging("better", 1), **unbounded)


def test_not_resolved_says_what_would_be_found(run: Run):
    primary = "tuned_vs_control/pass@1"
    text = told(run, **recorded(primary, "not resolved"), **{f"{primary}/minimum_detectable": 0.123})
    assert "not shown to differ from its random control" in text
    assert "detectable: 0.123)" in text


def test_what_only_the_adjustment_leaves_open_is_said_to_be_so(run: Run):
    secondary = "tuned_vs_base/pass@1"
    ends = {f"{secondary}/difference_low": 0.066, f"{secondary}/difference_high": 0.351}
    text = told(run, **{f"{secondary}/verdict": "not resolved", f"{secondary}/p_adjusted": 0.08}, **ends)
    others = sum(name.endswith("/verdict") for name in run.metrics) - 1
    assert f"not shown to differ from the base after adjustment for {others} comparisons (+" in text
    wide = told(run, **{f"{secondary}/verdict": "not resolved"}, **ends | {f"{secondary}/difference_low": -0.1})
    assert "not shown to differ from the base (+" in wide


@pytest.mark.parametrize(
    ("auc", "words"),
    [
        ((0.52, 0.47, 0.57), "not shown to rank right completions above wrong ones any better than chance"),
        ((0.40, 0.35, 0.45), "ranks wrong completions above right ones"),
        ((0.55, 0.52, 0.58), "hardly ranks"),
        ((0.90, 0.85, 0.95), "The scorer verify ranks right completions above wrong ones"),
    ],
)
def test_a_bad_scorer_is_said_to_be_bad(run: Run, auc: tuple[float, float, float], words: str):
    measured = dict(zip(("scorer/auc", "scorer/auc_low", "scorer/auc_high"), auc, strict=True))
    assert words in told(run, **{"scorer/equals_gold": 0.0}, **measured)
    assert "scorer" not in told(run, **measured)  # gold itself needs no word


def test_over_optimisation_and_unscored_completions_are_said(run: Run):
    over = {
        "scorer/overoptimisation": "over-optimised: gold falls",
        "scorer/gold_peak_n": 4,
        "scorer/gold_largest_n": 64,
    }
    text = told(run, **{"scorer/equals_gold": 0.0, "scorer/unscored": 12}, **over)
    assert "over-optimised: gold is highest at n = 4 and lower at n = 64" in text
    assert "12 held-out completions unscored" in text


def test_the_kl_at_equal_accuracy_is_interpolated():
    accuracy, kl = np.array([[0.2, 0.4, 0.6]]), np.array([[0.0, 0.1, 0.5]])
    at = [float(first_reached(accuracy, kl, np.array([wanted]))[0]) for wanted in (0.1, 0.4, 0.5, 0.7)]
    assert at == pytest.approx([0.0, 0.1, 0.3, np.inf])


def test_no_n_is_said_to_fall_short_where_that_is_not_shown(tmp_path: Path):
    text = told(made_run(tmp_path, skill={"tuned": 0.8}), **judging("not resolved", 4))
    assert "not shown to differ from Best-of-n at n = 4" in text
    assert "nats per sequence; no Best-of-n up to n = 4 is shown to be as accurate." in text


def test_a_base_that_is_never_right_is_said_first(tmp_path: Path):
    never = made_run(tmp_path / "never", skill={"base": 1e-9, "tuned": 0.1, "control": 1e-9})
    now_and_then = made_run(tmp_path / "now and then", skill={"base": 0.1})
    assert verdicts([never])[0].startswith("No sample of the base is correct: see in samples.parquet")
    assert not any("No sample" in line for line in verdicts([now_and_then]))


def test_several_configurations_are_ranked_and_the_choice_is_corrected(tmp_path: Path):
    skills = {"top_per_prompt": 0.6, "softmax": 0.59, "random_per_prompt": 0.2}
    runs = [
        made_run(
            tmp_path, seed=seed, skill={"tuned": skill}, settings={"selection._target_": f"bench.selection.{name}"}
        )
        for name, skill in skills.items()
        for seed in range(3)
    ]
    lines = verdicts(runs)
    assert lines[0].startswith("The most accurate of 3 configurations is ")
    assert "better than random_per_prompt and not shown to differ from " in lines[0]
    assert lines[1].startswith("The most accurate of the 3 on one half of the prompts scores ")
    assert re.search("^Each compared with its own random control: .* and .* are better; ", lines[2])
    assert "; random_per_prompt is not shown to differ" in lines[2]
    assert "only its comparison with its random control" in lines[-1]
    assert any("fine-tuning pays after 1,700 to 1,700 queries (range over 3 seeds)" in line for line in lines[3:])
    best = lines[0].removeprefix("The most accurate of 3 configurations is ").partition(":")[0]
    assert any(line.startswith(f"{best}: In sampled accuracy") for line in lines)


def test_a_configuration_without_a_shared_seed_is_named_and_the_rest_compared(tmp_path: Path):
    def made(temperature: float, seed: int) -> Run:
        return made_run(tmp_path, seed=seed, settings={"temperature": temperature})

    runs = [made(temperature, seed) for temperature in (0.5, 1.0) for seed in (0, 1)]
    alone = verdicts([*runs, made(2.0, 7)])
    left_out = "Not compared, without a seed that the other configurations share: temperature=2.0."
    assert alone == [left_out, *verdicts(runs)]
    (line,) = verdicts([runs[0], runs[3]])
    assert line == "No two configurations share a seed, so they are not compared with one another."


@pytest.mark.parametrize("control", ["matched", "none"])
def test_the_first_of_several_is_judged_as_one_of_them(tmp_path: Path, control: str):
    """Alone, its comparison would be resolved; as the best of four equals it is not."""
    runs = [
        made_run(
            tmp_path,
            skill={"tuned": 0.25 + 0.001 * place, "control": 0.25},
            settings={"selection": {"_target_": "bench.selection.softmax", "temperature": place}, "control": control},
        )
        for place in range(4)
    ]
    against = "control" if control == "matched" else "base"
    for name, number in (("p_adjusted", 0.03), ("difference_low", 0.01), ("verdict", "better")):
        for run in runs:
            run.metrics[f"tuned_vs_{against}/pass@1/{name}"] = number
    whom = "its random control" if control == "matched" else "the base"
    (line,) = (line for line in verdicts(runs) if "the policy fine-tuned with" in line)
    assert f" is not shown to differ from {whom}" in line
    assert ("after adjustment for 4 comparisons" in line) == (control == "none")


def transferring(run: Run, difference: float, verdict: str) -> Run:
    """The run with lm-eval's comparison of the tuned policy and the base on another task."""
    name = "tuned_vs_base/lm_eval/other"
    ends = {"difference": difference, "difference_low": difference - 0.1, "difference_high": difference + 0.1}
    recorded = {f"{name}/{key}": value for key, value in ends.items()} | {f"{name}/p_adjusted": 0.03}
    return replace(run, metrics=run.metrics | recorded | {f"{name}/verdict": verdict})


def test_what_happened_to_other_tasks_is_said_over_seeds(tmp_path: Path):
    runs = [made_run(tmp_path, seed=seed) for seed in range(3)]
    assert "On other" not in " ".join(verdicts(runs))
    alone = " ".join(verdicts([transferring(runs[0], -0.2, "worse")]))
    assert "On other, by lm-eval, the tuned policy is worse than the base (-0.200 [-0.300, -0.100])." in alone
    values = np.array([-0.30, -0.32, -0.28])
    several = [transferring(run, value, "worse") for run, value in zip(runs, values, strict=True)]
    half = 4.303 * values.std(ddof=1) / np.sqrt(3)  # t with 2 degrees of freedom
    (contrast,) = transfers(grouped(several))[0].values()
    assert contrast.difference.low == pytest.approx(-0.3 - half, abs=1e-3)
    assert contrast.verdict == "worse"
    mixed = [transferring(run, value, "better") for run, value in zip(runs, (-0.3, 0.3, 0.1), strict=True)]
    assert "On other, by lm-eval, the tuned policy is not shown to differ from the base" in " ".join(verdicts(mixed))


def test_equal_differences_under_a_few_seeds_resolve_nothing(tmp_path: Path):
    """One prompt more under each of two seeds: they have no spread, and by chance that is common."""
    runs = [transferring(made_run(tmp_path, seed=seed), 1 / 300, "not resolved") for seed in range(2)]
    (found,) = transfers(grouped(runs))[0].values()
    assert (found.verdict, found.p_value) == ("not resolved", 1.0)
    assert found.difference.low == 0.0


def test_a_difference_that_does_not_vary_says_so_and_no_number(run: Run) -> None:
    """Of two policies that are never right, say: its standard error is 0, and the smallest difference unknown."""
    numbers = {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0, "minimum_detectable": float("nan")}
    text = told(run, **{f"tuned_vs_control/pass@1/{key}": value for key, value in numbers.items()})
    assert "its random control (0.000; too little varies to say which difference is detectable)" in text
    assert "nan" not in text


def test_long_names_are_counted_and_said_once(tmp_path: Path):
    names = [f"a_selection_with_a_rather_long_name_{place}" for place in range(6)]
    runs = [
        made_run(tmp_path, skill={"tuned": 0.3 + 0.01 * place}, settings={"selection._target_": f"bench.own.{name}"})
        for place, name in enumerate(names)
    ]
    lines = verdicts(runs)
    assert all(" ".join(lines).count(name) <= 2 for name in names)  # where it is first, and as what was selected
    assert "of them" in lines[0]


def test_equal_accuracy_is_of_the_same_prompts_where_a_scorer_failed_on_some(tmp_path: Path):
    """Without scores of the prompts that the tuned policy solves best, their accuracy counts on neither side."""
    run = made_run(tmp_path)
    tuned = run.per_prompt("tuned", "pass", "accuracy", 1)
    left = np.sort(np.argsort(tuned)[:40])
    scored = {key: values.copy() for key, values in run._per_prompt.items()}
    for (policy, method, *_), values in scored.items():
        if (policy, method) == ("base", "best_of_n"):
            values[np.setdiff1d(np.arange(len(tuned)), left)] = np.nan
    for key in [key for key in scored if key[:3] == ("base", "best_of_n", "accuracy") and key[3] == 4]:
        scored[key][left[5:]] = np.nan  # few prompts have four scored samples: this n is left out
    of_n = {n: [np.nanmean(scored["base", "best_of_n", metric, n]) for metric in ("accuracy", "kl")] for n in (1, 2)}
    accuracy, kl = np.array(list(of_n.values())).T
    at = np.interp(tuned[left].mean(), accuracy, kl)
    assert accuracy[0] < tuned[left].mean() < accuracy[1]
    vars(run)["_per_prompt"] = scored
    assert f"Best-of-n reaches the same accuracy at {at:.3f} [" in " ".join(verdicts([run]))
