"""Pair functions: worked by hand, matched by a random control, composed and refused as configurations."""

from collections import Counter

import numpy as np
import pytest
from selecting import UNSCORED, VERDICTS, R, fits, rng
from sharing import CONF, composed

from bench import selection
from bench.artifacts import Selection
from bench.config import checks
from bench.config.compose import CONF as FOLDER
from bench.config.compose import compose_one, composing
from bench.config.keys import run_id
from bench.errors import BenchError
from bench.rounds import buffer
from bench.selection.pairs import gives_pairs

NAMES = sorted(path.stem for path in CONF.glob("pairs/*.yaml"))
FUNCTIONS = {
    "best_worst": selection.best_worst,
    "random": selection.random_pairs,
    "right_wrong": lambda rewards, rng: selection.right_wrong(rewards, rng, k=1),
    "rso": lambda rewards, rng: selection.rso_pairs(rewards, rng, k=2, beta=0.5),
}


def triples(chosen: Selection) -> list[tuple[int, int, int]]:
    assert chosen.rejected is not None
    return list(zip(chosen.row.tolist(), chosen.column.tolist(), chosen.rejected.tolist(), strict=True))


def test_every_file_has_a_function_here():
    assert list(FUNCTIONS) == NAMES


def test_best_over_worst_by_hand():
    assert triples(selection.best_worst(R, rng())) == [(0, 0, 3), (1, 1, 0), (2, 0, 1), (3, 2, 0), (4, 3, 2)]
    assert triples(selection.best_worst(UNSCORED, rng())) == []  # one scored completion, none, one
    scored = np.array([[np.nan, 0.1, 0.9, np.nan], [-1.0, -1.0, np.nan, -1.0], [np.nan, 2.0, 2.0, 1.0]])
    found = {tuple(triples(selection.best_worst(scored, rng(seed)))) for seed in range(30)}
    assert found == {((0, 2, 1), (2, 1, 3)), ((0, 2, 1), (2, 2, 3))}  # nothing of tied rewards; ties for the best


def test_ties_for_best_and_worst_are_broken_uniformly():
    tied = np.tile([1.0, 0.0, 1.0, 0.0, 1.0], (3000, 1))
    chosen = selection.best_worst(tied, rng())
    assert fits(np.bincount(chosen.column, minlength=5), np.array([1, 0, 1, 0, 1]) / 3)
    assert fits(np.bincount(chosen.rejected, minlength=5), np.array([0, 1, 0, 1, 0]) / 2)


def test_right_over_wrong_by_hand():
    """Prompt 0 has three right and one wrong, prompt 3 one right and two wrong; others are all alike or unscored."""
    found = Counter(tuple(triples(selection.right_wrong(VERDICTS, rng(seed), k=1))) for seed in range(600))
    expected = {((0, better, 1), (3, 2, worse)) for better in (0, 2, 3) for worse in (0, 3)}
    assert set(found) == expected
    assert fits(np.array(list(found.values())), np.full(6, 1 / 6))
    many = np.array([[1, 0, 1, 1, 0, np.nan]], float)
    for seed in range(20):
        pairs = triples(selection.right_wrong(many, rng(seed), k=3))  # two are wrong
        assert len(pairs) == 2
        assert {worse for _, _, worse in pairs} == {1, 4}
        assert len({better for _, better, _ in pairs} & {0, 2, 3}) == 2


def test_rso_pairs_what_rejection_sampling_accepts():
    rewards = rng(1).normal(size=(40, 8)).round(1)
    rewards[0], rewards[1, 2:] = 1.0, np.nan  # all tied; two completions
    for seed in range(5):
        accepted = selection.rso(rewards, rng(seed), k=4, beta=0.3)
        allowed = set(zip(accepted.row.tolist(), accepted.column.tolist(), strict=True))
        pairs = triples(selection.rso_pairs(rewards, rng(seed), k=2, beta=0.3))
        for row, better, worse in pairs:
            assert {(row, better), (row, worse)} <= allowed
            assert rewards[row, better] > rewards[row, worse]
        counts = Counter(row for row, _, _ in pairs)
        assert max(counts.values()) == 2
        assert counts[0] == 0
        assert counts[1] == int(rewards[1, 0] != rewards[1, 1])
    # a small beta accepts the four best
    best = selection.rso_pairs(rewards[2:], rng(0), k=2, beta=1e-6)
    ranks = (-rewards[2:]).argsort(axis=1).argsort(axis=1)
    untied = [row for row in range(38) if len(set(rewards[2 + row])) == 8]
    assert all({ranks[r, b], ranks[r, w]} <= {0, 1, 2, 3} for r, b, w in triples(best) if r in untied)
    assert len(untied) > 5


def test_random_pairs_are_any_two_whatever_the_rewards():
    rewards = np.tile([0.1, np.nan, 0.7, 0.2], (6000, 1))
    chosen = selection.random_pairs(rewards, rng())
    assert len(chosen) == 6000
    counts = Counter((better, worse) for _, better, worse in triples(chosen))
    assert set(counts) == {(one, other) for one in (0, 2, 3) for other in (0, 2, 3) if one != other}
    assert fits(np.array([counts[key] for key in sorted(counts)]), np.full(6, 1 / 6))
    assert triples(selection.random_pairs(UNSCORED, rng())) == []
    other = np.where(np.isnan(rewards), np.nan, rng(3).random(rewards.shape))
    assert triples(selection.random_pairs(other, rng())) == triples(chosen)


@pytest.mark.parametrize("name", NAMES)
def test_what_every_pair_function_keeps_to(name):
    """Scored cells, in row-major order, no completion twice, nothing of unscored rows; the same again; permutable."""
    rewards = rng(5).choice([0.0, 1.0, np.nan], (60, 6), p=[0.45, 0.45, 0.1])
    rewards[:3], rewards[3:6], rewards[6:9] = 1.0, 0.0, np.nan
    before = rewards.copy()
    chosen = FUNCTIONS[name](rewards, rng(2))
    np.testing.assert_array_equal(rewards, before)
    pairs = triples(chosen)
    assert pairs == sorted(pairs) == triples(FUNCTIONS[name](rewards, rng(2)))
    assert chosen.completions == 2 * len(chosen) == 2 * len(pairs) > 40
    cells = [(row, column) for row, *both in pairs for column in both]
    assert len(set(cells)) == len(cells)
    assert not np.isnan(rewards[tuple(np.transpose(cells))]).any()
    if name != "random":
        assert chosen.row.min() >= 9  # prompts whose rewards are all equal give none
        assert (rewards[chosen.row, chosen.column] > rewards[chosen.row, chosen.rejected]).all()
    order = rng(7).permutation(60)
    moved = FUNCTIONS[name](rewards[order], rng(2))
    assert sorted(order[moved.row].tolist()) == sorted(chosen.row.tolist()) or name == "rso"


@pytest.mark.parametrize("name", NAMES)
def test_the_random_control_has_as_many_pairs_of_the_same_prompts(name):
    rewards = rng(5).choice([0.0, 1.0, np.nan], (40, 6), p=[0.45, 0.45, 0.1])
    chosen = FUNCTIONS[name](rewards, rng(2))
    controls = [selection.matched_random(chosen, rewards, rng(seed)) for seed in range(80)]
    for control in controls:
        pairs = triples(control)
        assert control.row.tolist() == chosen.row.tolist()
        assert len({(row, column) for row, *both in pairs for column in both}) == 2 * len(pairs)
        assert not np.isnan(rewards[control.row, [control.column, control.rejected]]).any()
    margins = [rewards[c.row, c.column] - rewards[c.row, c.rejected] for c in controls]
    assert np.mean(margins) == pytest.approx(0, abs=0.06)
    unseen = np.where(np.isnan(rewards), np.nan, rng(8).random(rewards.shape))
    assert triples(selection.matched_random(chosen, unseen, rng(0))) == triples(controls[0])


def test_pairs_that_share_a_completion_have_a_control_too():
    shared = Selection(np.array([0, 0]), np.array([0, 0]), np.ones(2), np.array([1, 2]))
    for seed in range(20):
        for _, better, worse in triples(selection.matched_random(shared, np.zeros((1, 3)), rng(seed))):
            assert better != worse


def test_rounds_keep_pairs_in_the_columns_of_their_round():
    first = Selection(np.array([0, 2]), np.array([1, 0]), np.ones(2), np.array([2, 3]))
    second = Selection(np.array([0]), np.array([3]), np.ones(1), np.array([0]))
    assert triples(buffer([first, second], 4, "union")) == [(0, 1, 2), (0, 7, 4), (2, 0, 3)]
    assert triples(buffer([first, second], 4, "last")) == [(0, 7, 4)]


@pytest.mark.parametrize("name", NAMES)
def test_training_dpo_takes_each(name):
    cfg = composed("training=dpo", f"pairs={name}")
    checks.check(cfg)
    assert gives_pairs(cfg)
    assert "pairs" not in cfg
    assert set(checks.build_parts(cfg)["selection"].keywords) == set(cfg.selection) - {"_target_", "_partial_"}


def test_the_default_pairs_and_a_run_id_of_their_own():
    default = composed("training=dpo")
    checks.check(default)
    assert default.selection["_target_"] == "bench.selection.best_worst"
    assert run_id(default) == run_id(composed("training=dpo", "pairs=best_worst"))
    ids = {run_id(composed("training=dpo", *more)) for more in ((), ("pairs=rso",), ("training.beta=0.5",))}
    assert len(ids) == 3
    assert run_id(composed("training=dpo_lora")) not in ids


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("pairs=right_wrong", r"training=sft is not allowed with pairs \(right_wrong\): .*set training=dpo"),
        ("training=dpo procedure=hybrid control=none", r"procedure=hybrid is not allowed with pairs \(best_worst\)"),
        ("training=dpo procedure=adaptive control=none", r"procedure=adaptive is not allowed with pairs"),
        ("training=dpo procedure=sft control=none", r"procedure=sft is not allowed with pairs \(best_worst\)"),
        ("training=dpo procedure=generators procedure.solutions=true", "solutions=true is not allowed with pairs"),
        ("training=dpo training.packing=true", "training.packing|packing"),
        ("training=dpo training.beta=0", "training.beta=0 is not allowed: .*above 0"),
        ("training=dpo training.micro_batch_size=5", "training.micro_batch_size=5 .*must divide"),
        ("training=dpo_lora training.lora.four_bit=true", "four_bit=True is not allowed with training=dpo"),
        ("training=dpo_lora training.lora.dropout=0.1", r"dropout=0\.1 is not allowed with training=dpo"),
        ("training=dpo pairs=rso num_completions=3", "selection.k=2 is not allowed with num_completions=3"),
        ("training=dpo pairs=right_wrong selection.k=9", "selection.k=9 is not allowed with num_completions=16"),
        ("training=dpo pairs=right_wrong selection.k=0", "selection.k=0 .*at least 1"),
        ("training=dpo pairs=rso selection.beta=0", "selection.beta=0 .*above 0"),
        ("training=dpo selection=top_per_prompt", "selection=top_per_prompt is not allowed with pairs=best_worst"),
        ("training=dpo pairs=rso selection=rso", "selection=rso is not allowed with pairs=rso, which take its place"),
        ("training=dpo experiment=raft", "selection=top_per_prompt is not allowed with pairs=best_worst.*~selection"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(given, said):
    with pytest.raises(Exception, match=said) as refused, composing(FOLDER):
        checks.check(compose_one(given.split()))
    assert isinstance(refused.value, BenchError) or "packing" in given  # the command line explains Hydra's


def test_a_selection_of_single_completions_gives_dpo_nothing_to_compare():
    cfg = composed("training=dpo")
    cfg.selection["_target_"] = "bench.selection.top_per_prompt"
    with pytest.raises(BenchError, match="training=dpo needs pairs, and top_per_prompt selects single completions"):
        checks.check(cfg)


def test_dpo_goes_with_the_experiments_that_leave_the_selection_alone():
    with composing(FOLDER):
        for given in (
            ["experiment=quick", "training=dpo"],
            ["training=dpo", "experiment=raft", "~selection"],
            ["training=dpo", "procedure=rounds", "procedure.start=current"],
            ["training=dpo", "procedure=generators"],
        ):
            checks.check(compose_one(given))
