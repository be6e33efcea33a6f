"""What the tests of sampling share: small units, and completions compared bit for bit."""

import numpy as np
import torch

from bench.artifacts import Completions, Policy, Prompts
from bench.generation import transformers_engine
from bench.models import loading
from bench.models.sampler import RAW, Sampler

LIMIT = 12
EOS = [2, *range(100, 139)]  # of the stopping policy


def generate(prompts: Prompts, policy: Policy, **settings) -> Completions:
    """Small units, so that seven prompts and a handful of samples make several shards and blocks."""
    defaults = {"num_completions": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": LIMIT, "seed": 0}
    sizes = {"dtype": "float32", "block_size": 2, "shard_size": 3}
    return transformers_engine.generate(prompts, policy, **(defaults | sizes | settings))


def asking(*texts: str) -> Prompts:
    return Prompts(
        id=np.array([f"q{i}" for i in range(len(texts))]),
        messages=tuple(({"role": "user", "content": text},) for text in texts),
        answer=np.array([""] * len(texts)),
    )


def same(a: Completions, b: Completions) -> bool:
    """Bit for bit, log-probabilities included."""
    return (
        ids(a) == ids(b)
        and (np.asarray(a.text) == np.asarray(b.text)).all()
        and (a.finish_reason == b.finish_reason).all()
        and (a.length == b.length).all()
        and a.logprob.tobytes() == b.logprob.tobytes()
        and a.policy_logprob.tobytes() == b.policy_logprob.tobytes()
    )


def ids(completions: Completions) -> list[list[tuple[int, ...]]]:
    return [[tuple(cell.tolist()) for cell in row] for row in completions.token_ids]


def next_logits(policy: Policy, sequence: list[int]) -> np.ndarray:
    """[T, V] logits after each token of one unpadded sequence."""
    with torch.inference_mode():
        return loading.load_model(policy)(torch.tensor([sequence])).logits[0].numpy()


def nll(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Nats of a completion after its prompt, by a plain forward on one row: no padding, no cache, no TRL."""
    ids = torch.tensor([prompt + completion])
    logprobs = model(ids).logits[0, :-1].float().log_softmax(-1)
    return -logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum()


def chi_square_z(observed: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic as a standard normal deviate (Wilson and Hilferty 1931); rare tokens share a cell."""
    rare = expected < 5
    observed, expected = (np.append(counts[~rare], counts[rare].sum()) for counts in (observed, expected))
    observed, expected = observed[expected > 0], expected[expected > 0]
    degrees = len(expected) - 1
    ratio = ((observed - expected) ** 2 / expected).sum() / degrees
    return (ratio ** (1 / 3) - 1 + 2 / (9 * degrees)) / (2 / (9 * degrees)) ** 0.5


def modified_logprobs(logits: np.ndarray, sampler: Sampler = RAW) -> np.ndarray:
    """Log-probabilities [..., V] in nats of the sampler's next token, -inf where it never draws, in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    size = logits.shape[-1]
    if sampler.is_greedy:
        greedy = np.full_like(logits, -np.inf)
        np.put_along_axis(greedy, logits.argmax(axis=-1, keepdims=True), 0.0, axis=-1)
        return greedy
    scaled = logits / sampler.temperature
    if 0 < sampler.top_k < size:
        smallest_kept = np.partition(scaled, size - sampler.top_k, axis=-1)[..., size - sampler.top_k, None]
        scaled = np.where(scaled < smallest_kept, -np.inf, scaled)
    if sampler.top_p < 1:
        ascending = np.argsort(scaled, axis=-1, kind="stable")
        cumulative = np.exp(_log_softmax(np.take_along_axis(scaled, ascending, axis=-1))).cumsum(axis=-1)
        dropped = cumulative <= 1 - sampler.top_p
        dropped[..., -1] = False
        outside = np.zeros_like(dropped)
        np.put_along_axis(outside, ascending, dropped, axis=-1)
        scaled = np.where(outside, -np.inf, scaled)
    return _log_softmax(scaled)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def pool_of(texts: list[list[str]], key: str = "k", logprob: float = -1.0) -> Completions:
    """A pool in memory; a text's letters are its tokens."""
    text = np.array(texts, object)
    token_ids = np.empty(text.shape, object)
    for cell in np.ndindex(text.shape):
        token_ids[cell] = np.array([ord(letter) for letter in text[cell]], np.int32)
    filled = np.full(text.shape, logprob)
    return Completions(text, token_ids, np.full(text.shape, "stop"), filled, 2 * filled, key)
