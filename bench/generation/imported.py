"""Imported completions in the place of drawn ones, matched prompt by prompt.

An import (`python -m bench.pools import FILE name=NAME`) stands for what the base draws with the run's own sampler: the
training pool, and the held-out pool of Best-of-N. Another engine draws all else.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from bench.artifacts import FIELDS, UNKNOWN, Completions, Policy, Prompts, content_hash
from bench.blocks import BLANK, NO_TOKENS, NUMBERS, stored
from bench.config import rules
from bench.config.keys import import_of
from bench.devices import resolve_dtype
from bench.errors import BenchError, did_you_mean
from bench.generation.pool import FILE, Unit, write_unit
from bench.models import loading, tokens
from bench.models.logprobs import sequence_logprobs
from bench.progress import say
from bench.store import Address, DamagedArtifactError, Store, check, current, using
from bench.store.files import checksum
from bench.store.reading import as_yaml, damage, intact, table
from bench.tasks.splits import words

SPLITS, OWN = ("train", "test"), {"temperature", "top_p", "top_k"}
VERSION = 1  # raise it where an equal import gives another pool
BLOCK, SHARD = 16, 256  # samples and prompts of one stored unit
NAME = rules.or_null(rules.PLAIN_NAME)
Fields = dict[str, np.ndarray]  # FIELDS [M, N]


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise BenchError where imported completions do not go together with other settings."""
    generation = config["generation"]
    reasons = {
        "can't be inside another engine, as it draws nothing": "train" not in generation,
        "needs an import: generation.train=NAME, generation.test=NAME": not any(map(generation.get, SPLITS)),
        "has no sampler of its own: leave temperature, top_p and top_k out": OWN & {*generation},
        "goes together with procedure=single alone": config["procedure"]["_target_"] != "bench.experiment.run",
        "has no validation prompts: leave generation.test out": generation.get("test") and config["split"] != "test",
    }
    if reason := next((reason for reason, applies in reasons.items() if applies), None):
        raise BenchError(f"generation=imported {reason}.")


@rules.here(
    lambda settings: [folder_of(split, settings[split], settings["outputs"]) for split in SPLITS if settings[split]]
)
@rules.checked(check_settings)
def generate(
    prompts: Prompts,
    policy: Policy,
    *,
    others: Callable[..., Completions],
    train: Annotated[str | None, NAME] = None,
    test: Annotated[str | None, NAME] = None,
    outputs: Annotated[str, rules.FOLDER],
    max_new_tokens: rules.Count,
    num_completions: rules.Samples,
    seed: rules.Seed,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
) -> Completions:
    """Return the first N imported completions of each prompt [M, N], or N that `others` draws.

    train, test: the import of each split; null: `others` draws it. outputs: the folder that has imported/NAME.
    temperature, top_p, top_k: given where `others` draws by them. A training prompt with fewer than N completions has
    blank cells; log-probabilities are NaN where they did not come along. BenchError for too few completions.
    """
    name = {"train": train, "test": test}.get(prompts.split)
    sampler = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    given: dict[str, Any] = {key: value for key, value in sampler.items() if value is not None}
    if name is None or given:
        return others(prompts, policy, num_completions=num_completions, seed=seed, **given)
    source = read(prompts.split, name, outputs)
    rows = source.matched(prompts, num_completions)
    units = []
    for start in range(0, len(prompts), SHARD):
        shard = prompts[start : start + SHARD]
        settings = {"engine": "from_import", "content": source.content, **source.sampler}
        address = Address("generate", VERSION, settings, {"prompts": shard.key, "policy": policy.key})
        for first in range(0, num_completions, BLOCK):
            columns = range(first, min(first + BLOCK, int(source.counts.max())))
            found = partial(source.cells, rows[start : start + SHARD], columns)
            build = partial(_build, policy, shard, found, max_new_tokens, columns.start == 0)
            folder = current().make(address.piece(f"{first // BLOCK:05d}"), build, Path)
            unit = Unit(folder, checksum(folder, FILE), len(shard), len(columns), len(columns))
            units.append((slice(start, start + len(shard)), first, unit))
    pool = stored(units).first(num_completions)
    _say_of(source, rows, pool, [use.counts for use in current().uses[-len(units) :]])
    return pool


def check_pools(prompts: Mapping[str, Prompts], config: Mapping[str, Any], selection: Callable[..., Any]) -> None:
    """Raise BenchError where an import lacks what the experiment takes from it."""
    asked = {"train": config["num_completions"], "test": max(config["num_completions"], config["baseline_completions"])}
    for split, count in asked.items():
        if name := import_of(config["generation"], split):
            with using(Store(Path(config["store"]))):  # sweeps check their cells before any store is open
                source = read(split, name, config["generation"]["outputs"])
            source.matched(prompts[split], count)
            for setting, value in source.sampler.items():
                if config[setting] != value:
                    raise BenchError(
                        f"{source.said} was sampled with {setting}={value:g}, as its import states, and the run has "
                        f"{setting}={config[setting]:g}: set {setting}={value:g}."
                    )
    if import_of(config["generation"], "train") and "logprob" in inspect.signature(selection).parameters:
        name = config["selection"]["_target_"].rpartition(".")[2]
        raise BenchError(f"selection={name} needs log-probabilities under the base, which imported completions lack.")


def _build(
    policy: Policy, prompts: Prompts, read: Callable[[], Fields], most: int, first: bool, out: Path
) -> dict[str, float]:
    """Write imported cells [H, C] in the policy's token ids; returns counts. first: whether sample 0 is among them.

    `policy_logprob` is computed from the policy here, where both log-probabilities came along with kept token ids.
    """
    found = read()
    tokenizer = loading.load_tokenizer(policy)
    ending, _, vocabulary = tokens.configured(policy, tokenizer)
    given, drawn = Completions(**found, key=""), found["finish_reason"] != ""
    fresh, faithful = tokens.reencoded(given, policy)
    end, filler = np.array([tokenizer.eos_token_id], np.int32), np.empty((), object)
    filler[()] = end
    ids, kept = np.full(drawn.shape, NO_TOKENS, object), np.zeros(drawn.shape, bool)
    for cell in zip(*np.nonzero(drawn), strict=True):
        own, text = found["token_ids"][cell], str(found["text"][cell])
        if len(own) and own.max() < vocabulary and text in ("", *tokens.texts_of(tokenizer, [own.tolist()])):
            cut = found["finish_reason"][cell] == "length" or int(own[-1]) in ending
            ids[cell], kept[cell] = own if cut else np.append(own, end), True
        else:
            made = np.asarray(fresh.token_ids)[cell]
            ids[cell] = made if len(made) else end
        if len(ids[cell]) > most:
            raise BenchError(
                f"generation.{prompts.split}: {prompts.id[cell[0]]} has a completion of {len(ids[cell]):,} tokens, "
                f"above max_new_tokens={most}: raise it (task.max_new_tokens), or leave that completion out."
            )
    known, anew = kept & ~np.isnan(found["logprob"] + found["policy_logprob"]), drawn & ~kept
    under, flops = np.full(drawn.shape, np.nan), 0.0
    if known.any():
        scored = replace(given, token_ids=np.where(drawn, ids, filler))  # no cell may be empty
        under = sequence_logprobs(policy, prompts, scored, dtype=resolve_dtype("auto"))
        flops = 2.0 * loading.count_parameters(policy) * scored.length.sum()
    logprobs = (np.where(known, values, np.nan) for values in (found["logprob"], under))
    columns = found | dict(zip(("token_ids", "logprob", "policy_logprob"), (ids, *logprobs), strict=True))
    write_unit(Completions(**columns, key=""), out / FILE)
    lengths = map(len, tokens.encode(tokenizer, prompts))
    counts = {"completions": int(drawn.sum()), "prompt_tokens": first * sum(lengths), "generated_tokens": 0}
    return {**counts, "flops": flops, "reencoded": int(anew.sum()), "unfaithful": int((anew & ~faithful).sum())}


def _say_of(source: "ImportSource", rows: np.ndarray, pool: Completions, counts: list[Mapping[str, float]]) -> None:
    unused = len(source.ids) - len(np.unique(rows[rows >= 0]))
    ended = int((np.asarray(pool.finish_reason) == UNKNOWN).sum())
    drawn, unknown = pool.drawn, np.isnan(np.asarray(pool.logprob))
    reencoded, unfaithful = (int(sum(count[name] for count in counts)) for name in ("reencoded", "unfaithful"))
    stated = ", ".join(f"{name}={value:g}" for name, value in source.sampler.items())
    sampled = f"sampled with {stated}" if stated else "whose sampler this run does not know"
    lines = {
        f"{int(drawn.sum()):,} imported completions, {sampled}": True,
        f"{int((~drawn).sum()):,} of {drawn.size:,} cells are blank: their prompts have fewer completions": ~drawn,
        f"{unused:,} of {len(source.ids):,} imported prompts are none of this run's {source.split} prompts": unused,
        f"it is not known whether {ended:,} completions ended or were cut: they are taken as ended": ended,
        f"the token ids of {reencoded:,} completions were made from their texts": reencoded,
        f"{unfaithful:,} texts are not what the policy's tokenizer writes from their token ids": unfaithful,
        "log-probabilities are not known, so KLs that need them are undefined": unknown[drawn],
    }
    for line, applies in lines.items():
        if np.any(applies):
            say(f"{source.said}: {line}")


class ImportSource(NamedTuple):
    """The completions of one import, by prompt."""

    split: str  # of the run, which takes them
    said: str  # the setting that names it
    sampler: dict[str, float]  # temperature and top_p, as far as the import states them
    ids: list[str]  # [P]
    texts: list[str]  # [P] of the prompts; "" where one is not known
    units: list[tuple[int, Unit]]  # the first prompt of each, in their order
    counts: np.ndarray  # [P] completions of each prompt

    @property
    def content(self) -> str:
        """Equal for equal completions of equal prompts."""
        return content_hash(self.ids, self.texts, [unit.key for _, unit in self.units])

    def matched(self, prompts: Prompts, num_completions: int) -> np.ndarray:
        """[M] the number of each prompt in the import, by its text or id; -1 where it has none.

        BenchError where no prompt is there, or the prompts have too few completions.
        """
        by_id = {name: number for number, name in enumerate(self.ids)}
        said = [" ".join(words(text)) for text in self.texts]
        by_text = {text: number for number, text in enumerate(said) if text}
        rows = np.full(len(prompts), -1)
        for row, (name, messages) in enumerate(zip(prompts.id.tolist(), prompts.messages, strict=True)):
            whole = "\n\n".join(message["content"] for message in messages)
            ours = [" ".join(words(text)) for text in (whole, whole.rpartition("\n\n")[0])]  # an instruction may follow
            own = by_id.get(name, -1)
            same = [by_text[text] for text in ours if text in by_text]
            number = own if not same or (own >= 0 and said[own] in ours) else same[0]  # a text may be there twice
            if not said[number] or any(f" {text} " in f" {said[number]} " for text in ours if text):
                rows[row] = number  # else the id is that of another prompt
        counts = np.where(rows < 0, 0, self.counts[rows])
        lacking = int((counts == 0).sum())
        if lacking == len(counts) or (lacking and self.split == "test"):
            raise BenchError(
                f"{self.said} has no completion, by text or id, of {lacking:,} of {len(counts):,} {self.split} prompts."
            )
        most, whose = (counts.max(), "a") if self.split == "train" else (counts.min(), "every")
        if num_completions > most:
            raise BenchError(
                f"{self.said} has {most:,} completions of {whose} prompt, and {num_completions:,} are asked for: set "
                f"num_completions{'' if self.split == 'train' else ' and baseline_completions'} to at most {most}."
            )
        return rows

    def cells(self, rows: np.ndarray, columns: range) -> Fields:
        """The FIELDS [H, len(columns)] of some prompts' samples, blank where there is none. rows: from `matched`."""
        shape = len(rows), len(columns)
        found = {name: np.full(shape, BLANK.get(name, np.nan), NUMBERS.get(name, object)) for name in FIELDS}
        for first, unit in self.units:
            here = (rows >= first) & (rows < first + unit.prompts)
            for name, values in unit.read(slice(None), FIELDS).items() if here.any() else ():
                found[name][here] = values[rows[here] - first, columns.start : columns.stop]
        return found


def changed_import(config: Mapping[str, Any], lineage: Sequence[Mapping[str, Any]]) -> str | None:
    """The setting of a finished run whose import has other completions now, or is gone; None where all are the same."""
    used = {use["settings"].get("content") for use in lineage}
    with using(Store(Path(config["store"]))):
        for split in SPLITS:
            if name := import_of(config["generation"], split):
                try:
                    same = read(split, name, config["generation"]["outputs"]).content in used
                except BenchError:
                    same = False
                if not same:
                    return f"generation.{split}={name}"
    return None


def read(split: str, name: str, outputs: str) -> ImportSource:
    """Read where an import has its completions. BenchError where it is missing, was changed, or has no texts."""
    import pyarrow.parquet as pq

    folder, said = folder_of(split, name, outputs), f"generation.{split}={name}"
    with intact(folder / "config.yaml") as content:
        config = as_yaml(content)
    roots = (current().root, Path(str(config["store"])))
    sampler = {name: config["generation"][name] for name in ("temperature", "top_p") if name in config["generation"]}
    with intact(folder / "prompts.parquet") as content:
        about = table(content, dict.fromkeys(("prompt_id", "prompt"), "text")).to_pydict()
    with intact(folder / "completions.parquet") as content:
        parts = table(content, columns=["unit"])["unit"].unique().to_pylist()
    if None in parts:
        raise BenchError(f"{said} has no texts: say at import which field is the completion (completion=FIELD).")
    units, counts, folders = list[tuple[int, Unit]](), list[int](), list[Path]()
    for part in sorted(parts):
        folders.append(next((root / part for root in roots if (root / part).is_dir()), roots[-1] / part))
        try:
            check(folders[-1])
        except DamagedArtifactError as error:
            raise BenchError(f"{said}: {error}; import the file again, under another name.") from error
    cells = [pq.read_metadata(folder / FILE).num_rows for folder in folders]
    samples = sum(cells) // len(about["prompt_id"])
    for folder, held in zip(folders, cells, strict=True):
        unit = Unit(folder, checksum(folder, FILE), held // samples, samples, samples)
        units.append((len(counts), unit))
        counts += (unit.read(slice(None), ("finish_reason",))["finish_reason"] != "").sum(axis=1).tolist()
    return ImportSource(split, said, sampler, about["prompt_id"], about["prompt"], units, np.array(counts))


def folder_of(split: str, name: str, outputs: str) -> Path:
    folder, said = Path(outputs, "imported", name).absolute(), f"generation.{split}={name}"
    if not (folder / "metrics.json").is_file():
        there = sorted(path.parent.name for path in folder.parent.glob("[!.]*/metrics.json"))
        hint = did_you_mean(name, there) or f": python -m bench.pools import FILE name={name}."
        raise BenchError(f"{said} is no import: there is no {folder}{hint}")
    if (reason := damage(folder, [])) is not None:
        raise BenchError(f"{said}: {reason}; delete that folder, and import the file again.")
    return folder
