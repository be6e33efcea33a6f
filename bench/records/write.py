"""What a run leaves in outputs/<name>/<run id>/: the local files are the truth, everything else mirrors them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from bench import store
from bench.artifacts import Completions, Prompts, Selection
from bench.config.rules import counts_per_prompt
from bench.estimators.best_of_n import majority_method
from bench.evaluation.measures import (
    Measure,
    along_counts,
    of_best_of_n,
    of_pessimism,
    of_policy,
    of_sampler,
    of_soft_best_of_n,
    of_training,
    powers_of_two,
    spread,
)
from bench.evaluation.reward_diagnostics import diagnose
from bench.generation.duplicates import describe
from bench.procedures.findings import Results
from bench.records import artifact_graph, costs
from bench.records.fingerprint import FILE as CODE
from bench.records.fingerprint import code_of, fingerprint
from bench.records.metrics import contrasts, curves, distillation, flatten, provenance, transfer_contrasts
from bench.seeds import generator
from bench.tasks import Task
from bench.training.sft import last_epoch_loss

SAMPLE_PROMPTS = 20  # prompts of which samples.parquet shows every completion


def write(folder: Path, cfg: DictConfig, results: Results, uses: Sequence[store.Use]) -> dict[str, Any]:
    """Write every record, metrics.json last: a folder that has it is complete. Returns the metrics."""
    cells = per_prompt(results, num_completions=cfg.num_completions)
    along = of_training(results.along_training)
    rows = curves(cells, seed=cfg.seed) + (curves(along, seed=cfg.seed) if along else [])
    of_scorer, diagnostics = diagnose(results.best_of_n, seed=cfg.seed)
    task = instantiate(cfg.task, _convert_="all")
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    code = code_of(resolved)
    metrics = {
        **flatten(rows),
        **contrasts(cells, seed=cfg.seed),
        **distillation(cells, seed=cfg.seed),
        **transfer_contrasts(results.outcomes, seed=cfg.seed),
        **provenance(rows),
        "code": fingerprint(code),
        **_counts(results),
        **{f"task/{name}": count for name, count in task.counts().items()},
        **along_counts(results.along_training),
        **results.findings.metrics(results, task, uses, seed=cfg.seed),
        **_below_k(cfg, results.selections["tuned"]),
        **of_scorer,
        **costs.by_lineage(uses),
        **_break_even(cfg, results, cells, uses),
    }
    store.write_durably(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    store.write_durably(folder / CODE, json.dumps(code, indent=1))
    _write_table(folder / "curves.parquet", rows)
    _write_table(folder / "per_prompt.parquet", _long(cells, results.test.id))
    _write_table(folder / "samples.parquet", _samples(results, task))
    _write_table(folder / "diagnostics.parquet", diagnostics)
    if results.along_training is not None:
        _write_table(folder / "validation.parquet", _long(along, results.along_training.prompts.id))
    for name, columns in results.findings.tables(results).items():
        _write_table(folder / name, dict(columns))
    store.write_durably(folder / "lineage.json", json.dumps(store.lineage(uses), indent=1))
    artifact_graph.write(folder, results, uses, store.current().root)
    ordered = {name: None if _is_undefined(metrics[name]) else metrics[name] for name in sorted(metrics)}
    store.write_durably(folder / "metrics.json", json.dumps(ordered, indent=1))
    return ordered


def per_prompt(results: Results, *, num_completions: int) -> dict[Measure, np.ndarray]:
    """[M] values behind every mean that is reported; every KL is to the raw base, in nats a sequence."""
    cells: dict[Measure, np.ndarray] = {}
    for arm, outcomes in results.outcomes.items():
        cells |= of_policy(arm, outcomes)
    sizes = powers_of_two(num_completions)
    cells |= of_best_of_n(results.best_of_n, sizes)
    cells |= of_soft_best_of_n(results.best_of_n, num_completions)
    cells |= of_pessimism(results.best_of_n, sizes)
    cells |= of_sampler(results.best_of_n)
    return cells


def _counts(results: Results) -> dict[str, float | str]:
    chosen = results.selections["tuned"]
    drawn, rewards = results.findings.drawn(results)
    counts: dict[str, float | str] = {
        "selection/kept": len(chosen),
        "selection/prompts_covered": chosen.prompts_covered,
        "selection/prompts_filtered": results.prompts_filtered,
        "selection/prompts_unscored": int(np.isnan(rewards).all(axis=1).sum()),
        **{f"pool/{name}": value for name, value in describe(drawn).items()},
        "pool/unscored": int((np.isnan(rewards) & drawn.drawn).sum()),
        "pool/mean_reward": float(np.nanmean(rewards[:, : drawn.always])),
        "train/loss": last_epoch_loss(results.policies["tuned"]),
        "best_of_n/pool_size": results.best_of_n.proxy.shape[1],
        "best_of_n/proxy_spread": spread(results.best_of_n.proxy),  # the unit of soft Best-of-n's temperature
        "best_of_n/prompts_without_correct": float((results.best_of_n.gold.max(axis=1) == 0).mean()),
        "train/prompts": len(results.train),
        "test/prompts": len(results.test),
        "test/prompts_key": results.test.key,  # of their content: ids of other prompts may be the same
    }
    if "control" in results.policies:
        counts["control/train_loss"] = last_epoch_loss(results.policies["control"])
    for arm, outcomes in results.outcomes.items():
        counts[f"{arm}/kl_per_token"] = outcomes.kl_per_token
        counts[f"{arm}/entropy_per_token"] = _entropy_per_token(outcomes.sampled.completions)
        drawn = outcomes.sampled.gold.shape[1]
        for k in powers_of_two(drawn):
            counts[f"{arm}/majority@{k}_subsets"] = majority_method(drawn, k)
        counts |= {f"{arm}/lm_eval/{name}": value for name, value in outcomes.harness_tasks.items()}
        for verdict in (outcomes.harness, *outcomes.transfer.values()):
            if verdict is not None:
                counts |= {f"{arm}/lm_eval/{name}": value for name, value in verdict.metrics.items()}
    return counts


def _entropy_per_token(sampled: Completions) -> float:
    """Of the sampler, nats a token: minus the log-probability of all of its samples over their tokens."""
    return float(-sampled.logprob.sum() / sampled.length.sum())


def _below_k(cfg: DictConfig, chosen: Selection) -> dict[str, float]:
    """Prompts of which the selection keeps some, but fewer than the k that it may keep of each."""
    kept = np.unique(chosen.row, return_counts=True)[1]
    settings = counts_per_prompt(get_object(cfg.selection["_target_"]))
    counted = [name for name in settings if name in cfg.selection]
    return {f"selection/prompts_below_{name}": int((kept < cfg.selection[name]).sum()) for name in counted}


def _break_even(
    cfg: DictConfig, results: Results, cells: dict[Measure, np.ndarray], uses: Sequence[store.Use]
) -> dict[str, Any]:
    curve = {cell.n: values for cell, values in cells.items() if cell[:3] == ("base", "best_of_n", "accuracy")}
    tuned = cells[Measure("tuned", "pass", "accuracy", 1)]
    rng = generator(cfg.seed, "break even")
    epochs = cfg.training.epochs
    return costs.break_even_metrics(
        results, uses, list(curve), np.stack(list(curve.values()), axis=1), tuned, rng, epochs=epochs
    )


def _long(cells: dict[Measure, np.ndarray], ids: np.ndarray) -> dict[str, Any]:
    """Columns with a row a cell and prompt."""
    names = zip(*cells, strict=True)
    return {
        "prompt_id": np.tile(ids.astype(object), len(cells)),
        **{field: np.repeat(np.array(column), len(ids)) for field, column in zip(Measure._fields, names, strict=True)},
        "value": np.concatenate([values.astype(float) for values in cells.values()]),
    }


def _samples(results: Results, task: Task) -> list[dict]:
    """Every completion of the first training prompts and whom it trained; each policy's greedy ones where judged."""
    kept_for: dict[tuple[int, int], list[str]] = {}
    drawn_by = results.findings.drawn_by(results)
    for arm, chosen in results.selections.items():
        for row, column in zip(chosen.row.tolist(), chosen.column.tolist(), strict=True):
            kept_for.setdefault((row, column), []).append(arm)
    rows = [
        _sample(results.train, "train", drawn_by[column], results.pool, results.rewards.value, row, column)
        | {"selected_for": " and ".join(kept_for.get((row, column), []))}
        for row in range(min(SAMPLE_PROMPTS, len(results.train)))
        for column in np.flatnonzero(results.pool.drawn[row]).tolist()
    ]
    # whether they are right: the reward may be a proxy, and nothing else of a run asks
    correct = task.are_correct([row["completion"] for row in rows], [row["answer"] for row in rows])
    rows = [row | {"correct": verdict} for row, verdict in zip(rows, correct, strict=True)]
    return rows + [
        _sample(results.test, results.split, arm, outcomes.greedy.completions, outcomes.greedy.proxy, row, 0)
        | {"selected_for": "", "correct": bool(outcomes.greedy.gold[row, 0])}
        for arm, outcomes in results.outcomes.items()
        for row in range(min(SAMPLE_PROMPTS, len(results.test)))
    ]


def _sample(
    prompts: Prompts, split: str, policy: str, completions: Completions, rewards: np.ndarray, row: int, column: int
) -> dict[str, Any]:
    return {
        "split": split,
        "policy": policy,
        "prompt_id": str(prompts.id[row]),
        "prompt": "\n\n".join(message["content"] for message in prompts.messages[row]),
        "answer": str(prompts.answer[row]),
        "sample": column,
        "completion": completions.text[row, column],
        "finish_reason": completions.finish_reason[row, column],
        "length": int(completions.length[row, column]),
        "reward": float(rewards[row, column]),
    }


def _write_table(path: Path, content: list[dict] | dict[str, Any]) -> None:
    """content: rows, or columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(content) if isinstance(content, dict) else pa.Table.from_pylist(content)
    with store.atomically(path) as beside:
        pq.write_table(table, beside)


def _is_undefined(value: Any) -> bool:
    """JSON has no NaN and no infinity; both are null in metrics.json."""
    return isinstance(value, float) and not math.isfinite(value)
