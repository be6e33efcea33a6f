"""The distribution a sampler draws from: temperature, then top-k, then top-p, as vLLM orders them.

Top-p is nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751, eq. 2). Among equal logits at the nucleus's edge
the tokens of lower id are dropped first; among equal logits at the k-th place all are kept.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def modified_logprobs(logits: np.ndarray, temperature: float, top_p: float, top_k: int = 0) -> np.ndarray:
    """Log-probabilities [..., V] in nats of the sampler's next token, -inf where it never draws; computed in float64.

    temperature 0 is greedy: a point mass on the argmax. top_k 0 keeps every token. ValueError for impossible settings.
    """
    check_sampler(temperature, top_p, top_k)
    logits = np.asarray(logits, dtype=np.float64)
    size = logits.shape[-1]
    if temperature == 0:
        greedy = np.full_like(logits, -np.inf)
        np.put_along_axis(greedy, logits.argmax(axis=-1, keepdims=True), 0.0, axis=-1)
        return greedy
    scaled = logits / temperature
    if 0 < top_k < size:
        smallest_kept = np.partition(scaled, size - top_k, axis=-1)[..., size - top_k, None]
        scaled = np.where(scaled < smallest_kept, -np.inf, scaled)
    if top_p < 1:
        ascending = np.argsort(scaled, axis=-1, kind="stable")
        cumulative = np.exp(_log_softmax(np.take_along_axis(scaled, ascending, axis=-1))).cumsum(axis=-1)
        dropped = cumulative <= 1 - top_p
        dropped[..., -1] = False
        outside = np.zeros_like(dropped)
        np.put_along_axis(outside, ascending, dropped, axis=-1)
        scaled = np.where(outside, -np.inf, scaled)
    return _log_softmax(scaled)


def truncate(logits: "torch.Tensor", temperature: float, top_p: float, top_k: int = 0) -> "torch.Tensor":
    """The sampler's logits [..., V], not normalised: divided by the temperature, -inf where it never draws.

    float32 on the logits' device; its log_softmax is the twin of `modified_logprobs`. Found from sorted values alone,
    which on a CPU is an order of magnitude faster than sorting with indices.
    """
    check_sampler(temperature, top_p, top_k)
    logits = logits.float()
    size = logits.shape[-1]
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return logits.new_full(logits.shape, float("-inf")).scatter_(-1, best, 0.0)
    scaled = logits / temperature if temperature != 1 else logits
    limited = 0 < top_k < size
    if not limited and top_p == 1:
        return scaled
    ascending = _sorted(scaled)
    if limited:
        smallest_kept = ascending[..., size - top_k, None]
        scaled = scaled.masked_fill(scaled < smallest_kept, float("-inf"))
        ascending = ascending.masked_fill(ascending < smallest_kept, float("-inf"))
    if top_p == 1:
        return scaled
    cumulative = ascending.softmax(dim=-1).double().cumsum(dim=-1)
    num_dropped = (cumulative <= 1 - top_p).sum(dim=-1, keepdim=True).clamp_(max=size - 1)
    edge = ascending.gather(-1, num_dropped)  # the smallest logit kept
    below, tied = scaled < edge, scaled == edge
    tied_dropped = num_dropped - below.sum(dim=-1, keepdim=True)
    return scaled.masked_fill(below | (tied & (tied.cumsum(dim=-1) <= tied_dropped)), float("-inf"))


def check_sampler(temperature: float, top_p: float, top_k: int) -> None:
    """ValueError unless temperature >= 0, 0 < top_p <= 1 and top_k is a whole number of at least 0."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature} must be a number of at least 0")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1")
    if top_k != int(top_k) or top_k < 0:
        raise ValueError(f"top_k={top_k} must be a whole number of at least 0 (0 keeps every token)")


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _sorted(values: "torch.Tensor") -> "torch.Tensor":
    import torch

    if values.device.type == "cpu":  # NumPy's vectorised sort takes a twentieth of the time of torch's
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values
