"""Selection methods on matrices worked by hand, on ties, on unscored cells, and against their random twins."""

import numpy as np
import pytest

from bench import selection
from bench.errors import BenchError

R = np.array(
    [[0.7, 0.3, 0.5, 0.2], [0.4, 0.8, 0.6, 0.5], [0.9, 0.3, 0.4, 0.7], [0.2, 0.5, 0.8, 0.6], [0.5, 0.4, 0.3, 0.6]]
)
VERDICTS = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, np.nan, 1, 0], [np.nan] * 4], float)
PATHS = np.array(
    [["a", "b", "a", "c"], ["a", "a", "a", "a"], ["x", "x", "x", None], ["p", "q", "q", "p"], ["z"] * 4], object
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cells(chosen: selection.Selection) -> list[tuple[int, int]]:
    return list(zip(chosen.row.tolist(), chosen.column.tolist(), strict=True))


def test_worked_example_top_per_prompt():
    assert cells(selection.top_per_prompt(R, rng())) == [(0, 0), (1, 1), (2, 0), (3, 2), (4, 3)]


def test_worked_example_top_k_overall():
    chosen = selection.top_k_overall(R, rng(), k=5)
    assert set((chosen.row * 4 + chosen.column).tolist()) == {8, 5, 14, 0, 11}


def test_all_correct_keeps_what_the_verifier_accepts():
    assert cells(selection.all_correct(VERDICTS, rng())) == [
        (0, 0),
        (0, 2),
        (0, 3),
        *((2, n) for n in range(4)),
        (3, 2),
    ]


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
def test_one_a_prompt_with_ties_broken_uniformly(method):
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


@pytest.mark.parametrize("method", [selection.top_per_prompt, selection.random_per_prompt])
def test_unscored_cells_are_never_chosen_and_an_unscored_prompt_selects_nothing(method):
    rewards = np.array([[np.nan, 0.1, np.nan], [np.nan, np.nan, np.nan], [-5.0, np.nan, np.nan]])
    for seed in range(10):
        assert cells(method(rewards, rng(seed))) == [(0, 1), (2, 0)]


@pytest.mark.parametrize("method", [selection.top_k_overall, selection.random_k_overall])
@pytest.mark.parametrize("k", [0, 9, -1])
def test_k_beyond_what_is_scored_names_both_numbers(method, k):
    with pytest.raises(BenchError, match=rf"selection.k={k} .* 8 scored"):
        method(VERDICTS[[0, 2]], rng(), k=k)


def test_all_of_the_pool_can_be_kept():
    assert len(selection.top_k_overall(R, rng(), k=20)) == 20


def test_equal_generators_give_equal_selections():
    first, second = (selection.distinct_correct(VERDICTS, rng(3), paths=PATHS) for _ in range(2))
    assert cells(first) == cells(second)


def test_matched_random_keeps_each_prompts_count_and_forgets_the_reward():
    chosen = selection.all_correct(VERDICTS, rng())
    columns = []
    for seed in range(1500):
        twin = selection.matched_random(chosen, VERDICTS, rng(seed))
        assert twin.row.tolist() == chosen.row.tolist()
        assert len(set(cells(twin))) == len(twin)
        assert not np.isnan(VERDICTS[twin.row, twin.column]).any()
        columns += [column for row, column in cells(twin) if row == 3]
    counts = np.bincount(columns, minlength=4)
    assert counts[1] == 0  # unscored
    assert np.abs(counts[[0, 2, 3]] - 500).max() < 80


def test_matched_random_carries_the_weights():
    chosen = selection.Selection(np.array([0, 0, 2]), np.array([0, 1, 3]), np.array([1.5, 0.5, 2.0]))
    twin = selection.matched_random(chosen, R, rng())
    assert sorted(zip(twin.row.tolist(), twin.weight.tolist(), strict=True)) == [(0, 0.5), (0, 1.5), (2, 2.0)]


def test_nothing_correct_selects_nothing():
    assert len(selection.all_correct(np.zeros((3, 4)), rng())) == 0
