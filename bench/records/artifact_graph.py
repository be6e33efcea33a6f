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
from bench.generators import Generators
from bench.hybrid import Hybrid
from bench.rounds import Rounds
from bench.store import MANIFEST, Use

REWARDS = "rewards.parquet"


def write(folder: Path, results: Results, uses: Sequence[Use], root: Path) -> None:
    """rewards.parquet and a selection_<arm>.parquet an arm, and chain.json that names them beside pool and policies.

    rewards.parquet: prompt_id, sample, reward of every completion of the training pool (NaN: unscored).
    selection_<arm>.parquet: prompt_id, sample, weight in the training loss, reward, in the order of training.
    chain.json: a list of links with name, type (pool, rewards, selection, policy), role, parents (names), reused
    (the store had it already), files (name in the link -> path, relative to the run folder or absolute), settings.
    root: the store's folder, where pool and policies lie. Of rounds, each has links of its own, with the role of its
    policy (round_1, round_1_control, ...; tuned and control are those that are the result), and a selection names the
    round of each sample's pool. Of several generators, each has a policy and a pool, and a sample is a column of their
    pools side by side, named in a column `generator` beside it.
    """
    used = {f"{use.stage}/{use.key}/{use.part}".rstrip("/"): use for use in store.unique(uses)}
    base = _policy("base", results.policies["base"], used, root, [])
    if isinstance(results.procedure, Rounds):
        links = _of_rounds(results.procedure, folder, results, used, root, base)
        store.write_durably(folder / "chain.json", json.dumps(links, indent=1))
        return
    if isinstance(results.procedure, Generators):
        links = _of_generators(results.procedure, used, root, base)
    else:
        links = _of_pool(results, used, root, base)
    scored = content_hash(results.pool.key, results.rewards.value)
    pools = [link["name"] for link in links if link["type"] == "pool"]
    rewards = _link("rewards", "train", scored, pools, files={REWARDS: REWARDS})
    _write_cells(folder / REWARDS, results, *np.nonzero(results.pool.drawn))
    links.append(rewards)
    for arm, chosen in results.selections.items():
        name = f"selection_{arm}.parquet"
        _write_cells(folder / name, results, chosen.row, chosen.column, chosen.weight)
        key = content_hash(results.pool.key, *_arrays(chosen))
        selection = _link("selection", arm, key, [rewards["name"]], files={name: name})
        links += [selection, _policy(arm, results.policies[arm], used, root, [base["name"], selection["name"]])]
    store.write_durably(folder / "chain.json", json.dumps(links, indent=1))


def _of_pool(results: Results, used: dict[str, Use], root: Path, base: dict[str, Any]) -> list[dict[str, Any]]:
    """The base, the probes that drew in its place where a hybrid has them, and the training pool."""
    samplers = results.procedure.samplers if isinstance(results.procedure, Hybrid) else ()
    probes = [_policy("probe", one, used, root, [base["name"]]) for one in samplers if one != results.policies["base"]]
    return [base, *probes, _pool(results.pool, "train", used, root, [one["name"] for one in probes or [base]])]


def _of_generators(
    generators: Generators, used: dict[str, Use], root: Path, base: dict[str, Any]
) -> list[dict[str, Any]]:
    """The base, the other generators, each once, and the pool of each."""
    links = {base["name"]: base}
    for one in generators.each:
        made = base if one.is_student else _policy(one.outcomes_name, one.policy, used, root, [])
        drawn = _pool(one.pool, f"train_{one.name}", used, root, [made["name"]])
        links |= {link["name"]: link for link in (made, drawn) if link["name"] not in links}
    return list(links.values())


def _of_rounds(
    rounds: Rounds, folder: Path, results: Results, used: dict[str, Use], root: Path, base: dict[str, Any]
) -> list[dict[str, Any]]:
    """The links of every round of every arm, each once: the control's first pool is the tuned one's."""
    links = {base["name"]: base}
    pools: dict[str, list[Completions]] = {}
    scored: dict[str, list[str]] = {}  # the names of what an arm's selections are made from
    for one in rounds.each:
        role = one.arm if one.policy == results.policies[one.arm] else one.name
        drawn = _pool(one.pool, role, used, root, [f"policy-{one.drawn_by.fingerprint}"])
        made = [drawn]
        if one.rewards is not None:
            name, key = f"rewards_{role}.parquet", content_hash(one.pool.key, one.rewards.value)
            M, N = one.pool.shape
            cells = np.repeat(np.arange(M), N), np.tile(np.arange(N), M)
            _write_table(folder / name, results, *cells, reward=one.rewards.value[cells])
            made.append(_link("rewards", role, key, [drawn["name"]], files={name: name}))
        scored.setdefault(one.arm, []).append(made[-1]["name"])
        pools.setdefault(one.arm, []).append(one.pool)
        name, N = f"selection_{role}.parquet", one.pool.shape[1]
        drawn_in, sample = np.divmod(np.asarray(one.chosen.column), N)  # all rounds draw equally many
        weight = np.asarray(one.chosen.weight, float)
        _write_table(folder / name, results, one.chosen.row, sample, round=drawn_in + 1, weight=weight)
        key = content_hash([pool.key for pool in pools[one.arm]], *_arrays(one.chosen))
        parents = [scored[one.arm][number] for number in np.unique(drawn_in).tolist()]
        selection = _link("selection", role, key, parents, files={name: name})
        started = f"policy-{one.start.fingerprint}"
        made += [selection, _policy(role, one.policy, used, root, [started, selection["name"]])]
        for link in made:
            links.setdefault(link["name"], link)
    return list(links.values())


def _pool(pool: Completions, role: str, used: dict[str, Use], root: Path, parents: list[str]) -> dict[str, Any]:
    """The training pool, a Parquet file for each of its stored units."""
    units = [(place, use) for place, use in used.items() if f"{use.key}/{use.part}" in pool.stored_as]
    return _link(
        "pool",
        role,
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
    row, column = np.asarray(row), np.asarray(column)
    weights = {} if weight is None else {"weight": np.asarray(weight, float)}
    _write_table(path, results, row, column, **weights, reward=results.rewards.value[row, column])


def _write_table(path: Path, results: Results, row: np.ndarray, column: np.ndarray, **others: np.ndarray) -> None:
    """One line a cell: prompt_id, sample, and the other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = pa.DictionaryArray.from_arrays(
        pa.array(np.asarray(row).astype(np.int32)), pa.array(results.train.id.tolist())
    )
    columns = {"prompt_id": ids, "sample": pa.array(np.asarray(column).astype(np.int32))}
    columns |= {name: pa.array(values) for name, values in others.items()}
    if isinstance(results.procedure, Generators):
        each, widths = results.procedure.each, results.procedure.widths
        origin, names = np.repeat(np.arange(len(each)), widths), pa.array([one.name for one in each])
        columns["generator"] = pa.DictionaryArray.from_arrays(pa.array(origin[np.asarray(column)]), names)
    with store.atomically(path) as beside:
        pq.write_table(pa.table(columns), beside)
