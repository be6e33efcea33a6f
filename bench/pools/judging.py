"""Judge imported texts by a task of conf/task: its verifier, on its own answers or on those that came along."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.artifacts import Completions, Prompts
from bench.config.checks import check_node
from bench.config.compose import CONF, composing, understood
from bench.errors import BenchError, quoted
from bench.pools.grid import Laid, only
from bench.scoring.verifier import verify
from bench.tasks import SPLITS, Task
from bench.tasks.rows import RowsTask
from bench.tasks.splits import words

MATCHES = ("prompts", "answers", "order")


@dataclass(frozen=True)
class Judged:
    """Imported completions whose prompts have the task's answers, and how they were found."""

    laid: Laid
    prompts: Prompts
    task: Task
    node: dict[str, Any]  # the task in the configuration
    how: str

    def verdicts(self, pool: Completions) -> tuple[np.ndarray, np.ndarray]:
        """[M, N] the task's verdicts, NaN where there is no sample; and the answers that it reads in the texts."""
        gold = np.where(self.laid.drawn, verify(self.prompts, pool, task=self.task).value, np.nan)
        answers = np.full(pool.shape, None, object)
        for rows, part in pool.shards():
            texts = part.text.ravel().tolist()
            answers[rows] = np.array([*map(self.task.extract_answer, texts)], object).reshape(part.shape)
        return gold, only(self.laid.drawn, answers)


def task_of(settings: Sequence[str]) -> tuple[Task, dict[str, Any]]:
    """The task that settings such as ("task=gsm8k", "task.path=FILE") compose, and its node in the configuration."""
    from hydra import compose
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    with understood(settings), composing(CONF):
        cfg = compose("config", list(settings))
    check_node("task", cfg.task)
    try:
        task = instantiate(cfg.task, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        raise BenchError(str(cause) if isinstance(cause, BenchError) else f"task: {cause or error}") from error
    task.check()
    node: Any = OmegaConf.to_container(cfg.task, resolve=True)
    return task, node


def matched(laid: Laid, settings: Sequence[str], match: str | None) -> Judged:
    """Find the answer of each prompt. BenchError where none is found; prompts without one are left out, and counted.

    match: "answers" takes those of the file, "prompts" those of the task's prompt with this id or text, "order" those
    of the task's prompts one after the other. None: "answers" where the file has them, else "prompts".
    """
    if not laid.has_texts:
        raise BenchError(f"{settings[0]} has nothing to judge: say which field is the completion (completion=FIELD).")
    task, node = task_of(settings)
    given = [laid.grid.answers[row] for row in laid.held]
    how = match or ("answers" if any(answer is not None for answer in given) else "prompts")
    if how == "answers":
        answers = [None if answer is None else _answer(task, answer) for answer in given]
        lacking = "no answer"
    elif how == "order":
        answers, lacking = _in_order(task, len(laid.held)), ""
    else:
        find = _finder(task)
        answers = [find(name, messages[0]["content"]) for name, messages in zip(*_names(laid), strict=True)]
        lacking = f"no prompt of {task.name} with its id or text"
    found = np.flatnonzero([answer is not None for answer in answers])
    if not len(found):
        raise BenchError(
            f"None of the {len(given):,} prompts can be judged: they have {lacking}. Give answer=FIELD, prompts or ids "
            "as the task has them, or match=order where the file has all prompts of the task in its order."
        )
    for row in sorted(set(range(len(given))) - set(found.tolist())):
        laid.grid.skip(f"prompt {quoted(laid.grid.ids[laid.held[row]])[:60]!r}", f"has {lacking}")
    kept = laid if len(found) == len(given) else laid.take(found)
    judged = Prompts(kept.prompts.id, kept.prompts.messages, np.array([answers[row] for row in found], object))
    return Judged(kept, judged, task, node, how)


def _names(laid: Laid) -> tuple[list[str], tuple[Any, ...]]:
    return laid.prompts.id.tolist(), laid.prompts.messages


def _answer(task: Task, text: str) -> str | None:
    """An answer as the task has it: a worked solution gives the one that it ends with."""
    return task.extract_answer(text) if "\n" in text.strip() else text.strip()


def _all(task: Task) -> list[tuple[str, str, str]]:
    """(id, question, answer) of every prompt of the task in any split."""
    found = []
    for split in SPLITS:
        try:
            prompts = task.prompts(split)
        except BenchError:  # the task's data may lack a split
            continue
        questions = (_question(task, messages[-1]["content"]) for messages in prompts.messages)
        found += list(zip(prompts.id.tolist(), questions, prompts.answer.tolist(), strict=True))
    return found


def _question(task: Task, content: str) -> str:
    instruction = task.instruction if isinstance(task, RowsTask) else None
    return content.removesuffix(f"\n\n{instruction}") if instruction else content


def _finder(task: Task) -> Callable[[str, str], str | None]:
    prompts = _all(task)
    by_id = {name: answer for name, _, answer in prompts}
    by_text = {tuple(words(question)): answer for _, question, answer in prompts}

    def find(name: str, text: str) -> str | None:
        return by_id[name] if name in by_id else by_text.get(tuple(words(_question(task, text))))

    return find


def _in_order(task: Task, count: int) -> list[str | None]:
    def natural(name: str) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    prompts = sorted(_all(task), key=lambda prompt: natural(prompt[0]))
    if len(prompts) != count:
        raise BenchError(f"match=order: the file has {count:,} prompts and {task.name} has {len(prompts):,}.")
    return [answer for _, _, answer in prompts]
