"""lm-eval's own tasks by name, beside the suite's: what fine-tuning did to what others measure.

    python -m bench evaluation.harness_tasks=[gsm8k,arc_easy] evaluation.harness_limit=200

Each task and seed is one artifact, with every metric and standard error that lm-eval reports. Tasks of one's own are
YAML files in a folder (evaluation.harness_include), as lm-eval's --include_path reads them. With vLLM, and wherever a
GPU is at hand, lm-eval runs in a process of its own, one for all that a policy lacks: what it held of the GPU is free
when it ends. With vLLM this process's own engine is closed first, and its share of the GPU is lm-eval's.
"""

import contextlib
import functools
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.artifacts import Completions, Policy, content_hash
from bench.devices import device
from bench.errors import BenchError
from bench.evaluation import harness_models
from bench.evaluation.harness import quiet
from bench.generation import vllm_engine
from bench.generation.vllm_launch import Options
from bench.models.tokens import unconfigured_end
from bench.progress import said_after
from bench.seeds import small_seed
from bench.store import Finder, MissingError, Store, Use, current, stage, using
from bench.training import processes
from bench.training.weighted_trainer import isolated

RESULTS = "results.json"
NO_METRICS = ("alias", "sample_len")  # that lm-eval lists among them
ENGINES = ("auto", "transformers", "vllm")
PATIENCE = 1.0  # seconds until a word is said of the process of its own


@dataclass(frozen=True)
class Asked:
    """What to measure of one policy, and how."""

    policy: Policy
    names: tuple[str, ...]
    include: str | None
    num_fewshot: int | None
    limit: int | None
    seeds: tuple[int, ...]
    vllm: Options | None  # None: by transformers


def harness_tasks(
    policy: Policy,
    names: Sequence[str],
    *,
    include: str | None,
    num_fewshot: int | None,
    limit: int | None,
    seeds: Sequence[int],
    vllm: Options | None = None,
) -> dict[str, float]:
    """lm-eval's metrics by task/metric, e.g. gsm8k/exact_match,strict-match: the mean over seeds, with <metric>_stderr.

    include: a folder with tasks of one's own. limit: documents of each task, the first ones; None: all. seeds: of the
    few-shot examples and of sampling, where a task does either. vllm: how lm-eval's vLLM runs; None: it asks by
    transformers. The standard error is lm-eval's, over documents: seeds share those, so their mean has at most the
    mean of theirs.
    """

    if not names:
        return {}
    asked = Asked(policy, tuple(names), include, num_fewshot, limit, tuple(seeds), vllm)
    if vllm is None and device() == "cpu":
        found = _measured(asked)
    else:
        try:
            with using(Finder(current().root)) as finder:
                found, uses = _measured(asked), finder.uses
        except MissingError:
            found, uses = _elsewhere(asked)
        current().uses.extend(uses)
    metrics: dict[str, float] = {}
    for of_seeds in found:
        metrics |= {name: math.fsum(one[name] for one in of_seeds) / len(of_seeds) for name in of_seeds[0]}
    return metrics


def vllm_options(engine: str, generation: Callable[..., Completions]) -> Options | None:
    """How vLLM runs lm-eval, None where transformers does. engine: one of ENGINES; auto: as generation is.

    The options are those of generation=vllm, or the defaults of that where another engine generates.
    """
    if engine == "transformers":
        return None
    options = vllm_engine.options_of(generation)
    return vllm_engine.options_from({}) if options is None and engine == "vllm" else options


def _elsewhere(asked: Asked) -> tuple[list[list[dict[str, float]]], list[Use]]:
    """What `_measured` finds in a process of its own, and what that used of the store."""
    setting = f"evaluation.harness_tasks=[{','.join(asked.names)}]"
    if asked.vllm is not None:
        vllm_engine.close()
        vllm_engine.release_cached_memory()
    with tempfile.TemporaryDirectory() as folder, said_after(PATIENCE, f"lm-eval runs {', '.join(asked.names)}"):
        return processes.call(setting, 1, Path(folder), _stored, asked, current().root)


def _stored(asked: Asked, root: Path) -> tuple[list[list[dict[str, float]]], list[Use]]:
    with using(Store(root)) as store:
        return _measured(asked), store.uses


def _measured(asked: Asked) -> list[list[dict[str, float]]]:
    """lm-eval's metrics of each task and seed, in their order; the model is loaded where the store lacks one."""
    source = None if asked.include is None else _digest(Path(asked.include))
    with contextlib.closing(Harness(asked)) as harness:
        return [
            [
                lm_eval_task(
                    asked.policy,
                    task=name,
                    source=source,
                    num_fewshot=asked.num_fewshot,
                    limit=asked.limit,
                    seed=seed,
                    engine="transformers" if asked.vllm is None else "vllm",
                    max_length=None if asked.vllm is None else asked.vllm.max_model_len,
                    turn_end=unconfigured_end(asked.policy),
                    harness=harness,
                )
                for seed in asked.seeds
            ]
            for name in asked.names
        ]


class Harness:
    """lm-eval on one policy, whose model is loaded when it is first needed. Close it: vLLM's processes outlive it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._model: Any = None

    def measure(self, task: str, seed: int) -> tuple[dict[str, float], int]:
        """lm-eval's metrics by task/metric, and how many documents they are of; chat models are asked as chat."""
        from lm_eval.evaluator import simple_evaluate

        asked, stream = self.asked, small_seed(seed, "lm-eval")
        with quiet(), isolated():
            manager = _manager(task, asked.include)
            model = self._loaded()
            as_chat = model.tokenizer.chat_template is not None
            drawing = contextlib.nullcontext() if asked.vllm is None else harness_models.drawing_by(model, seed)
            with drawing, _data_or_said(task):
                found: Any = simple_evaluate(
                    model=model,
                    tasks=[task],
                    task_manager=manager,
                    num_fewshot=asked.num_fewshot,
                    limit=asked.limit,
                    apply_chat_template=as_chat,
                    fewshot_as_multiturn=as_chat,
                    random_seed=stream,
                    numpy_random_seed=stream,
                    torch_random_seed=stream,
                    fewshot_random_seed=stream,
                    log_samples=False,
                )
        metrics = {
            f"{name}/{metric}": float(value)
            for name, of_task in found["results"].items()
            for metric, value in of_task.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and metric not in NO_METRICS
        }
        return metrics, sum(counts["effective"] for counts in found["n-samples"].values())

    def _loaded(self) -> Any:
        if self._model is None:
            policy, options = self.asked.policy, self.asked.vllm
            self._model = (
                harness_models.on_transformers(policy) if options is None else harness_models.on_vllm(policy, options)
            )
        return self._model

    def close(self) -> None:
        if self._model is not None and self.asked.vllm is not None:
            harness_models.close(self._model)
        self._model = None


def _load(folder: Path) -> dict[str, float]:
    return json.loads((folder / RESULTS).read_text())


@stage(version=1, load=_load, speed_only=("harness",), later=("engine", "max_length", "turn_end"))
def lm_eval_task(
    policy: Policy,
    *,
    task: str,
    source: str | None,
    num_fewshot: int | None,
    limit: int | None,
    seed: int,
    engine: str = "transformers",
    max_length: int | None = None,
    turn_end: int | None = None,
    harness: Harness,
    out: Path,
) -> dict[str, float]:
    """One task of lm-eval, or of a folder whose content is `source`. max_length: tokens; vLLM cuts longer prompts.
    turn_end: see lm_eval_exact_match."""
    metrics, documents = harness.measure(task, seed)
    (out / RESULTS).write_text(json.dumps(metrics, indent=1))
    return {"documents": documents}


@functools.lru_cache(maxsize=8)  # the cells of a sweep ask for the same
def find_tasks(names: tuple[str, ...], include: str | None) -> None:
    """Raise BenchError where lm-eval has no such task, or its data can't be had here: before hours of other work."""
    if include is not None:
        _digest(Path(include))
    with quiet(), isolated():
        for task in names:
            manager = _manager(task, include)
            with _data_or_said(task):
                manager.load([task])


def _manager(task: str, include: str | None) -> Any:
    """Knows the tasks in `include`, and lm-eval's own, which take seconds to list, where those are not enough."""
    from lm_eval.tasks import TaskManager

    if include is not None and task in (own := TaskManager(include_path=include, include_defaults=False)).all_subtasks:
        return own
    manager = TaskManager(include_path=include)
    if task not in manager.all_tasks:
        where = "" if include is None else f" nor in {include}"
        raise BenchError(f"evaluation.harness_tasks={task} is no task of lm-eval{where}; see `lm-eval ls tasks`.")
    return manager


@contextlib.contextmanager
def _data_or_said(task: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, FileNotFoundError) as error:
        first = str(error).strip().partition("\n")[0]
        raise BenchError(
            f"evaluation.harness_tasks={task}: its data can't be had here: {first.rstrip('.')}. Go online once, leave "
            "the task out (none: evaluation.harness_tasks=[]), or give one on files of your own "
            "(evaluation.harness_include)."
        ) from error


def _digest(folder: Path) -> str:
    """Of every file in a folder of tasks."""
    if not folder.is_dir():
        raise BenchError(f"evaluation.harness_include={folder} is no folder.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return content_hash([(str(path.relative_to(folder)), path.read_bytes().hex()) for path in files])
