"""Judge imported texts by a task of conf/task: its verifier, on its own answers or on those that came along."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from bench.artifacts import Completions, Prompts
from bench.config.checks import build_part, check_node
from bench.config.compose import CONF, composing, understood
from bench.config.nodes import without_value
from bench.errors import BenchError, quoted
from bench.pools.grid import Laid, only
from bench.scoring.verifier import verify
from bench.tasks import SPLITS, Task
from bench.tasks.answers import Answers
from bench.tasks.extraction import marked, number_in
from bench.tasks.ifeval import Instructions
from bench.tasks.programs import last_defined
from bench.tasks.reasoning import GeneratorScore
from bench.tasks.rows import RowsTask
from bench.tasks.splits import words

MATCHES = ("prompts", "answers", "order")
AGREE = 0.5  # of two texts' words, see `_shared`: one prompt in two forms; other problems mostly share 0.1 to 0.4


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
    from omegaconf import OmegaConf

    with understood(settings), composing(CONF):
        cfg = compose("config", list(settings))
    if missing := without_value(OmegaConf.to_container(cfg.task), "task."):
        raise BenchError(f"{missing[0]} has no value; give one: {missing[0]}=VALUE.")
    check_node("task", cfg.task)
    task = build_part(cfg, "task")
    task.check()
    node: Any = OmegaConf.to_container(cfg.task, resolve=True)
    return task, node


def matched(laid: Laid, settings: Sequence[str], match: str | None) -> Judged:
    """Find the answer of each prompt. BenchError where none is found; prompts without one are left out, and counted.

    match: "answers" takes those of the file, "prompts" those of the task's prompt with this id, text or function to
    write, "order" those of the task's prompts one after the other. None: "answers" where the file has them and the task
    compares with texts, else "prompts".
    """
    if not laid.has_texts:
        raise BenchError(f"{settings[0]} has nothing to judge: say which field is the completion (completion=FIELD).")
    task, node = task_of(settings)
    given = [(laid.grid.answers[row] or "").strip() for row in laid.held]
    names, texts = laid.prompts.id.tolist(), [messages[0]["content"] for messages in laid.prompts.messages]
    answers: Sequence[str | None]
    how = match or ("answers" if any(given) and _compares_texts(task) else "prompts")
    if how == "answers":
        if not _compares_texts(task):
            raise BenchError(
                f"match=answers is not allowed with task={task.name}, which compares no texts: take prompts or order."
            )
        answers = [_answer(task, answer) for answer in given]
        lacking = "no answer"
    elif how == "order":
        answers, lacking = _in_order(task, texts), ""
    else:
        ways, answers = zip(*map(_finder(task), names, texts), strict=True)
        how += f" ({', '.join(f'{count:,} by {way}' for way, count in Counter(filter(None, ways)).items())})"
        lacking = f"no prompt of {task.name} with its id or text" + ", or its function" * (task.programs is not None)
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


def _compares_texts(task: Task) -> bool:
    """Whether an answer of the task is a plain text or number, and no tests, instructions or reference of a model."""
    judge = getattr(task, "judge", task)
    return judge.programs is judge.gold_reward is None and not isinstance(judge, Instructions | GeneratorScore)


def _answer(task: Task, text: str) -> str | None:
    """An answer as the task has it, a worked solution's being the one that it ends with; None where there is none."""
    judge = getattr(task, "judge", None)
    numbers = isinstance(judge, Answers) and judge.compare == "number"
    if "\n" in text or (not numbers and re.search(r"####|\\boxed", text)):
        return task.extract_answer(text)
    end = text.rpartition("####")[2]
    return number_in(marked(end) or end) if numbers else text or None


def _all(task: Task) -> list[tuple[str, str, str]]:
    """(id, question, answer) of every prompt of the task in any split. BenchError where no split has prompts."""
    found, errors = [], []
    for split in SPLITS:
        try:
            prompts = task.prompts(split)
        except BenchError as error:  # the task's data may lack a split
            errors.append(error)
            continue
        questions = (_question(task, messages[-1]["content"]) for messages in prompts.messages)
        found += list(zip(prompts.id.tolist(), questions, prompts.answer.tolist(), strict=True))
    if len(errors) == len(SPLITS):
        raise errors[0]
    return found


def _question(task: Task, content: str) -> str:
    instruction = task.instruction if isinstance(task, RowsTask) else None
    return (content.removesuffix(f"\n\n{instruction}") if instruction else content).strip()


def _finder(task: Task) -> Callable[[str, str], tuple[str, str | None]]:
    """Find (the way, the answer) of an id and a text; the answer is None where no prompt of the task is the same.

    Where prompts differ in signs alone (5!, 5), the signs count. Programs whose id and text are unknown are found by
    the function that their prompt defines last. Where several prompts of the task define it, the one counts that has
    most of the text's words.
    """
    prompts = _all(task)
    by_id = {name: (question, answer) for name, question, answer in prompts}
    by_text = defaultdict[str | tuple[str, ...], set[str]](set)
    for _, question, answer in prompts:
        by_text[question].add(answer)
        by_text[tuple(words(question))].add(answer)
    by_function = defaultdict[str, list[tuple[str, str]]](list)
    for _, question, answer in prompts if task.programs else ():
        by_function[last_defined(question)].append((question, answer))

    def find(name: str, text: str) -> tuple[str, str | None]:
        text = _question(task, text)
        if name in by_id and not _differs(text, by_id[name][0], by_text):
            return "id", by_id[name][1]
        for form in (text, tuple(words(text))):
            if len(answers := by_text.get(form, ())) == 1:
                return "text", next(iter(answers))
        same = by_function[defined] if (defined := last_defined(text)) else []
        near = [(_shared(text, question), answer) for question, answer in same]
        (second, _), (first, answer) = sorted([(0.0, ""), (0.0, ""), *near])[-2:]
        return ("function name", answer) if first >= AGREE and first > second else ("", None)

    return find


def _differs(text: str, question: str, known: Container[str | tuple[str, ...]]) -> bool:
    """Whether a text is not that of a prompt, but another one of the known texts, or one with few of its words."""
    if not text or text == question:
        return False
    said = tuple(words(text))
    return text in known or (said != tuple(words(question)) and (said in known or _shared(text, question) < AGREE))


def _shared(text: str, other: str) -> float:
    """The share of the shorter text's words that both have in one order; 0 where they define other functions last."""
    if len({last_defined(text), last_defined(other)} - {""}) == 2:
        return 0.0
    a, b = words(text), words(other)
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / max(1, min(len(a), len(b)))


def _in_order(task: Task, texts: Sequence[str]) -> list[str]:
    """The answers of the task's prompts by their ids. BenchError where a text is not the prompt's at its place."""

    def natural(name: str) -> list[Any]:
        parts = [(part.lstrip("0"), at % 2) for at, part in enumerate(re.split(r"([0-9]+)", name))]
        return [(len(part) if is_number else 0, part) for part, is_number in parts]

    prompts = sorted(_all(task), key=lambda prompt: natural(prompt[0]))
    if len(prompts) != len(texts):
        raise BenchError(f"match=order: the file has {len(texts):,} prompts and {task.name} has {len(prompts):,}.")
    known = {form for _, question, _ in prompts for form in (question, tuple(words(question)))}
    differ = [
        (text, name, question)
        for text, (name, question, _) in zip((_question(task, text) for text in texts), prompts, strict=True)
        if _differs(text, question, known)
    ]
    if differ:
        text, name, question = differ[0]
        shown = [quoted(last_defined(part) or part)[:60] for part in (text, question)]
        raise BenchError(
            f"match=order: {len(differ):,} of {len(texts):,} prompts are not those of {task.name} at their places, "
            f"e.g. {shown[0]!r} where {name} is {shown[1]!r}: take match=prompts, or sort the file."
        )
    return [answer for _, _, answer in prompts]
