"""Readers of completions beside the policy: reward models, the sandbox for programs, and lm-eval's own tasks.

Sizes of lm-eval's tasks are those of lm-eval 0.4's YAML files and of the published splits. Token counts are assumed,
rough means.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.sizing.shapes import Shape, of_model

PROGRAM = 0.05  # seconds per program in the sandbox, mostly to start it; assumed
GOLD = "gold model"
MODELS = ("trained_reward_model", "trained_process_reward", "reward_model", "process_reward")


@dataclass(frozen=True)
class Reader:
    """A model that reads completions to score them."""

    role: str
    shape: Shape
    held_out: bool = False  # whether it reads completions of held-out prompts alone
    notes: list[str] = field(default_factory=list)


def readers(cfg: Mapping[str, Any], policy: Shape, parameters: float | None) -> list[Reader]:
    """Every model that scores completions. parameters: of a reward model whose name does not state its size."""
    models = []
    for name, scorer, copies in _parts(cfg["scoring"], skip=("gold", "task")):  # gold labels a few samples alone
        if name not in MODELS:
            continue
        if isinstance(scorer.get("model"), str):
            shape = of_model(scorer["model"], revision=scorer.get("revision", "main"), parameters=parameters)
            models += [Reader("reward model", shape)] * copies
        else:
            notes = ["a reward model is trained here: its samples and its training come on top"]
            models += [Reader("reward model of the policy's size", policy, notes=notes)] * copies
    if gold := cfg["task"].get("gold_model"):
        selects = cfg["scoring"]["_target_"].endswith(".verify")  # then it reads the training pool too
        shape = of_model(gold, revision=cfg["task"]["gold_revision"], parameters=parameters)
        models.append(Reader(GOLD, shape, held_out=not selects))
    return models


def programs(cfg: Mapping[str, Any], completions: float, held_out: float) -> float:
    """The programs that the sandbox runs: one per completion that tests score, and one per held-out one they grade."""
    scored = any(name == "unit_tests" for name, _, _ in _parts(cfg["scoring"]))
    graded = "isolation" in cfg["task"]
    return (completions if scored else 0) + (held_out if graded else 0)


def _parts(node: Any, copies: int = 1, skip: Sequence[str] = ()) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """The configured parts inside a node: function name, settings, and the number of copies that are made."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping):
        return
    name = str(node.get("_target_", "")).rpartition(".")[2]
    if name:
        yield name, node, copies
    copies *= node["size"] if name == "seed_ensemble" else 1
    for key, part in node.items():
        if key not in skip:
            yield from _parts(part, copies, skip)


@dataclass(frozen=True)
class HarnessTask:
    documents: int
    choices: int  # the likelihood of each is computed, with the question read again; 0: the policy writes an answer
    question: int  # tokens, mean
    answer: int  # tokens per choice, or written; mean
    shots: int = 0  # examples before each question, by default


TASKS = {
    "aime24": HarnessTask(30, 0, 130, 800),
    "arc_challenge": HarnessTask(1_172, 4, 30, 6),
    "arc_easy": HarnessTask(2_376, 4, 27, 5),
    "boolq": HarnessTask(3_270, 2, 140, 1),
    "commonsense_qa": HarnessTask(1_221, 5, 45, 1),
    "gsm8k": HarnessTask(1_319, 0, 65, 120, 5),
    "gsm8k_cot": HarnessTask(1_319, 0, 65, 120, 8),
    "hellaswag": HarnessTask(10_042, 4, 65, 30),
    "hendrycks_math500": HarnessTask(500, 0, 80, 300),
    "humaneval": HarnessTask(164, 0, 150, 120),
    "ifeval": HarnessTask(541, 0, 60, 400),
    "lambada_openai": HarnessTask(5_153, 1, 85, 2),
    "mbpp": HarnessTask(500, 0, 180, 80, 3),
    "minerva_math500": HarnessTask(500, 0, 80, 300, 4),
    "mmlu": HarnessTask(14_042, 4, 120, 1),
    "openbookqa": HarnessTask(500, 4, 18, 5),
    "piqa": HarnessTask(1_838, 2, 20, 20),
    "sciq": HarnessTask(1_000, 4, 110, 3),
    "truthfulqa_mc1": HarnessTask(817, 5, 180, 12),
    "truthfulqa_mc2": HarnessTask(817, 7, 180, 12),
    "winogrande": HarnessTask(1_267, 2, 25, 6),
}
BATCH = 64  # requests at once, as in bench.evaluation.harness_tasks


@dataclass(frozen=True)
class Requests:
    """The requests of one lm-eval task to one policy."""

    count: int
    prompt: float  # tokens per request, mean, examples included
    answer: float  # tokens per request, mean
    written: bool  # whether the policy writes the answer; else it reads a choice


def requests(evaluation: Mapping[str, Any], prompt: float, completion: float) -> tuple[list[Requests], list[str]]:
    """The requests of each of lm-eval's tasks to one policy, and notes on what was assumed or left out.

    prompt, completion: mean tokens of the suite's own task; assumed for an unknown lm-eval task with a limit.
    """
    limit, shots, seeds = evaluation["harness_limit"], evaluation["harness_fewshot"], len(evaluation["harness_seeds"])
    known, notes = [], []
    for name in evaluation["harness_tasks"]:
        task = TASKS.get(name)
        if task is None and limit is None:
            notes.append(
                f"lm-eval's {name} is left out: its size is unknown; set evaluation.harness_limit=NUMBER of documents"
            )
            continue
        if task is None:
            task = HarnessTask(limit, 0, round(prompt), round(completion))
            notes.append(f"assumed that lm-eval's {name}, whose size is unknown, has the lengths of the suite's task")
        documents = task.documents if limit is None else min(limit, task.documents)
        read = (task.shots if shots is None else shots) * (task.question + task.answer) + task.question
        known.append(Requests(seeds * documents * max(1, task.choices), read, task.answer, not task.choices))
        kind = f"questions with {task.choices} choices" if task.choices else "answers to write"
        notes.append(
            f"assumed for lm-eval's {name}: {documents:,} {kind}, {read:.0f} tokens per question with its examples, "
            f"{task.answer} per answer"
        )
    return known, notes
