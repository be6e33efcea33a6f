"""The hybrid of demonstrations and samples: its gate and costs by brute force, who trains on what, and a small run."""

import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawing import pool_of
from made_runs import made_run
from sharing import Finished

from bench.artifacts import Policy, Rewards
from bench.config.compose import CONF
from bench.errors import BenchError
from bench.hybrid import with_demonstrations
from bench.models import loading
from bench.procedures.difficulty import easiest, easiness, folds_of, samples_paid
from bench.procedures.parts import Parts, demonstrations, nll_per_token
from bench.reporting.arrange import interpolate
from bench.reporting.exhibits.hybrid import (
    against,
    curves,
    hybrid_figure,
    hybrid_table,
    points,
    sentences,
)
from bench.reporting.files import drawn
from bench.reporting.groups import grouped
from bench.scoring.combined import combined
from bench.scoring.length import length
from bench.scoring.self_consistency import self_consistency
from bench.selection import all_correct, decidable_only, every_prompt, top_per_prompt
from bench.sweeps.cells import cells as cells_of_sweep
from bench.sweeps.plan import workload
from bench.tasks.word_problems import WordProblems

# --- the gate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.7, 1.0])
def test_the_easy_are_those_of_the_highest_score(share, inverted):
    """Against every set of that size: none other has a higher (inverted: lower) sum."""
    for trial in range(20):
        score = np.random.default_rng(trial).integers(0, 4, 6).astype(float)  # with ties
        easy = easiest(score, share, np.random.default_rng(trial), inverted=inverted)
        sums = [sum(score[list(chosen)]) for chosen in itertools.combinations(range(6), int(easy.sum()))]
        assert easy.sum() == {0.0: 0, 0.25: 2, 0.5: 3, 0.7: 4, 1.0: 6}[share]
        assert score[easy].sum() == (min(sums) if inverted else max(sums))


def test_ties_are_broken_evenly_and_shares_nest():
    counts = np.zeros(5)
    for seed in range(2000):
        small = easiest(np.zeros(5), 0.4, np.random.default_rng(seed))
        assert not (small & ~easiest(np.zeros(5), 0.8, np.random.default_rng(seed))).any()
        counts += small
    assert np.abs(counts / 2000 - 0.4).max() < 5 * np.sqrt(0.4 * 0.6 / 2000)
    with pytest.raises(ValueError, match="NaN"):
        easiest(np.array([1.0, np.nan]), 0.5, np.random.default_rng(0))


def test_easiness_by_hand():
    nll = np.array([[3.0, 2.0], [2.5, 0.5], [1.0, 1.5]])  # base, epoch 1, epoch 2
    assert easiness("initial_nll", nll, None).tolist() == [-3.0, -2.0]
    assert easiness("final_nll", nll, None).tolist() == [-1.0, -1.5]
    assert easiness("nll_drop", nll, None).tolist() == [1.0, 0.25]
    assert easiness("probe_solves", nll, np.array([0, 1])).tolist() == [0.0, 1.0]
    assert easiness("random", nll[:1], None).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="probe"):
        easiness("final_nll", nll[:1], None)


def test_early_stopping_costs_what_one_by_one_would():
    """Every pattern of four samples, drawn one after the other until one is accepted."""
    for pattern in itertools.product([False, True], repeat=4):
        drawn_one_by_one = 0
        for accepted in pattern:
            drawn_one_by_one += 1
            if accepted:
                break
        assert samples_paid(np.array([pattern]), stop_at_first_accept=True).tolist() == [drawn_one_by_one]
        assert samples_paid(np.array([pattern]), stop_at_first_accept=False).tolist() == [4]


def test_folds_are_even():
    assert sorted(np.bincount(folds_of(11, 3, np.random.default_rng(0))).tolist()) == [3, 4, 4]


# --- demonstrations ------------------------------------------------------------------------------------------------


def test_demonstrations_are_right_in_steps_and_answer_but_for_the_noise():
    task = WordProblems()
    prompts = task.prompts("train")
    for noise in (0.0, 0.25):
        texts = task.demonstrations_of(prompts, foreign=0.5, noise=noise, seed=1)
        right = [task.is_correct(text, answer) for text, answer in zip(texts, prompts.answer, strict=True)]
        assert right.count(False) == noise * 600
        assert sum(" more." in text or " fewer." in text or " times." in text for text in texts) == 300
        assert all(task.steps_are_true(text) for text, good in zip(texts, right, strict=True) if good)
    assert texts == task.demonstrations_of(prompts, foreign=0.5, noise=0.25, seed=1)
    assert texts != task.demonstrations_of(prompts, foreign=0.5, noise=0.25, seed=2)
    some = prompts.take(np.array([5, 2]))
    solved = task.demonstrations_of(some, foreign=0.0, noise=0.0, seed=1)
    assert [task.is_correct(text, answer) for text, answer in zip(solved, some.answer, strict=True)] == [True, True]
    with pytest.raises(ValueError, match="train-0000"):
        WordProblems(seed=3).demonstrations_of(prompts, foreign=0.0, noise=0.0, seed=1)


def test_a_hint_gives_the_answer_away_under_another_name():
    task = WordProblems()
    prompts = task.prompts("train").take(np.array([0, 1]))
    hinted = task.with_hint(prompts)
    for (turn,), before, known in zip(hinted.messages, prompts.messages, prompts.answer, strict=True):
        assert turn["content"] == f"{before[0]['content']} #### {known}"
    assert not set(hinted.id) & set(prompts.id)


def test_demonstrations_in_tokens_and_their_nll(store, random_policy: Policy):
    """Against the model's own mean loss on the completion, one prompt at a time."""
    import torch

    from bench.models import chat

    task = WordProblems()
    prompts = task.prompts("train").take(np.arange(5))
    written = demonstrations(task, prompts, random_policy, foreign=0.5, noise=0.0, seed=0)
    tokenizer, model = loading.load_tokenizer(random_policy), loading.load_model(random_policy)
    expected = []
    for row, messages in enumerate(prompts.messages):
        ids = written.token_ids[row, 0].tolist()
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == written.text[row, 0]
        prompt = chat.encode(tokenizer, messages)
        with torch.inference_mode():
            both = torch.tensor([[*prompt, *ids]])
            expected.append(
                float(model(both, labels=both.masked_fill(torch.arange(both.shape[1]) < len(prompt), -100)).loss)
            )
    assert nll_per_token(random_policy, prompts, written) == pytest.approx(expected, rel=1e-4)


# --- the procedure, with parts that are seen through ---------------------------------------------------------------


class Stubs:
    """A task of seven prompts, p0 to p6; sample s of prompt m is accepted where (m, s) is in `right`."""

    name, max_new_tokens = "parts", 9

    def __init__(self, few_prompts, monkeypatch, right=(), right_hinted=(), greedy=()):
        self.few, self.right, self.right_hinted, self.greedy = few_prompts, set(right), set(right_hinted), set(greedy)
        self.trained: dict[str, tuple[str, list[tuple[int, str]], dict]] = {}
        self.judged: list[tuple[str, list[str]]] = []  # whose NLL of which demonstrations was read
        self.drawn: list[tuple[str, tuple[str, ...], int]] = []
        texts = [[f"demo{row}"] for row in range(7)]
        shared = "bench.procedures.parts"
        monkeypatch.setattr(f"{shared}.demonstrations", lambda *given, **settings: pool_of(texts, "demos"))
        monkeypatch.setattr(f"{shared}.grade", lambda *given: None)
        monkeypatch.setattr(f"{shared}.nll_per_token", self.nll)

    def nll(self, policy, prompts, completions):
        """Lower for later prompts; a training takes it down."""
        self.judged.append((policy.key, completions.text[:, 0].tolist()))
        return np.array([9.0 - int(text[4:]) - len(policy.key) for text in completions.text[:, 0]])

    def demonstrations_of(self, prompts, *, foreign, noise, seed):
        raise AssertionError("replaced")

    def with_hint(self, prompts):
        return replace(prompts, id=np.array([f"{name}-hint" for name in prompts.id]))

    def extract_answer(self, completion):
        return completion

    path = steps_are_true = extract_answer

    def prompts(self, split):
        return self.few

    def policy(self, task):
        return Policy(Path("b"), "b")

    def generation(self, prompts, policy, *, num_completions, seed, temperature=1.0, top_p=1.0, top_k=0):
        self.drawn.append((policy.key, tuple(prompts.id.tolist()), num_completions))
        kind = "greedy" if temperature == 0 else "sample"
        texts = [[f"{kind} {name} {s} {policy.key}" for s in range(num_completions)] for name in prompts.id]
        return pool_of(texts, f"{policy.key}{prompts.id.tolist()}{num_completions}{kind}")

    def scoring(self, prompts, completions):
        def value(text: str) -> float:
            if text.startswith("demo"):
                return 1.0
            kind, name, sample, _ = text.split()
            if kind == "greedy":
                return float(int(name[1:]) in self.greedy)
            right = self.right_hinted if name.endswith("-hint") else self.right
            return float((int(name[1:2]), int(sample)) in right)

        return Rewards(np.vectorize(value, otypes=[float])(np.asarray(completions.text)))

    def training(self, policy, prompts, completions, selection, *, seed, **settings):
        cells = zip(selection.row.tolist(), selection.column.tolist(), strict=True)
        key = f"{policy.key}+"
        while key in self.trained:
            key += "+"
        self.trained[key] = (policy.key, [(row, completions.text[row, column]) for row, column in cells], settings)
        return Policy(Path(key), key)

    def evaluation(self, policy, base, prompts, generation, scoring, task, others, *, validation=None, seed):
        return policy.key

    def run(self, *, prompt_filter=every_prompt, selection=all_correct, **given):
        defaults = {
            "easy_by": "initial_nll",
            "easy_share": 3 / 7,
            "inverted": False,
            "foreign": 0.5,
            "noise": 0.0,
            "probe_epochs": 1,
        }
        defaults |= {"folds": None, "hard": "sample", "sample_from": "base", "stop_at_first_accept": False}
        defaults |= {"fallback": "drop"}
        parts = Parts(
            task=self,
            policy=self.policy,
            generation=self.generation,
            scoring=self.scoring,
            prompt_filter=prompt_filter,
            selection=selection,
            training=self.training,
            evaluation=self.evaluation,
            num_completions=3,
            baseline_completions=3,
            control="none",
            split="test",
            seed=5,
        )
        return with_demonstrations(parts, **{**defaults, **given})

    def last(self) -> list[tuple[int, str]]:
        return list(self.trained.values())[-1][1]


RIGHT = {(0, 1), (0, 2), (1, 0), (2, 2), (5, 0)}
EASY = [(4, "demo4"), (5, "demo5"), (6, "demo6")]  # the three of the lowest NLL


def test_easy_prompts_keep_their_demonstrations_and_the_hard_are_sampled(few_prompts, monkeypatch):
    parts = Stubs(few_prompts, monkeypatch, RIGHT)
    results = parts.run()
    accepted = [(0, "sample p0 1 b"), (0, "sample p0 2 b"), (1, "sample p1 0 b"), (2, "sample p2 2 b")]
    assert parts.last() == accepted + EASY
    assert parts.drawn[0] == ("b", ("p0", "p1", "p2", "p3"), 3)
    assert [origin for origin, _, _ in parts.trained.values()] == ["b"]  # no probe was needed
    hybrid = results.findings
    assert hybrid.source.tolist() == ["samples"] * 3 + ["nothing"] + ["demonstration"] * 3
    assert hybrid.samples.paid.tolist() == [3, 3, 3, 3]
    assert (hybrid.prompts_sampled, hybrid.samples_per_prompt) == (4, 3.0)
    chosen = results.selections["tuned"]
    texts = [results.pool.text[cell] for cell in zip(chosen.row, chosen.column, strict=True)]
    assert texts == [text for _, text in accepted + EASY]
    assert hybrid.columns == ("demonstration", "base", "base", "base")


def test_when_stopping_only_what_was_drawn_until_then_is_trained_on(few_prompts, monkeypatch):
    parts = Stubs(few_prompts, monkeypatch, RIGHT)
    hybrid = parts.run(stop_at_first_accept=True).findings
    assert parts.last() == [(0, "sample p0 1 b"), (1, "sample p1 0 b"), (2, "sample p2 2 b"), *EASY]
    assert hybrid.samples.paid.tolist() == [2, 1, 3, 3]
    assert np.isnan(hybrid.samples.seen).tolist() == [
        [False, False, True],
        [False, True, True],
        [False] * 3,
        [False] * 3,
    ]


def test_the_fallbacks_of_a_prompt_that_nothing_solves(few_prompts, monkeypatch):
    """p3 has no accepted sample; with a hint it has one, its second."""
    for fallback, gives in {
        "drop": [],
        "demonstration": [(3, "demo3")],
        "rationalise": [(3, "sample p3-hint 1 b")],
    }.items():
        parts = Stubs(few_prompts, monkeypatch, RIGHT, right_hinted={(3, 1)})
        hybrid = parts.run(fallback=fallback, stop_at_first_accept=True).findings
        assert [cell for cell in parts.last() if cell[0] == 3] == gives
        assert hybrid.source[3] == {"drop": "nothing", "demonstration": "fallback", "rationalise": "hinted"}[fallback]
        if fallback == "rationalise":
            assert hybrid.hinted.paid.tolist() == [2]
            assert parts.drawn[1] == ("b", ("p3-hint",), 3)
            assert hybrid.samples_per_prompt == (2 + 1 + 3 + 3 + 2) / 5
        else:
            assert hybrid.hinted is None


def test_a_prompt_that_the_filter_leaves_out_gives_nothing(few_prompts, monkeypatch):
    """Of p1 all samples are right, of p3 none."""
    parts = Stubs(few_prompts, monkeypatch, RIGHT | {(1, 1), (1, 2)})
    results = parts.run(prompt_filter=decidable_only)
    assert (results.prompts_filtered, results.findings.source[[1, 3]].tolist()) == (2, ["nothing"] * 2)
    for fallback in ("demonstration", "rationalise"):
        parts = Stubs(few_prompts, monkeypatch, RIGHT)
        with pytest.raises(BenchError, match=f"procedure.fallback={fallback} is not allowed with this prompt_filter"):
            parts.run(prompt_filter=decidable_only, fallback=fallback)
        assert not parts.drawn
    parts.run(prompt_filter=decidable_only, fallback="rationalise", easy_share=1.0)  # nothing is sampled


def test_a_scorer_that_compares_samples_says_neither_when_to_stop_nor_what_one_sample_is_worth(
    few_prompts, monkeypatch
):
    votes = functools.partial(self_consistency, task=None)
    parts = Stubs(few_prompts, monkeypatch)
    parts.scoring = functools.partial(combined, parts={"votes": {"scorer": votes, "weight": 1.0}}, normalise="none")
    for given, said in (
        ({"stop_at_first_accept": True}, "procedure.stop_at_first_accept=true can't stop by .*self_consistency"),
        ({"easy_by": "probe_solves"}, "procedure.easy_by=probe_solves can't judge one sample .*self_consistency"),
    ):
        with pytest.raises(BenchError, match=said):
            parts.run(**given)
    assert not parts.drawn
    assert not parts.judged


def test_where_nothing_can_or_does_pass_the_reason_is_given(few_prompts, monkeypatch):
    parts = Stubs(few_prompts, monkeypatch)
    with pytest.raises(BenchError, match=r"no demonstration is used, and no sample .* has a reward above 0.5"):
        parts.run(easy_share=0.0, easy_by="random")
    parts.run()  # the easy prompts' demonstrations are trained on alone
    assert parts.last() == EASY
    low = Stubs(few_prompts, monkeypatch)
    low.scoring = functools.partial(length, prefer="shortest")
    with pytest.raises(
        BenchError, match=r"procedure=hybrid accepts rewards above 0.5, and this scoring gives 0 at most"
    ):
        low.run()
    assert not low.drawn


def test_the_ends_and_dropping_the_hard(few_prompts, monkeypatch):
    sft = Stubs(few_prompts, monkeypatch, RIGHT)
    results = sft.run(easy_share=1.0, sample_from="probe")
    assert sft.last() == [(row, f"demo{row}") for row in range(7)]
    assert len(sft.trained) == len(sft.drawn) == 1  # no probe; the held-out pool alone
    assert (results.findings.samples, results.findings.samples_per_prompt) == (None, 0.0)
    rft = Stubs(few_prompts, monkeypatch, RIGHT)
    rft.run(easy_share=0.0, easy_by="final_nll", selection=top_per_prompt)
    assert [row for row, text in rft.last()] == [0, 1, 2, 5]
    assert all("sample" in text for _, text in rft.last())
    assert len(rft.trained) == 1
    dropped = Stubs(few_prompts, monkeypatch, RIGHT)
    dropped.run(hard="drop")
    assert dropped.last() == EASY
    for share in (0.0, 0.01):
        with pytest.raises(BenchError, match="of 7 prompts none would be left"):
            dropped.run(hard="drop", easy_share=share)


def test_the_probe_trains_an_epoch_at_a_time_and_then_draws(few_prompts, monkeypatch):
    parts = Stubs(few_prompts, monkeypatch, RIGHT)
    hybrid = parts.run(easy_by="final_nll", probe_epochs=3, sample_from="probe").findings
    everything = [(row, f"demo{row}") for row in range(7)]
    assert list(parts.trained.values())[:3] == [
        (origin, everything, {"epochs": 1, "updates": None}) for origin in ("b", "b+", "b++")
    ]
    assert parts.drawn[0][0] == "b+++"
    assert hybrid.nll.shape == (4, 7)
    assert hybrid.nll[:, 0].tolist() == [9.0 - len(key) for key in ("b", "b+", "b++", "b+++")]
    assert list(parts.trained.values())[-1][0] == "b"  # the tuned policy starts from the base


def test_a_probe_keeps_no_policy_on_its_way(few_prompts, monkeypatch):
    parts = Stubs(few_prompts, monkeypatch, RIGHT)
    plain = parts.training
    parts.training = lambda *given, keep_every=2, **settings: plain(*given, keep_every=keep_every, **settings)
    parts.run(easy_by="final_nll", probe_epochs=2)
    assert [settings["keep_every"] for _, _, settings in parts.trained.values()] == [None, None, 2]


@pytest.mark.parametrize("folds", [2, 3])
def test_no_demonstration_is_judged_or_sampled_by_a_probe_that_saw_it(few_prompts, monkeypatch, folds):
    parts = Stubs(few_prompts, monkeypatch, RIGHT, greedy={0, 4})
    hybrid = parts.run(easy_by="probe_solves", probe_epochs=2, folds=folds, sample_from="probe").findings

    def seen(key: str) -> set[str]:
        """Every demonstration that a policy or one that it was made from was trained on."""
        return set() if key == "b" else {text for _, text in parts.trained[key][1]} | seen(parts.trained[key][0])

    judged = [(key, texts) for key, texts in parts.judged if key != "b"]
    assert len(judged) == 2 * folds
    assert all(seen(key) and not seen(key) & set(texts) for key, texts in judged)
    assert sorted(text for _, texts in judged for text in texts) == sorted(2 * [f"demo{row}" for row in range(7)])
    by_probes = [(key, names) for key, names, _ in parts.drawn[:-1]]
    assert len(by_probes) > folds  # greedy ones, and samples
    assert all(not seen(key) & {f"demo{name[1]}" for name in names} for key, names in by_probes)
    assert sum(one.shape[0] for one in hybrid.greedy) == 7
    assert hybrid.solved.tolist() == [1, 0, 0, 0, 1, 0, 0]
    assert hybrid.easy[[0, 4]].all()
    assert hybrid.easy.sum() == 3


def test_a_control_and_a_single_fold_are_refused():
    with pytest.raises(BenchError, match="control=matched is not allowed with procedure=hybrid"):
        cells_of_sweep(["procedure=hybrid"], CONF)
    with pytest.raises(BenchError, match=r"procedure.folds=1 is not allowed"):
        cells_of_sweep(["experiment=hybrid", "procedure.folds=1"], CONF)


def test_what_a_hybrid_costs_is_known_before_it_runs():
    def of(*given):
        return workload(cells_of_sweep(["experiment=hybrid", "evaluation.temperatures=null", *given], CONF))

    held_out = 300 * (64 + 1 + 17)  # the base's samples are among those for Best-of-N
    half = of("procedure.easy_share=0.5")
    assert (half.pools, half.completions, half.trainings, half.evaluations) == (1, 300 * 8 + held_out, 3, 2)
    assert of("procedure.easy_share=1").completions == held_out
    assert of("procedure.easy_share=1").trainings == 1
    assert of("procedure.folds=4").trainings == 4 * 2 + 1
    assert of("procedure.easy_by=random", "procedure.sample_from=base").trainings == 1
    assert of("procedure.hard=drop").completions == held_out
    assert of("procedure.easy_by=final_nll,nll_drop").trainings == 2 + 2  # one probe, two tuned policies


# --- a small run, as a user starts it ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(finished_run: Callable[..., Finished]) -> Path:
    chosen = ["easy_by=probe_solves", "folds=2", "probe_epochs=1", "stop_at_first_accept=true", "fallback=rationalise"]
    return finished_run("experiment=hybrid", *(f"procedure.{setting}" for setting in [*chosen, "noise=0.25"])).folder


def test_the_records_add_up(finished):
    found = {
        name.removeprefix("hybrid/"): value
        for name, value in json.loads((finished / "metrics.json").read_text()).items()
        if name.startswith("hybrid/")
    }
    rows = pq.read_table(finished / "hybrid.parquet").to_pylist()
    assert len(rows) == 40
    assert found["easy"] == sum(row["easy"] for row in rows) == 20
    paid = sum(row["samples_paid"] + row["hinted_paid"] for row in rows)
    assert found["samples_total"] == paid + 40 == round(40 * found["samples_per_prompt"])
    assert found["probe_samples"] == 40
    assert 20 <= sum(row["samples_paid"] for row in rows) <= 80
    assert all((row["samples_paid"] == 0) == row["easy"] for row in rows)
    assert all(row["samples_paid"] == 4 for row in rows if row["samples_accepted"] is False)
    assert found["hard_unsolved"] == sum(row["samples_accepted"] is False for row in rows) > 0
    assert sum(row["hinted_paid"] > 0 for row in rows) == found["hard_unsolved"]
    assert found["fallbacks"] == 0  # they were tried again with a hint instead
    for source in ("demonstration", "samples", "hinted", "nothing"):
        assert found[f"prompts_from_{source}"] == sum(row["source"] == source for row in rows)
    assert found["demonstrations_right"] == 0.75
    assert found["nll_initial"] == pytest.approx(np.mean([row["nll_0"] for row in rows]))
    assert found["nll_final"] == pytest.approx(np.mean([row["nll_1"] for row in rows]))
    assert found["nll_final"] < found["nll_initial"]


def test_the_probes_are_paid_for_and_named(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    entries = json.loads((finished / "lineage.json").read_text())
    trained = [entry for entry in entries if entry["stage"] == "sft"]
    assert len(trained) == 3  # two folds, and the tuned policy
    assert metrics["hybrid/probe_train_tokens"] == sum(entry["counts"]["train_tokens"] for entry in trained[:2])
    assert metrics["hybrid/data_flops"] > metrics["hybrid/probe_train_flops"] > 0
    assert metrics["cost/fine_tuning_flops"] > metrics["hybrid/probe_train_flops"]
    links = json.loads((finished / "chain.json").read_text())
    names = [link["name"] for link in links]
    assert len(set(names)) == len(names)
    assert all(parent in names for link in links for parent in link["parents"])
    assert sum(link["role"] == "probe" for link in links) == 2
    cells = pq.read_table(finished / "rewards.parquet").to_pylist()
    rows = pq.read_table(finished / "hybrid.parquet").to_pylist()
    hinted = sum(row["hinted_paid"] > 0 for row in rows)
    assert len(cells) == 40 + 20 * 4 + hinted * 4  # demonstrations, samples, hinted samples: no blanks
    samples = pq.read_table(finished / "samples.parquet").to_pylist()
    assert {row["policy"] for row in samples if row["split"] == "train"} <= {"demonstration", "probe", "probe, hinted"}
    assert all(row["length"] > 0 for row in samples)  # EOS at least


# --- comparing gates -----------------------------------------------------------------------------------------------


def test_interpolation_by_hand():
    values = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    xs = np.array([0.0, 2.0, 4.0])
    assert interpolate(0.5, xs, values).tolist() == [0.25, 0.75]
    assert interpolate(2.0, xs, values).tolist() == [1.0, 0.0]
    assert interpolate(4.0, xs, values).tolist() == [0.5, 0.5]
    assert interpolate(4.5, xs, values) is None
    assert interpolate(2.0, np.array([2.0, 2.0]), values[:2]).tolist() == [0.5, 0.5]


PROCEDURE = {
    "_target_": "bench.hybrid.with_demonstrations",
    "easy_by": "random",
    "easy_share": 0.5,
    "inverted": False,
    "foreign": 0.5,
    "noise": 0.0,
    "probe_epochs": 2,
    "folds": None,
    "hard": "sample",
    "sample_from": "probe",
    "stop_at_first_accept": False,
    "fallback": "drop",
}
COUNTS = ("samples_total", "generated_tokens", "data_flops", "demonstrations_used", "prompts_from_samples")


def made(outputs: Path, seed: int, skill: float, samples: float, *, n: int = 4, **given):
    procedure = {f"procedure.{name}": value for name, value in {**PROCEDURE, **given}.items()}
    metrics = {f"hybrid/{name}": 90 * samples for name in COUNTS} | {"hybrid/samples_per_prompt": samples}
    return made_run(
        outputs,
        seed=seed,
        skill={"tuned": skill},
        prompts=200,
        settings={**procedure, "control": "none", "num_completions": n},
        metrics=metrics,
    )


@pytest.fixture(scope="module")
def gates(tmp_path_factory):
    """Three seeds; the gate final_nll is far better than random at its cost, and initial_nll is random itself."""
    outputs, runs = tmp_path_factory.mktemp("gates"), []
    for seed in (0, 1, 2):
        runs += [
            made(outputs, seed, 0.6, 4.0, easy_share=0.0),
            made(outputs, seed, 0.3, 0.0, easy_share=1.0, sample_from="base"),
            made(outputs, seed, 0.4, 2.0),
            made(outputs, seed, 0.8, 1.0, easy_by="final_nll"),
            made(outputs, seed, 0.4, 2.0, easy_by="initial_nll"),
            made(outputs, seed, 0.2, 2.0, easy_by="final_nll", inverted=True),
            made(outputs, seed, 0.35, 0.0, easy_by="final_nll", hard="drop"),
            made(outputs, seed, 0.9, 4.5, easy_by="probe_solves"),
        ]
    return grouped(runs)


def test_gates_are_compared_with_random_at_equal_samples(gates):
    found = against("random", points(gates))
    assert {name: one.verdict for name, one in found.items()} == {
        "final_nll at 0.5": "better",
        "final_nll inverted at 0.5": "worse",
        "initial_nll at 0.5": "not resolved",
    }  # the dropped have no samples to compare at, and probe_solves has cost more than any random gate
    by_gate = {one.label: one.group for one in points(gates)}
    accuracy = {name: group.per_prompt("tuned", "pass", "accuracy", 1) for name, group in by_gate.items()}
    halfway = (accuracy["full SFT"] + accuracy["random at 0.5"]) / 2  # one sample per prompt, between none and two
    expected = (accuracy["final_nll at 0.5"] - halfway).mean()
    assert found["final_nll at 0.5"].difference.value == pytest.approx(expected)


def test_gates_are_compared_with_full_rft_at_equal_samples(gates, tmp_path):
    assert against("full RFT", points(gates)) == {}  # there is one N
    assert "full RFT, N by N" not in curves(points(gates))
    fewer = [made(tmp_path / "fewer", seed, 0.5, 1.0, n=1, easy_share=0.0) for seed in (0, 1, 2)]
    several = grouped([run for group in gates for run in group.runs] + fewer)
    found = against("full RFT", points(several))
    assert {name: one.verdict for name, one in found.items() if one.verdict != "not resolved"} == {
        "final_nll at 0.5": "better",
        "final_nll inverted at 0.5": "worse",
        "random at 0.5": "worse",
        "initial_nll at 0.5": "worse",
    }
    accuracy = {one.label: one.group.per_prompt("tuned", "pass", "accuracy", 1) for one in points(several)}
    between = (2 * accuracy["full RFT num_completions=1"] + accuracy["full RFT"]) / 3  # at two samples per prompt
    expected = (accuracy["random at 0.5"] - between).mean()
    assert found["random at 0.5"].difference.value == pytest.approx(expected)
    (curve,) = (own for name, own in curves(points(several)).items() if name.startswith("full RFT, N by N"))
    assert [one.samples for one in curve] == [1.0, 4.0]


def test_the_curves_end_where_no_gate_decides(gates):
    made = {name: [one.label for one in own] for name, own in curves(points(gates)).items()}
    assert made["final_nll"] == ["full SFT", "final_nll at 0.5", "full RFT"]
    assert made["random"] == ["full SFT", "random at 0.5", "full RFT"]
    assert made["final_nll hard=drop"] == ["final_nll hard=drop at 0.5"]
    assert sum("full SFT" in own for own in made.values()) == 5


def test_the_figure_the_table_and_the_sentences(gates, tmp_path):
    figure, table = hybrid_figure(gates), hybrid_table(gates)
    with drawn(figure) as page:
        assert len(page.axes) == 2
    assert {row["measure"] for row in figure.rows} == {"sampled accuracy", "KL from the base (nats)"}
    assert len(table.rows) == 8
    verdicts = {(row["gate"], row["easy_share"]): row["verdict"] for row in table.rows}
    assert verdicts["final_nll", 0.5] == "better"
    assert verdicts["full SFT", 1.0] is None
    lines = sentences(gates)
    better = "At equal samples, the gate final_nll at 0.5 is better than the random gate (+"
    assert any(line.startswith(better) for line in lines)
    assert any("is not shown to differ from" in line and "detectable" in line for line in lines)
    assert "full SFT" in lines[-1]
    plain = grouped([made_run(tmp_path / "plain")])
    assert (sentences(plain), hybrid_figure(plain), hybrid_table(plain)) == ([], None, None)


def test_a_gate_has_one_colour_and_its_variants_are_named_where_they_are(gates):
    with drawn(hybrid_figure(gates)) as page:
        key = [text.get_text() for legend in page.legends for text in legend.get_texts()]
        hollow = [line for line in page.axes[0].lines if line.get_markerfacecolor() == "white"]
        full = [line for line in page.axes[0].lines if len(line.get_xdata()) and line.get_linestyle() == "None"]
        texts = [text.get_text() for text in page.axes[0].texts]
    assert set(key) == {one.gate for one in points(gates) if not one.is_end}
    (dropped,) = hollow
    assert dropped.get_color() in {line.get_color() for line in full if line is not dropped}
    assert "hard=drop" in texts


def test_full_sft_on_other_demonstrations_has_a_name_and_a_marker_of_its_own(tmp_path):
    runs = [
        made(tmp_path, 0, skill - foreign, samples, foreign=foreign, easy_share=share, easy_by=gate)
        for foreign in (0.0, 0.2)
        for skill, samples, share, gate in (
            (0.7, 0.0, 1.0, "random"),
            (0.5, 2.0, 0.5, "random"),
            (0.4, 2.0, 0.5, "nll"),
        )
    ]
    groups = grouped(runs)
    ends = {one.label: one.group.mean("tuned", "pass", "accuracy", 1).value for one in points(groups) if one.is_end}
    assert ends.keys() == {"full SFT", "full SFT foreign=0.2"}
    with drawn(hybrid_figure(groups)) as page:
        titles = [axes.get_title(loc="left") for axes in page.axes]
        lines = [line for axes in page.axes[::2] for line in axes.lines]
        black = [line for line in lines if (line.get_marker(), line.get_color()) == ("s", "#000000")]
    assert titles == [*["demonstrations: foreign=0.0"] * 2, *["demonstrations: foreign=0.2"] * 2]
    assert [y for line in black for y in line.get_ydata()] == [ends["full SFT"], ends["full SFT foreign=0.2"]]
