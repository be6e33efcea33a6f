"""The graph of a run's artifacts, pool -> rewards -> selections -> policies, in chain.json, which trackers show.

An artifact is named by its content, e.g. "pool-3f2a...", so that all runs that share a pool name it alike.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import store
from bench.artifacts import Completions, Policy
from bench.store import MANIFEST, Use

ARTIFACTS = "chain.json"
Columns = Mapping[str, Any]  # name -> one value per row of a table


class ArtifactGraph:
    """The artifacts of one run, each once, and their parents. A method adds one, writes its file, and returns its name.

    `write` makes chain.json: a list of artifacts with name, type (pool, rewards, selection, policy), role, parents
    (names), reused (whether the store had it), files (name -> path, absolute or relative to the run folder), settings.
    rewards*.parquet: prompt_id, sample, reward of every completion that was drawn (NaN: unscored).
    selection_*.parquet: prompt_id, sample, weight in the training loss, reward, in the order of training. Of pairs,
    sample is the chosen one, and rejected (with rejected_reward, or rejected_round) the other.
    Both have further columns where a procedure labels its samples (round, generator). root: the store's folder.
    """

    def __init__(self, folder: Path, prompt_ids: np.ndarray, uses: Sequence[Use], root: Path) -> None:
        self.folder, self.root, self.prompt_ids = folder, root, prompt_ids
        self.used = {f"{use.stage}/{use.key}/{use.part}".rstrip("/"): use for use in store.unique(uses)}
        self.links: dict[str, dict[str, Any]] = {}

    def write(self) -> None:
        store.write_durably(self.folder / ARTIFACTS, json.dumps(list(self.links.values()), indent=1))

    def policy(self, role: str, policy: Policy, parents: Sequence[str] = ()) -> str:
        """Add a policy: one that the store holds, or one that was given."""
        root, path = self.root, policy.path
        use = self.used.get(path.relative_to(root).as_posix()) if path.is_relative_to(root) else None
        return self._link(
            "policy",
            role,
            policy.fingerprint,
            parents,
            files=_files(path),
            reused=use is None or use.reused,
            settings=use.settings if use else {},
        )

    def pool(self, role: str, pool: Completions, parents: Sequence[str]) -> str:
        """Add a training pool, with one Parquet file per stored unit."""
        units = [(place, use) for place, use in self.used.items() if use.unit in pool.stored_as]
        files = [_files(self.root / place, f"{use.unit}/") for place, use in units]
        return self._link(
            "pool",
            role,
            pool.key.partition("[")[0],
            parents,
            files={name: path for unit in files for name, path in unit.items()},
            reused=bool(units) and all(use.reused for _, use in units),
            settings={**(units[0][1].settings if units else {}), "num_completions": pool.shape[1]},
        )

    def rewards(self, role: str, key: str, file: str, columns: Columns, parents: Sequence[str]) -> str:
        """Add the rewards of a pool. columns: row, sample, reward, ..."""
        self._write(file, columns)
        return self._link("rewards", role, key, parents, files={file: file})

    def selection(self, role: str, key: str, columns: Columns, parents: Sequence[str]) -> str:
        """Add selected completions. columns: row, sample, weight, ..."""
        file = f"selection_{role}.parquet"
        self._write(file, columns)
        return self._link("selection", role, key, parents, files={file: file})

    def _link(
        self,
        kind: str,
        role: str,
        key: str,
        parents: Sequence[str],
        *,
        files: Mapping[str, str],
        reused: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        name = f"{kind}-{key}"
        link = {"name": name, "type": kind, "role": role, "parents": list(parents), "reused": reused}
        self.links.setdefault(name, {**link, "files": dict(files), "settings": dict(settings or {})})
        return name

    def _write(self, file: str, columns: Columns) -> None:
        """Write a table with one line per completion: prompt_id (for its row), sample, and the other columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        ids = pa.array(self.prompt_ids.tolist())
        row, sample = (pa.array(np.asarray(columns[name]).astype(np.int32)) for name in ("row", "sample"))
        table = {"prompt_id": pa.DictionaryArray.from_arrays(row, ids), "sample": sample}
        for name, values in columns.items():
            if name not in ("row", "sample"):
                column = pa.array(values)
                table[name] = column.dictionary_encode() if pa.types.is_string(column.type) else column
        with store.atomically(self.folder / file) as beside:
            pq.write_table(pa.table(table), beside)


def policy_name(policy: Policy) -> str:
    return f"policy-{policy.fingerprint}"


def _files(folder: Path, prefix: str = "") -> dict[str, str]:
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST]
    return {prefix + path.name: str(path) for path in paths}
