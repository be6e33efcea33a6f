"""One variance between seeds for a family of cells: against loops, in limits, and by simulation."""

import math

import numpy as np
import pytest
import scipy

from bench.estimators.audit import wilson_interval
from bench.estimators.training_seeds import pooled_variances, seed_interval, seed_intervals
from bench.records.read import Estimate
from bench.reporting.contrasts import Contrast, contrast, contrasts
from bench.reporting.exhibits.harness import of_seeds


def by_loops(means: np.ndarray) -> list[tuple[float, float]]:
    """(variance, freedom) of each cell: the formulas of `pooled_variances`, written out for cells that all vary."""
    n, cells = len(means) - 1, means.shape[1]
    own = [sum((x - means[:, c].mean()) ** 2 for x in means[:, c]) / n for c in range(cells)]
    squares = [np.corrcoef(means[:, c], means[:, d])[0, 1] ** 2 for c in range(cells) for d in range(cells) if c != d]
    r2, mean = sum(squares) / len(squares), sum(own) / cells
    unlike = 1 - (n * r2 - 1) / (n - 1)  # 1 - r², with r² corrected for chance
    chance = unlike * 2 * sum(v**2 for v in own) / cells / (n + 2)  # E[v²] is σ⁴(n + 2)/n, Var(v) is 2 σ⁴/n
    weight = min(1.0, chance / (sum((v - mean) ** 2 for v in own) / (cells - 1)))
    most = n * cells / (1 + (cells - 1) * r2)
    found = []
    for v in own:
        if v > 3 * (sum(own) - v) / (cells - 1):
            found.append((v, n))
        else:
            total = n / (1 - weight) if weight < 1 else math.inf
            found.append((weight * mean + (1 - weight) * v, max(n, min(total, most))))
    return found


@pytest.mark.parametrize(("seeds", "cells"), [(3, 2), (3, 6), (5, 3), (8, 12)])
def test_pooled_variances_by_loops(seeds: int, cells: int):
    rng = np.random.default_rng(seeds)
    weights = set()
    for _ in range(30):
        means = rng.normal(size=(seeds, cells)) * rng.uniform(0.4, 2.5, cells) + rng.normal(size=(seeds, 1))
        variances, freedoms = pooled_variances(means)
        expected = by_loops(means)
        np.testing.assert_allclose(np.stack([variances, freedoms], axis=1), expected, rtol=1e-9)
        weights |= {freedom for _, freedom in expected}
    assert seeds - 1 in weights  # an outlier
    assert len(weights) > 20  # shrunken ones


def test_what_is_not_pooled():
    rng = np.random.default_rng(0)
    for means in (rng.normal(size=(2, 6)), rng.normal(size=(4, 1))):  # two seeds; one cell
        variances, freedoms = pooled_variances(means)
        np.testing.assert_allclose(variances, means.var(axis=0, ddof=1))
        assert (freedoms == len(means) - 1).all()
    cells = rng.normal(size=(4, 3))
    still = np.column_stack([cells, np.full(4, 0.3)])  # equal under all seeds: neither pooled nor part of the pool
    for with_still, alone in zip(pooled_variances(still), pooled_variances(cells), strict=True):
        np.testing.assert_allclose(with_still[:3], alone)
    assert pooled_variances(still)[0][3] == pytest.approx(0.0)
    wide = np.column_stack([cells, 50 * cells[:, 0]])
    assert pooled_variances(wide)[1][3] == 3  # an outlier keeps its own


def test_equal_cells_give_no_more_than_one_of_them():
    """Six copies of one contrast are one contrast: the interval is that of `seed_interval`."""
    values = np.random.default_rng(1).normal(size=(3, 40))
    alone = seed_interval(values)
    for found in seed_intervals([values] * 6):
        assert found.seed_freedom == pytest.approx(2.0)
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high))


def test_one_cell_is_the_two_way_interval_and_prompts_may_differ():
    rng = np.random.default_rng(2)
    cells = [rng.normal(size=(4, prompts)) for prompts in (30, 50)]
    cells[1][2, 7] = np.nan
    assert seed_intervals(cells[:1]) == [seed_interval(cells[0])]
    assert [found.prompts for found in seed_intervals(cells)] == [30, 49]
    with pytest.raises(ValueError, match=r"cells have \[4, 3\] seeds; equally many are expected"):
        seed_intervals([cells[0], cells[0][:3]])


def test_pooled_intervals_cover_and_vary_less():
    """Six cells, three seeds, 1,500 repetitions: t on the means with the pooled variance, and with each cell's own."""
    rng = np.random.default_rng(3)
    for alike in (0.0, 0.9):
        covered, widths = [], []
        for _ in range(1500):
            means = math.sqrt(alike) * rng.normal(size=(3, 1)) + math.sqrt(1 - alike) * rng.normal(size=(3, 6))
            variances, freedoms = pooled_variances(means)
            both = np.stack([variances, means.var(axis=0, ddof=1)])
            half = scipy.stats.t.ppf(0.975, np.stack([freedoms, np.full(6, 2)])) * np.sqrt(both / 3)
            covered.append(np.abs(means.mean(axis=0)) <= half)
            widths.append(half)
        pooled, own = np.mean(covered, axis=(0, 2))
        assert 0.935 < pooled < 0.995
        assert own == pytest.approx(0.95, abs=0.015)
        assert np.std(widths, axis=(0, 2))[0] < (0.75 if alike == 0 else 1.05) * np.std(widths, axis=(0, 2))[1]


def test_contrasts_pool_equally_many_seeds_alone():
    rng = np.random.default_rng(4)
    zeros = {seeds: np.zeros((seeds, 50)) for seeds in (1, 3, 5)}
    sides = {f"{seeds} {place}": (rng.normal(0.1, 0.3, (seeds, 50)), zeros[seeds]) for seeds in zeros for place in "ab"}
    found = contrasts(sides, "{}")
    assert list(found) == list(sides)
    for key, pair in sides.items():
        mates = {name: other for name, other in sides.items() if name[0] == key[0]}
        assert found[key] == contrasts(mates, "{}")[key]
        assert found[key].difference.value == contrast(*pair, key).difference.value
    assert found["1 a"] == contrast(*sides["1 a"], "1 a")
    assert found["1 a"].freedom is None
    assert found["3 a"] != contrast(*sides["3 a"], "3 a")


def test_differences_of_seeds_are_pooled():
    differences = np.array([[0.1, 0.02], [0.14, 0.0], [0.09, -0.03]])
    variances, freedoms = pooled_variances(differences)
    for place, found in enumerate(of_seeds(differences)):
        half = scipy.stats.t.ppf(0.975, freedoms[place]) * math.sqrt(variances[place] / 3)
        assert found.difference.high - found.difference.value == pytest.approx(half)
        p_value = 2 * scipy.stats.t.sf(
            abs(differences[:, place].mean()) / math.sqrt(variances[place] / 3), freedoms[place]
        )
        assert found.p_value == pytest.approx(p_value)
    (alone,) = of_seeds(differences[:, :1])
    expected = scipy.stats.t.interval(0.95, 2, differences[:, 0].mean(), scipy.stats.sem(differences[:, 0]))
    assert (alone.difference.low, alone.difference.high) == pytest.approx(expected)


def test_the_interval_of_a_share_from_its_error():
    """Wilson's by definition: the shares p within t errors, where the error changes with the root of p · (1 − p)."""
    for share, error, t in ((0.142, 0.069, 4.303), (0.02, 0.01, 12.7), (0.9, 0.2, 2.0)):
        found = wilson_interval(share, share * (1 - share) / error**2, quantile=t)
        assert 0 < found.low < share < found.high < 1
        for end in (found.low, found.high):
            assert abs(end - share) == pytest.approx(t * error * math.sqrt(end * (1 - end) / (share * (1 - share))))


@pytest.mark.parametrize(
    ("sampled", "greedy", "words"),
    [
        ("better", "better", "better"),
        ("better", "", "better"),
        ("better", "not resolved", "better (sampled only)"),
        ("better", "worse", "better (greedy: worse)"),
        ("not resolved", "worse", "not resolved (greedy: worse)"),
        ("not resolved", "not resolved", "not resolved"),
    ],
)
def test_a_verdict_that_holds_one_way_says_so(sampled: str, greedy: str, words: str):
    found = Contrast(Estimate(0.1, 0.05, 0.15), 0.01, 0.02, 3, 60, sampled, other=greedy)
    assert found.scoped == words
    said = found.against("the base")
    assert ("; " + words.partition("(")[2]).rstrip("; ") in said or "(" not in words
    assert Contrast(found.difference, 0.01, 0.02, 3, 60, "worse", decoded="greedy", other="not resolved").scoped == (
        "worse (greedy only)"
    )


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_interval_of_few_prompts_is_no_wider_than_that_of_one_degree_of_freedom(seeds: int):
    """Satterthwaite's degrees can fall to 0 there, as where all prompts have one mean and all seeds too."""
    equal = seed_interval(np.eye(seeds))
    assert equal.error == pytest.approx(math.sqrt(equal.residual_variance) / seeds)
    assert equal.freedom == (seeds - 1) ** 2
    rng, covered, below = np.random.default_rng(0), [], 0
    for _ in range(300):
        values = 0.2 * rng.normal(size=5) + 0.2 * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, 5))
        found = seed_interval(values)
        widest = max(
            t * e for t, e in ((scipy.stats.t.ppf(0.975, 1), found.error), (1, found.high_same_prompts - found.mean))
        )
        assert found.high - found.mean <= widest * (1 + 1e-9)
        below += found.freedom == 1.0
        covered.append(found.low <= 0 <= found.high)
    assert below > 10
    assert np.mean(covered) > 0.94
