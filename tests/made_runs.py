"""Run folders with made-up outcomes: records as a run leaves them, without a model."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from bench.config.keys import run_id
from bench.estimators.bootstrap import Bootstrap
from bench.evaluation.heldout import Graded
from bench.evaluation.measures import (
    Measure,
    of_best_of_n,
    of_pessimism,
    of_sampler,
    of_soft_best_of_n,
    of_votes,
    powers_of_two,
)
from bench.records import metrics as summary
from bench.records.fingerprint import fingerprint
from bench.records.read import Run, read_run

SKILL = {"base": 0.25, "tuned": 0.5, "control": 0.2}


@contextlib.contextmanager
def few_resamples(most: int = 1000) -> Iterator[None]:
    """Each bootstrap makes so many resamples at most: its intervals are rougher, and made in a fraction of the time."""
    make = Bootstrap.__init__

    def limited(self: Bootstrap, values: np.ndarray, rng: np.random.Generator, resamples: int) -> None:
        make(self, values, rng, min(resamples, most))

    with patch.object(Bootstrap, "__init__", limited):
        yield


@few_resamples()
def made_run(
    outputs: Path,
    *,
    seed: int = 0,
    skill: dict[str, float] | None = None,
    prompts: int = 60,
    num_completions: int = 4,
    noise: float = 0.0,
    settings: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    code: str | Mapping[str, str] = "c0de",
) -> Run:
    """A run under outputs/<name>/<hash>. skill: each arm's mean chance of a right sample, round_1's among them.

    settings: dotted.

    noise: the standard deviation that the proxy of the held-out pool adds to gold; without it the proxy is gold.
    """
    modules = {"bench.experiment": code} if isinstance(code, str) else code
    skill = SKILL | (skill or {})
    config = OmegaConf.create(_config(seed, num_completions))
    for name, value in (settings or {}).items():
        OmegaConf.update(config, name, value, force_add=True)
    arms = ("base", "tuned") if config.control == "none" else ("base", "tuned", "control")
    arms += tuple(name for name in skill if name not in SKILL)  # round_1, ...
    cells = _cells(arms, skill, seed=seed, prompts=prompts, num_completions=num_completions, noise=noise)
    cells = summary.on_same_prompts(cells)
    curves = summary.curves(cells, seed=seed)
    folder = outputs / config.name / run_id(config)
    folder.mkdir(parents=True)
    ids = [f"test-{i}" for i in range(prompts)]
    recorded = {
        **summary.flatten(curves),
        **summary.contrasts(cells, seed=seed),
        **summary.distillation(cells, seed=seed),
        **summary.provenance(curves),
        **_metrics(fingerprint(modules), prompts),
        **(metrics or {}),
    }
    finite = {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in sorted(recorded.items())}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    (folder / "code.json").write_text(json.dumps(dict(modules)))
    (folder / "environment.json").write_text(json.dumps({"python": "3.12.1", "torch": "2.13.0"}))
    _table(folder / "curves.parquet", curves)
    long = [
        {"prompt_id": name, **cell._asdict(), "value": float(value)}
        for cell, values in cells.items()
        for name, value in zip(ids, values, strict=True)
    ]
    _table(folder / "per_prompt.parquet", long)
    _table(folder / "samples.parquet", _samples(seed))
    _table(folder / "diagnostics.parquet", [{"diagnostic": "gold", "x": 1.0, "value": 0.5, "low": 0.4, "high": 0.6}])
    (folder / "chain.json").write_text("[]")
    (folder / "lineage.json").write_text(json.dumps(_lineage(seed, folder.name)))
    (folder / "metrics.json").write_text(json.dumps(finite, indent=1))
    return read_run(folder)


def _config(seed: int, num_completions: int) -> dict[str, Any]:
    return {
        "task": {"_target_": "bench.tasks.word_problems.WordProblems", "train_prompts": 90, "seed": 0},
        "policy": {"_target_": "bench.policies.tiny", "_partial_": True, "seed": "${seed}"},
        "generation": {
            "_target_": "bench.generation.transformers_engine.generate",
            "_partial_": True,
            "temperature": "${temperature}",
            "top_p": "${top_p}",
            "max_new_tokens": 48,
        },
        "scoring": {"_target_": "bench.scoring.verifier.verify", "_partial_": True},
        "prompt_filter": {"_target_": "bench.selection.every_prompt", "_partial_": True},
        "selection": {"_target_": "bench.selection.top_per_prompt", "_partial_": True},
        "training": {
            "_target_": "bench.training.sft.fine_tune",
            "_partial_": True,
            "epochs": 3,
            "learning_rate": 0.001,
            "batch_size": 32,
            "scheduler": "cosine",
            "warmup": 0.05,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
        },
        "evaluation": {
            "_target_": "bench.evaluation.heldout.evaluate",
            "_partial_": True,
            "num_completions": 4,
            "temperature": 1.0,
            "top_p": 1.0,
            "kl_completions": 4,
            "lm_eval": False,
        },
        "tracking": {"_target_": "bench.tracking.log_nothing", "_partial_": True},
        "name": "made",
        "seed": seed,
        "num_completions": num_completions,
        "baseline_completions": 16,
        "temperature": 1.0,
        "top_p": 1.0,
        "control": "matched",
        "split": "test",
        "threads": 1,
        "store": "store",
        "outputs": "outputs",
    }


def _cells(
    arms: tuple[str, ...], skill: dict[str, float], *, seed: int, prompts: int, num_completions: int, noise: float
) -> dict[Measure, np.ndarray]:
    easy = np.random.default_rng(7).normal(0, 1, prompts)  # the same prompts under every seed
    cells: dict[Measure, np.ndarray] = {}
    for place, arm in enumerate(arms):
        rng = np.random.default_rng([seed, place, round(1000 * skill[arm])])
        chance = 1 / (1 + np.exp(-(easy + np.log(skill[arm] / (1 - skill[arm])))))  # [M]
        gold = (rng.random((prompts, 4)) < chance[:, None]).astype(float)
        cells[Measure(arm, "greedy", "accuracy", 1)] = (rng.random(prompts) < chance).astype(float)
        cells[Measure(arm, "policy", "kl", 1)] = np.zeros(prompts) if arm == "base" else rng.gamma(4, 0.2, prompts)
        cells[Measure(arm, "policy", "length", 1)] = rng.integers(10, 30, prompts).astype(float)
        cells[Measure(arm, "policy", "entropy", 1)] = 0.4 * cells[Measure(arm, "policy", "length", 1)]
        cells |= of_votes(arm, graded(gold, gold), powers_of_two(4))
    rng = np.random.default_rng([seed, 99])
    chance = 1 / (1 + np.exp(-(easy + np.log(skill["base"] / (1 - skill["base"])))))
    pool = (rng.random((prompts, 16)) < chance[:, None]).astype(float)
    held_out = graded(pool, pool if noise == 0 else pool + rng.normal(0, noise, pool.shape))
    sizes = powers_of_two(num_completions)
    cells |= of_best_of_n(held_out, sizes) | of_soft_best_of_n(held_out, num_completions) | of_sampler(held_out)
    return cells | of_pessimism(held_out, sizes)


def graded(gold: np.ndarray, proxy: np.ndarray) -> Graded:
    """Outcomes [M, N] of which every right one has the answer "right", with one of three paths in turn."""
    columns = np.broadcast_to(np.arange(gold.shape[1]), gold.shape)
    answers = np.where(gold == 1, "right", columns.astype(str)).astype(object)
    even = SimpleNamespace(logprob=np.zeros(gold.shape), policy_logprob=np.zeros(gold.shape))  # the raw base's own
    return Graded(cast(Any, even), proxy, gold, answers, (columns % 3).astype(str).astype(object))


def _metrics(code: str, prompts: int) -> dict[str, Any]:
    return {
        "best_of_n/pool_size": 16,
        "best_of_n/prompts_without_correct": 0.05,
        "break_even/n": 2.5,
        "break_even/n_low": 2.1,
        "break_even/n_high": 3.0,
        "break_even/queries": 1700,
        "break_even/queries_low": 1400,
        "break_even/queries_high": 2100,
        "break_even/sentence": "It matches Best-of-2.5 and pays after 1,700 queries (95% interval: 1,400 to 2,100).",
        "code": code,
        "cost/fine_tuning_flops": 5e9,
        "cost/flops": 1e12,
        "cost/tuned_query_flops": 2e6,
        **{f"cost/best_of_{n}_query_flops": 2e6 * n for n in (1, 2, 4, 8, 16)},
        "cost/generated_tokens": 1000.0,
        "cost/seconds": 10.0,
        "scorer/equals_gold": 1.0,
        "scorer/unscored": 0,
        "selection/kept": 90,
        "selection/prompts_covered": 90,
        "test/prompts": prompts,
        "train/prompts": 90,
    }


def _lineage(seed: int, own: str) -> list[dict[str, Any]]:
    return [
        _entry("pretrain", f"base{seed}", {"train_tokens": 500, "train_flops": 1e9}, 40.0),
        _entry("generate", f"pool{seed}", {"generated_tokens": 1000, "flops": 2e9}, 8.0),
        _entry("sft", own, {"train_tokens": 100, "train_flops": 3e9}, 5.0),
    ]


def _entry(stage: str, key: str, counts: dict[str, float], seconds: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "key": key,
        "part": "",
        "settings": {},
        "parents": {"policy": "base"},
        "counts": counts,
        "seconds": seconds,
        "reused": False,
    }


def _samples(seed: int) -> list[dict[str, Any]]:
    return [
        {
            "split": "train",
            "policy": "base",
            "prompt_id": f"train-{i // 4}",
            "prompt": f"Leo has {i} coins.",
            "answer": str(i),
            "sample": i % 4,
            "completion": f"He has {i}. #### {i + seed % 2}",
            "finish_reason": "stop",
            "length": 9,
            "reward": float(seed % 2 == 0),
            "selected_for": "tuned" if i % 4 == 0 else "",
        }
        for i in range(8)
    ]


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)
