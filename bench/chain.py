"""What was made from what: pool -> rewards -> selections -> policies, for chain.json and the trackers that show it.

Each link is named by its content, e.g. "pool-3f2a...": two runs that share a pool name it alike, wherever they ran.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import store
from bench.artifacts import Completions, Policy, Selection, content_hash
from bench.experiment import Results
from bench.store import MANIFEST, Use

REWARDS = "rewards.parquet"


def write(folder: Path, results: Results, uses: Sequence[Use], root: Path) -> None:
    """rewards.parquet and a selection_<arm>.parquet an arm, and chain.json that names them beside pool and policies.

    rewards.parquet: prompt_id, sample, reward of every completion of the training pool (NaN: unscored).
    selection_<arm>.parquet: prompt_id, sample, weight in the training loss, reward, in the order of training.
    chain.json: a list of links with name, type (pool, rewards, selection, policy), role, parents (names), reused
    (the store had it already), files (name in the link -> path, relative to the run folder or absolute), settings.
    root: the store's folder, where pool and policies lie.
    """
    used = {f"{use.stage}/{use.key}/{use.part}".rstrip("/"): use for use in store.unique(uses)}
    base = _policy("base", results.policies["base"], used, root, [])
    pool = _pool(results.pool, used, root, [base["name"]])
    scored = content_hash(results.pool.key, results.rewards.value)
    rewards = _link("rewards", "train", scored, [pool["name"]], files={REWARDS: REWARDS})
    M, N = results.pool.shape
    _write_cells(folder / REWARDS, results, np.repeat(np.arange(M), N), np.tile(np.arange(N), M))
    links = [base, pool, rewards]
    for arm, chosen in results.selections.items():
        name = f"selection_{arm}.parquet"
        _write_cells(folder / name, results, chosen.row, chosen.column, chosen.weight)
        key = content_hash(results.pool.key, *_arrays(chosen))
        selection = _link("selection", arm, key, [rewards["name"]], files={name: name})
        links += [selection, _policy(arm, results.policies[arm], used, root, [base["name"], selection["name"]])]
    store.write_durably(folder / "chain.json", json.dumps(links, indent=1))


def _pool(pool: Completions, used: dict[str, Use], root: Path, parents: list[str]) -> dict[str, Any]:
    """The training pool, a Parquet file for each of its stored units."""
    units = [(place, use) for place, use in used.items() if f"{use.key}/{use.part}" in pool.stored_as]
    return _link(
        "pool",
        "train",
        pool.key.partition("[")[0],
        parents,
        reused=bool(units) and all(use.reused for _, use in units),
        files={name: path for place, use in units for name, path in _files(root / place, f"{use.key}/{use.part}/")},
        settings={**(units[0][1].settings if units else {}), "num_completions": pool.shape[1]},
    )


def _policy(arm: str, policy: Policy, used: dict[str, Use], root: Path, parents: list[str]) -> dict[str, Any]:
    """A policy that was made here or, where the store does not hold it, one that was given."""
    use = used.get(policy.path.relative_to(root).as_posix()) if policy.path.is_relative_to(root) else None
    return _link(
        "policy",
        arm,
        policy.fingerprint,
        parents,
        reused=use is None or use.reused,
        files=dict(_files(policy.path)),
        settings=use.settings if use else {},
    )


def _link(
    kind: str,
    role: str,
    key: str,
    parents: list[str],
    *,
    files: dict[str, str],
    reused: bool = False,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "name": f"{kind}-{key}",
        "type": kind,
        "role": role,
        "parents": parents,
        "reused": reused,
        "files": files,
        "settings": settings or {},
    }


def _files(folder: Path, prefix: str = "") -> list[tuple[str, str]]:
    return [
        (prefix + path.name, str(path)) for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST
    ]


def _arrays(chosen: Selection) -> list[np.ndarray]:
    return [np.asarray(chosen.row), np.asarray(chosen.column), np.asarray(chosen.weight, float)]


def _write_cells(
    path: Path, results: Results, row: np.ndarray, column: np.ndarray, weight: np.ndarray | None = None
) -> None:
    """Cells of the training pool, one a line."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row, column = np.asarray(row), np.asarray(column)
    ids = pa.DictionaryArray.from_arrays(pa.array(row.astype(np.int32)), pa.array(results.train.id.tolist()))
    columns = {"prompt_id": ids, "sample": pa.array(column.astype(np.int32))}
    if weight is not None:
        columns["weight"] = pa.array(np.asarray(weight, float))
    columns["reward"] = pa.array(results.rewards.value[row, column])
    with store.atomically(path) as beside:
        pq.write_table(pa.table(columns), beside)
