"""Scores by unit: nested, extended, each distinct text of a prompt once, interrupted without loss."""

import numpy as np
import pytest
from drawing import asking, generate

from bench.artifacts import Completions, Prompts
from bench.scoring.units import scored
from bench.store import Store, using


class Counting:
    """A scorer that gives a text's length and its prompt's row, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []

    def __call__(self, rows, texts):
        self.asked += list(zip(rows, texts, strict=True))
        return np.array([100 * row + len(text) for row, text in zip(rows, texts, strict=True)], float), {"flops": 1.0}


def by_unit(prompts: Prompts, pool: Completions, score, **settings):
    return scored(prompts, pool, score, stage="counting", version=1, settings=settings).value


def by_hand(pool: Completions) -> np.ndarray:
    return np.array([[100 * row + len(text) for text in texts] for row, texts in enumerate(np.asarray(pool.text))])


def test_scores_are_those_of_each_cell_and_each_distinct_text_is_scored_once(random_policy, few_prompts, store):
    pool = generate(few_prompts, random_policy, num_completions=10, max_new_tokens=1)
    score = Counting()
    assert (by_unit(few_prompts, pool, score) == by_hand(pool)).all()
    distinct = {(row, text) for row, texts in enumerate(np.asarray(pool.text)) for text in texts}
    assert len(score.asked) == len(set(score.asked)) == len(distinct)
    assert len(distinct) < pool.logprob.size


def test_a_larger_pool_scores_only_what_is_new_and_a_prefix_nothing(random_policy, few_prompts, store):
    small, large = (generate(few_prompts, random_policy, num_completions=n) for n in (4, 8))
    first, second, third = Counting(), Counting(), Counting()
    by_unit(few_prompts, small, first)
    assert (by_unit(few_prompts, large, second) == by_hand(large)).all()
    assert not set(first.asked) & set(second.asked)
    assert (by_unit(few_prompts, large.first(6), third) == by_hand(large)[:, :6]).all()
    assert third.asked == []
    by_unit(few_prompts, large.first(5), third)
    assert third.asked == []
    by_unit(few_prompts, small, third, other_setting=1)
    assert third.asked == first.asked


def test_an_interrupted_scoring_keeps_its_finished_units(random_policy, few_prompts, store):
    pool = generate(few_prompts, random_policy)
    score = Counting()

    def interrupted(rows, texts):
        if len({row // 3 for row, _ in score.asked}) == 2:
            raise KeyboardInterrupt
        return score(rows, texts)

    with pytest.raises(KeyboardInterrupt):
        by_unit(few_prompts, pool, interrupted)
    kept = list(score.asked)
    assert (by_unit(few_prompts, pool, score) == by_hand(pool)).all()
    assert len(score.asked) == len(set(score.asked)) > len(kept) > 0


def test_unscored_cells_stay_nan_and_a_wrong_number_of_scores_is_an_error(random_policy, store):
    pool = generate(asking("Leo has", "Eve has"), random_policy)
    value = by_unit(
        asking("Leo has", "Eve has"), pool, lambda rows, _: (np.where(np.array(rows) == 0, np.nan, 1.0), {})
    )
    assert np.isnan(value[0]).all()
    assert (value[1] == 1).all()
    with pytest.raises(ValueError, match="shape"):
        by_unit(asking("Leo has", "Eve has"), pool, lambda rows, _: (np.zeros(len(rows) + 1), {}), other=1)


def test_completions_in_memory_are_one_unit(store: Store):
    prompts = asking("a", "b")
    text = np.array([["x", "x"], ["x", "yy"]], object)
    ids = np.empty((2, 2), object)
    ids[:] = [[np.arange(2)] * 2] * 2
    pool = Completions(text, ids, np.full((2, 2), "stop"), np.zeros((2, 2)), np.zeros((2, 2)), key="by hand")
    score = Counting()
    with using(store):
        assert by_unit(prompts, pool, score).tolist() == [[1, 1], [101, 102]]
    assert score.asked == [(0, "x"), (1, "x"), (1, "yy")]


def test_a_pool_cut_within_a_block_scores_it_whole_once(random_policy, few_prompts, store):
    cut = generate(few_prompts, random_policy, num_completions=5)
    first, second = Counting(), Counting()
    assert (by_unit(few_prompts, cut, first) == by_hand(cut)).all()
    whole = generate(few_prompts, random_policy, num_completions=6)
    assert (by_unit(few_prompts, whole, second) == by_hand(whole)).all()
    assert second.asked == []
