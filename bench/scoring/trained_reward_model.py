"""A reward model trained here, on pairs of the base policy's own samples that a gold scorer labels.

    python -m bench scoring=trained_reward_model scoring.pairs=500 scoring.label_noise=0.25
    python -m bench scoring=trained_reward_model scoring@scoring.gold=length

It is the proxy of over-optimisation studies: the number of pairs, their noise and the model's size decide how far it
can be trusted. Source: Gao et al. 2022, "Scaling Laws for Reward Model Overoptimization".
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Message, Policy, Prompts
from bench.config import rules
from bench.errors import BenchError
from bench.models.classifiers import Classifier
from bench.models.sampler import RAW
from bench.progress import stage
from bench.scoring import Scorer, Scoring, reward_model
from bench.seeds import generator, small_seed
from bench.tasks import Task
from bench.training.reward_model import Pairs, train_reward_model

BLOCK = 8  # samples per prompt that are paired with each other
SHARD = 256  # prompts whose samples are drawn together
SPLITS = ("train", "validation")

Pair = tuple[tuple[Message, ...], str, str]


def _check_sizes(settings: Mapping[str, Any]) -> None:
    """Raise BenchError for sizes that don't go together."""
    micro, batch, hidden = settings.get("micro_batch_size"), settings["batch_size"], settings.get("hidden_size")
    if micro is not None and batch % micro:
        raise BenchError(f"scoring.micro_batch_size={micro} is not allowed: it must divide scoring.batch_size={batch}.")
    if hidden is not None and not settings.get("from_scratch"):
        raise BenchError(
            f"scoring.hidden_size={hidden} is for a model from scratch: the base's weights have their own size; "
            "set scoring.from_scratch=true, or scoring.hidden_size=null."
        )


@Scorer(log_odds=True, check=_check_sizes)
@stage("scorer")
def trained_reward_model(
    *,
    base: Policy,
    task: Task,
    generation: Callable[..., Completions],
    prepare: Callable[..., Scoring],
    gold: Any,
    pairs: rules.Count,
    label_noise: Annotated[float, rules.number(0, 1)],
    pairs_from: Annotated[str, rules.one_of(*SPLITS)],
    pairs_seed: rules.Seed,
    most_completions: Annotated[int, rules.whole(2, 100_000)],
    from_scratch: Annotated[bool, rules.TRUE_OR_FALSE],
    layers: Annotated[int | None, rules.or_null(rules.whole(1, 1_000))],
    hidden_size: Annotated[int | None, rules.or_null(rules.whole(1, 65_536))],
    epochs: rules.Epochs,
    learning_rate: rules.LearningRate,
    batch_size: rules.Count,
    micro_batch_size: Annotated[int | None, rules.or_null(rules.whole(1))],
    warmup: Annotated[float, rules.number(0, 1, open_high=True)],
    weight_decay: rules.WeightDecay,
    max_grad_norm: Annotated[float, rules.number(0)],
    gradient_checkpointing: Annotated[bool, rules.TRUE_OR_FALSE],
    seed: rules.Seed,
    dtype: Annotated[str, rules.DTYPE] = "auto",
    batch_tokens: Annotated[int | None, rules.or_null(rules.whole(1, 1_000_000_000))] = None,
) -> Scoring:
    """The scorer (prompts, completions) -> Rewards [M, N] of a reward model trained here, or found in the store.

    gold: the scorer that labels the pairs. pairs, label_noise, pairs_from, pairs_seed, most_completions: see
    `labelled_pairs`; with pairs_from="validation" the model never sees the prompts of the training pool. dtype,
    batch_tokens: see bench.scoring.reward_model. The rest: see bench.training.reward_model. `seed` draws the new
    weights and the order of the pairs, not the pairs.
    """
    examples = labelled_pairs(
        task.prompts(pairs_from),
        base,
        generation,
        prepare(gold),
        pairs=pairs,
        label_noise=label_noise,
        seed=pairs_seed,
        most_completions=most_completions,
    )
    trained = train_reward_model(
        base,
        examples,
        from_scratch=from_scratch,
        layers=layers,
        hidden_size=hidden_size,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        warmup=warmup,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    address = Classifier(str(trained.path), None, trained.key)
    return functools.partial(reward_model.score, model=address, max_length=None, dtype=dtype, batch_tokens=batch_tokens)


def labelled_pairs(
    prompts: Prompts,
    base: Policy,
    generation: Callable[..., Completions],
    gold: Scoring,
    *,
    pairs: int,
    label_noise: float,
    seed: int,
    most_completions: int,
) -> Pairs:
    """`pairs` pairs, each of two completions of one prompt; chosen is the one with the higher gold score.

    The samples are the base's at temperature 1, top-p 1, from a random stream of their own: a pool drawn on the same
    prompts shares none. A sample is in at most one pair; samples of equal gold, or unscored, make no pair. Each pair is
    flipped with probability label_noise. Fewer pairs are a prefix of more; less noise flips a subset.
    most_completions: samples per prompt that may be drawn. Raises BenchError where they give too few pairs.
    """

    def decided() -> Iterator[Pair]:
        """Pairs of different gold, as they are needed: shard by shard of prompts, then the next block of samples."""
        for first, start in itertools.product(range(0, most_completions, BLOCK), range(0, len(prompts), SHARD)):
            end, shard = min(first + BLOCK, most_completions), prompts[start : start + SHARD]
            samples = small_seed(seed, "reward pairs", "samples")
            pool = generation(shard, base, num_completions=end, seed=samples, **RAW.settings)
            value = gold(shard, pool).value
            rng = generator(seed, "reward pairs", start, first)
            matches = [list(enumerate(matched(value[row, first:end], rng))) for row in range(len(shard))]
            # the first pair of every prompt comes before any second pair, so that few pairs cover many prompts
            order = sorted(
                ((i, rng.random(), row, pair) for row, found in enumerate(matches) for i, pair in found),
                key=lambda entry: entry[:2],
            )
            for _, _, row, (better, worse) in order:
                text = pool.text[row]
                yield shard.messages[row], text[first + better], text[first + worse]

    taken = list(itertools.islice(decided(), pairs))
    if len(taken) < pairs:
        raise BenchError(
            f"scoring.pairs={pairs} is more than {most_completions} completions of {len(prompts)} prompts give: gold "
            f"tells {len(taken)} pairs apart; lower it, or raise scoring.most_completions."
        )
    flipped = generator(seed, "reward pairs", "noise").random(pairs) < label_noise
    ordered = [
        (messages, *((worse, better) if flip else (better, worse)))
        for (messages, better, worse), flip in zip(taken, flipped, strict=True)
    ]
    messages, chosen, rejected = zip(*ordered, strict=True)
    return Pairs(messages, chosen, rejected)


def matched(gold: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Disjoint pairs (better, worse) of different gold, matched greedily in random order; NaN is in none.

    gold: [N]. Where gold has two values, no matching has more pairs.
    """
    waiting: list[int] = []  # samples of equal gold
    pairs = []
    for sample in rng.permutation(np.flatnonzero(~np.isnan(gold))).tolist():
        if waiting and gold[waiting[0]] != gold[sample]:
            other = waiting.pop(0)
            pairs.append((sample, other) if gold[sample] > gold[other] else (other, sample))
        else:
            waiting.append(sample)
    return pairs
