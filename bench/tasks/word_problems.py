"""Procedural word problems: GSM8K in miniature, with an exact verifier, for a policy that trains in a minute.

    Leo has 9 coins. Eve has 1 fewer. How many coins in all?      9 - 1 = 8. 9 + 8 = 17. #### 17

The splits and the pretraining corpus share no numeric core (the template with its numbers and operations, in any
order), and every prompt of a split has a core of its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from bench.artifacts import Prompts
from bench.config.rules import Count, or_null, some_of
from bench.errors import BenchError
from bench.seeds import generator
from bench.tasks import SPLITS, hinted, wanted_prompts
from bench.tasks import word_problems_data as data
from bench.tasks.procedural import ProceduralTask, Written

ANSWER = re.compile(r"#### ([0-9]+)\s*\Z")
EQUATION = re.compile(r"([0-9]+) ([-+*]) ([0-9]+) = ([0-9]+)")
KINDS = tuple(template.name for template in data.TEMPLATES)


@dataclass(frozen=True)
class WordProblems(ProceduralTask):
    """templates: the kinds of problems; null takes all. Every policy is pretrained on all of them."""

    max_new_tokens: Count = 48  # the longest solution takes 21, EOS included
    templates: Annotated[Sequence[str] | None, or_null(some_of(*KINDS))] = None

    name: ClassVar[str] = "word_problems"
    corpus_version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.templates is not None:
            object.__setattr__(self, "templates", tuple(self.templates))
        for place, split in enumerate(SPLITS):
            count, held = wanted_prompts(self, split), sum(template.cores[place] for template in self._chosen())
            if not 1 <= count <= held:
                raise BenchError(
                    f"task.{split}_prompts={count} is not allowed: the {split} split of word_problems has {held} "
                    f"prompts{' of these templates' if self.templates else ''}; ask for 1 to {held}."
                )

    def _chosen(self) -> list[data.Template]:
        return [template for template in data.TEMPLATES if self.templates is None or template.name in self.templates]

    @property
    def answer_pattern(self) -> str:
        return ANSWER.pattern

    def written(self, split: str) -> list[Written]:
        """Return the prompts of a split. Templates are drawn with their shares, each until its cores are used up."""
        wanted, chosen = wanted_prompts(self, split), self._chosen()
        rng = generator(self.seed, "word_problems", split)
        left = []  # of each template a problem of every core, in random order
        for template in chosen:
            members = data.problems(template, split)
            left.append(list({members[i].core: members[i] for i in rng.permutation(len(members))}.values()))
        shares = np.array([template.share for template in chosen])
        found = []
        for index in range(wanted):
            open_shares = shares * [bool(queue) for queue in left]
            problem = left[rng.choice(len(chosen), p=open_shares / open_shares.sum())].pop()
            name = f"{split}-{index:04d}-{problem.template.name}"
            found.append(Written(name, data.wording(problem, rng), str(problem.answer), problem))
        return found

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
        rng, stories = generator(seed, "word_problems", "demonstrations"), self.sources(prompts)
        solutions = [data.worked(problem, rng) for problem in stories]
        slips = round(noise * len(stories))
        for index in rng.permutation(len(stories)):
            wrong = data.wrongly_worked(stories[index], rng) if slips else None
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
        found = ANSWER.search(completion)
        return found[1] if found else None

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.extract_answer(completion) == answer

    def steps_are_true(self, completion: str) -> bool:
        """Return whether there is an equation, and every sentence with an equals sign is a true equation."""
        steps = [step for step in _sentences(completion) if "=" in step]
        return bool(steps) and all(map(_is_true, steps))

    def path(self, completion: str) -> str | None:
        """Return the equations in their order (Yuan et al. 2023, RFT), e.g. "9 - 1 = 8; 9 + 8 = 17"."""
        return "; ".join(step for step in _sentences(completion) if EQUATION.fullmatch(step)) or None


def _sentences(completion: str) -> list[str]:
    """The steps before ####."""
    return [step.strip() for step in completion.partition("####")[0].split(".")]


def _is_true(step: str) -> bool:
    found = EQUATION.fullmatch(step)
    return found is not None and data.OPERATIONS[found[2]](int(found[1]), int(found[3])) == int(found[4])
