"""lm-eval's own tasks by name: what fine-tuning does to the measures that others report.

    python -m bench evaluation.harness_tasks=[gsm8k,arc_easy] evaluation.harness_limit=200

Each task and seed is one artifact, with every metric and standard error that lm-eval reports. Your own tasks are YAML
files in a folder (evaluation.harness_include), as lm-eval's --include_path reads them.

With vLLM, and on a machine with a GPU, lm-eval runs in a process of its own: one for all results that a policy lacks.
When it ends, its memory on the GPU is free. With vLLM this process's own engine closes first and leaves its share of
the GPU to lm-eval.
"""

import contextlib
import functools
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.artifacts import Completions, Policy, content_hash
from bench.devices import device, release_memory
from bench.errors import BenchError, first_line
from bench.evaluation import harness_models
from bench.generation import vllm_engine
from bench.generation.vllm_launch import Options
from bench.models.tokens import unconfigured_end
from bench.progress import said_after
from bench.seeds import small_seed
from bench.store import Finder, MissingError, Store, Use, current, stage, using
from bench.training import processes
from bench.training.trainers import isolated

RESULTS = "results.json"
NO_METRICS = ("alias", "sample_len")  # lm-eval lists these among the metrics
ENGINES = ("auto", "transformers", "vllm")
PATIENCE = 1.0  # seconds until a message says that the other process runs


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
    """Return lm-eval's metrics by task/metric, e.g. gsm8k/exact_match,strict-match, with <metric>_stderr.

    include: a folder with your own tasks. limit: the number of first documents of each task; None: all. seeds: of the
    few-shot examples and of sampling, where a task has either; metrics are means over seeds. vllm: how lm-eval's vLLM
    runs; None: transformers. The standard error is lm-eval's, over documents. All seeds share the documents, so the
    standard error of their mean is at most the mean of their standard errors, which is given.
    """
    if not names:
        return {}
    harness = Harness(policy, tuple(names), include, num_fewshot, limit, tuple(seeds), vllm)
    if vllm is None and device() == "cpu":
        measured = _measured(harness)
    else:
        try:
            with using(Finder(current().root)) as finder:
                measured, uses = _measured(harness), finder.uses
        except MissingError:
            measured, uses = _in_another_process(harness)
        current().uses.extend(uses)
    metrics: dict[str, float] = {}
    for by_seed in measured:
        metrics |= {name: math.fsum(run[name] for run in by_seed) / len(by_seed) for name in by_seed[0]}
    return metrics


def vllm_options(engine: str, generation: Callable[..., Completions]) -> Options | None:
    """Return how vLLM runs lm-eval, or None for transformers. engine: one of ENGINES; auto: the engine of generation.

    The options are those of generation=vllm, or its defaults where another engine generates.
    """
    if engine == "transformers":
        return None
    options = vllm_engine.options_of(generation)
    return vllm_engine.options_from({}) if options is None and engine == "vllm" else options


@dataclass
class Harness:
    """Tasks of lm-eval on one policy. Close it: vLLM's processes would outlive it."""

    policy: Policy
    names: tuple[str, ...]
    include: str | None
    num_fewshot: int | None
    limit: int | None
    seeds: tuple[int, ...]
    vllm: Options | None  # None: transformers
    _model: Any = field(default=None, init=False)  # loaded when it is first needed

    def measure(self, task: str, seed: int) -> tuple[dict[str, float], int]:
        """Return lm-eval's metrics by task/metric, and the number of documents. Chat models get their template."""
        from lm_eval.evaluator import simple_evaluate

        stream = small_seed(seed, "lm-eval")
        with harness_models.quiet(), isolated():
            manager = _manager(task, self.include)
            model = self._loaded()
            as_chat = model.tokenizer.chat_template is not None
            drawing = contextlib.nullcontext() if self.vllm is None else harness_models.drawing_by(model, seed)
            with drawing, _naming_missing_data(task):
                results: Any = simple_evaluate(
                    model=model,
                    tasks=[task],
                    task_manager=manager,
                    num_fewshot=self.num_fewshot,
                    limit=self.limit,
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
            for name, of_task in results["results"].items()
            for metric, value in of_task.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and metric not in NO_METRICS
        }
        return metrics, sum(counts["effective"] for counts in results["n-samples"].values())

    def _loaded(self) -> Any:
        if self._model is None:
            policy, options = self.policy, self.vllm
            self._model = (
                harness_models.on_transformers(policy) if options is None else harness_models.on_vllm(policy, options)
            )
        return self._model

    def close(self) -> None:
        if self._model is not None and self.vllm is not None:
            harness_models.close(self._model)
        self._model = None


def _in_another_process(harness: Harness) -> tuple[list[list[dict[str, float]]], list[Use]]:
    """What `_measured` returns in a process of its own, and what it used of the store."""
    setting = f"evaluation.harness_tasks=[{','.join(harness.names)}]"
    if harness.vllm is not None:
        vllm_engine.close()
        release_memory()
    with tempfile.TemporaryDirectory() as folder, said_after(PATIENCE, f"lm-eval runs {', '.join(harness.names)}"):
        return processes.call(setting, 1, Path(folder), _stored, harness, current().root)


def _stored(harness: Harness, root: Path) -> tuple[list[list[dict[str, float]]], list[Use]]:
    with using(Store(root)) as store:
        return _measured(harness), store.uses


def _measured(harness: Harness) -> list[list[dict[str, float]]]:
    """lm-eval's metrics by task and seed, in their order; the model loads where the store lacks one."""
    source = None if harness.include is None else _digest(Path(harness.include))
    shared: dict[str, Any] = {
        "source": source,
        "num_fewshot": harness.num_fewshot,
        "limit": harness.limit,
        "engine": "transformers" if harness.vllm is None else "vllm",
        "max_length": None if harness.vllm is None else harness.vllm.max_model_len,
        "turn_end": unconfigured_end(harness.policy),
        "harness": harness,
    }
    with contextlib.closing(harness):
        return [
            [lm_eval_task(harness.policy, task=name, seed=seed, **shared) for seed in harness.seeds]
            for name in harness.names
        ]


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
    """Run one task of lm-eval, or of a folder whose content is `source`.

    max_length: tokens; vLLM cuts longer prompts. turn_end: see lm_eval_exact_match.
    """
    metrics, documents = harness.measure(task, seed)
    (out / RESULTS).write_text(json.dumps(metrics, indent=1))
    return {"documents": documents}


@functools.lru_cache(maxsize=8)  # the runs of a sweep need the same
def find_tasks(names: tuple[str, ...], include: str | None) -> None:
    """Raise BenchError, before hours of other work, where lm-eval lacks a task or its data can't be read here."""
    if include is not None:
        _digest(Path(include))
    with harness_models.quiet(), isolated():
        for task in names:
            manager = _manager(task, include)
            with _naming_missing_data(task):
                manager.load([task])


def _manager(task: str, include: str | None) -> Any:
    """lm-eval's list of the tasks in `include`; and of its own tasks, which takes seconds, where it is needed."""
    from lm_eval.tasks import TaskManager

    own = None if include is None else TaskManager(include_path=include, include_defaults=False)
    if own is not None and task in own.all_subtasks:
        return own
    if (own is None or task not in own.all_tasks) and task not in _lm_evals_own().all_tasks:
        where = "" if include is None else f" nor in {include}"
        raise BenchError(f"evaluation.harness_tasks={task} is no task of lm-eval{where}; see `lm-eval ls tasks`.")
    return _lm_evals_own() if include is None else TaskManager(include_path=include)


@functools.cache
def _lm_evals_own() -> Any:
    """lm-eval's list of its own tasks."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@contextlib.contextmanager
def _naming_missing_data(task: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, FileNotFoundError) as error:
        raise BenchError(
            f"evaluation.harness_tasks={task}: its data can't be read here: {first_line(error).rstrip('.')}. Go online "
            "once, leave the task out (none: evaluation.harness_tasks=[]), or give one on files of your own "
            "(evaluation.harness_include)."
        ) from error


def _digest(folder: Path) -> str:
    """A hash of every file in a folder of tasks, without the bytecode that Python leaves beside its modules."""
    if not folder.is_dir():
        raise BenchError(f"evaluation.harness_include={folder} is no folder.")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return content_hash([(str(path.relative_to(folder)), path.read_bytes().hex()) for path in files])
