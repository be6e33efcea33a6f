"""Whole runs of `python -m bench.speed gpu`, beside the estimates of bench.size: a random model's, and SmolLM2's."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.devices import device
from bench.errors import BenchError
from bench.speed import sizing
from bench.speed.gpu_setup import GIB, SAMPLES, NotRunError, Row, Setup
from bench.speed.measure import cells_of

HUB = "huggingface.co"


def estimates(setup: Setup) -> Iterator[Row]:
    """What bench.size estimates beside what a run of the plain experiment takes, stage by stage."""
    sizes, policy = setup.sizes, setup.policy()
    prompts = max(4, sizes.rows[0] // SAMPLES)
    overrides = [
        *sizing.plain_experiment(policy, prompts, SAMPLES, sizes.new_tokens),
        *(f"store={setup.scratch}/estimates", "evaluation.lm_eval=false", "generation=transformers"),
        *("training.epochs=1", f"training.batch_size={min(sizes.batch, prompts)}"),
    ]
    taken = sizing.experiment(overrides, counting=False, bare=0, whole=True)
    for row in sizing.beside(taken, overrides, machine_of(setup)):
        yield {
            "stage": row["stage"],
            **{name: row[name] for name in ("tokens", "estimated_tokens", "seconds", "estimated_seconds")},
            **{f"{name.replace('bytes', 'GiB')}": row[name] / GIB for name in ("bytes", "estimated_bytes")},
        }


def machine_of(setup: Setup) -> Any:
    """The machine of bench.size that this one is; an unknown card is an h100 with the rate and memory measured."""
    import torch

    from bench.sizing import memory as machines

    rate = setup.matmul_rate()
    if device() == "cpu":
        return machines.machine("cpu", None if np.isnan(rate) else rate)
    card = torch.cuda.get_device_name().lower()
    if known := next((name for name in machines.GPUS if name in card), None):
        return machines.machine(known)
    unknown = machines.machine("h100", None if np.isnan(rate) else rate)
    return replace(unknown, name=card, memory=torch.cuda.mem_get_info()[1])


def gsm8k_smollm2(setup: Setup) -> Iterator[Row]:
    """experiment=gsm8k_smollm2 in the time that is left: the seconds of each stage beside those of bench.size."""
    settings = experiment_settings(setup)
    estimated = _estimated(setup, settings)
    command = [sys.executable, "-m", "bench", *settings]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    log, start = setup.out / "gsm8k_smollm2.log", time.monotonic()
    with log.open("w") as file:
        run = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        peak, ended = _watched(run, setup.deadline)
    yield from _stages(setup, estimated)
    whole = {"stage": "all, as far as it came", "seconds": time.monotonic() - start, "GiB": peak / GIB}
    yield {**whole, "estimated_seconds": "", "estimated_GiB": ""}
    for metrics in (setup.scratch / "outputs").rglob("metrics.json"):
        shutil.copy(metrics, setup.out / "gsm8k_smollm2.json")
    words = log.read_text().strip().splitlines()
    if not ended:
        raise NotRunError("it was stopped at the end of the minutes; the rows say which stages were made")
    if run.returncode:
        raise NotRunError(words[-1] if words else f"it ended with status {run.returncode}")


def experiment_settings(setup: Setup) -> list[str]:
    """The settings of the experiment here; NotRunError where its model or task can't be had."""
    missing = [f"--{name} FOLDER" for name in ("smollm2", "gsm8k") if getattr(setup, name) is None]
    if missing and os.environ.get("HF_HUB_OFFLINE", "0") == "0":
        try:
            socket.create_connection((HUB, 443), timeout=5).close()
        except OSError as error:
            raise NotRunError(
                f"{' and '.join(missing)} are not given, and the hub can't be reached ({error})"
            ) from error
    settings = ["experiment=gsm8k_smollm2", "tracking=none"]
    settings += [f"store={setup.scratch}/store", f"outputs={setup.scratch}/outputs"]
    if find_spec("vllm") is None:
        settings.append("generation=transformers")
    if setup.smollm2 is not None:
        settings += ["policy@policy.start=folder", "~policy.start.id", f"policy.start.path={setup.smollm2}"]
    if setup.gsm8k is not None:
        settings.append(f"task.path={setup.gsm8k}")
    if device() == "cpu":
        settings += ["task.train_prompts=4", "task.test_prompts=2", "task.max_new_tokens=8", "num_completions=2"]
        settings += ["baseline_completions=2", "policy.training.epochs=1", "training.epochs=1"]
        settings += ["selection=top_per_prompt", "prompt_filter=all", "evaluation.num_completions=2"]
    return settings


def _watched(run: subprocess.Popen, deadline: float) -> tuple[float, bool]:
    """(bytes of the GPU in use at the peak, by all its processes; whether the run ended by itself)."""
    import torch

    peak = 0.0
    while run.poll() is None:
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            peak = max(peak, total - free)
        if time.monotonic() > deadline:
            end(run.pid)
            run.wait()
            return peak, False
        time.sleep(0.2)
    return peak, True


def end(process: int) -> None:
    """Kill a process with all that it started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        whole = psutil.Process(process)
        for child in [*whole.children(recursive=True), whole]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _estimated(setup: Setup, settings: Sequence[str]) -> dict[str, Any]:
    """The stages of bench.size by name; none where the model or the task can't be read, which the run itself says."""
    from bench.sizing.stages import SizeHints, estimate

    with contextlib.suppress(BenchError, OSError):
        return {stage.name: stage for stage in estimate(cells_of(settings), machine_of(setup), SizeHints()).stages}
    return {}


def _stages(setup: Setup, estimated: dict[str, Any]) -> Iterator[Row]:
    """A row per stage that the store has artifacts of."""
    from bench.store import MANIFEST

    made: dict[str, float] = {}
    for file in sorted((setup.scratch / "store").rglob(MANIFEST)):
        manifest = json.loads(file.read_text())
        made[manifest["stage"]] = made.get(manifest["stage"], 0.0) + manifest["seconds"]
    for stage, seconds in made.items():
        row = {"stage": stage, "seconds": seconds, "GiB": "", "estimated_seconds": "", "estimated_GiB": ""}
        if beside := estimated.get(sizing.STAGES.get(stage, "")):
            row |= {"estimated_seconds": beside.seconds, "estimated_GiB": beside.bytes / GIB}
        yield row
