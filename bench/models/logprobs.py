"""Teacher-forced log-probabilities and policy KL of drawn token ids, sorted by length, in batches of bounded size.

Sequences end at EOS or at the length limit; the EOS's own log-probability counts and truncated sequences stay in.
Steps are masked by generated length, never by a padding id. log_softmax is in float32, sums are in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.devices import Halving, device, that_fit
from bench.models import chat, loading, tokens
from bench.models.sampler import RAW, Sampler, truncate
from bench.progress import bar
from bench.store import stage
from bench.store.files import load_arrays, save_arrays

if TYPE_CHECKING:
    import torch

FILE = "divergence.safetensors"
BATCH_TOKENS = 16_384  # rows x longest of a batch on a CPU
LOGITS_AT_ONCE = 2**26  # numbers [rows, steps, vocabulary] of one policy in memory, on a CPU
MOST = 2**18, 2**30  # of both on a GPU
Measure = Callable[[list["torch.Tensor"], "torch.Tensor"], list["torch.Tensor"]]  # see Readers.summed
ADVICE = "set evaluation.kl_dtype=bfloat16, or lower task.max_new_tokens"


@dataclass(frozen=True)
class DivergenceSamples:
    """Two estimates of KL(policy ‖ reference) from each completion drawn by the policy."""

    rao_blackwell: np.ndarray  # [M, N] nats per sequence: the exact KL of every step on the sampled prefix, summed
    k1: np.ndarray  # [M, N] nats per sequence: log policy − log reference of the completion


def sequence_logprobs(
    policy: Policy,
    prompts: Prompts,
    completions: Completions,
    sampler: Sampler = RAW,
    *,
    batch_tokens: int | None = None,
    dtype: str = "float32",
) -> np.ndarray:
    """[M, N] nats per sequence: each completion's log-probability under the policy's sampler, its EOS included."""
    return Readers(policy, dtype=dtype, batch_tokens=batch_tokens).under([sampler], prompts, completions)[0]


def token_logprobs(policy: Policy, prompts: Prompts, token_ids: list[list[int]], *, dtype: str) -> list[np.ndarray]:
    """The log-probability of each token of one completion per prompt, in nats, under the policy.

    For short completions: all their beginnings are scored.
    """
    beginnings = np.empty((len(token_ids), max(map(len, token_ids))), object)
    for row, ids in enumerate(token_ids):
        for column in range(beginnings.shape[1]):
            beginnings[row, column] = np.array(ids[: column + 1], np.int32)
    sums = sequence_logprobs(policy, prompts, _unscored(beginnings), dtype=dtype)
    return [np.diff(sums[row, : len(ids)], prepend=0.0) for row, ids in enumerate(token_ids)]


class Rescorer:
    """A policy whose tokens another program draws: texts, counts and log-probabilities are the suite's own.

    limit: tokens of prompt and completion that this program reads; None: it has no limit of its own.
    """

    def __init__(self, policy: Policy, *, dtype: str, limit: int | None = None) -> None:
        self.policy, self.dtype = policy, dtype
        self.base, self.tokenizer = loading.base_of(policy), loading.load_tokenizer(policy)
        self.eos_ids, context, self.vocabulary = tokens.configured(self.base, self.tokenizer)
        self.context = min((most for most in (context, limit) if most is not None), default=None)
        self._readers: Readers | None = None  # loaded when first used

    def encode(self, prompts: Prompts, max_new_tokens: int) -> list[list[int]]:
        """Each prompt's token ids; see bench.models.tokens.encode."""
        return tokens.encode(self.tokenizer, prompts, max_new_tokens=max_new_tokens, context=self.context)

    def pair(self, prompts: Prompts, token_ids: np.ndarray, sampler: Sampler) -> tuple[np.ndarray, np.ndarray]:
        """[M, N] nats per sequence under the sampler (0 if it is greedy), and under the policy itself."""
        self._readers = self._readers or Readers(self.policy, dtype=self.dtype)
        samplers = [RAW] if sampler.is_greedy or sampler == RAW else [RAW, sampler]
        totals = self._readers.under(samplers, prompts, _unscored(token_ids))
        return (np.zeros(token_ids.shape) if sampler.is_greedy else totals[-1]), totals[0]

    def completions(
        self,
        prompts: Prompts,
        prompt_ids: list[list[int]],
        token_ids: np.ndarray,
        samples: range,
        logprob: np.ndarray,
        policy_logprob: np.ndarray,
    ) -> tuple[Completions, dict[str, float]]:
        """The given samples of every prompt from their token ids and what `pair` gives, [M, len(samples)], and counts.

        The tokens of a prompt are counted with sample 0, whose prefill the other samples can share. FLOPs are those of
        drawing.
        """
        completions = tokens.decode(
            self.tokenizer,
            token_ids,
            prompts,
            eos_ids=self.eos_ids,
            logprob=logprob,
            policy_logprob=policy_logprob,
            dtype=self.dtype,
        )
        read = sum(map(len, prompt_ids)) if 0 in samples else 0
        written = int(completions.length.sum())
        flops = 2 * loading.count_parameters(self.base) * (read + written)
        return completions, {"prompt_tokens": read, "generated_tokens": written, "flops": flops}


def _unscored(token_ids: np.ndarray) -> Completions:
    nothing = np.zeros(token_ids.shape)
    return Completions(token_ids, token_ids, nothing, nothing, nothing, key="")


@stage(version=2, load=lambda out: DivergenceSamples(**load_arrays(out / FILE)), speed_only=("batch_tokens",))
def divergence_samples(
    policy: Policy,
    reference: Policy,
    prompts: Prompts,
    completions: Completions,
    *,
    temperature: float,
    top_p: float,
    top_k: int = 0,
    batch_tokens: int | None = None,
    dtype: str = "float32",
    out: Path,
) -> dict[str, float]:
    """KL(policy's sampler ‖ raw reference) from completions [M, N] that the sampler drew, a value per completion.

    The sampler is the policy at temperature, top-k and top-p; the reference is at temperature 1, top-p 1. Each step
    contributes sum_v π(v|h) (log π(v|h) − log π₀(v|h)) at a sampled prefix h: unbiased, nonnegative, and as a rule of
    lower variance than k1 (Amini et al. 2025, "Better Estimation of the KL Divergence Between Language Models",
    section 4). The exception: in k1, a large early ratio that makes EOS likely offsets the steps that don't follow. At
    temperature 0 both are −log π₀ of the completion, on which all of the policy's probability lies. A
    policy that is its own reference at temperature 1, top-p 1 gives exactly 0.
    """
    sampler = Sampler(temperature, top_p, top_k)
    both = np.zeros((2, completions.logprob.size))
    readers, read = Readers(policy, reference, dtype=dtype, batch_tokens=batch_tokens), 0

    def measure(logits: list["torch.Tensor"], tokens: "torch.Tensor") -> list["torch.Tensor"]:
        ours = _sampler_logprobs(logits[0], tokens, sampler)
        theirs = logits[1].float().log_softmax(dim=-1)
        ratio = (ours - theirs).masked_fill(ours == float("-inf"), 0.0)  # a token that is never drawn adds nothing
        return [(ours.exp() * ratio).sum(dim=-1), ratio.gather(-1, tokens[..., None])[..., 0]]

    for cells, sums, attended in readers.summed(measure, prompts, completions, "KL"):
        both[:, cells] = sums
        read += attended
    rao_blackwell, k1 = both.reshape(2, *completions.shape)
    save_arrays(out / FILE, rao_blackwell=rao_blackwell, k1=k1)
    return {"flops": 2 * sum(map(loading.count_parameters, readers.models)) * read}


def _sampler_logprobs(logits: "torch.Tensor", tokens: "torch.Tensor", sampler: Sampler) -> "torch.Tensor":
    """The sampler's log-probabilities [B, T, V], with the drawn tokens [B, T] always in its support.

    Rounding in another batch can put a token at the nucleus's edge outside; but it was drawn, so it is inside. For the
    same reason a greedy sampler is a point mass on the drawn token, whichever logit is the largest here.
    """
    if sampler.is_greedy:
        return logits.float().new_full(logits.shape, float("-inf")).scatter_(-1, tokens[..., None], 0.0)
    drawn = logits.float().gather(-1, tokens[..., None]) / sampler.temperature
    allowed = truncate(logits, sampler).scatter(-1, tokens[..., None], drawn)
    return allowed.log_softmax(dim=-1)


class Readers:
    """Policies in memory that read the same completions, all in the token ids of the first."""

    def __init__(self, *policies: Policy, dtype: str, batch_tokens: int | None = None) -> None:
        self.policies, self.batch_tokens, self.tokenizer = policies, batch_tokens, loading.load_tokenizer(policies[0])
        self.models = {each: loading.load_model(each, dtype=dtype, device=device()) for each in set(policies)}

    def under(self, samplers: Sequence[Sampler], prompts: Prompts, completions: Completions) -> np.ndarray:
        """[samplers, M, N] nats per sequence under the first policy, from one reading."""
        total = np.zeros((len(samplers), completions.logprob.size))

        def measure(logits: list["torch.Tensor"], tokens: "torch.Tensor") -> list["torch.Tensor"]:
            under = (_sampler_logprobs(logits[0], tokens, each) for each in samplers)
            return [each.gather(-1, tokens[..., None])[..., 0] for each in under]

        for cells, sums, _ in self.summed(measure, prompts, completions, "score"):
            total[:, cells] = sums
        return total.reshape(len(samplers), *completions.shape)

    def summed(
        self, measure: Measure, prompts: Prompts, completions: Completions, label: str
    ) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Batches: flat cells [B], the sums of K measures over each one's steps [K, B], number of tokens read.

        measure: gives K tensors [B, T], from each policy's logits [B, T, V] and the drawn tokens [B, T]. Sequences are
        padded on the left, so that completions end together and only their steps' logits are made.
        """
        import torch

        from bench.models.kv_cache import mixes_lengths

        model = next(iter(self.models.values()))
        with torch.inference_mode():
            padded = all(mixes_lengths(each) for each in self.models.values())
        batch_tokens = self.batch_tokens or that_fit(BATCH_TOKENS, loading.bytes_per_token(model), MOST[0])
        at_once = that_fit(LOGITS_AT_ONCE, len(self.models) * model.dtype.itemsize + 20, MOST[1])
        halving, samples = Halving("completion", ADVICE), completions.shape[1]
        vocabulary = model.config.get_text_config().vocab_size

        @torch.inference_mode()
        def read(texts: list[list[int]], drawn: np.ndarray, cells: np.ndarray) -> np.ndarray:
            batch = tokens.padded([{"input_ids": texts[cell]} for cell in cells], {}, model.device, left=True)
            ids, attended = batch["input_ids"], batch["attention_mask"]
            lengths = torch.tensor([[len(drawn[cell])] for cell in cells])
            steps = int(lengths.max())
            generated = (torch.arange(steps) >= steps - lengths).to(model.device)
            logits = {policy: _logits(each, ids, attended, steps) for policy, each in self.models.items()}
            ends, most = ids[:, ids.shape[1] - steps :], max(1, at_once // (len(cells) * vocabulary))
            spans = [slice(start, start + most) for start in range(0, steps, most)]  # several where one is long
            parts = [measure([logits[policy][:, span] for policy in self.policies], ends[:, span]) for span in spans]
            values = [torch.cat(each, dim=-1) for each in zip(*parts, strict=True)]
            return np.stack([(each.double() * generated).sum(dim=-1).cpu().numpy() for each in values])

        with bar(label, total=completions.logprob.size, unit="completions") as progress:
            for rows, part in completions.shards():
                prompt_ids = [chat.encode(self.tokenizer, messages) for messages in prompts.messages[rows]]
                drawn = part.token_ids.ravel()
                texts = [[*prompt_ids[cell // samples], *ids.tolist()] for cell, ids in enumerate(drawn)]
                lengths = np.array([len(ids) for ids in texts])
                batches = _batches(lengths, part.length.ravel(), batch_tokens, vocabulary, padded, at_once)
                for cells, sums in halving.each(partial(read, texts, drawn), batches):
                    yield cells + rows.start * samples, sums, int(lengths[cells].sum())
                    progress.advance(len(cells))


def _logits(model: Any, ids: "torch.Tensor", attended: "torch.Tensor", steps: int) -> "torch.Tensor":
    """[B, steps, V] logits of each of the last `steps` tokens, given those before it."""
    from bench.models.kv_cache import takes

    positions = (attended.cumsum(dim=-1) - 1).clamp(min=0)
    optional = {"position_ids": positions, "logits_to_keep": steps + 1, "use_cache": False}
    given = {name: value for name, value in optional.items() if takes(model, name)}
    result = model(input_ids=ids, attention_mask=attended, **given)
    return result.logits[:, -steps - 1 : -1]


def _batches(
    lengths: np.ndarray, steps: np.ndarray, batch_tokens: int, vocabulary: int, padded: bool, at_once: int | None = None
) -> Iterator[np.ndarray]:
    """Cells by length, longest first, in batches within the budgets of padded tokens and of logits.

    padded: lengths may differ within a batch.
    """
    order, at_once = np.argsort(-lengths, kind="stable"), at_once or LOGITS_AT_ONCE
    start, most_steps = 0, 0
    for end, cell in enumerate(order):
        longest, size = lengths[order[start]], end + 1 - start
        most_steps = max(most_steps, steps[cell])
        full = size * longest > batch_tokens or size * (most_steps + 1) * vocabulary > at_once
        if size > 1 and (full or not (padded or lengths[cell] == longest)):
            yield order[start:end]
            start, most_steps = end, steps[cell]
    if len(order):
        yield order[start:]
