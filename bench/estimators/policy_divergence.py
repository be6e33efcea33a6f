"""Estimate the KL of a fine-tuned policy from its base, in nats, from log-probabilities of its samples or from logits.

A sequence ends with EOS, whose log-probability is included, or at max_new_tokens; truncated sequences stay in.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from bench.estimators.arrays import BLOCK_CELLS, as_floats, check_same_shape

SequenceEstimator: TypeAlias = Literal["k1", "k3"]


def sequence_kl(
    logp: np.ndarray, logq: np.ndarray, estimator: SequenceEstimator = "k1", *, truncated: bool = False
) -> np.ndarray:
    """Estimate KL(p ‖ q) for each prompt, from samples y ~ p with both log-probabilities.

    With L = log p(y) − log q(y), "k1" is the mean of L, which is unbiased. "k3" is the mean of e^(−L) − 1 + L, which is
    never negative, and unbiased only where p can draw everything that q can. For KL(q ‖ p), draw from q and swap the
    two; do not reweight samples from p. Source: Schulman 2020, "Approximating KL divergence".

    logp, logq: [M, N] nats per sequence, at the sampler's own temperature and top-p for the policy that drew them.
    truncated: whether p was sampled with top-k, top-p or another cut of its support.
    Returns [M], +inf where q cannot produce a sample. A NaN on either side leaves its sample out; a row of NaN gives
    NaN. Raises ValueError for k3 with truncated, unequal shapes, an infinite logp or logq = +inf.

    >>> sequence_kl([[-1.0, -2.0]], [[-1.5, -2.3]]).round(3).tolist()  # (0.5 + 0.3) / 2
    [0.4]
    """
    if estimator not in ("k1", "k3"):
        raise ValueError(f"estimator={estimator!r} is not known; it must be k1 or k3")
    if estimator == "k3" and truncated:
        raise ValueError(
            "estimator='k3' is not allowed with truncated=True: e^(−L) then has a mean below 1, and k3 falls short by "
            "what the sampler cut off; use 'k1' or rao_blackwell_kl"
        )
    logp = as_floats("logp", logp, "[M, N]")
    logq = np.asarray(logq)
    impossible = np.isneginf(logq) if logq.dtype.kind == "f" else np.zeros(logq.shape, dtype=bool)
    finite_q = as_floats("logq", np.where(impossible, 0.0, logq) if impossible.any() else logq, "[M, N]")
    check_same_shape(logp=logp, logq=finite_q)
    ratio = logp - finite_q
    count = (~np.isnan(ratio)).sum(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        terms = ratio if estimator == "k1" else np.expm1(-ratio) + ratio
        return np.nansum(np.where(impossible & ~np.isnan(logp), np.inf, terms), axis=1) / count


def rao_blackwell_kl(p_logits: np.ndarray, q_logits: np.ndarray) -> np.ndarray:
    """Return KL(p ‖ q) of the next token at every step: Σ_v p(v) (log p(v) − log q(v)), never negative.

    Its sum over the steps of a sequence drawn from p is an unbiased estimate of the sequence KL, usually with less
    variance than `sequence_kl`. Source: Amini et al. 2025 (Rao-Blackwellised KL), the step-wise estimator.

    p_logits, q_logits: [T, V], unnormalised; −inf is a token of probability 0. Computed in float64 on blocks of steps,
    which bounds the memory beyond the arguments.
    Returns [T] nats per step, +inf where q excludes a token that p allows.
    Raises ValueError for unequal shapes, NaN, +inf or a step whose logits are all −inf.

    >>> rao_blackwell_kl(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])).round(3).tolist()  # (log 2 + log 2/3) / 2
    [0.144]
    """
    p_logits, q_logits = np.asarray(p_logits), np.asarray(q_logits)
    check_same_shape(p_logits=p_logits, q_logits=q_logits)
    if p_logits.ndim != 2 or p_logits.size == 0:
        raise ValueError(f"p_logits has shape {list(p_logits.shape)}; a non-empty array [T, V] is expected")
    steps, vocabulary = p_logits.shape
    values = np.empty(steps)
    block = max(1, BLOCK_CELLS // vocabulary)
    for start in range(0, steps, block):
        log_p = _log_softmax("p_logits", p_logits[start : start + block])
        log_q = _log_softmax("q_logits", q_logits[start : start + block])
        probability = np.exp(log_p)
        difference = np.subtract(log_p, log_q, out=np.zeros_like(log_p), where=probability > 0)
        # Rounding alone can take a sum of zero below zero.
        values[start : start + block] = np.maximum((probability * difference).sum(axis=1), 0)
    return values


def policy_kl(
    model: Any,
    reference: Any,
    sequences: Sequence[Sequence[int]],
    prompt_tokens: Sequence[int],
    *,
    end: int | None = None,
) -> np.ndarray:
    """Estimate KL(model ‖ reference) in nats per sequence, one value for each sequence that the model drew.

    Each is the sum of `rao_blackwell_kl` over the steps of its completion: never negative, and unbiased.

    model, reference: causal language models of transformers on one vocabulary, or what else maps input_ids [1, T] to an
    object with .logits [1, T, V]. sequences: [K] token ids of a prompt and the completion that the model drew after it
    at temperature 1 without top-p or top-k. prompt_tokens: [K], how many of them are the prompt's. end: the id of EOS;
    what follows the first one in a completion is padding and does not count.
    Raises ValueError where a sequence has no prompt or no completion.

        ids = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=64, num_return_sequences=4)
        policy_kl(model, reference, ids.tolist(), [inputs["input_ids"].shape[1]] * 4, end=tokenizer.eos_token_id).mean()

    >>> import torch
    >>> from types import SimpleNamespace
    >>> def coin(heads):  # a model whose every next token is 0 with this probability, else 1
    ...     logits = torch.tensor([heads, 1 - heads]).log()
    ...     return lambda input_ids: SimpleNamespace(logits=logits.expand(1, input_ids.shape[1], 2))
    >>> policy_kl(coin(0.5), coin(0.25), [[0, 1, 1]], [1]).round(3).tolist()  # two steps of 0.144
    [0.288]
    """
    import torch

    values = np.empty(len(sequences))
    for number, (sequence, start) in enumerate(zip(sequences, prompt_tokens, strict=True)):
        ids = list(sequence)
        if not 0 < start < len(ids):
            raise ValueError(f"sequence {number} has {len(ids)} tokens; 1 to {len(ids) - 1} can be its prompt's")
        if end in ids[start:]:
            ids = ids[: ids.index(end, start) + 1]
        with torch.inference_mode():
            logits = [
                policy(input_ids=torch.tensor([ids], device=getattr(policy, "device", "cpu"))).logits[0, start - 1 : -1]
                for policy in (model, reference)
            ]
        values[number] = rao_blackwell_kl(*(each.float().cpu().numpy() for each in logits)).sum()
    return values


def kl_per_token(kl: np.ndarray, tokens: np.ndarray) -> float:
    """Return total KL over total tokens, in nats per token.

    The mean of per-sequence means would favour short sequences. kl: nats per sequence. tokens: generated tokens per
    sequence (EOS included), of equal shape. NaN leaves a sequence out. Raises ValueError where no sequence is left.

    >>> kl_per_token([1.0, 3.0], [5, 15])  # 4 / 20
    0.2
    """
    kl, tokens = np.asarray(kl, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    check_same_shape(kl=kl, tokens=tokens)
    known = ~np.isnan(kl) & ~np.isnan(tokens)
    if not known.any() or not (tokens[known] > 0).all():
        raise ValueError(f"tokens {list(tokens.shape)} must be above 0, with at least one sequence that has a KL")
    return float(kl[known].sum() / tokens[known].sum())


def _log_softmax(name: str, logits: np.ndarray) -> np.ndarray:
    """Return logits [T, V] normalised in float64."""
    if logits.dtype.kind not in "fiu":
        raise ValueError(f"{name} has dtype {logits.dtype}; a numeric array [T, V] is expected")
    logits = logits.astype(np.float64)
    largest = logits.max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        raise ValueError(
            f"{name} {list(logits.shape)} holds NaN, +inf or a step of only −inf; numbers [T, V] are expected"
        )
    logits -= largest
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
