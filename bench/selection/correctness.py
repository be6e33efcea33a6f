"""Methods that keep what a verifier accepts: all, one per path of reasoning, the shortest, or at most k per prompt."""

from functools import cache
from typing import Annotated

import numpy as np

from bench.artifacts import Selection
from bench.config.rules import TRUE_OR_FALSE, CountPerPrompt, number, one_of
from bench.selection.cells import CORRECT, at_most_samples, cells, correct, ranks_within_prompt, same_shape
from bench.selection.ranking import top_per_prompt


def all_correct(rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """Every completion that the verifier accepts (reward above 0.5), as in STaR (Zelikman et al. 2022), section 3.1.

    rewards: [M, N]. `rng` is unused.
    """
    return cells(correct(rewards))


def shortest_correct(rewards: np.ndarray, rng: np.random.Generator, *, length: np.ndarray) -> Selection:
    """The shortest correct completion (reward above 0.5) of every prompt that has one.

    rewards: [M, N]; length: [M, N] tokens. Source: the shortest correct sample as the target of concise reasoning
    (Munkhbat et al. 2025, arXiv 2502.20122).
    """
    same_shape("length", length, rewards)
    return top_per_prompt(np.where(correct(rewards), -np.asarray(length, float), np.nan), rng)


def distinct_correct(
    rewards: np.ndarray,
    rng: np.random.Generator,
    *,
    paths: np.ndarray,
    steps_true: np.ndarray | None = None,
    texts: np.ndarray | None = None,
    every_step: Annotated[bool, TRUE_OR_FALSE] = False,
    keep: Annotated[str, one_of("random", "farthest")] = "random",
) -> Selection:
    """One correct completion for each distinct reasoning path of a prompt. Source: RFT (Yuan et al. 2023), section 3.3.

    rewards: [M, N]; paths: [M, N] objects, equal where two completions have the same path, None where there is no path
    (such a completion is not chosen).
    every_step: only completions whose every equation is true, as in RFT; needs steps_true [M, N] bool.
    keep: which completion of a path stays. "random": any of them. "farthest", as in RFT's code: completions are visited
    one by one (here in random order), and one replaces the completion kept for its path where it is farther from those
    kept for the other paths, by the sum of character edit distances; needs texts [M, N] str.
    """
    same_shape("paths", paths, rewards)
    eligible = correct(rewards) & (np.asarray(paths, object) != None)  # noqa: E711  (elementwise)
    if every_step:
        if steps_true is None:
            raise ValueError("every_step needs steps_true [M, N]: whether each step of a completion is true.")
        same_shape("steps_true", steps_true, rewards)
        eligible &= np.asarray(steps_true, bool)
    if keep == "farthest":
        if texts is None:
            raise ValueError("keep='farthest' needs texts [M, N], between which distances are taken.")
        same_shape("texts", texts, rewards)
    chosen = np.zeros(eligible.shape, bool)
    for row in np.flatnonzero(eligible.any(axis=1)):
        columns = rng.permutation(np.flatnonzero(eligible[row]))
        if texts is not None and keep == "farthest":
            kept = _farthest(columns, paths[row], texts[row])
        else:
            kept = list({paths[row][column]: column for column in reversed(columns)}.values())  # the first of each
        chosen[row, kept] = True
    return cells(chosen)


def _farthest(columns: np.ndarray, paths: np.ndarray, texts: np.ndarray) -> list[int]:
    """The columns that stay when they are visited in the given order. paths, texts: [N]."""
    distance = cache(edit_distance)
    kept: dict[str, int] = {}
    for column in columns:
        holder = kept.setdefault(paths[column], column)
        if texts[holder] != texts[column]:
            others = [texts[other] for path, other in kept.items() if path != paths[column]]
            new, old = (sum(distance(*sorted((text, o))) for o in others) for text in (texts[column], texts[holder]))
            if new > old:
                kept[paths[column]] = column
    return list(kept.values())


def balanced(
    rewards: np.ndarray,
    rng: np.random.Generator,
    *,
    k: CountPerPrompt,
    threshold: Annotated[float, number()] = CORRECT,
    allocation: Annotated[str, one_of("uniform", "difficulty")] = "uniform",
) -> Selection:
    """The best completions above `threshold` per prompt, at most k: easy prompts can't crowd out hard ones.

    rewards: [M, N]. BenchError where k is above N.
    allocation: "uniform", k for all prompts, as in B-STaR (Zeng et al. 2024, arXiv 2412.17256). "difficulty", as in the
    Prop2Diff of DART-Math (Tong et al. 2024, arXiv 2407.13690): k for the hardest prompt that has any; for others in
    proportion to their share of samples not above the threshold, rounded up; a prompt always solved gets none.
    """
    at_most_samples(k, rewards)
    rewards = np.asarray(rewards, float)
    accepted = rewards > threshold
    quota = np.full(len(rewards), k)
    if allocation == "difficulty":
        scored = np.maximum((~np.isnan(rewards)).sum(axis=1), 1)
        failed = (scored - accepted.sum(axis=1)) / scored  # [M], used where something is accepted
        hardest = np.max(failed, where=accepted.any(axis=1), initial=0)
        if hardest > 0:
            quota = np.ceil(k * failed / hardest - 1e-9).astype(int)
    ranks = ranks_within_prompt(np.where(accepted, rewards, np.nan), rng)
    return cells((ranks >= 0) & (ranks < quota[:, None]))


def edit_distance(one: str, other: str) -> int:
    """The Levenshtein distance: fewest insertions, deletions and substitutions that make two texts equal.

    Two integers hold where a column of the dynamic programme rises and falls by one from cell to cell; bit operations
    move all cells together. Source: Myers 1999, in Hyyrö's 2003 form.
    """
    if len(one) < len(other):
        one, other = other, one
    if not other:
        return len(one)
    everywhere, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    places: dict[str, int] = {}  # character -> where `one` has it
    for place, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << place
    rises, falls, distance = everywhere, 0, len(one)
    for character in other:
        equal = places.get(character, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        right_rises, right_falls = falls | ~(diagonal | rises), rises & diagonal
        if right_rises & last:
            distance += 1
        elif right_falls & last:
            distance -= 1
        right_rises, right_falls = right_rises << 1 | 1, right_falls << 1
        rises = (right_falls | ~(diagonal | right_rises)) & everywhere
        falls = right_rises & diagonal & everywhere
    return distance
