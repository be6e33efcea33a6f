"""How much lm-eval's own tasks read and write: those that are known here by name, others by what the user says.

Documents, choices and examples are those of lm-eval 0.4's YAML files and the data sets' published splits; tokens are
rough means, assumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HarnessTask:
    """One task of lm-eval."""

    documents: int
    choices: int  # whose likelihoods are asked for, each with the question read anew; 0: an answer is written
    question: int  # tokens, on average
    answer: int  # tokens read of a choice, or written
    shots: int = 0  # examples before each question by default


# name -> documents, choices, question, answer, shots
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
BATCH = 64  # requests at once, as bench.evaluation.harness_tasks asks


@dataclass(frozen=True)
class Requests:
    """What one task asks of one policy; tokens of a request, on average."""

    name: str
    count: int
    prompt: float  # tokens, examples included
    answer: float  # tokens
    written: bool  # or read, as a choice whose likelihood is asked for


def requests(evaluation: Mapping[str, Any], prompt: float, completion: float) -> tuple[list[Requests], list[str]]:
    """What lm-eval asks of one policy, a task at a time, and in words what was assumed or left out.

    prompt, completion: tokens of the suite's own task, assumed of a task that is not known and has a limit.
    """
    limit, shots, seeds = evaluation["harness_limit"], evaluation["harness_fewshot"], len(evaluation["harness_seeds"])
    found, notes = [], []
    for name in evaluation["harness_tasks"]:
        task = TASKS.get(name)
        if task is None and limit is None:
            notes.append(
                f"lm-eval's {name} is left out: its size is not known here; evaluation.harness_limit=NUMBER of "
                "documents would say it"
            )
            continue
        if task is None:
            task = HarnessTask(limit, 0, round(prompt), round(completion))
            notes.append(f"the size of lm-eval's {name} is not known here; its lengths are taken for the task's own")
        documents = task.documents if limit is None else min(limit, task.documents)
        examples = (task.shots if shots is None else shots) * (task.question + task.answer)
        found.append(
            Requests(
                name, seeds * documents * max(1, task.choices), examples + task.question, task.answer, not task.choices
            )
        )
        written = "answers to write" if not task.choices else f"questions with {task.choices} choices"
        notes.append(
            f"assumed of lm-eval's {name}: {documents:,} {written}, {examples + task.question:.0f} tokens read and "
            f"{task.answer} answered of each"
        )
    return found, notes
