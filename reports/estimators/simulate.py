"""Simulate the coverage of the estimators on pools whose true values are known exactly.

    python reports/estimators/simulate.py                      # about twenty minutes on one core
    python reports/estimators/simulate.py --repetitions 200    # a preview in two minutes
    python reports/estimators/simulate.py --only audits        # one part again; the other rows of data.csv stay

Writes data.csv, one_prompt.csv and the figures beside this file. Every repetition draws new prompts and new samples.
"""

import argparse
import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.estimators.audit import audit_verifier, stratified_sample, wilson_interval
from bench.estimators.bootstrap import bootstrap_interval, resampled_means, simultaneous_band, t_quantile
from bench.estimators.crossing import crossover
from bench.estimators.curves import best_of_n, pass_at_k, pass_at_k_of_counts
from bench.estimators.distributions import t_cdf
from bench.estimators.kl import best_of_n_kl, best_of_n_kl_bound, exact_best_of_n_kl
from bench.estimators.sequential import stopped_pass_at_k
from bench.estimators.training_seeds import seed_interval, seed_intervals
from bench.estimators.uncertainty import holm, paired_contrast
from bench.records.environment import note
from bench.seeds import generator

HERE = Path(__file__).parent
PROMPTS, SAMPLES = 200, 64
SIZES = [1, 2, 4, 8, 16, 32, 64]

# The population: a prompt's pass rate is one of these. About an eighth of prompts is never solved, a few always.
RATES = np.array([0.0, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0])
SHARES = np.array([0.12, 0.1, 0.1, 0.13, 0.13, 0.12, 0.1, 0.1, 0.06, 0.04])
# The reward model: scores 0 .. 6, higher for correct samples; 3 % of the wrong ones fool it and get a 7.
SCORES = np.arange(8.0)
IF_WRONG = np.array([0.22, 0.24, 0.2, 0.14, 0.1, 0.05, 0.02, 0.03])
IF_RIGHT = np.array([0.05, 0.08, 0.13, 0.18, 0.22, 0.2, 0.14, 0.0])
SHARPENED = np.clip(RATES + 0.9 * (RATES - 0.12) * (1 - RATES), 0, 1)  # a policy that gave up on hard prompts
HONEST_WRONG = np.array([0.25, 0.24, 0.2, 0.14, 0.1, 0.05, 0.02, 0.0])  # the same without being fooled


def draw_pool(rates: np.ndarray, if_wrong: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (score [M, N], correct [M, N]) for prompts with these pass rates."""
    correct = rng.random((len(rates), SAMPLES)) < rates[:, None]
    uniform = rng.random(correct.shape)
    wrong_score = np.searchsorted(np.cumsum(if_wrong)[:-1], uniform, side="right")
    right_score = np.searchsorted(np.cumsum(IF_RIGHT)[:-1], uniform, side="right")
    return np.where(correct, right_score, wrong_score).astype(np.float64), correct.astype(np.float64)


def true_values(if_wrong: np.ndarray) -> dict[str, np.ndarray]:
    """Return the population's mean of each quantity at every n in SIZES, summed over rates and scores."""
    truth = defaultdict(list)
    for n in SIZES:
        gold, score_kl, verifier_kl, solved = [], [], [], []
        for rate in RATES:
            mass = (1 - rate) * if_wrong + rate * IF_RIGHT
            right = np.divide(rate * IF_RIGHT, mass, out=np.zeros(len(mass)), where=mass > 0)
            upper = np.minimum(np.cumsum(mass), 1)
            delta = np.diff(upper**n, prepend=0.0)
            gold.append(delta @ right)
            score_kl.append(sum(d * math.log(d / m) for d, m in zip(delta, mass, strict=True) if d > 0))
            q = 1 - (1 - rate) ** n
            solved.append(q)
            verifier_kl.append(0 if rate in (0, 1) else q * math.log(q / rate) + (1 - q) * (n - 1) * math.log(1 - rate))
        for name, values in (("gold", gold), ("score kl", score_kl), ("verifier kl", verifier_kl), ("pass", solved)):
            truth[name].append(SHARES @ np.array(values))
    return {name: np.array(values) for name, values in truth.items()}


def with_replacement(proxy: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return [M, K]: the exact mean over n draws with replacement, (b/N)ⁿ in place of C(b, n)/C(N, n)."""
    size = proxy.shape[1]
    order = np.argsort(proxy, axis=1)
    values, ranked = np.take_along_axis(gold, order, axis=1), np.take_along_axis(proxy, order, axis=1)
    means = np.array([[g[p == v].mean() for v in p] for p, g in zip(ranked, values, strict=True)])
    share = np.arange(size + 1)[:, None] / size
    return means @ np.diff(share ** np.array(SIZES), axis=0)


def first_n(proxy: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return [M, K]: the gold value of the best of the first n samples only."""
    return np.stack([best_of_n(proxy[:, :n], n, gold[:, :n]) for n in SIZES], axis=1)


class Tally:
    """Estimates and intervals of many repetitions, by (quantity, method, n, prompts)."""

    def __init__(self) -> None:
        self.truth: dict[tuple, float] = {}
        self.estimates: dict[tuple, list[tuple[float, float, float]]] = defaultdict(list)

    def add(self, key: tuple, truth: float, estimate: float, low: float, high: float) -> None:
        self.truth[key] = float(truth)
        self.estimates[key].append((float(estimate), float(low), float(high)))

    def add_columns(self, names: list[tuple[str, str, int]], truths: list[float], values: np.ndarray, rng) -> None:
        """Add one quantity per column of values [M, K]: the mean over prompts, with the default interval."""
        low, high = bootstrap_interval(values, rng)
        for column, (name, truth) in enumerate(zip(names, truths, strict=True)):
            self.add((*name, len(values)), truth, values[:, column].mean(), low[column], high[column])

    def rows(self) -> list[dict]:
        rows = []
        for (quantity, method, n, prompts), seen in self.estimates.items():
            truth = self.truth[quantity, method, n, prompts]
            estimate, low, high = np.array(seen).T
            slack = 1e-9
            covered = (low <= truth + slack) & (truth <= high + slack)
            rows.append(
                {
                    "quantity": quantity,
                    "method": method,
                    "n": n,
                    "prompts": prompts,
                    "truth": f"{truth:.6f}",
                    "mean_estimate": f"{estimate.mean():.6f}",
                    "bias": f"{estimate.mean() - truth:.6f}",
                    "standard_deviation": f"{estimate.std(ddof=1):.6f}",
                    "coverage": f"{covered.mean():.4f}",
                    "coverage_se": f"{math.sqrt(max(covered.mean() * (1 - covered.mean()), 1e-9) / len(seen)):.4f}",
                    "truth_below_interval": f"{(truth < low - slack).mean():.4f}",
                    "truth_above_interval": f"{(truth > high + slack).mean():.4f}",
                    "mean_width": f"{(high - low).mean():.6f}",
                    "repetitions": len(seen),
                }
            )
        return rows


def one_pool(tally: Tally, repetition: int, truth: dict[str, np.ndarray], honest: dict[str, np.ndarray]) -> None:
    """Add Best-of-N, pass@k, KL and paired differences on one draw of 200 prompts by 64 samples."""
    rng = generator(repetition, "simulate")
    rates = rng.choice(RATES, PROMPTS, p=SHARES)
    score, correct = draw_pool(rates, IF_WRONG, rng)
    names, truths, columns = [], [], []

    def block(quantity: str, method: str, values: np.ndarray, true: np.ndarray) -> None:
        names.extend((quantity, method, n) for n in SIZES)
        truths.extend(true.tolist())
        columns.append(values)

    ours = best_of_n(score, SIZES, correct)
    block("Best-of-N", "all n-subsets", ours, truth["gold"])
    block("Best-of-N", "first n samples", first_n(score, correct), truth["gold"])
    block("Best-of-N", "with replacement", with_replacement(score, correct), truth["gold"])
    block("pass@k", "all n-subsets", pass_at_k(correct, SIZES), truth["pass"])
    for estimator in ("jackknife", "plug_in", "beirami", "bound"):
        block("KL (verifier)", estimator, best_of_n_kl(correct, SIZES, estimator), truth["verifier kl"])
        block("KL (reward model)", estimator, best_of_n_kl(score, SIZES, estimator), truth["score kl"])
    tally.add_columns(names, truths, np.concatenate(columns, axis=1), rng)

    # The pass rate pooled over all prompts, put into the formulas for one prompt.
    means = resampled_means(correct.mean(axis=1)[:, None], rng)[:, 0]
    for column, n in enumerate(SIZES):
        for quantity, true, formula in (
            ("pass@k", truth["pass"], lambda p, n=n: 1 - (1 - p) ** n),
            ("KL (verifier)", truth["verifier kl"], lambda p, n=n: pooled_kl(p, n)),
        ):
            low, high = np.quantile(formula(means), [0.025, 0.975])
            key = (quantity, "pooled pass rate", n, PROMPTS)
            tally.add(key, true[column], formula(correct.mean()), low, high)
    # Every sample as an independent unit.
    half = 1.96 * math.sqrt(correct.mean() * (1 - correct.mean()) / correct.size)
    key = ("pass@k", "samples as units", 1, PROMPTS)
    tally.add(key, truth["pass"][0], correct.mean(), correct.mean() - half, correct.mean() + half)

    for method, interval in (("simultaneous band", simultaneous_band), ("pointwise intervals", bootstrap_interval)):
        low, high = interval(ours, rng)
        outside = 0 if ((low <= truth["gold"]) & (truth["gold"] <= high)).all() else 1
        tally.add(("Best-of-N whole curve", method, 0, PROMPTS), 0, 0, outside, outside)

    # Paired differences on the same prompts.
    honest_pool = draw_pool(rates, HONEST_WRONG, rng)
    again = draw_pool(rates, IF_WRONG, rng)
    tuned_rates = rates + 0.6 * rates * (1 - rates)
    tuned = (rng.random((PROMPTS, 4)) < tuned_rates[:, None]).mean(axis=1)
    true_tuned = float(SHARES @ (RATES + 0.6 * RATES * (1 - RATES)))
    for name, n, a, b, true in (
        (
            "two reward models",
            16,
            best_of_n(honest_pool[0], 16, honest_pool[1]),
            ours[:, 4],
            honest["gold"][4] - truth["gold"][4],
        ),
        ("tuned policy - Best-of-4", 4, tuned, ours[:, 2], true_tuned - truth["gold"][2]),
        ("no difference", 16, best_of_n(again[0], 16, again[1]), ours[:, 4], 0.0),
    ):
        result = paired_contrast(a, b, rng)
        key = f"paired: {name}", "paired", n, PROMPTS
        tally.add(key, true, result.mean, result.low, result.high)
        welch = math.sqrt(a.var(ddof=1) / PROMPTS + b.var(ddof=1) / PROMPTS)
        half = t_quantile(0.975, 2 * PROMPTS - 2) * welch
        tally.add(
            (f"paired: {name}", "unpaired", n, PROMPTS), true, result.mean, result.mean - half, result.mean + half
        )


def pooled_kl(p: np.ndarray, n: int) -> np.ndarray:
    q = 1 - (1 - p) ** n
    return q * np.log(q / p) + (1 - q) * (n - 1) * np.log(1 - p)


def few_prompts(tally: Tally, repetition: int, truth: dict[str, np.ndarray]) -> None:
    """Add three intervals of a mean over 20, 50 or 200 prompts, for values of growing skewness."""
    rng = generator(repetition, "few prompts")
    for prompts in (20, 50, 200):
        rates = rng.choice(RATES, prompts, p=SHARES)
        score, correct = draw_pool(rates, IF_WRONG, rng)
        rare = (rng.random(prompts) < 0.05).astype(np.float64)
        values = np.column_stack([best_of_n(score, 4, correct), pass_at_k(correct, 1), best_of_n_kl(correct, 8), rare])
        true = [truth["gold"][2], truth["pass"][0], truth["verifier kl"][3], 0.05]
        labels = ["Best-of-4", "pass@1", "KL n = 8", "0/1 at 5 %"]
        means = resampled_means(values, rng)
        error = values.std(axis=0, ddof=1) / math.sqrt(prompts) * t_quantile(0.975, prompts - 1)
        bca = bootstrap_interval(values, rng)
        percentile = np.quantile(means, [0.025, 0.975], axis=0)
        for column, label in enumerate(labels):
            mean = values[:, column].mean()
            for method, low, high in (
                ("BCa at t levels (default)", bca[0][column], bca[1][column]),
                ("percentile bootstrap", percentile[0][column], percentile[1][column]),
                ("t interval", mean - error[column], mean + error[column]),
            ):
                tally.add((f"interval: {label}", method, 0, prompts), true[column], mean, low, high)


def few_seeds(tally: Tally, repetition: int) -> None:
    """Add a tuned policy's accuracy over 2, 3 or 5 training seeds; the truth is that of new seeds on new prompts."""
    rng = generator(repetition, "few seeds")
    for seeds in (2, 3, 5):
        rates = rng.choice(RATES, PROMPTS, p=SHARES)
        tuned = np.clip(rates + 0.6 * rates * (1 - rates), 0, 1)
        shift = rng.normal(0, 0.08, (seeds, 1)) * (4 * tuned * (1 - tuned))  # a seed moves undecided prompts most
        values = (rng.random((seeds, PROMPTS, 4)) < np.clip(tuned + shift, 0, 1)[..., None]).mean(axis=2)
        interval = seed_interval(values)
        truth = TRUE_TUNED_OVER_SEEDS
        name = "training seeds"
        tally.add((name, "two levels (default)", seeds, PROMPTS), truth, interval.mean, interval.low, interval.high)
        ends = interval.low_same_prompts, interval.high_same_prompts
        tally.add((name, "t(S - 1) on seed means", seeds, PROMPTS), truth, interval.mean, *ends)
        low, high = bootstrap_interval(values.mean(axis=0), rng)
        tally.add((name, "prompts only", seeds, PROMPTS), truth, interval.mean, low, high)


# What six configurations share: the spread between seeds of each, in accuracy, and the correlation within a seed.
FAMILIES = {
    "equal spreads": (np.full(6, 0.03), 0.0),
    "equal spreads, cells alike within a seed": (np.full(6, 0.03), 0.9),
    "unequal spreads": (np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06]), 0.5),
    "one wide spread": (np.array([0.03, 0.03, 0.03, 0.03, 0.03, 0.09]), 0.5),
}
EFFECTS = np.array([0.06, 0.0, 0.06, 0.0, 0.06, 0.0])


def families(tally: Tally, repetition: int) -> None:
    """Add six configurations' differences from a control over 3, 5 or 8 shared seeds: three are 0.06, three are 0.

    Prompts differ by 0.2 and a prompt under a seed by 0.25 (standard deviations). Each configuration has its own
    variance between seeds, or one pooled over the six.
    """
    rng = generator(repetition, "families")
    for (name, (spreads, alike)), seeds, prompts in itertools.product(FAMILIES.items(), (3, 5, 8), (60, 300)):
        shared = np.sqrt(alike) * rng.normal(size=(1, seeds, 1))
        shift = spreads[:, None, None] * (shared + np.sqrt(1 - alike) * rng.normal(size=(6, seeds, 1)))
        noise = 0.2 * rng.normal(size=(6, 1, prompts)) + 0.25 * rng.normal(size=(6, seeds, prompts))
        cells = EFFECTS[:, None, None] + shift + noise
        made = {"own variance": [seed_interval(cell) for cell in cells], "pooled variance": seed_intervals(cells)}
        for method, found in made.items():
            where = method, seeds, prompts
            for interval, effect in zip(found, EFFECTS, strict=True):
                ends = interval.mean - effect, interval.low - effect, interval.high - effect
                tally.add((f"family: {name}", *where), 0, *ends)
                resolved = float(interval.low > 0 or interval.high < 0)
                what = "a true difference is found" if effect else "false verdict"
                tally.add((f"family: {name}, {what}", *where), 0, resolved, resolved, resolved)
            tally.add((f"family: {name}, the last cell", *where), 0, *ends)
            p_values = [2 * (1 - t_cdf(abs(own.mean) / own.error, own.freedom)) for own in found]
            false = float((holm(np.array(p_values))[EFFECTS == 0] <= 0.05).any())
            tally.add((f"family: {name}, any false verdict (Holm)", *where), 0, false, false, false)


def shares_of_seeds(tally: Tally, repetition: int) -> None:
    """Add the accuracy over 3, 5 or 8 seeds on 200 fixed prompts, where the seeds' accuracies differ much."""
    rng = generator(repetition, "shares of seeds")
    for truth, seeds in itertools.product((0.05, 0.14, 0.5), (3, 5, 8)):
        values = rng.binomial(PROMPTS, rng.beta(20 * truth, 20 * (1 - truth), seeds)) / PROMPTS
        mean, error, t = values.mean(), values.std(ddof=1) / math.sqrt(seeds), t_quantile(0.975, seeds - 1)
        spread = t * error / (mean * (1 - mean)) if mean > 0 else math.nan
        for method, ends in {
            "t": (mean - t * error, mean + t * error),
            "t on logits": [1 / (1 + (1 - mean) / mean * math.exp(-by)) for by in (-spread, spread)],
            "Wilson's, at the effective number": wilson_interval(mean, mean * (1 - mean) / error**2, quantile=t)[1:]
            if error > 0
            else (math.nan, math.nan),
        }.items():
            tally.add((f"accuracy of {truth} by seed", method, seeds, PROMPTS), truth, mean, *ends)


def crossing_curves(tally: Tally, repetition: int) -> None:
    """Add whether a band holds the whole true difference of pass@k, k = 1 .. 64, of a sharpened policy from its base.

    The sharpened policy wins at small k. It no longer solves the hardest prompts, so that the base wins at large k.
    """
    rng = generator(repetition, "crossing curves")
    k = np.arange(1, SAMPLES + 1)
    truth = SHARES @ ((1 - RATES[:, None]) ** k - (1 - SHARPENED[:, None]) ** k)
    for prompts in (20, 50, 200):
        kind = rng.choice(len(RATES), prompts, p=SHARES)
        correct = [rng.random((prompts, SAMPLES)) < rates[kind][:, None] for rates in (SHARPENED, RATES)]
        a, b = (pass_at_k_of_counts(pool.sum(axis=1), np.full(prompts, SAMPLES), k) for pool in correct)
        found = crossover(a, b, k, rng, resamples=2_000)
        wrong = float((found.leader * np.sign(truth) < 0).any())
        tally.add(("crossing curves", "leads in the wrong direction", 0, prompts), 0, wrong, wrong, wrong)
        for method, low, high in (
            ("crossover", found.low, found.high),
            ("simultaneous band, plain SE", *simultaneous_band(a - b, rng, resamples=2_000)),
            ("pointwise intervals", *bootstrap_interval(a - b, rng, resamples=2_000)),
        ):
            outside = 0 if ((low <= truth) & (truth <= high)).all() else 1
            tally.add(("crossing curves", method, 0, prompts), 0, 0, outside, outside)


def audits(tally: Tally, repetition: int) -> None:
    """Add the accuracy behind a verifier that rejects 15 % of correct and accepts 5 % of wrong completions.

    200 of 200 x 8 verdicts are checked by hand. Errors are independent, or those of a prompt occur together.
    """
    rng = generator(repetition, "audits")
    truth = float(SHARES @ RATES)
    for errors in ("independent errors", "errors by prompt"):
        correct = rng.random((PROMPTS, 8)) < rng.choice(RATES, PROMPTS, p=SHARES)[:, None]
        chance = rng.random(correct.shape if errors == "independent errors" else (PROMPTS, 1))
        verdicts = np.where(correct, chance < 0.85, chance < 0.05).astype(np.float64)
        sample = stratified_sample(verdicts, 200, rng)
        audit = audit_verifier(verdicts, sample.prompts, sample.columns, correct[sample.prompts, sample.columns])
        name = f"audit: {errors}"
        rate = audit.accuracy
        tally.add((name, "audited, all uncertainties", 8, PROMPTS), truth, rate.share, rate.low, rate.high)
        low, high = bootstrap_interval(verdicts.mean(axis=1), rng, resamples=2_000)
        tally.add((name, "verdicts alone", 8, PROMPTS), truth, verdicts.mean(), low, high)
        ends = [_corrected(end, audit.sensitivity.share, audit.specificity.share) for end in (low, high)]
        tally.add((name, "corrected, error rates as if known", 8, PROMPTS), truth, rate.share, *ends)


def _corrected(apparent: float, sensitivity: float, specificity: float) -> float:
    """Return Rogan and Gladen's estimate."""
    return (apparent + specificity - 1) / (sensitivity + specificity - 1)


def stopped_counts(tally: Tally, repetition: int) -> None:
    """Add pass@k of prompts whose sampling stopped at the first block of 8 with a success, or at 64 samples."""
    rng = generator(repetition, "stopped counts")
    correct = rng.random((PROMPTS, SAMPLES)) < rng.choice(RATES, PROMPTS, p=SHARES)[:, None]
    blocks = correct.reshape(PROMPTS, -1, 8).any(axis=2)
    drawn = np.where(blocks.any(axis=1), 8 * (blocks.argmax(axis=1) + 1), SAMPLES)
    accepted = np.where(np.arange(SAMPLES) < drawn[:, None], correct, False).sum(axis=1)
    k = [1, 8, 32, 64]
    truth = [float(SHARES @ (1 - (1 - RATES) ** size)) for size in k]
    ours = stopped_pass_at_k(accepted, drawn, k, enough=1, limit=SAMPLES, block=8)
    names = [("pass@k of stopped counts", "stopped=first_success", size) for size in k]
    tally.add_columns(names, truth, ours, rng)
    plain = pass_at_k_of_counts(accepted, drawn, [1, 8])  # the fewest samples are 8
    tally.add_columns(
        [("pass@k of stopped counts", "as if N were fixed", size) for size in (1, 8)], truth[:2], plain, rng
    )


def true_tuned_over_seeds() -> float:
    """Return the mean over seeds and prompts of the clipped accuracy in `few_seeds`, by a grid of normal densities."""
    x = np.linspace(-8, 8, 4001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()
    tuned = np.clip(RATES + 0.6 * RATES * (1 - RATES), 0, 1)
    moved = np.clip(tuned[:, None] + 0.08 * x * (4 * tuned * (1 - tuned))[:, None], 0, 1)
    return float(SHARES @ moved @ density)


TRUE_TUNED_OVER_SEEDS = true_tuned_over_seeds()


PARTS: dict[str, Callable[[Tally, int, dict, dict], None]] = {
    "one_pool": one_pool,
    "few_prompts": lambda tally, repetition, truth, _: few_prompts(tally, repetition, truth),
    "few_seeds": lambda tally, repetition, *_: few_seeds(tally, repetition),
    "families": lambda tally, repetition, *_: families(tally, repetition),
    "shares_of_seeds": lambda tally, repetition, *_: shares_of_seeds(tally, repetition),
    "crossing_curves": lambda tally, repetition, *_: crossing_curves(tally, repetition),
    "audits": lambda tally, repetition, *_: audits(tally, repetition),
    "stopped_counts": lambda tally, repetition, *_: stopped_counts(tally, repetition),
}


def one_prompt() -> list[dict]:
    """Return the exact bias of the jackknife's KL at n = 32 for single prompts, over all counts of right samples."""
    rows = []
    for rate in (0.02, 0.1):
        right = np.arange(SAMPLES + 1)
        chance = np.array([math.comb(SAMPLES, int(k)) * rate**k * (1 - rate) ** (SAMPLES - k) for k in right])
        kl = best_of_n_kl((np.arange(SAMPLES) < right[:, None]).astype(float), 32, "jackknife")
        truth, mean = exact_best_of_n_kl([1 - rate, rate], [0, 1], 32), float(chance @ np.ravel(kl))
        rows.append({"pass_rate": rate, "n": 32, "truth": f"{truth:.6f}", "bias": f"{mean - truth:.6f}"})
    return rows


def _write(name: str, rows: list[dict]) -> None:
    with (HERE / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    note(HERE / name)


def _key(row: dict) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("quantity", "method", "n", "prompts"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2_000)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    repetitions, parts = given.repetitions, [PARTS[name] for name in given.only]
    truth, honest = true_values(IF_WRONG), true_values(HONEST_WRONG)
    np.testing.assert_array_equal(truth["pass"].round(12), honest["pass"].round(12))
    assert (truth["verifier kl"] <= best_of_n_kl_bound(SIZES)).all()
    tally = Tally()
    for repetition in range(repetitions):
        for part in parts:
            part(tally, repetition, truth, honest)
        if (repetition + 1) % 100 == 0:
            print(f"{repetition + 1} of {repetitions}", flush=True)
    made = {_key(row): row for row in tally.rows()}
    if len(parts) < len(PARTS):
        with (HERE / "data.csv").open(newline="") as file:
            made = {_key(row): row for row in csv.DictReader(file)} | made
    _write("data.csv", list(made.values()))
    _write("one_prompt.csv", one_prompt())
    from figures import draw

    draw(HERE)


if __name__ == "__main__":
    main()
