"""Tasks that write their prompts and a corpus to pretrain a policy on, without data from elsewhere."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np

from bench.artifacts import Prompts, content_hash
from bench.config.rules import PromptCount, Seed, whole
from bench.tasks import SPLITS, Task


class Written(NamedTuple):
    id: str
    text: str
    answer: str
    source: Any  # what the task wrote it from


@dataclass(frozen=True)
class ProceduralTask(Task):
    """seed: of the choice of prompts, independent of the run's seed; what may stand in a split never changes."""

    train_prompts: PromptCount = 600
    validation_prompts: PromptCount = 300
    test_prompts: Annotated[int, whole(2, 100_000_000)] = 300
    seed: Seed = 0

    corpus_version: ClassVar[int]  # raise it when `demonstrations` means something new: policies are pretrained again

    def written(self, split: str) -> list[Written]:
        """Return the prompts of a split, in an order that does not depend on how many there are."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """The content key of the pretraining corpus. No setting enters it, because none changes the corpus."""
        return content_hash([type(self).__name__, self.corpus_version])

    def prompts(self, split: str) -> Prompts:
        """Return the prompts of a split. The first hundred are the same for every number of prompts."""
        return _prompts(self, split)

    def sources(self, prompts: Prompts) -> list[Any]:
        """Return [M] what each prompt was written from. ValueError for a prompt of another task."""
        names = prompts.id.tolist()
        splits = [split for split in SPLITS if any(name.startswith(f"{split}-") for name in names)]
        known = {prompt.id: prompt for split in splits for prompt in _written(self, split)}
        for name, messages in zip(names, prompts.messages, strict=True):
            if name not in known or known[name].text != messages[-1]["content"]:
                raise ValueError(f"prompt {name} is not one of {self.name} as it is set, so it has no solution here.")
        return [known[name].source for name in names]


@cache  # every run of a sweep needs them
def _written(task: ProceduralTask, split: str) -> list[Written]:
    return task.written(split)


@cache
def _prompts(task: ProceduralTask, split: str) -> Prompts:
    names, texts, answers, _ = zip(*_written(task, split), strict=True)
    return Prompts(
        id=np.array(names),
        messages=tuple(({"role": "user", "content": text},) for text in texts),
        answer=np.array(answers),
    )
