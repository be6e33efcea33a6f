"""Fits of curves with known coefficients, and verdicts on curves that do and do not turn over."""

import numpy as np
import pytest
from selecting import rng

from bench.estimators.reward_curve import Fit, fit_best_of_n, fit_interval, overoptimisation, peak

KL = np.array([0.0, 0.2, 0.6, 1.2, 2.0, 3.0])
D = np.sqrt(KL)


def test_known_coefficients_come_back():
    for weights in (None, np.ones(6)):
        assert fit_best_of_n(KL, 0.8 * D - 0.3 * KL, weights) == pytest.approx((0.8, 0.3))


def test_weights_as_in_numpy_least_squares():
    gain, weights = rng().normal(size=6), rng(1).random(6)
    root = np.sqrt(weights)[:, None]
    expected = np.linalg.lstsq(root * np.column_stack([D, -KL]), root[:, 0] * gain, rcond=None)[0]
    assert fit_best_of_n(KL, gain, weights) == pytest.approx(expected)


def test_the_peak_is_where_the_curve_is_highest():
    grid = np.linspace(1e-6, 6, 600_001)
    distance, height = peak(Fit(0.8, 0.3))
    curve = 0.8 * grid - 0.3 * grid**2
    assert (distance, height) == pytest.approx((grid[curve.argmax()], curve.max()), abs=1e-4)
    assert (distance, height) == pytest.approx((0.8 / 0.6, 0.64 / 1.2))
    assert peak(Fit(0.5, -0.1)) == (np.inf, np.inf)


def curves(prompts, beta, seed=0):
    """Per-prompt kl and gain with a prompt effect common to the whole curve and noise of each point."""
    source = rng(seed)
    kl = np.broadcast_to(KL, (prompts, 6)) * source.uniform(0.8, 1.2, (prompts, 1))
    slope = 0.8 + source.normal(0, 0.4, (prompts, 1))
    return kl, slope * D - beta * KL + source.normal(0, 0.1, (prompts, 6)) * (D > 0)


def test_intervals_cover_the_coefficients_and_shrink():
    """Nominal 95 %: of 100 studies, between 88 and 100 cover (four standard errors)."""
    covered = []
    for seed in range(100):
        fit = fit_interval(*curves(100, 0.3, seed), rng(), resamples=400)
        covered.append((fit.alpha_low <= 0.8 <= fit.alpha_high, fit.beta_low <= 0.3 <= fit.beta_high))
    assert (np.mean(covered, axis=0) >= 0.87).all()
    small, large = (fit_interval(*curves(prompts, 0.3), rng(), resamples=1000) for prompts in (50, 800))
    assert large.alpha_high - large.alpha_low == pytest.approx((small.alpha_high - small.alpha_low) / 4, rel=0.4)
    assert large.peak_low < large.peak < large.peak_high
    assert large.peak == pytest.approx(0.8 / 0.6, rel=0.2)


def test_a_straight_line_has_its_peak_at_infinity():
    fit = fit_interval(*curves(200, 0.0), rng(), resamples=1000)
    assert fit.beta_low < 0 < fit.beta_high
    assert fit.peak_high == np.inf


def test_over_optimisation_needs_a_resolved_fall_of_gold_while_the_proxy_rises():
    kl, gain = curves(400, 0.6)  # peak at d = .67, well inside
    proxy = np.sqrt(kl) + rng(5).normal(0, 0.1, kl.shape)
    found = overoptimisation(proxy, gain, rng())
    assert found.verdict == "over-optimised"
    assert 0 < found.peak < 5
    assert found.gold.verdict == "worse"
    assert found.gold.prompts == 200
    assert overoptimisation(-proxy, gain, rng()).verdict == "not resolved"  # the proxy falls as well
    bent = curves(400, 0.2)[1]  # β > 0, but its peak lies beyond the last point
    assert overoptimisation(proxy, bent, rng()).verdict == "not resolved"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_best_of_n([0, 1.0], [0, 1.0]), "fewer than two different values"),
        (lambda: fit_best_of_n([0, -1.0, 2.0], [0, 1.0, 2.0]), "no negative numbers"),
        (lambda: fit_best_of_n([0, 1.0, 2.0], [0, 1.0]), r"gain has shape \[2\], but kl has \[3\]"),
        (lambda: overoptimisation(np.ones((1, 2)), np.ones((1, 2)), rng()), "at least 2 prompts"),
        (lambda: overoptimisation(np.ones((4, 2)), np.ones((4, 3)), rng()), r"gold has shape \[4, 3\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
