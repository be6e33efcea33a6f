"""Write the records of a run to outputs/<name>/<run id>/. All trackers mirror these files."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from bench import store
from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.config.rules import counts_per_prompt
from bench.estimators.voting import majority_method
from bench.evaluation import measures as measured
from bench.evaluation.measures import Measure
from bench.evaluation.reward_diagnostics import diagnose
from bench.generation.pool import describe
from bench.models import loading
from bench.procedures import artifact_graph
from bench.procedures.findings import Results
from bench.records import completions, costs, read
from bench.records import metrics as summary
from bench.records.environment import FILE as ENVIRONMENT
from bench.records.environment import environment
from bench.records.fingerprint import DATA_KEY, code_of, data_key, fingerprint
from bench.records.fingerprint import FILE as CODE
from bench.records.metrics import contrasts, curves, distillation, flatten, provenance, transfer_contrasts
from bench.scoring import gives_log_odds
from bench.seeds import generator
from bench.store.reading import CHECKSUMS, checksums_of
from bench.tasks import Task
from bench.training.sft import last_epoch, last_epoch_loss

SAMPLE_PROMPTS = 20  # samples.parquet has every completion of this many training prompts; see `_worth_reading`
ROWS = 250_000  # of a long table that are in memory at once


def write(folder: Path, cfg: DictConfig, results: Results, uses: Sequence[store.Use]) -> dict[str, Any]:
    """Write every record and return the metrics. A folder with metrics.json is complete; checksums.json is last."""
    measures = per_prompt(results, num_completions=cfg.num_completions, log_odds=gives_log_odds(cfg.scoring))
    along = measured.of_training(results.along_training) | measured.of_validation(results.outcomes)
    rows = curves(measures, seed=cfg.seed) + (curves(along, seed=cfg.seed) if along else [])
    scorer_metrics, diagnostics = diagnose(results.best_of_n, seed=cfg.seed)
    task = instantiate(cfg.task, _convert_="all")
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    code = code_of(resolved)
    metrics = {
        **flatten(rows),
        **contrasts(measures, [*results.elsewhere], seed=cfg.seed),
        **distillation(measures, seed=cfg.seed),
        **transfer_contrasts(results.outcomes, [*results.elsewhere], seed=cfg.seed),
        **provenance(rows),
        "code": fingerprint(code),
        **_counts(results),
        **{f"task/{name}": count for name, count in task.counts().items()},
        **({} if (data := data_key(resolved["task"])) is None else {DATA_KEY: data}),
        **measured.along_counts(results.along_training),
        **measured.of_choice(results.outcomes),
        **results.findings.metrics(results, task, uses, seed=cfg.seed),
        **_below_k(cfg, results.selections["tuned"]),
        **scorer_metrics,
        **costs.by_lineage(uses),
        **_break_even(cfg, results, measures, uses),
    }
    gold = scorer_metrics.get("scorer/equals_gold") == 1
    tables = {
        read.CURVES: rows,
        read.PER_PROMPT: long(measures, results.test.id),
        read.SAMPLES: _samples(results, task),
        read.DIAGNOSTICS: diagnostics,
        read.COMPLETIONS: completions.table(results, scorer_is_gold=gold),
        **{name: dict(columns) for name, columns in results.findings.tables(results).items()},
    }
    if along:
        judged = (results.along_training, results.outcomes["base"].temperatures)
        tables["validation.parquet"] = long(along, next(on.prompts.id for on in judged if on and on.prompts))
    graph = artifact_graph.ArtifactGraph(folder, results.train.id, uses, store.current().root)
    results.findings.add_to(graph, results)
    for name, arm in results.elsewhere.items():
        graph.policy(name, arm.policy)
    return leave(folder, OmegaConf.to_yaml(cfg, resolve=True), code, metrics, tables, uses, graph)


def leave(
    folder: Path,
    config: str,
    code: Mapping[str, str],
    metrics: Mapping[str, Any],
    tables: Mapping[str, Any],
    uses: Sequence[store.Use],
    graph: artifact_graph.ArtifactGraph,
) -> dict[str, Any]:
    """Write a run's records, metrics.json last but for checksums, and return it. config: YAML; tables: by file."""
    store.write_durably(folder / read.CONFIG, config)
    store.write_durably(folder / CODE, json.dumps(code, indent=1))
    if not all(use.reused for use in uses) or not (folder / ENVIRONMENT).is_file():  # of what made the numbers
        store.write_durably(folder / ENVIRONMENT, json.dumps(environment(), indent=1))
    for name, content in tables.items():
        write_table(folder / name, content)
    store.write_durably(folder / read.LINEAGE, json.dumps(store.lineage(uses), indent=1))
    graph.write()
    undefined = [name for name, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
    ordered = {name: metrics[name] for name in sorted(metrics)} | dict.fromkeys(undefined)  # JSON has no NaN: null
    store.write_durably(folder / read.METRICS, json.dumps(ordered, indent=1))
    seal(folder)
    return ordered


def seal(folder: Path, figures: Sequence[Path] = ()) -> None:
    """Write checksums.json: the SHA-256 of every record in the folder, and of these figures in it."""
    names = [*read.record_files(folder), *(figure.name for figure in figures)]
    store.write_durably(folder / CHECKSUMS, checksums_of(folder, names))


def per_prompt(results: Results, *, num_completions: int, log_odds: bool) -> dict[Measure, np.ndarray]:
    """The values [M] behind every reported mean. Each KL is to the raw base, in nats per sequence."""
    measures: dict[Measure, np.ndarray] = {}
    for arm, outcomes in results.outcomes.items():
        measures |= measured.of_policy(arm, outcomes)
    sizes = measured.powers_of_two(num_completions)
    measures |= measured.of_best_of_n(results.best_of_n, sizes)
    measures |= measured.of_soft_best_of_n(results.best_of_n, num_completions)
    measures |= measured.of_pessimism(results.best_of_n, sizes) | measured.of_sampler(results.best_of_n, log_odds)
    return summary.on_same_prompts(measures)


def _counts(results: Results) -> dict[str, float | str]:
    chosen = results.selections["tuned"]
    drawn, rewards = results.findings.drawn(results)
    counts: dict[str, float | str] = {
        "selection/kept": len(chosen),
        "selection/prompts_covered": chosen.prompts_covered,
        "selection/prompts_filtered": results.prompts_filtered,
        "selection/prompts_unscored": int(np.isnan(rewards).all(axis=1).sum()),
        **_of_pairs(chosen, rewards, results.policies["tuned"]),
        **{f"pool/{name}": value for name, value in describe(drawn).items()},
        "pool/unscored": int((np.isnan(rewards) & drawn.drawn).sum()),
        "pool/mean_reward": float(np.nanmean(rewards[:, : drawn.always])),
        "train/loss": last_epoch_loss(results.policies["tuned"]),
        "best_of_n/pool_size": results.best_of_n.proxy.shape[1],
        "best_of_n/proxy_spread": measured.spread(results.best_of_n.proxy),  # the unit of soft Best-of-n's temperatures
        "best_of_n/prompts_without_correct": float((results.best_of_n.gold.max(axis=1) == 0).mean()),
        "train/prompts": len(results.train),
        "test/prompts": len(results.test),
        "test/prompts_key": results.test.key,  # a hash of their content, since other prompts may have the same ids
    }
    if "control" in results.policies:
        counts["control/train_loss"] = last_epoch_loss(results.policies["control"])
    for arm, other in results.elsewhere.items():
        counts[f"{arm}/artifact"] = artifact_graph.policy_name(other.policy)
        counts[f"{arm}/parameters"] = loading.count_parameters(other.policy)
        counts[f"{arm}/token_ids"] = "the base's" if other.differs is None else f"another {other.differs}"
        counts[f"{arm}/training_cost"] = "unknown"
    for arm, outcomes in results.outcomes.items():
        counts[f"{arm}/kl_per_token"] = outcomes.kl_per_token
        sampled = outcomes.sampled.completions
        counts[f"{arm}/entropy_per_token"] = float(-sampled.logprob.sum() / sampled.length.sum())  # nats
        drawn = outcomes.sampled.gold.shape[1]
        for k in measured.powers_of_two(drawn):
            counts[f"{arm}/majority@{k}_subsets"] = majority_method(drawn, k)
        counts |= {f"{arm}/lm_eval/{name}": value for name, value in outcomes.harness_tasks.items()}
        for verdict in (outcomes.harness, *outcomes.transfer.values()):
            if verdict is not None:
                counts |= {f"{arm}/lm_eval/{name}": value for name, value in verdict.metrics.items()}
    return counts


def _of_pairs(chosen: Selection, rewards: np.ndarray, tuned: Policy) -> dict[str, float]:
    """Preference tuning: scored prompts without a pair, and the last epoch's implicit reward (Rafailov et al. 2023).

    train/reward_margin: that of chosen over rejected completions, beta times a difference of log-ratios, in nats.
    train/reward_accuracy: the share of pairs that it orders right.
    """
    if chosen.rejected is None:
        return {}
    scored = int((~np.isnan(rewards)).any(axis=1).sum())
    names = {"train/reward_margin": "rewards/margins", "train/reward_accuracy": "rewards/accuracies"}
    implicit = {name: last_epoch(tuned, measure) for name, measure in names.items()}
    without = {"selection/prompts_without_pair": float(scored - chosen.prompts_covered)}
    return without | {name: value for name, value in implicit.items() if value is not None}


def _below_k(cfg: DictConfig, chosen: Selection) -> dict[str, float]:
    """How many prompts have selected completions, but fewer than the k that the selection takes per prompt."""
    kept = np.unique(chosen.row, return_counts=True)[1]
    settings = counts_per_prompt(get_object(cfg.selection["_target_"]))
    counted = [name for name in settings if name in cfg.selection]
    return {f"selection/prompts_below_{name}": int((kept < cfg.selection[name]).sum()) for name in counted}


def _break_even(
    cfg: DictConfig, results: Results, measures: dict[Measure, np.ndarray], uses: Sequence[store.Use]
) -> dict[str, Any]:
    curve = {
        measure.n: values for measure, values in measures.items() if measure[:3] == ("base", "best_of_n", "accuracy")
    }
    tuned = measures[Measure("tuned", "pass", "accuracy", 1)]
    paid = costs.costs_of(results, uses, cfg.training)
    made = costs.break_even_metrics(results, uses, paid, curve, tuned, generator(cfg.seed, "break even"))
    return made | costs.break_even_at_best(measures, paid, generator(cfg.seed, "break even", "best"))


def long(measures: dict[Measure, np.ndarray], ids: np.ndarray) -> Iterator[Any]:
    """Tables with one row per measure and prompt, some measures at a time."""
    import pyarrow as pa

    names, prompts = pa.array(ids.tolist(), pa.string()), len(ids)
    step = max(1, ROWS // max(1, prompts))
    for start in range(0, len(measures), step):
        some = list(measures)[start : start + step]
        yield pa.table(
            {
                "prompt_id": pa.concat_arrays([names] * len(some)),
                **{
                    name: pa.array(np.repeat(np.array([getattr(measure, name) for measure in some]), prompts))
                    for name in Measure._fields
                },
                "value": np.concatenate([measures[measure].astype(float) for measure in some]),
            }
        )


def _samples(results: Results, task: Task) -> list[dict]:
    """Every completion of the first training prompts, with the arms that train on it, and greedy held-out ones."""
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
    # the reward may be a proxy, and no other record says whether these completions are correct
    correct = task.are_correct([row["completion"] for row in rows], [row["answer"] for row in rows])
    rows = [row | {"correct": verdict} for row, verdict in zip(rows, correct, strict=True)]
    return rows + [
        _sample(results.test, results.split, arm, outcomes.greedy.completions, outcomes.greedy.proxy, row, 0)
        | {"selected_for": "", "correct": bool(outcomes.greedy.gold[row, 0])}
        for arm, outcomes in results.outcomes.items()
        for row in _worth_reading(results)
    ]


def _worth_reading(results: Results) -> list[int]:
    """The first test prompts, and up to as many others that only some policies' greedy completions solve."""
    solved = np.stack([outcomes.greedy.gold[:, 0].astype(bool) for outcomes in results.outcomes.values()])
    differ = np.flatnonzero(solved.any(axis=0) & ~solved.all(axis=0))
    first = range(min(SAMPLE_PROMPTS, len(results.test)))
    return [*first, *differ[differ >= SAMPLE_PROMPTS][:SAMPLE_PROMPTS].tolist()]


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


def write_table(path: Path, content: Any) -> None:
    """Write a table. content: rows, columns by name, an arrow table, or several of these one after the other."""
    import pyarrow.parquet as pq

    tables = content if isinstance(content, Iterator) else iter([content])
    with store.atomically(path) as beside:
        table = _as_table(next(tables))
        with pq.ParquetWriter(beside, table.schema) as file:
            for part in chain([table], map(_as_table, tables)):
                file.write_table(part)


def _as_table(content: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(content) if isinstance(content, list) else pa.table(content)
