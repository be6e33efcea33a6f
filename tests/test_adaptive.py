"""Adaptive sampling: what is drawn, that it is what a pool of fixed N has, what refuses it, and a small run."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sharing
from drawing import LIMIT, ids
from sharing import Finished

from bench.adaptive import Plan, check_accepted, sample
from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection
from bench.config import checks
from bench.config.compose import CONF
from bench.errors import BenchError
from bench.estimators.arrays import StoppedOutcomes
from bench.estimators.curves import pass_at_k
from bench.evaluation.heldout import grade
from bench.generation import transformers_engine
from bench.generation.pool import describe
from bench.procedures.parts import Parts
from bench.scoring.verifier import verify
from bench.store import Store
from bench.sweeps.cells import cells as cells_of_sweep
from bench.sweeps.plan import workload
from bench.tasks.word_problems import WordProblems
from bench.training.sft import training_set

N = 8
PLAN = Plan("accepted", 1, 0.5, "uniform", N, look=2, most=N, block=1)
generate = partial(
    transformers_engine.generate, temperature=1.0, top_p=1.0, max_new_tokens=LIMIT, dtype="float32", shard_size=3
)


def odd(prompts: Prompts, completions: Completions) -> Rewards:
    """1 where the last token is odd and the prompt is not the second, which is never solved; NaN where it is 4k."""
    last = np.array([[int(cell[-1]) for cell in row] for row in np.asarray(completions.token_ids)])
    value = (last % 2).astype(float)
    value[prompts.id == "p1"] = 0
    return Rewards(np.where(last % 4 == 0, np.nan, value))


def fixed(prompts: Prompts, policy: Policy, n: int = N) -> tuple[Completions, np.ndarray]:
    """The pool of fixed N, from blocks of 4, and its rewards."""
    pool = generate(prompts, policy, num_completions=n, seed=0, block_size=4)
    return pool, odd(prompts, pool).value


def plan(**changed) -> Plan:
    return Plan(**{**PLAN.__dict__, **changed})


def counts(value: np.ndarray, enough: int, block: int) -> list[int]:
    """How many samples of each row [M, N] a plan that stops by acceptance draws."""
    return [next((n for n in range(block, N + 1, block) if (row[:n] > 0.5).sum() >= enough), N) for row in value]


@pytest.mark.parametrize(("enough", "block"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_a_prompt_is_drawn_until_enough_are_accepted(random_policy, few_prompts, store: Store, enough, block):
    """Each cell is that of the pool of fixed N, and what comes after the stop was never generated."""
    whole, value = fixed(few_prompts, random_policy)
    before = len(store.uses)
    pool, rewards = sample(few_prompts, random_policy, generate, odd, plan(enough=enough, block=block), seed=0)
    wanted = counts(value, enough, block)
    assert len(set(wanted)) > 1
    assert pool.drawn.sum(axis=1).tolist() == wanted
    assert (pool.drawn == (np.arange(pool.shape[1]) < np.array(wanted)[:, None])).all()
    made = store.uses[before:]
    assert sum(use.counts["completions"] for use in made) == sum(wanted)
    assert sum(use.counts["generated_tokens"] for use in made) == pool.length.sum()
    for row, column in np.argwhere(pool.drawn).tolist():
        assert pool.token_ids[row, column].tolist() == whole.token_ids[row, column].tolist()
        assert pool.text[row, column] == whole.text[row, column]
    drawn, width = pool.drawn, pool.shape[1]
    assert pool.logprob[drawn] == pytest.approx(whole.logprob[:, :width][drawn], abs=1e-4)
    assert np.array_equal(np.asarray(rewards.value)[drawn], value[:, :width][drawn], equal_nan=True)
    assert np.isnan(rewards.value[~drawn]).all()


def test_blocks_as_large_as_a_fixed_pools_share_its_first(random_policy, few_prompts, store: Store):
    fixed(few_prompts, random_policy)
    before = len(store.uses)
    sample(few_prompts, random_policy, generate, odd, plan(block=4), seed=0)
    assert [use.reused for use in store.uses[before:]][:3] == [True] * 3


def test_every_prompt_alike_is_an_ordinary_pool(random_policy, few_prompts, store: Store):
    small = partial(generate, block_size=4)
    pool, rewards = sample(few_prompts, random_policy, small, odd, plan(stop="none"), seed=0)
    assert pool.key == fixed(few_prompts, random_policy)[0].key
    assert not isinstance(rewards.value, StoppedOutcomes)


@pytest.mark.parametrize("stop", ["none", "accepted"])
def test_hard_prompts_get_what_a_first_look_leaves(random_policy, few_prompts, store: Store, stop):
    """Prompts with an accepted sample in their look get no other; the rest share the budget as evenly as it goes."""
    hard = plan(stop=stop, allocate="hard", num_completions=3, look=2, most=N)
    pool, rewards = sample(few_prompts, random_policy, generate, odd, hard, seed=0)
    value = fixed(few_prompts, random_policy)[1]
    solved = (value[:, :2] > 0.5).any(axis=1)
    drawn = pool.drawn.sum(axis=1)
    assert solved.any()
    assert not solved.all()
    assert (drawn[solved] == 2).all()
    assert drawn.sum() <= 3 * 7
    assert (drawn == 2)[solved].all()
    if stop == "none":
        assert drawn.sum() == min(3 * 7, 2 * 7 + (~solved).sum() * (N - 2))
        assert np.ptp(drawn[~solved]) <= 1
    else:  # whoever is solved on the way leaves the budget to the others
        late = ~solved & (np.asarray(rewards.value) > 0.5).any(axis=1)
        stops = np.array(counts(value, 1, 1))
        assert (drawn[late] == stops[late]).all()
        assert (drawn[~late & ~solved] <= stops[~late & ~solved]).all()
        spent = drawn.sum() == 3 * 7
        assert spent or (drawn[~late & ~solved] == N).all()
    again, _ = sample(few_prompts, random_policy, generate, odd, hard, seed=0)
    assert again.key == pool.key


def test_a_stopped_pool_is_read_by_cells_and_refuses_to_pass_for_one_of_fixed_n(
    random_policy, few_prompts, store: Store
):
    pool, rewards = sample(few_prompts, random_policy, generate, odd, PLAN, seed=0)
    whole, _ = fixed(few_prompts, random_policy)
    row, column = np.argwhere(~pool.drawn)[0].tolist()
    blank = (pool.text[row, column], pool.token_ids[row, column].tolist(), pool.length[row, column])
    assert blank == ("", [], 0)
    assert np.isnan(pool.logprob[row, column])
    assert pool.finish_reason[row, column] == ""
    texts = np.asarray(pool.text)
    assert [texts[3, c] for c in range(pool.shape[1])] == [pool.text[3, c] for c in range(pool.shape[1])]
    parts = list(pool.shards(blanks=True))
    assert [rows for rows, _ in parts] == [slice(0, 7)]
    assert (parts[0][1].text == texts).all()
    task = WordProblems(train_prompts=1, test_prompts=1)
    for refuse in (
        lambda: pass_at_k(rewards.value, 1),
        lambda: pool.first(2),
        lambda: list(pool.shards()),
        lambda: list(pool.units()),
        lambda: verify(few_prompts, pool, task=task),
        lambda: grade(few_prompts, pool, odd, task),
    ):
        with pytest.raises(ValueError, match="stopped pool"):
            refuse()
    assert ids(pool.first(1)) == ids(whole.first(1))  # which every prompt has
    with pytest.raises(IndexError):
        pool.text[0, pool.shape[1]]
    kept = Selection(np.array([row, 0]), np.array([0, 0]), np.ones(2))
    assert training_set(few_prompts, pool, kept).token_ids == tuple(
        tuple(whole.token_ids[cell].tolist()) for cell in ((row, 0), (0, 0))
    )


def test_what_is_said_of_a_stopped_pool_is_of_its_samples(random_policy, few_prompts, store: Store):
    pool, _ = sample(few_prompts, random_policy, generate, odd, plan(block=2), seed=0)
    found = describe(pool)
    drawn = pool.drawn
    assert found["completions"] == drawn.sum()
    assert found["truncated"] == (pool.finish_reason[drawn] == "length").sum()
    assert found["empty"] == sum(not text.strip() for text in np.asarray(pool.text)[drawn])
    assert found["mean_length"] == pytest.approx(pool.length[drawn].mean())
    assert found["twins_expected"] == describe(pool.first(2))["twins_expected"] > 0


def test_samples_before_the_first_wanted_are_left_out(random_policy, few_prompts, store: Store):
    whole = generate(few_prompts, random_policy, num_completions=7, seed=0, block_size=2)
    later = generate(few_prompts, random_policy, num_completions=7, first_sample=4, seed=0, block_size=2)
    assert later.shape == (7, 3)
    assert ids(later) == [row[4:] for row in ids(whole)]
    with pytest.raises(BenchError, match="first_sample=3"):
        generate(few_prompts, random_policy, num_completions=7, first_sample=3, seed=0, block_size=2)


# --- settings ------------------------------------------------------------------------------------------------------


def composed(*overrides: str):
    return sharing.composed("procedure=adaptive", "control=none", *overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["procedure.block=3"], "procedure.block=3 .*num_completions=16"),
        (["procedure.allocate=hard", "procedure.block=4"], "procedure.block=4 .*procedure.look=2"),
        (["procedure.allocate=hard", "num_completions=1"], "num_completions=1 .*procedure.look=2"),
        (["procedure.allocate=hard", "num_completions=65"], "procedure.most=64"),
        (["procedure.stop=first"], "procedure.stop=first .*accepted, none"),
        (["procedure.enough=0"], "procedure.enough=0"),
        (["procedure.enough=17"], "procedure.enough=17 .*at most 16 samples"),
        (["control=matched"], "control=matched .*must be none"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_any_work(overrides, said):
    with pytest.raises(BenchError, match=said):
        checks.check(composed(*overrides))


def test_a_scorer_that_compares_samples_and_an_engine_without_a_first_sample_are_refused():
    for overrides, said in (
        (["scoring=self_consistency"], "procedure=adaptive can't .*self_consistency compares"),
        (["scoring=combined"], "procedure=adaptive can't .*normalise=prompt compares"),
        (["scoring=length"], "procedure.accept_above accepts .*0 at most.*lower procedure.accept_above"),
        (["procedure.accept_above=1"], "procedure.accept_above accepts rewards above 1, .* gives 1 at most"),
        (["generation=ray"], "procedure=adaptive can't .*generation"),
    ):
        parts = checks.build_parts(composed(*overrides))
        procedure = parts.pop("procedure")
        parts.pop("tracking")
        run = {"num_completions": 4, "baseline_completions": 4, "control": "none", "split": "test", "seed": 0}
        with pytest.raises(BenchError, match=said):
            procedure(Parts(**parts, **run))


def test_where_nothing_is_accepted_the_setting_that_asks_for_it_is_named():
    rewards, nothing = np.array([[0.2, 0.4], [np.nan, 0.1]]), np.full((2, 2), np.nan)
    with pytest.raises(
        BenchError, match=r"procedure.accept_above=0.5, the highest of 3 rewards is 0.4: lower the setting"
    ):
        check_accepted(nothing, rewards, PLAN)
    with pytest.raises(BenchError, match="none has a reward"):
        check_accepted(nothing, nothing, PLAN)
    with pytest.raises(BenchError, match="prompt_filter leaves out every prompt with an accepted"):
        check_accepted(nothing, rewards + 0.2, PLAN)
    check_accepted(rewards, rewards, PLAN)


def test_a_plan_counts_every_way_of_sampling_as_a_training_of_its_own():
    grid = ["procedure.stop=none,accepted", "procedure.allocate=uniform,hard", "control=none"]
    found = cells_of_sweep(["procedure=adaptive", *grid], CONF)
    assert found is not None
    assert workload(found).trainings == 4


# --- a small run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(finished_run: Callable[..., Finished]) -> Path:
    return finished_run(
        "procedure=adaptive", "control=none", "num_completions=8", "evaluation.num_completions=2"
    ).folder


def test_the_records_of_a_run(finished):
    found = json.loads((finished / "metrics.json").read_text())
    total = found["adaptive/samples_total"]
    assert 40 < total < 320
    assert found["adaptive/samples_saved"] == 320 - total
    assert found["pool/completions"] == total
    assert found["adaptive/prompts_covered"] == found["selection/kept"] == found["selection/prompts_covered"] > 0
    assert found["adaptive/prompts_stopped_short"] == 40 - found["adaptive/prompts_covered"]
    assert found["adaptive/pass@8"] == pytest.approx(found["adaptive/coverage"])
    assert found["adaptive/pass@1"] == pytest.approx(found["pool/mean_reward"])  # of a verifier: the first samples
    assert found["pool/unscored"] == 0
    rewards = pq.read_table(finished / "rewards.parquet").to_pylist()
    assert len(rewards) == total
    kept = pq.read_table(finished / "selection_tuned.parquet").to_pylist()
    assert all(row["reward"] == 1 for row in kept)
    assert not (finished / "selection_control.parquet").exists()
    drawn = {(row["prompt_id"], row["sample"]) for row in rewards}
    shown = [row for row in pq.read_table(finished / "samples.parquet").to_pylist() if row["split"] == "train"]
    assert {(row["prompt_id"], row["sample"]) for row in shown} <= drawn
    assert all(row["length"] > 0 for row in shown)


def test_every_step_reads_its_prompts(finished):
    """One sample per step, so that each sample's prompt was read for it."""
    found = json.loads((finished / "metrics.json").read_text())
    length, total, kept = found["pool/mean_length"], found["adaptive/samples_total"], found["selection/kept"]
    a_token = (found["cost/best_of_2_query_flops"] - found["cost/best_of_1_query_flops"]) / length
    prompt = found["cost/tuned_query_flops"] / a_token - length
    (first,) = (
        one for one in json.loads((finished / "lineage.json").read_text()) if one["counts"].get("completions") == 40
    )
    assert prompt == pytest.approx(first["counts"]["prompt_tokens"] / 40)
    expected = total * (prompt + length) + 3 * kept * (prompt + length)  # an epoch is three times a reading
    assert found["cost/fine_tuning_flops"] == pytest.approx(a_token * expected)


def test_the_cost_of_a_run_is_that_of_what_it_drew(finished):
    lineage = json.loads((finished / "lineage.json").read_text())
    found = json.loads((finished / "metrics.json").read_text())
    drawn = sum(entry["counts"]["completions"] for entry in lineage if entry["stage"] == "generate")
    held_out = (
        20 * 8 + 20 + 20 * (4 + 1)
    )  # Best-of-n, whose first block is the base's own; greedy; a block of four of the tuned policy
    assert drawn == found["adaptive/samples_total"] + held_out
