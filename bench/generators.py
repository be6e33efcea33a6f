"""Several generators: the pool to select from is drawn by several policies, and one of them, or none, is the student.

python -m bench procedure=generators 'procedure.drawn_by=[student,larger]' procedure.generators.larger.weight=2
python -m bench procedure=generators +policy@procedure.generators.mine.policy=folder \
    procedure.generators.mine.policy.path=FOLDER +procedure.generators.mine.weight=1 \
    'procedure.drawn_by=[student,mine]'                                              a generator of one's own
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy, Rewards, Selection
from bench.config.keys import settings_key
from bench.config.rules import ABOVE_ZERO, PLAIN_NAME, Rule
from bench.errors import BenchError
from bench.evaluation.heldout import Outcomes
from bench.experiment import Results, trained_and_judged
from bench.generation.pooled import pooled
from bench.generation.reencoded import reencoded
from bench.models.vocabularies import ids_differ
from bench.scoring import prepared
from bench.seeds import generator, small_seed
from bench.selection import matched_random
from bench.selection.evidence import evidence_for
from bench.selection.prompt_filter import prompts_dropped
from bench.sweeps.workload import Asks, Config, Name, arms, drawn, examples, fine_tuned
from bench.tasks import Task


def _each_generator(value: Any) -> Iterator[tuple[str, Any, Rule]]:
    for name, entry in value.items() if isinstance(value, Mapping) else ():
        yield str(name), str(name), PLAIN_NAME
        yield str(name), entry, GENERATOR
        if isinstance(entry, Mapping) and "weight" in entry:
            yield f"{name}.weight", entry["weight"], ABOVE_ZERO


GENERATOR = Rule(
    lambda entry: isinstance(entry, Mapping) and set(entry) == {"policy", "weight"}, "a policy and a weight, no more"
)
GENERATORS = Rule(
    lambda value: (
        isinstance(value, Mapping) and len(value) > 0 and sum(entry["policy"] is None for entry in value.values()) < 2
    ),
    "one or more generators by name, of which one at most has policy=null and so is the student",
    _each_generator,
)
NAMES = Rule(
    lambda value: (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and 0 < len(value) == len(set(value))
        and all(isinstance(name, str) and re.fullmatch(r"\S+", name) for name in value)
    ),
    "a list of one or more generators' names, each once",
)


@dataclass(frozen=True)
class Generator:
    """What one policy gave to the pool."""

    name: str
    policy: Policy
    is_student: bool
    pool: Completions  # [M, n] as it was drawn
    differs: str | None  # what of its token ids is not the student's, so that its texts were encoded anew
    usable: np.ndarray  # [M, n] bool; False: the student's tokenizer does not write this text

    @property
    def outcomes_name(self) -> str:
        """Of its policy, in every record."""
        return "base" if self.is_student else f"generator_{self.name}"


@dataclass(frozen=True)
class Generators:
    """Who drew the training pool."""

    each: tuple[Generator, ...]  # in the order of its columns

    @property
    def widths(self) -> list[int]:
        """How many of the pool's columns each drew."""
        return [one.pool.shape[1] for one in self.each]


def from_several(
    task: Task,
    policy: Callable[..., Policy],
    generation: Callable[..., Completions],
    scoring: Callable[..., Rewards],
    prompt_filter: Callable[[np.ndarray], np.ndarray],
    selection: Callable[..., Selection],
    training: Callable[..., Policy],
    evaluation: Callable[..., Outcomes],
    *,
    generators: Annotated[Mapping[str, Mapping[str, Any]], GENERATORS],
    drawn_by: Annotated[Sequence[str], NAMES],
    num_completions: int,
    baseline_completions: int,
    control: str,
    split: str,
    seed: int,
) -> Results:
    """One experiment whose training pool is drawn by several policies: a completion counts the same, whoever drew it.

    generators: name -> {"policy": a policy, or None for the student, `policy`; "weight": above 0}. drawn_by: those that
    draw; the others are not touched. The num_completions of a prompt are shared among them by weight (`shares`), so
    that mixes of equal num_completions cost equally many samples. All are scored together, once, and selected from
    together: what a selection keeps one of (`distinct_correct`: a path) it keeps once for all generators.
    Source: pools of several models as in RFT (Yuan et al. 2023, arXiv 2308.01825).

    Each draws from random streams of its own. The student's are the run's: `drawn_by` the student alone is
    `bench.experiment.run`, and both share what the store has. Ids of a generator with the student's token ids are
    trained on as drawn; other generators' texts are encoded anew (bench.generation.reencoded), and those that the
    student's tokenizer does not write are unscored, so that nothing selects them. The control ("matched") keeps as many
    completions of each prompt from the same pool. Every generator is judged on the held-out prompts too, and the tuned
    policy's KL is taken from each.
    """
    unknown = [name for name in drawn_by if name not in generators]
    if unknown:
        raise BenchError(
            f"procedure.drawn_by names {unknown[0]}, which is none of procedure.generators: {', '.join(generators)}."
        )
    counts = shares({name: generators[name]["weight"] for name in drawn_by}, num_completions, seed=seed)
    train = task.prompts("train")
    base = policy(task)
    scoring = prepared(scoring, base=base, task=task, generation=generation)

    drawn: list[Generator] = []
    readable: list[Completions] = []  # their pools [M, n] in the student's token ids
    for name, count in counts.items():
        own = generators[name]["policy"]
        who = base if own is None else own(task)
        pool = generation(train, who, num_completions=count, seed=stream(seed, name, is_student=own is None))
        differs = ids_differ(who, base, train)
        usable = np.ones(pool.shape, bool)
        readable.append(pool)
        if differs is not None:
            readable[-1], usable = reencoded(pool, base)
        drawn.append(Generator(name, who, own is None, pool, differs, usable))

    scored = scoring(train, pooled([one.pool for one in drawn])).value  # [M, N]
    rewards = Rewards(np.where(np.concatenate([one.usable for one in drawn], axis=1), scored, np.nan))
    union = pooled(readable)
    eligible = prompt_filter(rewards.value)
    of_others = not all(one.is_student for one in drawn)
    evidence = evidence_for(selection, union, task, base, rescored_on=train if of_others else None)
    selections = {"tuned": selection(eligible, generator(seed, "selection"), **evidence)}
    if control == "matched":
        selections["control"] = matched_random(selections["tuned"], eligible, generator(seed, "control"))

    results = trained_and_judged(
        task,
        base,
        union,
        rewards,
        prompts_dropped(rewards.value, eligible),
        selections,
        generation,
        scoring,
        training,
        evaluation,
        num_completions=num_completions,
        baseline_completions=baseline_completions,
        split=split,
        seed=seed,
        compared={one.name: one.policy for one in drawn},
        procedure=Generators(tuple(drawn)),
    )
    others = {
        one.outcomes_name: evaluation(one.policy, base, results.test, generation, scoring, task, seed=seed)
        for one in drawn
        if not one.is_student
    }
    return replace(results, outcomes=results.outcomes | others)


def stream(seed: int, name: str, *, is_student: bool) -> int:
    """The seed that a generator draws with: samples of two policies with equal random numbers would be alike."""
    return seed if is_student else small_seed(seed, "generator", name)


def shares(weights: Mapping[str, float], total: int, *, seed: int) -> dict[str, int]:
    """How many of `total` samples each gets, in proportion to its weight: whole numbers that sum to it, by largest
    remainder. Equal remainders are put in a random order, so that none is favoured by its place.

    BenchError where one would get none.
    """
    exact = np.array(list(weights.values()), float) * (total / sum(weights.values()))
    exact = np.where(np.abs(exact - np.round(exact)) < 1e-9, np.round(exact), exact)  # 4 x 0.25 is a whole number
    counts = np.floor(exact).astype(int)
    remainders = np.round(exact - counts, 9)
    chance = generator(seed, "shares").random(len(counts))
    first = np.lexsort((chance, -remainders))[: total - counts.sum()]
    counts[first] += 1
    none = [name for name, count in zip(weights, counts.tolist(), strict=True) if count == 0]
    if none:
        raise BenchError(
            f"num_completions={total} leaves none for {', '.join(none)} of procedure.drawn_by; raise it, or the weight."
        )
    return dict(zip(weights, counts.tolist(), strict=True))


def asks(cfg: Config, prompts: Callable[[str], int]) -> Asks:
    """What `from_several` will draw and train; see bench.sweeps.workload."""
    how, train = cfg["procedure"], prompts("train")
    entries = {name: how["generators"][name] for name in how["drawn_by"]}
    counts = shares({name: one["weight"] for name, one in entries.items()}, cfg["num_completions"], seed=cfg["seed"])
    names: dict[str, Name] = {
        name: (name, settings_key(one, "policy")) if one["policy"] else () for name, one in entries.items()
    }
    return Asks(
        pools={names[name]: train * drawn(cfg, count) for name, count in counts.items()},
        tuned={fine_tuned(cfg, arm, settings_key(cfg, "procedure")): examples(cfg, train) for arm in arms(cfg)},
        others=[name for name in names.values() if name],
        kl_from=len(counts),
    )
