"""The sampler's distribution: hand-computed cases, a token-by-token reference, and the same by torch."""

import numpy as np
import pytest
from drawing import modified_logprobs

from bench.models.sampler import Sampler, truncate


def reference(logits: list[float], temperature: float, top_p: float, top_k: int) -> np.ndarray:
    """One row in plain Python, straight from the definition: the smallest tokens go while their mass fits in 1 - p."""
    kept = {token: logit / temperature for token, logit in enumerate(logits)}
    if top_k:
        kth = sorted(kept.values(), reverse=True)[min(top_k, len(kept)) - 1]
        kept = {token: value for token, value in kept.items() if value >= kth}
    mass = {token: np.exp(value - max(kept.values())) for token, value in kept.items()}
    total, gone = sum(mass.values()), 0.0
    for token in sorted(kept, key=lambda token: (kept[token], token))[:-1]:
        gone += mass[token] / total
        if top_p == 1 or gone > 1 - top_p:
            break
        del kept[token]
    probabilities = np.zeros(len(logits))
    for token in kept:
        probabilities[token] = mass[token]
    return probabilities / probabilities.sum()


def test_hand_computed() -> None:
    logits = np.log([0.5, 0.25, 0.15, 0.1])
    probabilities = lambda *settings: np.exp(modified_logprobs(logits, Sampler(*settings)))  # noqa: E731
    np.testing.assert_allclose(probabilities(1, 1), [0.5, 0.25, 0.15, 0.1])
    np.testing.assert_allclose(probabilities(1, 0.89), [5 / 9, 2.5 / 9, 1.5 / 9, 0])
    np.testing.assert_allclose(probabilities(1, 0.7), [2 / 3, 1 / 3, 0, 0])
    np.testing.assert_allclose(probabilities(1, 0.01), [1, 0, 0, 0])
    np.testing.assert_allclose(probabilities(1, 1, 3), [5 / 9, 2.5 / 9, 1.5 / 9, 0])
    np.testing.assert_allclose(probabilities(0.5, 1), np.array([25, 6.25, 2.25, 1]) / 34.5)
    # temperature comes first: at T = 0.5 the last token's mass is 1 / 34.5, so p = 0.96 drops it alone
    np.testing.assert_allclose(probabilities(0.5, 0.96), np.array([25, 6.25, 2.25, 0]) / 33.5)
    # top-k comes before top-p: of the two left, the second holds 1/3 > 0.3 and stays
    np.testing.assert_allclose(probabilities(1, 0.7, 2), [2 / 3, 1 / 3, 0, 0])
    np.testing.assert_allclose(probabilities(1, 0.6, 2), [1, 0, 0, 0])
    np.testing.assert_allclose(probabilities(0, 0.3, 2), [1, 0, 0, 0])


def test_ties_at_the_edge() -> None:
    np.testing.assert_allclose(np.exp(modified_logprobs(np.zeros(4), Sampler(1, 0.5))), [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(np.exp(modified_logprobs(np.zeros(4), Sampler(1, 1, 2))), [0.25] * 4)


@pytest.mark.parametrize("temperature", [0.25, 0.7, 1.0, 1.3])
@pytest.mark.parametrize("top_p", [0.05, 0.53, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 100])
def test_numpy_and_torch_agree_with_the_definition(temperature: float, top_p: float, top_k: int) -> None:
    import torch

    rng = np.random.default_rng(7)
    logits = np.concatenate([rng.normal(0, 3, (20, 12)), rng.integers(0, 3, (20, 12))]).astype(np.float32)
    expected = np.array([reference(row.tolist(), temperature, top_p, top_k) for row in logits])
    sampler = Sampler(temperature, top_p, top_k)
    np.testing.assert_allclose(np.exp(modified_logprobs(logits, sampler)), expected, atol=1e-12)
    by_torch = truncate(torch.tensor(logits).reshape(4, 10, 12), sampler).log_softmax(-1)
    np.testing.assert_allclose(np.exp(by_torch.numpy()).reshape(40, 12), expected, atol=2e-6)


def test_greedy_by_numpy_and_torch_with_leading_axes() -> None:
    import torch

    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    exact = modified_logprobs(logits, Sampler(0, 0.9))
    assert exact.shape == (2, 3, 5)
    np.testing.assert_array_equal(exact, truncate(torch.tensor(logits), Sampler(0, 0.9)).log_softmax(-1).numpy())
    np.testing.assert_array_equal(exact.argmax(-1), logits.argmax(-1))
    assert np.exp(exact).sum() == 6


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(-1, 1, 0), (1, 0, 0), (1, 1.1, 0), (1, 1, -1), (1, 1, 1.5)]
)
def test_impossible_settings(temperature: float, top_p: float, top_k: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Sampler(temperature, top_p, top_k)
