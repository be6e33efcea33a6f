"""lm-eval's own tasks by name, beside the suite's: what fine-tuning did to what others measure.

    python -m bench evaluation.harness_tasks=[gsm8k,arc_easy] evaluation.harness_limit=200

Each task and seed is one artifact, with every metric and standard error that lm-eval reports. Tasks of one's own are
YAML files in a folder (evaluation.harness_include), as lm-eval's --include_path reads them.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import policies, processes
from bench.artifacts import Policy, content_hash
from bench.errors import BenchError
from bench.evaluation.harness import quiet
from bench.seeds import small_seed
from bench.store import stage
from bench.training.weighted_trainer import isolated

RESULTS = "results.json"
NO_METRICS = ("alias", "sample_len")  # that lm-eval lists among them


def harness_tasks(
    policy: Policy,
    names: Sequence[str],
    *,
    include: str | None,
    num_fewshot: int | None,
    limit: int | None,
    seeds: Sequence[int],
    batch_size: int = 64,
) -> dict[str, float]:
    """lm-eval's metrics by task/metric, e.g. gsm8k/exact_match,strict-match: the mean over seeds, with <metric>_stderr.

    include: a folder with tasks of one's own. limit: documents of each task, the first ones; None: all. seeds: of the
    few-shot examples and of sampling, where a task does either. The standard error is lm-eval's, over documents: seeds
    share those, so their mean has at most the mean of theirs.
    """
    source = None if include is None else _digest(Path(include))
    metrics: dict[str, float] = {}
    for name in names:
        found = [
            lm_eval_task(
                policy,
                task=name,
                source=source,
                num_fewshot=num_fewshot,
                limit=limit,
                seed=seed,
                include=include,
                batch_size=batch_size,
            )
            for seed in seeds
        ]
        metrics |= {metric: math.fsum(one[metric] for one in found) / len(found) for metric in found[0]}
    return metrics


def _load(folder: Path) -> dict[str, float]:
    return json.loads((folder / RESULTS).read_text())


@stage(version=1, load=_load, speed_only=("include", "batch_size"))
def lm_eval_task(
    policy: Policy,
    *,
    task: str,
    source: str | None,
    num_fewshot: int | None,
    limit: int | None,
    seed: int,
    include: str | None,
    batch_size: int,
    out: Path,
) -> dict[str, float]:
    """One task of lm-eval, or of the folder `include`, whose content is `source`; chat models are asked as chat.

    Where a GPU is at hand, in a process of its own, after which all that lm-eval held of it is free.
    """
    import torch

    given = (policy, task, include, num_fewshot, limit, seed, batch_size)
    if torch.cuda.is_available():
        metrics, documents = processes.call(f"evaluation.harness_tasks={task}", 1, out, _run, *given)
    else:
        metrics, documents = _run(*given)
    (out / RESULTS).write_text(json.dumps(metrics, indent=1))
    return {"documents": documents}


def _run(
    policy: Policy,
    task: str,
    include: str | None,
    num_fewshot: int | None,
    limit: int | None,
    seed: int,
    batch_size: int,
) -> tuple[dict[str, float], int]:
    """lm-eval's metrics by task/metric, and how many documents they are of."""
    import torch
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    tokenizer, stream = policies.load_tokenizer(policy), small_seed(seed, "lm-eval")
    with quiet(), isolated():
        manager = _manager(task, include)
        if task not in manager.all_tasks:
            where = "" if include is None else f" nor in {include}"
            raise BenchError(f"evaluation.harness_tasks={task} is no task of lm-eval{where}; see `lm-eval ls tasks`.")
        model = HFLM(
            pretrained=policies.load_model(policy, dtype=dtype, device=device),
            tokenizer=tokenizer,
            batch_size=batch_size,
            add_bos_token=tokenizer.chat_template is None,  # a chat template writes its own
        )
        try:
            found: Any = simple_evaluate(
                model=model,
                tasks=[task],
                task_manager=manager,
                num_fewshot=num_fewshot,
                limit=limit,
                apply_chat_template=tokenizer.chat_template is not None,
                fewshot_as_multiturn=tokenizer.chat_template is not None,
                random_seed=stream,
                numpy_random_seed=stream,
                torch_random_seed=stream,
                fewshot_random_seed=stream,
                log_samples=False,
            )
        except (ConnectionError, FileNotFoundError) as error:
            first = str(error).strip().partition("\n")[0]
            raise BenchError(f"evaluation.harness_tasks={task}: its data can't be had here: {first}") from error
    metrics = {
        f"{name}/{metric}": float(value)
        for name, of_task in found["results"].items()
        for metric, value in of_task.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and metric not in NO_METRICS
    }
    return metrics, sum(counts["effective"] for counts in found["n-samples"].values())


def _manager(task: str, include: str | None) -> Any:
    """Knows the tasks in `include`, and lm-eval's own, which take seconds to list, where those are not enough."""
    from lm_eval.tasks import TaskManager

    if include is not None and task in (own := TaskManager(include_path=include, include_defaults=False)).all_subtasks:
        return own
    return TaskManager(include_path=include)


def _digest(folder: Path) -> str:
    """Of every file in a folder of tasks."""
    if not folder.is_dir():
        raise BenchError(f"evaluation.harness_include={folder} is no folder.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return content_hash([(str(path.relative_to(folder)), path.read_bytes().hex()) for path in files])
