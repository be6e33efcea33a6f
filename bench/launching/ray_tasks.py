"""hydra/launcher=ray: cells as tasks on the nodes of a Ray cluster, with the GPUs that Ray gives each of them."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.errors import BenchError
from bench.generation.ray_cluster import WAIT, connect, holds, listed, nodes
from bench.launching.jobs import Job, Outcome, again
from bench.progress import say

CARRIED = ("HF_", "WANDB_", "TOKENIZERS_", "VLLM_")  # this user's variables, which a running cluster need not have


def join(address: str | None, cpus_per_cell: int, gpus_per_cell: float | None) -> dict[str, float]:
    """Connect to Ray; the resources that a cell asks for. gpus_per_cell: None is 1 where the cluster has any.

    BenchError where Ray can't be reached, or no node has room for a cell.
    """
    connect(address, group="hydra/launcher")
    gpus = gpus_per_cell
    if gpus is None:
        gpus = 1 if any("GPU" in resources for resources in nodes()) else 0
    asked = {"CPU": float(cpus_per_cell), **({"GPU": float(gpus)} if gpus else {})}
    if not _room(asked):
        raise BenchError(
            f"No node of the Ray cluster has {listed(asked)} for a cell; lower hydra.launcher.cpus_per_cell or "
            "hydra.launcher.gpus_per_cell, or add a node."
        )
    return asked


def run(jobs: Sequence[Job], asked: dict[str, float], *, retries: int) -> None:
    """Run every job on some node; one whose process or node is lost goes to another.

    BenchError where a node does not see the store or the outputs.
    """
    import ray
    from ray import exceptions

    gpus = asked.get("GPU", 0)
    remote: Any = ray.remote(num_cpus=asked["CPU"], num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD")(
        _on_node
    )
    environment = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all in sight of a task that asked for none
    deaths: Counter[int] = Counter()
    running: dict[Any, int] = {remote.remote(job, environment): number for number, job in enumerate(jobs)}
    try:
        while running:
            done, _ = ray.wait(list(running), timeout=WAIT)
            if not done and not _room(asked):
                say(f"waiting for the Ray cluster: no node has {listed(asked)} any more")
            for task in done:
                number = running.pop(task)
                job = jobs[number]
                try:
                    outcome: Outcome = ray.get(task)
                except exceptions.RayError as error:  # the worker died, or raised
                    deaths[number] += 1
                    if again(job, deaths=deaths[number], retries=retries, reason=_reason(error)):
                        running[remote.remote(job, environment)] = number
                    continue
                if outcome.complaint is not None:
                    raise BenchError(outcome.complaint)
                for line in outcome.lines:
                    say(line)
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _room(asked: dict[str, float]) -> bool:
    return any(holds(resources, asked) for resources in nodes())


def _on_node(job: Job, environment: dict[str, str]) -> Outcome:
    os.environ.update(environment)
    return job.perform()


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
