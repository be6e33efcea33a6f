"""Procedural word problems: GSM8K in miniature, with an exact verifier, for a policy that is trained in a minute.

    Leo has 9 coins. Eve has 1 fewer. How many coins in all?      9 - 1 = 8. 9 + 8 = 17. #### 17

The splits and the pretraining corpus share no numeric core (the template with its numbers and operations, in any
order), and within a split every prompt has a core of its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated

import numpy as np

from bench.artifacts import Prompts, content_hash
from bench.config.rules import Count, Seed, or_null, some_of, whole
from bench.errors import BenchError
from bench.seeds import generator
from bench.tasks.word_problems_slips import demonstration, in_words, wording, worked, wrongly_worked
from bench.tasks.word_problems_text import TEMPLATES, Problem, Template, evaluate, problems

ANSWER = re.compile(r"#### ([0-9]+)\s*\Z")
EQUATION = re.compile(r"([0-9]+) ([-+*]) ([0-9]+) = ([0-9]+)")
KINDS = tuple(template.name for template in TEMPLATES)
SPLITS = ("train", "validation", "test")
CORPUS_VERSION = 1  # raise it when `demonstrations` means something new: policies are pretrained again


@dataclass(frozen=True)
class WordProblems:
    """The task. `seed` chooses the prompts and is independent of the run's; the cores of a split never change."""

    train_prompts: Count = 600
    validation_prompts: Count = 300
    test_prompts: Annotated[int, whole(2)] = 300
    max_new_tokens: Count = 48  # the longest solution takes 21, EOS included
    seed: Seed = 0
    templates: Annotated[Sequence[str] | None, or_null(some_of(*KINDS))] = None  # the kinds of problems; null: all

    def __post_init__(self) -> None:
        if self.templates is not None:
            object.__setattr__(self, "templates", tuple(self.templates))
        for split, count in self._wanted().items():
            held = sum(cores(template)[split] for template in self._chosen())
            if not 1 <= count <= held:
                raise BenchError(
                    f"task.{split}_prompts={count} is not allowed: the {split} split of word_problems has {held} "
                    f"prompts{' of these templates' if self.templates else ''}; ask for 1 to {held}."
                )

    def _wanted(self) -> dict[str, int]:
        return {"train": self.train_prompts, "validation": self.validation_prompts, "test": self.test_prompts}

    def _chosen(self) -> list[Template]:
        return [template for template in TEMPLATES if self.templates is None or template.name in self.templates]

    @property
    def name(self) -> str:
        return "word_problems"

    @property
    def key(self) -> str:
        """Of the pretraining corpus, for what is made from it; no setting enters, as none changes the corpus."""
        return content_hash([type(self).__name__, CORPUS_VERSION])

    @property
    def answer_pattern(self) -> str:
        """A regular expression whose first group is a completion's answer."""
        return ANSWER.pattern

    def prompts(self, split: str) -> Prompts:
        """The prompts of "train", "validation" or "test". The first hundred are the same however many are asked for.

        Templates are drawn with their shares; one whose cores are used up is drawn no more. Every policy has been
        pretrained on all of them, whatever `templates` are asked for here.
        """
        return _prompts(self, split)

    def demonstrations(self, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        """`count` pairs (prompt, completion) of the pretraining corpus, about half of them right."""
        return [demonstration(rng) for _ in range(count)]

    def demonstrations_of(self, prompts: Prompts, *, foreign: float, noise: float, seed: int) -> list[str]:
        """A worked solution of each prompt [M] in the order of the story.

        foreign: the share, 0 to 1, by a writer who announces each equation in words, as the corpus never does, e.g.
        " 1 fewer. 9 - 1 = 8. 8 more. 9 + 8 = 17. #### 17"; the others have the equations alone, as the corpus.
        noise: the share, 0 to 1, that has a slip and a wrong answer, as near as the prompts that admit a slip allow.
        ValueError for a prompt that is not this task's.
        """
        rng = generator(seed, "word_problems", "demonstrations")
        known = {split: {name: (text, problem) for name, text, problem in _drawn(self, split)} for split in SPLITS}
        stories = []
        for name, messages in zip(prompts.id.tolist(), prompts.messages, strict=True):
            text, problem = known.get(name.partition("-")[0], {}).get(name, ("", None))
            if problem is None or messages[-1]["content"] != text:
                raise ValueError(f"prompt {name} is not one of word_problems as it is set, so it has no solution here.")
            stories.append(problem)
        solutions = [worked(problem, rng) for problem in stories]
        slips = round(noise * len(stories))
        for index in rng.permutation(len(stories)):
            wrong = wrongly_worked(stories[index], answer(stories[index]), rng) if slips else None
            if wrong is not None:
                solutions[index], slips = wrong, slips - 1
        strangers = rng.permutation(len(stories))[: round(foreign * len(stories))]
        for index in strangers:
            solutions[index] = in_words(solutions[index])
        return solutions

    def with_hint(self, prompts: Prompts) -> Prompts:
        """The prompts with their answers given away at the end, under names of their own, for a second try (STaR)."""
        return Prompts(
            id=np.array([f"{name}-hint" for name in prompts.id]),
            messages=tuple(
                (*turns[:-1], turns[-1] | {"content": f"{turns[-1]['content']} #### {known}"})
                for turns, known in zip(prompts.messages, prompts.answer, strict=True)
            ),
            answer=prompts.answer,
        )

    def extract_answer(self, completion: str) -> str | None:
        """The digits after the final ####, None where the completion does not end with them."""
        return _answer(completion)

    def is_correct(self, completion: str, answer: str) -> bool:
        return _answer(completion) == answer

    def steps_are_true(self, completion: str) -> bool:
        """Whether there is an equation, and every sentence with an equals sign is a true one."""
        steps = [step for step in _sentences(completion) if "=" in step]
        return bool(steps) and all(map(_is_true, steps))

    def path(self, completion: str) -> str | None:
        """The equations in their order, e.g. "9 - 1 = 8; 9 + 8 = 17"; None where there is none (Yuan 2023, RFT)."""
        return _path(completion)


@cache  # a sweep asks for them in every cell
def _prompts(task: WordProblems, split: str) -> Prompts:
    drawn = _drawn(task, split)
    return Prompts(
        id=np.array([name for name, _, _ in drawn]),
        messages=tuple(({"role": "user", "content": text},) for _, text, _ in drawn),
        answer=np.array([str(answer(problem)) for _, _, problem in drawn]),
    )


@cache
def _drawn(task: WordProblems, split: str) -> list[tuple[str, str, Problem]]:
    """Name, text and problem of each prompt."""
    wanted, chosen = task._wanted(), task._chosen()
    if split not in wanted:
        raise BenchError(f"split={split} is not one of word_problems; it has {', '.join(wanted)}.")
    rng = generator(task.seed, "word_problems", split)
    left = [_one_a_core(problems(template)[split], rng) for template in chosen]
    shares = np.array([template.share for template in chosen])
    rows = []
    for index in range(wanted[split]):
        open_shares = shares * [bool(queue) for queue in left]
        template = rng.choice(len(chosen), p=open_shares / open_shares.sum())
        problem = left[template].pop()
        rows.append((f"{split}-{index:04d}-{problem.template.name}", wording(problem, rng), problem))
    return rows


def answer(problem: Problem) -> int:
    """The result of the story told in its own order; every other solution agrees."""
    values = evaluate(problem.solutions()[0], problem.values())
    assert values is not None
    return values["r"]


@cache
def cores(template: Template) -> dict[str, int]:
    """The number of numeric cores that a template has in each split."""
    return {split: len({problem.core for problem in members}) for split, members in problems(template).items()}


def _one_a_core(members: tuple[Problem, ...], rng: np.random.Generator) -> list[Problem]:
    """One problem of every core, in random order."""
    shuffled = (members[i] for i in rng.permutation(len(members)))
    return list({problem.core: problem for problem in shuffled}.values())


@lru_cache(maxsize=2**16)  # the cells of a sweep ask of the same pools
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
