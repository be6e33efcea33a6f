"""Every completion of a run's pools: its place in the store, its reward and its verdict.

completions.parquet: split, prompt_id, sample, policy (which drew it), reward (NaN: unscored), correct (empty: not
judged), unit and line: the artifact that holds the text, and the line in its file (empty: held nowhere).
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.artifacts import Completions, Prompts
from bench.errors import BenchError
from bench.generation.pool import FILE as DRAWN
from bench.procedures.findings import Results
from bench.records.read import COMPLETIONS as FILE
from bench.records.read import Run
from bench.store import DamagedArtifactError, check
from bench.store.reading import intact
from bench.store.reading import table as table_in

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("text", "finish_reason", "length", "logprob", "policy_logprob")
UNIT = re.compile(r"(generate|online)/\w+/\d+")


def table(results: Results, *, scorer_is_gold: bool) -> Any:
    """The table of the training pool and of the held-out pool of Best-of-N. scorer_is_gold: a reward is a verdict."""
    import pyarrow as pa

    held_out, trained = results.best_of_n, results.rewards.value
    verdicts = trained if scorer_is_gold else np.full(trained.shape, np.nan)
    drawn_by = results.findings.drawn_by(results)
    base = ["base"] * held_out.gold.shape[1]
    return pa.concat_tables(
        [
            of_pool("train", results.train, results.pool, drawn_by, trained, verdicts),
            of_pool(results.split, results.test, held_out.completions, base, held_out.proxy, held_out.gold),
        ],
        promote_options="permissive",
    )


def of_pool(
    split: str, prompts: Prompts, pool: Completions, drawn_by: list[str], rewards: np.ndarray, correct: np.ndarray
) -> Any:
    import pyarrow as pa

    row, column = np.nonzero(pool.drawn)
    units, unit, line = pool.places()
    unit, line = unit[row, column], line[row, column]

    def named(names: list[str], numbers: np.ndarray) -> Any:
        known = pa.array(numbers.astype(np.int32), mask=numbers < 0)
        return pa.DictionaryArray.from_arrays(known, pa.array(names, pa.string())).cast(pa.string())

    return pa.table(
        {
            "split": pa.array([split] * len(row)),
            "prompt_id": named(prompts.id.tolist(), row),
            "sample": column,
            "policy": named(drawn_by, column),
            "reward": rewards[row, column],
            "correct": pa.array(correct[row, column] > 0, mask=np.isnan(correct[row, column])),
            "unit": named(units, unit),
            "line": pa.array(line, mask=line < 0),
        }
    )


def frame(run: Run, name: str) -> "DataFrame":
    """One of the run's tables. BenchError where it is missing or damaged."""
    with intact(run.folder / name) as content:
        return table_in(content).to_pandas()


def completions(run: Run, split: str, *, store: Path | None = None, token_ids: bool = False) -> "DataFrame":
    """Every completion of the run's training pool ("train") or of its held-out pool of Best-of-N, read from the store.

    Columns: prompt_id, sample, policy, reward, correct, text, finish_reason, length (tokens), logprob (nats under the
    sampler), policy_logprob (nats under the policy at temperature 1, top-p 1). Demonstrations, which no policy drew,
    are held by no store and have no text here. store: where it is now; by default the place that the run names.
    token_ids: with a column of that name, EOS included.
    Raises BenchError where the run has no such split, or the store lacks the pool.
    """
    import pandas as pd

    cells = frame(run, FILE)
    if split not in set(cells["split"]):
        raise BenchError(f"{run.folder} has no pool of split {split!r}: it has {', '.join(cells['split'].unique())}.")
    cells = cells[cells["split"] == split].drop(columns="split").reset_index(drop=True)
    root = Path(store or run.config["store"])
    names = [*COLUMNS, *(["token_ids"] if token_ids else [])]
    parts = [_drawn(run, root, str(unit), part["line"], names) for unit, part in cells.groupby("unit", sort=False)]
    return cells.drop(columns=["unit", "line"]).join(pd.concat(parts) if parts else pd.DataFrame(columns=names))


def _drawn(run: Run, root: Path, unit: str, lines: "Any", names: list[str]) -> "DataFrame":
    """The named columns of some lines of one stored unit, at the lines' own index."""
    import pyarrow.parquet as pq

    if not UNIT.fullmatch(unit):
        raise BenchError(f"{run.folder / FILE} names {unit}, which is no part of a pool.")
    folder = root / unit
    if not folder.is_dir():
        raise BenchError(
            f"{folder} is gone: the store that has the pool of {run.folder.name} is elsewhere (give store=PATH), or it "
            "was pruned. Running the experiment again draws it anew."
        )
    try:
        check(folder)
    except DamagedArtifactError as damage:
        raise BenchError(f"{damage}; run the experiment again to draw it anew.") from damage
    found = pq.read_table(folder / DRAWN, columns=names).to_pandas().iloc[lines.astype(int)]
    return found.set_index(lines.index)
