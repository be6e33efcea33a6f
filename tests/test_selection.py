"""Selection methods on matrices worked by hand, on ties and on unscored cells, and their random controls."""

import numpy as np
import pytest
from selecting import PATHS, UNSCORED, VERDICTS, R, cells, fits, rng

from bench import selection
from bench.errors import BenchError
from bench.selection.cells import prompts_dropped

LOGPROB = np.array([[-6.0, -1, -2, -1], [-1, -9, -3, -1], [-2, -2, -2, -2], [0, -3, -5, -4], [-4, -2, -1, -3]])
BEST_FIVE = [(0, 0), (1, 1), (2, 0), (2, 3), (3, 2)]
CORRECT = [(0, 0), (0, 2), (0, 3), *((2, n) for n in range(4)), (3, 2)]


@pytest.mark.parametrize(
    ("method", "rewards", "settings", "expected"),
    [
        ("top_per_prompt", R, {}, [(0, 0), (1, 1), (2, 0), (3, 2), (4, 3)]),
        ("worst_per_prompt", R, {}, [(0, 3), (1, 0), (2, 1), (3, 0), (4, 2)]),
        (
            "top_k_per_prompt",
            R,
            {"k": 2},
            [(m, n) for m, row in enumerate(("02", "12", "03", "23", "03")) for n in map(int, row)],
        ),
        ("top_k_overall", R, {"k": 5}, BEST_FIVE),
        ("top_k_overall", R, {"k": 20}, list(np.ndindex(5, 4))),
        ("quantile", R, {"q": 0.75}, BEST_FIVE),
        ("threshold", R, {"threshold": 0.6}, BEST_FIVE),  # leaves out what lies on it
        ("threshold", R, {"threshold": 1}, []),
        ("threshold", VERDICTS, {"threshold": 0}, CORRECT),
        ("all_correct", VERDICTS, {}, CORRECT),
        ("all_correct", np.zeros((3, 4)), {}, []),
        # r + .1 log pi0:   .1 .2 .3 .1 | .3 -.1 .3 .4 | .7 .1 .2 .5 | .2 .2 .3 .2 | .1 .2 .2 .3
        ("kl_regularised", R, {"logprob": LOGPROB, "beta": 0.1}, [(0, 2), (1, 3), (2, 0), (3, 2), (4, 3)]),
    ],
)
def test_worked_examples(method, rewards, settings, expected):
    assert cells(getattr(selection, method)(rewards, rng(), **settings)) == expected


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("top_per_prompt", {}),
        ("worst_per_prompt", {}),
        ("random_per_prompt", {}),
        ("top_k_per_prompt", {"k": 2}),
        ("threshold", {"threshold": -9}),
        ("kl_regularised", {"logprob": np.where(np.isnan(UNSCORED), np.nan, -1.0), "beta": 0.1}),
    ],
)
def test_unscored_cells_are_never_chosen_and_an_unscored_prompt_selects_nothing(method, settings):
    for seed in range(10):
        assert cells(getattr(selection, method)(UNSCORED, rng(seed), **settings)) == [(0, 1), (2, 0)]


def test_distinct_correct_keeps_one_of_each_path():
    for seed in range(20):
        chosen = cells(selection.distinct_correct(VERDICTS, rng(seed), paths=PATHS))
        kept = [(row, PATHS[row, column]) for row, column in chosen]
        assert sorted(kept) == [(0, "a"), (0, "c"), (2, "x"), (3, "q")]
        assert all(VERDICTS[cell] == 1 for cell in chosen)


def test_distinct_correct_breaks_ties_uniformly():
    kept = [selection.distinct_correct(VERDICTS, rng(seed), paths=PATHS).column[2] for seed in range(900)]
    counts = np.bincount(kept, minlength=4)
    assert counts[3] == 0  # no path
    assert np.abs(counts[:3] - 300).max() < 60  # 4.2 standard deviations


def test_distinct_correct_refuses_paths_of_another_shape():
    with pytest.raises(BenchError, match=r"paths has shape \(2, 4\).*\(5, 4\)"):
        selection.distinct_correct(VERDICTS, rng(), paths=PATHS[:2])


@pytest.mark.parametrize("method", [selection.top_per_prompt, selection.random_per_prompt])
def test_one_per_prompt_with_ties_broken_uniformly(method):
    tied = np.zeros((3000, 4))
    chosen = method(tied, rng())
    assert chosen.row.tolist() == list(range(3000))
    assert np.abs(np.bincount(chosen.column, minlength=4) - 750).max() < 100  # 4.2 standard deviations


@pytest.mark.parametrize("method", [selection.top_k_overall, selection.random_k_overall])
def test_k_overall_with_ties_is_uniform_over_prompts(method):
    counts = sum(np.bincount(method(np.ones((4, 5)), rng(seed), k=2).row, minlength=4) for seed in range(2000))
    assert np.abs(counts - 1000).max() < 120


def test_random_per_prompt_ignores_the_reward():
    columns = selection.random_per_prompt(np.tile([0.0, 1.0, 2.0, 3.0], (4000, 1)), rng()).column
    assert np.abs(np.bincount(columns, minlength=4) - 1000).max() < 120


@pytest.mark.parametrize("method", [selection.top_k_overall, selection.random_k_overall])
@pytest.mark.parametrize("k", [0, 9, -1])
def test_k_beyond_what_is_scored_names_both_numbers(method, k):
    with pytest.raises(BenchError, match=rf"selection.k={k} .* 8 scored"):
        method(VERDICTS[[0, 2]], rng(), k=k)


def test_equal_generators_give_equal_selections():
    first, second = (selection.distinct_correct(VERDICTS, rng(3), paths=PATHS) for _ in range(2))
    assert cells(first) == cells(second)


def test_matched_random_keeps_each_prompts_count_and_forgets_the_reward():
    chosen = selection.all_correct(VERDICTS, rng())
    columns = []
    for seed in range(1500):
        control = selection.matched_random(chosen, VERDICTS, rng(seed))
        assert control.row.tolist() == chosen.row.tolist()
        assert len(set(cells(control))) == len(control)
        assert not np.isnan(VERDICTS[control.row, control.column]).any()
        columns += [column for row, column in cells(control) if row == 3]
    counts = np.bincount(columns, minlength=4)
    assert counts[1] == 0  # unscored
    assert np.abs(counts[[0, 2, 3]] - 500).max() < 80


def test_matched_random_carries_the_weights():
    chosen = selection.Selection(np.array([0, 0, 2]), np.array([0, 1, 3]), np.array([1.5, 0.5, 2.0]))
    control = selection.matched_random(chosen, R, rng())
    assert sorted(zip(control.row.tolist(), control.weight.tolist(), strict=True)) == [(0, 0.5), (0, 1.5), (2, 2.0)]


def test_quantile_breaks_ties_at_its_line_uniformly():
    eight, tied = {(0, 0), (1, 1), (1, 2), (2, 0), (2, 3), (3, 2), (3, 3), (4, 3)}, [(0, 2), (1, 3), (3, 1), (4, 0)]
    counts = dict.fromkeys(tied, 0)
    for seed in range(1000):
        chosen = set(cells(selection.quantile(R, rng(seed), q=0.5)))  # two of the four at .5
        assert len(chosen) == 10
        assert chosen > eight
        for cell in chosen - eight:
            counts[cell] += 1
    assert fits(np.array(list(counts.values())), np.full(4, 1 / 4))


@pytest.mark.parametrize(("q", "scored", "kept"), [(0, 9, 9), (0.29, 100, 71), (0.999, 3, 1), (0.5, 3, 2), (0.5, 0, 0)])
def test_quantile_drops_its_share_of_what_is_scored(q, scored, kept):
    rewards = np.full((10, 11), np.nan)
    rewards.flat[:scored] = np.arange(scored)
    assert len(selection.quantile(rewards, rng(), q=q)) == kept


@pytest.mark.parametrize("k", [0, 5, -1])
@pytest.mark.parametrize("method", ["top_k_per_prompt", "rso", "balanced"])
def test_k_beyond_a_prompts_samples_names_both_numbers(method, k):
    settings = {"beta": 1.0} if method == "rso" else {}
    with pytest.raises(BenchError, match=rf"selection.k={k} .* 4 completions of a prompt"):
        getattr(selection, method)(R, rng(), k=k, **settings)


def test_a_prompt_with_fewer_than_k_scored_samples_gives_those():
    assert cells(selection.top_k_per_prompt(VERDICTS, rng(), k=4)) == [
        *((row, column) for row in range(3) for column in range(4)),
        *((3, column) for column in (0, 2, 3)),
    ]


def test_kl_regularised_breaks_ties_uniformly():
    rewards, logprob = np.tile([0.0, 0.5, 1.0], (6000, 1)), np.tile([-1.0, -2.0, -8.0], (6000, 1))  # -.5 -.5 -3
    columns = selection.kl_regularised(rewards, rng(), logprob=logprob, beta=0.5).column
    assert fits(np.bincount(columns, minlength=3), np.array([1 / 2, 1 / 2, 0]))


def test_kl_regularised_at_its_ends():
    logprob = np.tile([-1.0, -2.0, -3.0, -0.5], (5, 1))
    assert cells(selection.kl_regularised(R, rng(), logprob=logprob, beta=0)) == cells(
        selection.top_per_prompt(R, rng())
    )
    assert selection.kl_regularised(R, rng(), logprob=logprob, beta=1e6).column.tolist() == [3] * 5
    with pytest.raises(BenchError, match="logprob has shape"):
        selection.kl_regularised(R, rng(), logprob=logprob[:2], beta=1)
    with pytest.raises(ValueError, match="logprob is not finite"):
        selection.kl_regularised(R, rng(), logprob=logprob - np.inf, beta=1)


def test_matched_random_of_a_cell_kept_twice_draws_twice():
    chosen = selection.Selection(np.array([1, 1, 1]), np.array([0, 0, 2]), np.ones(3))
    rewards = np.array([[0.0, 0, 0], [1, np.nan, 1]])
    controls = [cells(selection.matched_random(chosen, rewards, rng(seed))) for seed in range(50)]
    assert all(len(control) == 3 and {row for row, _ in control} == {1} for control in controls)
    assert {column for control in controls for _, column in control} == {0, 2}


def test_matched_random_of_nothing_is_nothing():
    assert len(selection.matched_random(selection.all_correct(np.zeros((3, 4)), rng()), np.zeros((3, 4)), rng())) == 0


def test_decidable_only_leaves_out_what_is_all_right_or_all_wrong():
    kept = selection.decidable_only(VERDICTS)
    assert np.isnan(kept[[1, 2, 4]]).all()
    np.testing.assert_array_equal(kept[[0, 3]], VERDICTS[[0, 3]])  # NaN stays NaN
    np.testing.assert_array_equal(selection.every_prompt(VERDICTS), VERDICTS)


def test_decidable_only_judges_by_what_is_scored():
    rewards = np.array([[1, np.nan], [np.nan, 0], [1, 0], [0.2, 0.4], [0.4, 0.6]])
    assert np.isnan(selection.decidable_only(rewards)).all(axis=1).tolist() == [True, True, False, True, False]


def test_solved_leaves_out_prompts_without_an_accepted_completion():
    rewards = np.array([[1, np.nan], [np.nan, 0], [1, 0], [0.2, 0.5], [0.4, 0.6], [np.nan, np.nan]])
    kept = selection.solved(rewards)
    np.testing.assert_array_equal(kept[[0, 2, 4]], rewards[[0, 2, 4]])
    assert np.isnan(kept[[1, 3, 5]]).all()  # a reward of exactly the threshold is not accepted
    assert np.isnan(selection.solved(rewards, accept_above=0.3)).all(axis=1).tolist() == [
        False,
        True,
        False,
        False,
        False,
        True,
    ]


def test_prompts_dropped_counts_those_that_had_a_score():
    assert prompts_dropped(VERDICTS, selection.decidable_only(VERDICTS)) == 2  # not the one that was never scored
    assert prompts_dropped(VERDICTS, selection.every_prompt(VERDICTS)) == 0
