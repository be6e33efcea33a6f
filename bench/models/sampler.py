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

LARGE_VOCABULARY, FEW = 4096, 256  # above so many tokens the nucleus is looked for among the few largest first
BLOCK = 256  # tokens of a vocabulary that are summed together on a GPU


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
    values, cumulative = upper_tail(probabilities, sampler.top_p)
    start = first_kept(cumulative, sampler.top_p)
    edge = values.gather(-1, start)
    outside = probabilities < edge
    num_dropped = logits.shape[-1] - values.shape[-1] + start
    tied_dropped = num_dropped - outside.sum(dim=-1, keepdim=True)
    if not on_cpu(tied_dropped) or bool(tied_dropped.any()):  # asking a GPU would mean waiting for it
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


def upper_tail(probabilities: "torch.Tensor", top_p: float) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The C largest probabilities of each row in ascending order, and their cumulative masses; [..., C].

    In a large vocabulary C < V: what is left out lies outside the nucleus. The masses are float64 and include it. The
    tokens are not sorted with the values, which would take much longer: `token_at` finds the few that are needed.
    """
    import torch

    size = probabilities.shape[-1]
    width = FEW if size > LARGE_VOCABULARY else size
    while width < size:
        values = probabilities.topk(width).values.flip(-1)
        cumulative = values.cumsum(dim=-1, dtype=torch.float64)
        left_out = probabilities.sum(dim=-1, keepdim=True, dtype=torch.float64) - cumulative[..., -1:]
        if bool((left_out <= 1 - top_p).all()):
            return values, cumulative + left_out
        width *= 8
    if on_cpu(probabilities):
        values = torch.from_numpy(np.sort(probabilities.numpy(), axis=-1))
    else:
        values = probabilities.sort(dim=-1).values
    return values, values.cumsum(dim=-1, dtype=torch.float64)


def first_kept(cumulative: "torch.Tensor", top_p: float) -> "torch.Tensor":
    """The place [..., 1] in the upper tail where the nucleus begins; the most probable token is always kept."""
    import torch

    limit = cumulative.new_full((*cumulative.shape[:-1], 1), 1 - top_p)
    return torch.searchsorted(cumulative, limit, right=True).clamp_(max=cumulative.shape[-1] - 1)


def token_at(probabilities: "torch.Tensor", values: "torch.Tensor", place: "torch.Tensor") -> "torch.Tensor":
    """The token [R, 1] at each place [R, 1] of the upper tail of [R, V]; ties are in the order of ids."""
    import torch

    value = values.gather(-1, place)
    equal_after = torch.searchsorted(values, value, right=True) - 1 - place
    if not on_cpu(probabilities):
        equal = (probabilities == value).float()
        count = equal.sum(dim=-1, keepdim=True, dtype=torch.float64)
        return at_quantile(equal, (count - equal_after - 0.5) / count)[0]
    # NumPy compares and finds in a quarter of torch's time
    token = torch.from_numpy((probabilities.numpy() == value.numpy()).argmax(axis=-1, keepdims=True))
    equal_before = place - torch.searchsorted(values, value)
    for row in (equal_after + equal_before > 0).nonzero()[:, 0].tolist():
        equal = (probabilities[row] == value[row]).nonzero()[:, 0]
        token[row] = equal[-1 - equal_after[row]]
    return token


def at_quantile(weights: "torch.Tensor", quantile: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """The token [R, 1] at which the cumulative weights [R, V] exceed `quantile` [R, 1] of their sum; and that sum.

    quantile: float64 in [0, 1). No token of weight 0 is chosen. Weights that hold NaN give any token, and NaN.
    """
    import torch

    size = weights.shape[-1]
    if on_cpu(weights):
        cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
        total = cumulative[:, -1:]
        place = torch.searchsorted(cumulative, quantile * total, right=True)
        return place.clamp_(max=size - 1), total
    # On a GPU only the sums of blocks and the weights of one block per row become float64
    blocks = torch.nn.functional.pad(weights, (0, -size % BLOCK)) if size % BLOCK else weights
    blocks = blocks.unflatten(-1, (-1, BLOCK))
    cumulative = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = quantile * total
    block = torch.searchsorted(cumulative, target, right=True).clamp_(max=cumulative.shape[-1] - 1)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].cumsum(dim=-1, dtype=torch.float64)
    left = target - torch.nn.functional.pad(cumulative, (1, 0)).gather(-1, block)
    left = torch.minimum(left, inside[:, -1:] * (1 - 2**-52))  # two orders of summation may differ in the last bit
    place = block * BLOCK + torch.searchsorted(inside, left, right=True)
    return place.clamp_(max=size - 1), total


def on_cpu(values: "torch.Tensor") -> bool:
    return values.device.type == "cpu"
