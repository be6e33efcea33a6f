"""EleutherAI's lm-eval on a policy: an independent verdict on the same prompts with greedy decoding.

Each result keeps the task as lm-eval reads it. To repeat one by hand, run in its folder:
`lm_eval --model hf --model_args pretrained=POLICY --include_path . --tasks NAME`
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import Policy, Prompts
from bench.errors import BenchError
from bench.evaluation.harness_models import on_transformers, quiet
from bench.models import loading
from bench.models.chat import render
from bench.models.tokens import encode, unconfigured_end
from bench.progress import bar
from bench.store import stage
from bench.tasks import Task

DATA, RESULTS = "prompts.jsonl", "results.json"


@dataclass(frozen=True)
class HarnessResult:
    """lm-eval's metrics, and its verdict on each of the M prompts."""

    metrics: dict[str, float]  # e.g. word_problems/exact_match and word_problems/exact_match_stderr
    exact_match: np.ndarray  # [M] 0/1
    text: np.ndarray  # [M] str objects: what the policy wrote


def transferred(policy: Policy, name: str, task: Task) -> HarnessResult:
    """Return lm-eval's verdict on the test prompts of another task, under this name. BenchError where it has none."""
    result = harness(policy, task.prompts("test"), task, name=name)
    if result is None:
        raise BenchError(
            f"evaluation.transfer.{name} is {task.name}, which lm-eval can't judge: it has no answer pattern."
        )
    return result


def harness(
    policy: Policy, prompts: Prompts, task: Task, *, name: str | None = None, batch_size: int = 64
) -> HarnessResult | None:
    """Return lm-eval's exact match of greedy completions with `prompts.answer`; None for a task without a pattern.

    name: the task's name in lm-eval; by default its own.
    """
    if task.answer_pattern is None:
        return None
    return lm_eval_exact_match(
        policy,
        prompts,
        task_name=name or task.name,
        answer_pattern=task.answer_pattern,
        max_new_tokens=task.max_new_tokens,
        turn_end=unconfigured_end(policy),
        batch_size=batch_size,
    )


def _load(folder: Path) -> HarnessResult:
    stored = json.loads((folder / RESULTS).read_text())
    rows = stored["rows"]
    return HarnessResult(
        stored["metrics"],
        np.array([row["exact_match"] for row in rows]),
        np.array([row["text"] for row in rows], dtype=object),
    )


@stage(version=2, load=_load, speed_only=("batch_size",), later=("turn_end",))
def lm_eval_exact_match(
    policy: Policy,
    prompts: Prompts,
    *,
    task_name: str,
    answer_pattern: str,
    max_new_tokens: int,
    turn_end: int | None = None,
    batch_size: int,
    out: Path,
) -> dict[str, float]:
    """Write the prompts as an lm-eval task and run it. The first group of `answer_pattern` is the answer.

    turn_end: the token that only the chat template uses to end a completion (bench.models.tokens.unconfigured_end).
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    tokenizer = loading.load_tokenizer(policy)
    with quiet():
        model = on_transformers(policy, batch_size=batch_size)
        # lm-eval would cut the beginning of a prompt that does not fit, with only a warning
        prompt_ids = encode(tokenizer, prompts, max_new_tokens=max_new_tokens, context=model.max_length)
        config = write_task(
            out, tokenizer, prompts, task_name=task_name, answer_pattern=answer_pattern, max_new_tokens=max_new_tokens
        )
        with bar("lm-eval", len(prompts), "prompts") as progress:
            model._model_generate = _counting(model._model_generate, progress.advance)
            found = simple_evaluate(
                model=model,
                tasks=[config | {"custom_dataset": partial(_documents, out)}],
                task_manager=TaskManager(include_defaults=False),
                bootstrap_iters=1,  # a mean's standard error needs none
                random_seed=None,  # None leaves the global generators alone; greedy decoding draws nothing
                numpy_random_seed=None,
                torch_random_seed=None,
                fewshot_random_seed=None,
            )
    samples = {sample["doc"]["id"]: sample for sample in found["samples"][task_name]}
    rows = [
        {"id": name, "text": samples[name]["resps"][0][0], "exact_match": float(samples[name]["exact_match"])}
        for name in prompts.id.tolist()
    ]
    metrics = {
        f"{task_name}/{name.split(',')[0]}": float(value)
        for name, value in found["results"][task_name].items()
        if name.split(",")[0] in ("exact_match", "exact_match_stderr") and value != "N/A"  # the stderr of one prompt
    }
    (out / RESULTS).write_text(json.dumps({"metrics": metrics, "rows": rows}, indent=1, ensure_ascii=False))
    written = sum(len(tokenizer.encode(row["text"], add_special_tokens=False)) for row in rows)
    flops = 2 * loading.count_parameters(policy) * (sum(map(len, prompt_ids)) + written)
    return {"generated_tokens": written, "flops": flops}


def write_task(
    folder: Path, tokenizer: Any, prompts: Prompts, *, task_name: str, answer_pattern: str, max_new_tokens: int
) -> dict[str, Any]:
    """Write prompts.jsonl and <task_name>.yaml, an ordinary lm-eval task over rendered prompts. Return the YAML."""
    import yaml

    lines = [
        json.dumps({"id": name, "prompt": render(tokenizer, messages), "answer": answer}, ensure_ascii=False)
        for name, messages, answer in zip(prompts.id.tolist(), prompts.messages, prompts.answer.tolist(), strict=True)
    ]
    (folder / DATA).write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "task": task_name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": DATA}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "num_fewshot": 0,
        # With an empty `until` only EOS ends a completion; lm-eval's default would also stop at a blank line.
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": max_new_tokens},
        "filter_list": [
            {
                "name": "answer",
                "filter": [
                    {"function": "regex", "regex_pattern": answer_pattern, "group_select": 0},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{task_name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return config


def _documents(folder: Path, **_: Any) -> dict[str, Any]:
    """Return the task's documents by split. Named as data_files, a path with $ or [ would be expanded by datasets."""
    from datasets import Dataset

    lines = (folder / DATA).read_text(encoding="utf-8").split("\n")
    return {"test": Dataset.from_list([json.loads(line) for line in lines if line])}


def _counting(generate: Callable[..., Any], advance: Callable[[float], None]) -> Callable[..., Any]:
    def counted(**arguments: Any) -> Any:
        generated = generate(**arguments)
        advance(len(generated))
        return generated

    return counted
