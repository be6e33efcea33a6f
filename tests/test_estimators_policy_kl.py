"""The KL of a fine-tuned policy against every sequence of an autoregressive model small enough to write out."""

from itertools import product

import numpy as np
import pytest

from bench.estimators.policy_divergence import kl_per_token, rao_blackwell_kl, sequence_kl

EOS, VOCABULARY, MAX_NEW_TOKENS = 0, 3, 3


class TinyModel:
    """Next-token logits that depend on the whole prefix; a sequence ends at EOS or after MAX_NEW_TOKENS."""

    def __init__(self, seed, scale=1.0):
        self.seed, self.scale = seed, scale

    def logits(self, prefix):
        code = sum((token + 1) * 7**i for i, token in enumerate(prefix))
        return self.scale * np.random.default_rng([self.seed, code]).normal(size=VOCABULARY)

    def log_probabilities(self, prefix):
        logits = self.logits(prefix)
        return logits - np.log(np.exp(logits).sum())


def sequences():
    """Every sequence that the process can end with."""
    for length in range(1, MAX_NEW_TOKENS + 1):
        for tokens in product(range(VOCABULARY), repeat=length):
            if EOS not in tokens[:-1] and (tokens[-1] == EOS or length == MAX_NEW_TOKENS):
                yield tokens


def log_probability(model, tokens):
    return sum(model.log_probabilities(tokens[:i])[token] for i, token in enumerate(tokens))


p, q = TinyModel(1), TinyModel(2)
ALL = list(sequences())
LOG_P = np.array([log_probability(p, tokens) for tokens in ALL])
LOG_Q = np.array([log_probability(q, tokens) for tokens in ALL])
TRUTH = float(np.exp(LOG_P) @ (LOG_P - LOG_Q))


def test_the_model_is_a_distribution():
    assert np.exp(LOG_P).sum() == pytest.approx(1)
    assert len(ALL) == 1 + 2 + 4 * 3


def test_k1_and_k3_have_the_true_kl_as_their_mean_over_all_sequences():
    """A row that repeats every sequence in proportion to p would be infinite, so each sequence is its own row."""
    for estimator in ("k1", "k3"):
        each = sequence_kl(LOG_P[:, None], LOG_Q[:, None], estimator)
        assert np.exp(LOG_P) @ each == pytest.approx(TRUTH, abs=1e-12)


def test_the_reverse_kl_is_the_same_call_on_samples_of_the_other_policy():
    reverse = sequence_kl(LOG_Q[:, None], LOG_P[:, None])
    assert np.exp(LOG_Q) @ reverse == pytest.approx(float(np.exp(LOG_Q) @ (LOG_Q - LOG_P)), abs=1e-12)


def test_rao_blackwell_sums_over_the_steps_to_the_true_kl_with_less_variance():
    logits = [[np.array([model.logits(y[:i]) for i in range(len(y))]) for model in (p, q)] for y in ALL]
    sums = np.array([rao_blackwell_kl(*pair).sum() for pair in logits])
    weight = np.exp(LOG_P)
    assert weight @ sums == pytest.approx(TRUTH, abs=1e-12)
    variance = weight @ (sums - TRUTH) ** 2
    assert variance < 0.5 * (weight @ (LOG_P - LOG_Q - TRUTH) ** 2)


def test_leaving_out_truncated_sequences_or_eos_gives_another_number():
    """Both slips give a number far from the KL of the process."""
    weight = np.exp(LOG_P)
    finished = np.array([tokens[-1] == EOS for tokens in ALL])
    dropped = weight[finished] @ (LOG_P - LOG_Q)[finished] / weight[finished].sum()
    assert abs(dropped - TRUTH) > 0.1
    kept = [tokens[:-1] if tokens[-1] == EOS else tokens for tokens in ALL]
    without_eos = np.array([log_probability(p, tokens) - log_probability(q, tokens) for tokens in kept])
    assert abs(weight @ without_eos - TRUTH) > 0.1


def test_k3_falls_short_under_a_truncated_sampler_and_is_refused():
    """p keeps two of q's three tokens, .8808 of its mass: the KL is −log .8808 = .1269, k3 lacks the rest."""
    q_probabilities = np.array([0.5, 0.3808, 0.1192])
    p_probabilities = np.array([0.5, 0.3808]) / 0.8808
    ratio = np.log(p_probabilities / q_probabilities[:2])
    truth = p_probabilities @ ratio
    logp, logq = np.log(p_probabilities)[:, None], np.log(q_probabilities[:2])[:, None]
    assert p_probabilities @ sequence_kl(logp, logq, truncated=True) == pytest.approx(truth)
    assert truth == pytest.approx(0.1269, abs=5e-5)
    assert p_probabilities @ sequence_kl(logp, logq, "k3") == pytest.approx(0.0077, abs=5e-5)
    with pytest.raises(ValueError, match="k3' is not allowed with truncated=True"):
        sequence_kl(logp, logq, "k3", truncated=True)


def test_a_policy_has_no_distance_from_itself():
    logits = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    assert (rao_blackwell_kl(logits, logits) == 0).all()
    assert (rao_blackwell_kl(logits, logits + 3) < 1e-12).all()  # a constant shift is the same policy
    assert sequence_kl(LOG_P[None], LOG_P[None], "k3")[0] == 0


def test_impossible_tokens():
    p_logits = np.array([[0.0, 0.0, -np.inf], [0.0, 0.0, 0.0]])
    q_logits = np.array([[0.0, 1.0, 2.0], [0.0, -np.inf, 0.0]])
    values = rao_blackwell_kl(p_logits, q_logits)
    share = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert values[0] == pytest.approx(0.5 * np.log(0.5 / share[0]) + 0.5 * np.log(0.5 / share[1]))
    assert values[1] == np.inf
    assert sequence_kl([[-1.0, -2.0]], [[-1.5, -np.inf]])[0] == np.inf


def test_blocks_of_steps_equal_one_block(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 37, 11))
    whole = rao_blackwell_kl(a, b)
    monkeypatch.setattr("bench.estimators.policy_divergence.BLOCK_CELLS", 55)
    np.testing.assert_array_equal(rao_blackwell_kl(a, b), whole)


def test_large_logits_and_small_differences_keep_their_digits():
    p_logits = np.array([[1e4, 1e4 - 1.0, 0.0]])
    expected = np.array([1, np.exp(-1.0)]) / (1 + np.exp(-1.0))
    q_logits = p_logits + np.array([[0.0, 1e-4, 0.0]])
    other = np.array([1, np.exp(-1 + 1e-4)]) / (1 + np.exp(-1 + 1e-4))
    assert rao_blackwell_kl(p_logits, q_logits)[0] == pytest.approx(expected @ np.log(expected / other), rel=1e-5)


def test_nan_leaves_a_sample_out():
    logp = np.array([[-1.0, np.nan, -3.0], [np.nan] * 3])
    logq = np.array([[-1.5, -2.0, -5.0], [-1.0] * 3])
    values = sequence_kl(logp, logq)
    assert values[0] == pytest.approx(1.25)
    assert np.isnan(values[1])


def test_per_token_is_total_over_total():
    assert kl_per_token([1.0, 3.0, np.nan], [1, 9, 5]) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sequence_kl([[1.0]], [[1.0, 2.0]]), r"logq has shape \[1, 2\], but logp has \[1, 1\]"),
        (lambda: sequence_kl([[-np.inf]], [[1.0]]), r"logp \[1, 1\] holds an infinity"),
        (lambda: sequence_kl([[-1.0]], [[np.inf]]), r"logq \[1, 1\] holds an infinity"),
        (lambda: sequence_kl([[-1.0]], [[-1.0]], "k2"), "estimator='k2' is not known"),
        (lambda: rao_blackwell_kl(np.zeros((2, 3)), np.zeros((2, 4))), r"q_logits has shape \[2, 4\]"),
        (lambda: rao_blackwell_kl(np.zeros(3), np.zeros(3)), r"p_logits has shape \[3\]"),
        (lambda: rao_blackwell_kl(np.full((1, 2), -np.inf), np.zeros((1, 2))), "a step of only −inf"),
        (lambda: rao_blackwell_kl(np.full((1, 2), np.nan), np.zeros((1, 2))), r"p_logits \[1, 2\] holds NaN"),
        (lambda: kl_per_token([1.0], [0]), "must be above 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
