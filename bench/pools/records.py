"""What an imported pool leaves: the records of a run whose one policy is the one that drew it."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench import store
from bench.artifacts import Completions, Prompts, content_hash
from bench.blocks import stored
from bench.errors import BenchError
from bench.estimators.curves import pass_at_k, pass_hat_k
from bench.estimators.voting import majority_at_k, majority_method, vote_weights, weighted_majority_at_k
from bench.evaluation.heldout import Graded
from bench.evaluation.measures import Measure, of_best_of_n, over, powers_of_two, spread
from bench.evaluation.reward_diagnostics import diagnose
from bench.generation.pool import FILE, Unit, write_unit
from bench.pools.arrays import GROUP
from bench.pools.grid import Laid, LeftOut, because
from bench.pools.stopping import FirstSuccess
from bench.procedures.artifact_graph import ArtifactGraph
from bench.records.completions import of_pool
from bench.records.fingerprint import code_of, fingerprint
from bench.records.metrics import curves, flatten, on_same_prompts, provenance
from bench.records.read import COMPLETIONS, CURVES, DIAGNOSTICS, PER_PROMPT, SAMPLES
from bench.records.write import SAMPLE_PROMPTS, leave, long
from bench.reporting.words import sampler_words
from bench.store.files import checksum

SAMPLES_SHOWN = 64  # of a prompt in samples.parquet
CELLS = 32_768  # of a stored unit, about
MOST_WEIGHED = 10_000  # prompts
TOO_MANY = (
    f"Weighted majority is left out above {MOST_WEIGHED:,} prompts: it takes the votes of up to 20,000 subsets of each "
    "prompt's samples, some 5 ms per prompt."
)
LABELS = "correct"  # the name of the reward that is the label itself
SAMPLER = "the policy and the sampler that drew the pool"
NO_DIAGNOSTICS = [{"diagnostic": "none", "x": np.nan, "value": np.nan, "low": np.nan, "high": np.nan, "count": 0}]


@dataclass(frozen=True)
class Imported:
    """A pool on its grid [M, N] with all that is known of it; NaN and None where something is not."""

    prompts: Prompts
    pool: Completions
    lengths: np.ndarray  # [M, N] tokens
    gold: np.ndarray  # [M, N] labels that came along, else the task's verdicts
    rewards: dict[str, np.ndarray]  # [M, N] by name; the first one chooses
    votes: np.ndarray  # [M, N] what each completion answers, or None
    judged: np.ndarray | None  # [M, N] the task's verdicts beside labels that came along
    largest_n: int | None  # as the user wants it
    plan: FirstSuccess | None  # of counts whose sampling stopped early; None: a fixed number of samples is assumed

    @property
    def labelled(self) -> bool:
        return not np.isnan(self.gold).all()

    @property
    def reward(self) -> str:
        """The name of the reward that chooses: the first one, or the labels themselves."""
        return next(iter(self.rewards), LABELS)

    @property
    def proxy(self) -> np.ndarray:
        return next(iter(self.rewards.values()), self.gold)

    @property
    def usable(self) -> np.ndarray:
        """[M] completions that have a reward and, where there are labels, a label."""
        known = ~np.isnan(self.proxy)
        return (known & ~np.isnan(self.gold) if self.labelled else known).sum(axis=1)

    @property
    def n(self) -> int:
        """The largest n of the curves: as many samples as each prompt has that has any, or what the user wants."""
        counts = self.usable
        if self.plan is not None:
            return self.largest_n or self.plan.limit
        return self.largest_n or int(counts[counts > 0].min())

    def graded(self, proxy: np.ndarray) -> Graded:
        """KLs are from the sampler, where log-probabilities under the policy did not come along."""
        pool, nothing = self.pool, np.zeros(self.pool.shape)
        if not self.from_policy:
            pool = dataclasses.replace(pool, logprob=nothing, policy_logprob=nothing)
        gold = self.gold if self.labelled else proxy
        return Graded(pool, proxy, gold, self.votes, np.full(self.pool.shape, None, object))

    @property
    def weighs_votes(self) -> bool:
        """Whether weighted votes are counted: over subsets of each prompt, some 5 ms for each."""
        return len(self.prompts) <= MOST_WEIGHED

    @property
    def from_policy(self) -> bool:
        return not (np.isnan(self.pool.logprob) | np.isnan(self.pool.policy_logprob)).all()


def stored_pool(laid: Laid, prompts: str, source: Mapping[str, Any], version: int) -> Completions:
    """The pool in the store, so that its texts are read from there, a shard at a time."""
    units, (_, samples) = [], laid.place.shape
    cells = {name: source[name] for name in ("content", "columns", "filter", "format") if source[name]}
    address = store.Address("generate", version, {"engine": GROUP, **cells}, {"prompts": prompts})
    lengths = laid.lengths
    for number, (rows, part) in enumerate(laid.shards(CELLS)):

        def build(folder: Path, part: Completions = part, rows: slice = rows) -> dict[str, float]:
            write_unit(part, folder / FILE, length=lengths[rows])
            return {"completions": int(part.drawn.sum())}

        folder = store.current().make(address.piece(f"{number:05d}"), build, Path)
        units.append((rows, 0, Unit(folder, checksum(folder, FILE), rows.stop - rows.start, samples, samples)))
    return stored(units)


def check(imported: Imported, left_out: LeftOut) -> None:
    """BenchError where nothing can be measured."""
    if not imported.labelled and not imported.rewards:
        raise BenchError(
            "There is neither a label nor a reward: say correct=FIELD or reward.NAME=FIELD, or let a task judge the "
            "texts (task=NAME)."
        )
    counts = imported.usable
    if (few := int((counts > 0).sum())) < 2:
        raise BenchError(
            f"{'Only 1' if few else 'No'} prompt has completions to count on, and intervals need 2{because(left_out)}."
        )
    if imported.largest_n is not None and not 1 <= imported.largest_n <= counts.max():
        raise BenchError(
            f"largest_n={imported.largest_n} is not allowed: it must be 1 to {counts.max()}, the most samples."
        )


def measures(imported: Imported) -> dict[Measure, np.ndarray]:
    """The values [M] behind every number: pass@n, votes, and Best-of-n by each reward, for n up to `Imported.n`.

    A prompt that lacks a value at some n is left out of that curve: what largest_n asks for.
    """
    sizes, gold = powers_of_two(imported.n), imported.gold
    if imported.plan is not None:
        return over("sampler", "pass", "accuracy", sizes, imported.plan.pass_at_k(gold, sizes))
    first = imported.graded(imported.proxy)
    found = of_best_of_n(first, sizes)
    has_votes = imported.labelled and (imported.votes != None).any()  # noqa: E711  elementwise
    others = {name: values for name, values in imported.rewards.items() if name != imported.reward}
    if imported.labelled:
        found |= over("sampler", "pass", "accuracy", sizes, pass_at_k(gold, sizes))
        found |= over("sampler", "pass_hat", "accuracy", sizes, pass_hat_k(gold, sizes))
        if imported.rewards:
            others[LABELS] = gold
    for name, values in others.items():
        same = ("accuracy", "proxy", "win_rate") if name == LABELS else ()  # pass@n has them
        found |= {
            measure._replace(method=f"best_of_n@{name}"): value
            for measure, value in of_best_of_n(imported.graded(values), sizes).items()
            if measure.method == "best_of_n" and measure.metric not in same
        }
    if has_votes:
        found |= over("sampler", "majority", "accuracy", sizes, majority_at_k(imported.votes, gold, sizes))
        for name, values in imported.rewards.items() if imported.weighs_votes else ():
            votes = weighted_majority_at_k(imported.votes, vote_weights(values), gold, sizes)
            method = "weighted_majority" if name == imported.reward else f"weighted_majority@{name}"
            found |= over("sampler", method, "accuracy", sizes, votes)
    if imported.judged is not None:
        found |= over("sampler", "judged_pass", "accuracy", sizes, pass_at_k(imported.judged, sizes))
    known = {measure: values for measure, values in found.items() if not np.isnan(values).all()}
    known = on_same_prompts(known, least=0)
    return {measure: values for measure, values in known.items() if imported.labelled or measure.metric != "accuracy"}


def write(
    folder: Path, imported: Imported, config: Mapping[str, Any], counts: Mapping[str, Any], tables: Mapping[str, Any]
) -> None:
    """Write every record into the folder. counts: further metrics; tables: further files."""
    seed, cells = config["seed"], measures(imported)
    rows = curves(cells, seed=seed)
    if not imported.from_policy:
        sampler = f"{SAMPLER} {sampler_words(config['generation'])}".rstrip()
        rows = [row | {"reference": sampler if row["reference"] else ""} for row in rows]
    diagnosed = (
        diagnose(imported.graded(imported.proxy), seed=seed)
        if imported.labelled and imported.plan is None
        else ({}, [])
    )
    code = code_of({name: config[name] for name in ("generation", "task") if name in config})
    metrics = {
        **flatten(rows),
        **provenance(rows),
        "code": fingerprint(code),
        **_counts(imported),
        **diagnosed[0],
        **counts,
    }
    uses = store.current().uses
    graph = ArtifactGraph(folder, imported.prompts.id, uses, store.current().root)
    pool = graph.pool("test", imported.pool, [])
    row, column = np.nonzero(imported.pool.drawn)
    cells_of = {"row": row, "sample": column, "reward": imported.proxy[row, column]}
    graph.rewards("test", content_hash(imported.pool.key, imported.proxy), "rewards.parquet", cells_of, [pool])
    records = {
        CURVES: rows,
        PER_PROMPT: long(cells, imported.prompts.id),
        SAMPLES: _samples(imported),
        DIAGNOSTICS: diagnosed[1] or NO_DIAGNOSTICS,
        COMPLETIONS: _completions(imported),
        **tables,
    }
    leave(
        folder, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), code, metrics, records, uses, graph
    )


def _counts(imported: Imported) -> dict[str, Any]:
    drawn, n = imported.pool.drawn, imported.n
    tokens = imported.lengths[drawn & ~np.isnan(imported.lengths)]
    unsolved = np.nan_to_num(imported.gold).max(axis=1) == 0
    return {
        "best_of_n/pool_size": n,
        "best_of_n/proxy_spread": spread(imported.proxy),
        "best_of_n/prompts_without_correct": float(unsolved.mean()) if imported.labelled else float("nan"),
        "pool/completions": int(drawn.sum()),
        "pool/truncated": imported.pool.truncated,
        "pool/unscored": int((np.isnan(imported.proxy) & drawn).sum()),
        "pool/unlabelled": int((np.isnan(imported.gold) & drawn).sum()),
        "pool/mean_reward": float(np.nanmean(imported.proxy)),
        "pool/mean_length": float(np.mean(tokens)) if len(tokens) else float("nan"),
        "pool/fewest_samples": int(drawn.sum(axis=1).min()),
        "test/prompts": len(imported.prompts),
        "test/prompts_key": imported.prompts.key,
        **{f"sampler/majority@{k}_subsets": majority_method(imported.pool.shape[1], k) for k in powers_of_two(n)},
    }


def _samples(imported: Imported) -> list[dict[str, Any]]:
    """The completions of the first prompts."""
    few = imported.prompts[: min(SAMPLE_PROMPTS, len(imported.prompts))]
    pool, correct, lengths = imported.pool, imported.gold, imported.lengths
    return [
        {
            "split": "test",
            "policy": "base",
            "prompt_id": str(few.id[row]),
            "prompt": few.messages[row][0]["content"],
            "answer": str(few.answer[row]),
            "sample": column,
            "completion": pool.text[row, column],
            "finish_reason": str(pool.finish_reason[row, column]),
            "length": None if np.isnan(lengths[row, column]) else int(lengths[row, column]),
            "reward": float(imported.proxy[row, column]),
            "selected_for": "",
            "correct": None if np.isnan(correct[row, column]) else bool(correct[row, column]),
        }
        for row in range(len(few))
        for column in np.flatnonzero(pool.drawn[row])[:SAMPLES_SHOWN].tolist()
    ]


def _completions(imported: Imported) -> Any:
    """completions.parquet, with a column for each further reward, for what is voted on, and for the task's verdicts."""
    import pyarrow as pa

    pool, (row, column) = imported.pool, np.nonzero(imported.pool.drawn)
    table = of_pool("test", imported.prompts, pool, ["base"] * pool.shape[1], imported.proxy, imported.gold)
    more: dict[str, Any] = {
        f"reward.{name}": pa.array(values[row, column]) for name, values in imported.rewards.items()
    }
    if (imported.votes != None).any():  # noqa: E711  elementwise
        more["prediction"] = pa.array(imported.votes[row, column].tolist(), pa.string())
    if imported.judged is not None:
        verdicts = imported.judged[row, column]
        more["judged"] = pa.array(verdicts > 0, mask=np.isnan(verdicts))
    for name, values in more.items():
        table = table.append_column(name, values)
    return table


def table_of_prompts(prompts: Prompts) -> Iterator[dict[str, Any]]:
    """Some prompts at a time."""
    for start in range(0, len(prompts), CELLS):
        some = prompts[start : start + CELLS]
        texts = [messages[0]["content"] for messages in some.messages]
        yield {"prompt_id": some.id.tolist(), "prompt": texts, "answer": some.answer.tolist()}
