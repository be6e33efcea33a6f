"""Procedural word problems: GSM8K in miniature, with an exact verifier, for a policy that trains in a minute.

    Leo has 9 coins. Eve has 1 fewer. How many coins in all?      9 - 1 = 8. 9 + 8 = 17. #### 17

The splits and the pretraining corpus share no numeric core (the template with its numbers and operations, in any
order), and every prompt of a split has a core of its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, ClassVar

import numpy as np

from bench.artifacts import Prompts, content_hash
from bench.config.rules import Count, PromptCount, Seed, or_null, some_of, whole
from bench.errors import BenchError
from bench.seeds import generator
from bench.tasks import SPLITS, Task, hinted, wanted_prompts
from bench.tasks import word_problems_data as data

ANSWER = re.compile(r"#### ([0-9]+)\s*\Z")
EQUATION = re.compile(r"([0-9]+) ([-+*]) ([0-9]+) = ([0-9]+)")
KINDS = tuple(template.name for template in data.TEMPLATES)
CORPUS_VERSION = 1  # raise it when `demonstrations` means something new: policies are pretrained again


# The numbers of numeric cores that each template has; counting them takes a second, and every plan asks
CORES = {
    name: dict(zip(SPLITS, counts, strict=True))
    for name, counts in {
        "more": (67, 35, 38),
        "chain2": (39, 28, 17),
        "chain3": (170, 68, 55),
        "bags": (64, 29, 21),
        "times": (118, 70, 61),
        "spend": (28, 16, 14),
        "events2": (623, 305, 296),
        "events3": (4351, 2145, 2226),
        "spend_more": (286, 153, 141),
    }.items()
}


@dataclass(frozen=True)
class WordProblems(Task):
    """seed: of the choice of prompts, independent of the run's seed; the cores of a split never change. templates: the
    kinds of problems; null takes all. Every policy is pretrained on all of them."""

    train_prompts: PromptCount = 600
    validation_prompts: PromptCount = 300
    test_prompts: Annotated[int, whole(2, 100_000_000)] = 300
    max_new_tokens: Count = 48  # the longest solution takes 21, EOS included
    seed: Seed = 0
    templates: Annotated[Sequence[str] | None, or_null(some_of(*KINDS))] = None

    name: ClassVar[str] = "word_problems"

    def __post_init__(self) -> None:
        if self.templates is not None:
            object.__setattr__(self, "templates", tuple(self.templates))
        for split in SPLITS:
            count, held = wanted_prompts(self, split), sum(CORES[template.name][split] for template in self._chosen())
            if not 1 <= count <= held:
                raise BenchError(
                    f"task.{split}_prompts={count} is not allowed: the {split} split of word_problems has {held} "
                    f"prompts{' of these templates' if self.templates else ''}; ask for 1 to {held}."
                )

    def _chosen(self) -> list[data.Template]:
        return [template for template in data.TEMPLATES if self.templates is None or template.name in self.templates]

    @property
    def key(self) -> str:
        """The content key of the pretraining corpus. No setting enters it, because none changes the corpus."""
        return content_hash([type(self).__name__, CORPUS_VERSION])

    @property
    def answer_pattern(self) -> str:
        return ANSWER.pattern

    def prompts(self, split: str) -> Prompts:
        """Return the prompts of a split. The first hundred are the same for every number of prompts.

        Templates are drawn with their shares, each until its cores are used up.
        """
        return _prompts(self, split)

    def demonstrations(self, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Return `count` pairs (prompt, completion) of the pretraining corpus; about half of them are right."""
        return [data.demonstration(rng) for _ in range(count)]

    def demonstrations_of(self, prompts: Prompts, *, foreign: float, noise: float, seed: int) -> list[str]:
        """Return [M] a worked solution of each prompt, in the order of the story.

        foreign: the share, 0 to 1, that announces each equation in words, as the corpus never does, e.g.
        " 1 fewer. 9 - 1 = 8. 8 more. 9 + 8 = 17. #### 17"; the other solutions have only equations.
        noise: the share, 0 to 1, with a slip and a wrong answer; less where too few prompts admit a slip.
        ValueError for a prompt of another task.
        """
        rng = generator(seed, "word_problems", "demonstrations")
        known = {split: {name: (text, problem) for name, text, problem in _drawn(self, split)} for split in SPLITS}
        stories = []
        for name, messages in zip(prompts.id.tolist(), prompts.messages, strict=True):
            text, problem = known.get(name.partition("-")[0], {}).get(name, ("", None))
            if problem is None or messages[-1]["content"] != text:
                raise ValueError(f"prompt {name} is not one of word_problems as it is set, so it has no solution here.")
            stories.append(problem)
        solutions = [data.worked(problem, rng) for problem in stories]
        slips = round(noise * len(stories))
        for index in rng.permutation(len(stories)):
            wrong = data.wrongly_worked(stories[index], answer(stories[index]), rng) if slips else None
            if wrong is not None:
                solutions[index], slips = wrong, slips - 1
        for index in rng.permutation(len(stories))[: round(foreign * len(stories))]:
            solutions[index] = data.in_words(solutions[index])
        return solutions

    def with_hint(self, prompts: Prompts) -> Prompts:
        """Return the prompts with their answers at the end, under ids of their own, for a second attempt (STaR)."""
        return hinted(prompts, " #### {}")

    def extract_answer(self, completion: str) -> str | None:
        """Return the digits after the final ####; None where the completion does not end with them."""
        return _answer(completion)

    def is_correct(self, completion: str, answer: str) -> bool:
        return _answer(completion) == answer

    def steps_are_true(self, completion: str) -> bool:
        """Return whether there is an equation, and every sentence with an equals sign is a true equation."""
        steps = [step for step in _sentences(completion) if "=" in step]
        return bool(steps) and all(map(_is_true, steps))

    def path(self, completion: str) -> str | None:
        """Return the equations in their order (Yuan et al. 2023, RFT), e.g. "9 - 1 = 8; 9 + 8 = 17"."""
        return _path(completion)


@cache  # every run of a sweep needs them
def _prompts(task: WordProblems, split: str) -> Prompts:
    drawn = _drawn(task, split)
    return Prompts(
        id=np.array([name for name, _, _ in drawn]),
        messages=tuple(({"role": "user", "content": text},) for _, text, _ in drawn),
        answer=np.array([str(answer(problem)) for _, _, problem in drawn]),
    )


@cache
def _drawn(task: WordProblems, split: str) -> list[tuple[str, str, data.Problem]]:
    """Name, text and problem of each prompt."""
    wanted, chosen = wanted_prompts(task, split), task._chosen()
    rng = generator(task.seed, "word_problems", split)
    left = [_one_per_core(data.problems(template)[split], rng) for template in chosen]
    shares = np.array([template.share for template in chosen])
    rows = []
    for index in range(wanted):
        open_shares = shares * [bool(queue) for queue in left]
        template = rng.choice(len(chosen), p=open_shares / open_shares.sum())
        problem = left[template].pop()
        rows.append((f"{split}-{index:04d}-{problem.template.name}", data.wording(problem, rng), problem))
    return rows


def answer(problem: data.Problem) -> int:
    """Return the result of the problem; all its solutions agree."""
    values = data.evaluate(problem.solutions()[0], problem.values())
    assert values is not None
    return values["r"]


def _one_per_core(members: tuple[data.Problem, ...], rng: np.random.Generator) -> list[data.Problem]:
    """One problem of every core, in random order."""
    shuffled = (members[i] for i in rng.permutation(len(members)))
    return list({problem.core: problem for problem in shuffled}.values())


@lru_cache(maxsize=2**16)  # the runs of a sweep read the same pools
def _answer(completion: str) -> str | None:
    found = ANSWER.search(completion)
    return found[1] if found else None


@lru_cache(maxsize=2**16)
def _path(completion: str) -> str | None:
    equations = [step for step in _sentences(completion) if EQUATION.fullmatch(step)]
    return "; ".join(equations) or None


def _sentences(completion: str) -> list[str]:
    """The steps before ####."""
    return [step.strip() for step in completion.partition("####")[0].split(".")]


def _is_true(step: str) -> bool:
    equation = EQUATION.fullmatch(step)
    if equation is None:
        return False
    x, operation, y, result = equation.groups()
    return {"+": int(x) + int(y), "-": int(x) - int(y), "*": int(x) * int(y)}[operation] == int(result)
