"""What starts from a verdict: distinct paths as RFT keeps them, the shortest, and no more than a share of a prompt."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selecting import PATHS, VERDICTS, R, cells, fits, rng

from bench import selection
from bench.errors import BenchError
from bench.selection.correctness import edit_distance


def levenshtein(one: str, other: str) -> int:
    """The textbook's table."""
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    table[:, 0], table[0] = np.arange(len(one) + 1), np.arange(len(other) + 1)
    for i, j in itertools.product(range(1, len(one) + 1), range(1, len(other) + 1)):
        substituted = table[i - 1, j - 1] + (one[i - 1] != other[j - 1])
        table[i, j] = min(substituted, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return int(table[-1, -1])


@given(st.text("abé", max_size=12), st.text("abé", max_size=12))
def test_edit_distance_is_that_of_the_table(one, other):
    assert edit_distance(one, other) == levenshtein(one, other)


def test_edit_distance_of_longer_texts():
    assert edit_distance("kitten", "sitting") == 3
    random = rng(0)
    for sizes in ((64, 65), (200, 130), (0, 90)):
        one, other = ("".join(random.choice(list("abcd "), size)) for size in sizes)
        assert edit_distance(one, other) == edit_distance(other, one) == levenshtein(one, other)


def test_only_paths_whose_every_step_is_true():
    true = np.ones(VERDICTS.shape, bool)
    true[0, [0, 3]] = False
    for seed in range(20):
        chosen = selection.distinct_correct(VERDICTS, rng(seed), paths=PATHS, steps_true=true, every_step=True)
        kept = [(row, PATHS[row, column]) for row, column in cells(chosen)]
        assert sorted(kept) == [(0, "a"), (2, "x"), (3, "q")]
        assert (0, 2) in cells(chosen)  # the other completion of path a is false
    unasked = selection.distinct_correct(VERDICTS, rng(), paths=PATHS, steps_true=true)
    assert len(unasked) == 4


def rft(order: tuple[int, ...], paths: list[str], texts: list[str]) -> frozenset[int]:
    """Which completions RFT's procedure keeps when they come in this order, with the textbook's distance."""
    lists: list[str] = []
    kept: list[int] = []
    for new in order:
        if paths[new] not in lists:
            lists.append(paths[new])
            kept.append(new)
            continue
        at = lists.index(paths[new])
        scores = [
            sum(levenshtein(texts[mine], texts[k]) for k in kept if texts[k] != texts[kept[at]])
            for mine in (kept[at], new)
        ]
        if scores[1] > scores[0]:
            kept[at] = new
    return frozenset(kept)


@pytest.mark.parametrize(
    ("paths", "texts"),
    [
        ("aab", ["aaaa", "aabb", "bbbb"]),
        ("abab", ["1+1", "2*3", "1 + 1 is two", "6 is 2*3"]),
        ("aaabc", ["xy", "xxyy", "xy!", "yyyy", "xx"]),
    ],
)
def test_of_completions_with_one_path_the_farthest_from_the_others_stays(paths, texts):
    orders = list(itertools.permutations(range(len(paths))))
    exact = Counter(rft(order, list(paths), texts) for order in orders)
    draws = 4000
    pool = (np.array([list(paths)] * draws, object), np.array([texts] * draws, object))
    chosen = selection.distinct_correct(np.ones(pool[0].shape), rng(), paths=pool[0], texts=pool[1], keep="farthest")
    found = Counter(frozenset(kept.tolist()) for kept in chosen.column.reshape(draws, len(set(paths))))
    assert set(found) <= set(exact)
    expected = np.array(list(exact.values())) / len(orders)
    assert fits(np.array([found[outcome] for outcome in exact]), expected)


def test_the_farthest_by_hand():
    """aaaa is farther from bbbb than aabb is, and stays unless bbbb comes last of the three and aabb first: 1 in 6."""
    exact = Counter(rft(order, list("aab"), ["aaaa", "aabb", "bbbb"]) for order in itertools.permutations(range(3)))
    assert exact == {frozenset({0, 2}): 5, frozenset({1, 2}): 1}


def test_equal_texts_of_one_path_stay_uniformly():
    same = np.array([["t"] * 4] * 4000, object)
    chosen = selection.distinct_correct(np.ones(same.shape), rng(), paths=same, texts=same, keep="farthest")
    assert fits(np.bincount(chosen.column, minlength=4), np.full(4, 1 / 4))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every_step": True}, "every_step needs steps_true"),
        ({"keep": "farthest"}, "needs texts"),
        ({"keep": "farthest", "texts": PATHS[:2]}, "texts has shape"),
        ({"every_step": True, "steps_true": np.ones((5, 3), bool)}, "steps_true has shape"),
    ],
)
def test_distinct_correct_says_what_it_lacks(settings, words):
    with pytest.raises(ValueError, match=words):
        selection.distinct_correct(VERDICTS, rng(), paths=PATHS, **settings)


def test_shortest_correct_by_hand():
    length = np.array([[9, 1, 7, 8], [1, 2, 3, 4], [5, 5, 6, 7], [1, 1, 9, 1], [1, 1, 1, 1]])
    chosen = [cells(selection.shortest_correct(VERDICTS, rng(seed), length=length)) for seed in range(400)]
    assert all(c[0] == (0, 2) and c[2] == (3, 2) and len(c) == 3 for c in chosen)  # none of 1 and 4
    assert fits(np.bincount([c[1][1] for c in chosen], minlength=4), np.array([1 / 2, 1 / 2, 0, 0]))
    with pytest.raises(BenchError, match="length has shape"):
        selection.shortest_correct(VERDICTS, rng(), length=length[:, :2])


def test_balanced_caps_every_prompt_alike():
    #  above .45:  .7 .5 | .8 .6 .5 | .9 .7 | .5 .8 .6 | .5 .6
    chosen = selection.balanced(R, rng(), k=2, threshold=0.45)
    assert cells(chosen) == cells(selection.top_k_per_prompt(R, rng(), k=2))
    assert cells(selection.balanced(R, rng(), k=4, threshold=0.65)) == [(0, 0), (1, 1), (2, 0), (2, 3), (3, 2)]
    counts = np.bincount(selection.balanced(VERDICTS, rng(), k=2).row, minlength=5)
    assert counts.tolist() == [2, 0, 2, 1, 0]


def test_balanced_by_difficulty_is_proportional_to_the_share_of_failures():
    rewards = np.zeros((6, 8))
    for row, right in enumerate((2, 4, 6, 8, 0, 7)):
        rewards[row, :right] = 1
    # failures 6 4 2 0 8 1 of 8; the last but one has nothing to keep, so 6 is the most: 4 x (1, 4/6, 2/6, 0, -, 1/6)
    counts = np.bincount(selection.balanced(rewards, rng(), k=4, allocation="difficulty").row, minlength=6)
    assert counts.tolist() == [2, 3, 2, 0, 0, 1]  # the first has two only


def test_balanced_by_difficulty_where_all_is_solved_is_uniform():
    counts = np.bincount(selection.balanced(np.ones((3, 4)), rng(), k=2, allocation="difficulty").row)
    assert counts.tolist() == [2, 2, 2]


def test_balanced_breaks_ties_uniformly():
    columns = selection.balanced(np.tile([1.0, 0.0, 1.0, 1.0], (6000, 1)), rng(), k=1).column
    assert fits(np.bincount(columns), np.array([1, 0, 1, 1]) / 3)


def test_nothing_correct_selects_nothing():
    wrong = np.zeros((3, 4))
    assert len(selection.balanced(wrong, rng(), k=2)) == 0
    assert len(selection.shortest_correct(wrong, rng(), length=np.ones((3, 4)))) == 0
