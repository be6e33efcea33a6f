"""The distribution a sampler draws from: temperature, then top-k, then top-p, as vLLM orders them.

Top-p is nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751, eq. 2). Among equal logits at the nucleus's edge
the tokens of lower id are dropped first; among equal logits at the k-th place all are kept.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.config.rules import COLDEST
from bench.errors import BenchError

if TYPE_CHECKING:
    import torch

LARGE_VOCABULARY, FEW = 4096, 256  # above so many tokens a CPU looks for the nucleus among the few largest first


@dataclass(frozen=True)
class Sampler:
    """The rule that draws tokens from a policy's logits. ValueError for settings that no sampler can have."""

    temperature: float = 1.0  # 0 is greedy: a point mass on the argmax
    top_p: float = 1.0  # above 0; 1 keeps every token
    top_k: int = 0  # 0 keeps every token

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be a number of at least 0")
        if 0 < self.temperature < COLDEST:
            raise BenchError(f"temperature={self.temperature} must be 0, which is greedy, or at least {COLDEST}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.top_k != int(self.top_k) or self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be a whole number of at least 0 (0 keeps every token)")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def settings(self) -> dict[str, Any]:
        """As keyword arguments of a generation."""
        return asdict(self)


RAW, GREEDY = Sampler(), Sampler(temperature=0.0)  # RAW: the policy itself


def truncate(logits: "torch.Tensor", sampler: Sampler) -> "torch.Tensor":
    """The sampler's logits [..., V], not normalised: divided by the temperature, -inf where it never draws.

    They are float32 on the logits' device.
    """
    logits = logits.float()
    if sampler.is_greedy:
        best = logits.argmax(dim=-1, keepdim=True)
        return logits.new_full(logits.shape, float("-inf")).scatter_(-1, best, 0.0)
    scaled = scale(logits, sampler)
    if sampler.top_p == 1:
        return scaled
    probabilities = scaled.softmax(dim=-1)
    values, cumulative, _ = upper_tail(probabilities, sampler.top_p)
    start = first_kept(cumulative, sampler.top_p)
    edge = values.gather(-1, start)
    outside = probabilities < edge
    num_dropped = logits.shape[-1] - values.shape[-1] + start
    tied_dropped = num_dropped - outside.sum(dim=-1, keepdim=True)
    if not _on_cpu(tied_dropped) or bool(tied_dropped.any()):  # asking a GPU would mean waiting for it
        tied = probabilities == edge
        outside |= tied & (tied.cumsum(dim=-1) <= tied_dropped)
    return scaled.masked_fill(outside, float("-inf"))


def scale(logits: "torch.Tensor", sampler: Sampler) -> "torch.Tensor":
    """float32 logits [..., V] over the temperature, -inf for all but the top k.

    At temperature 1 without top-k these are the logits themselves, the same tensor.
    """
    scaled = logits / sampler.temperature if sampler.temperature != 1 else logits
    if not 0 < sampler.top_k < logits.shape[-1]:
        return scaled
    return scaled.masked_fill(scaled < scaled.topk(sampler.top_k).values[..., -1:], float("-inf"))


def upper_tail(
    probabilities: "torch.Tensor", top_p: float
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor | None"]:
    """The C largest probabilities of each row in ascending order, their cumulative masses, and their tokens; [..., C].

    In a large vocabulary C < V: what is left out lies outside the nucleus. The masses are float64 and include it. On a
    CPU the tokens are None: sorting values alone takes a twentieth of the time, and `token_at` finds the few needed.
    """
    import torch

    size = probabilities.shape[-1]
    if not _on_cpu(probabilities):
        values, tokens = probabilities.sort(dim=-1, stable=True)
        return values, values.cumsum(dim=-1, dtype=torch.float64), tokens
    width = FEW if size > LARGE_VOCABULARY else size
    while width < size:
        values = probabilities.topk(width).values.flip(-1)
        cumulative = values.cumsum(dim=-1, dtype=torch.float64)
        left_out = probabilities.sum(dim=-1, keepdim=True, dtype=torch.float64) - cumulative[..., -1:]
        if bool((left_out <= 1 - top_p).all()):
            return values, cumulative + left_out, None
        width *= 8
    values = torch.from_numpy(np.sort(probabilities.numpy(), axis=-1))
    return values, values.cumsum(dim=-1, dtype=torch.float64), None


def first_kept(cumulative: "torch.Tensor", top_p: float) -> "torch.Tensor":
    """The place [..., 1] in the upper tail where the nucleus begins; the most probable token is always kept."""
    import torch

    limit = cumulative.new_full((*cumulative.shape[:-1], 1), 1 - top_p)
    return torch.searchsorted(cumulative, limit, right=True).clamp_(max=cumulative.shape[-1] - 1)


def token_at(probabilities: "torch.Tensor", values: "torch.Tensor", place: "torch.Tensor") -> "torch.Tensor":
    """The token [R, 1] at each place [R, 1] of the upper tail of [R, V], on a CPU; ties are in the order of ids."""
    import torch

    value = values.gather(-1, place)
    # NumPy compares and finds in a quarter of torch's time
    token = torch.from_numpy((probabilities.numpy() == value.numpy()).argmax(axis=-1, keepdims=True))
    equal_after = torch.searchsorted(values, value, right=True) - 1 - place
    equal_before = place - torch.searchsorted(values, value)
    for row in (equal_after + equal_before > 0).nonzero()[:, 0].tolist():
        equal = (probabilities[row] == value[row]).nonzero()[:, 0]
        token[row] = equal[-1 - equal_after[row]]
    return token


def _on_cpu(values: "torch.Tensor") -> bool:
    return values.device.type == "cpu"
