"""Import completions that were drawn elsewhere as a run in outputs/imported/NAME.

python -m bench.pools import FILE ... name=NAME [COLUMN=FIELD ...] [OPTION=VALUE ...]

FILE: JSON lines, JSON, CSV (each also as .gz) or Parquet, with one row per completion, or one per prompt whose fields
are lists; counts (n, c); lm-eval's logged samples; an Inspect log (.json, .eval).

COLUMN=FIELD: a column is read from the field of its own name, unless said otherwise. A field inside another is a.b.
  id prompt answer                 of a prompt; without id, equal prompts are one
  completion correct prediction    of a completion: its text; whether it is right; what it answers, for votes
  reward.NAME=FIELD                a reward; of several, the first one chooses
  logprob policy_logprob tokens finish_reason sample
  n c                              in place of completions: how many a prompt has, and how many are right

name=NAME        the run's folder is outputs/imported/NAME
task=NAME        judge the texts by a task of conf/task; its settings as task.SETTING=VALUE
match=answers    the answers that the task compares with: those of the file (answers), of the task's prompts with
                 this id, text or function (prompts), or of the task's prompts one after the other (order)
largest_n=N      go on where not every prompt has so many samples, over those that have
format=NAME      what the files are, where their names don't say: jsonl json csv parquet lm-eval inspect
filter=NAME      one of the filters in a log of lm-eval
temperature=T top_p=P      how the completions were sampled; runs that take them check it
stopped=first_success block=B limit=L    sampling stopped at the first success; accept_fixed=true: n was fixed
seed=0 outputs=outputs store=store
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import store as stores
from bench.artifacts import content_hash
from bench.config.rules import FOLDER, PLAIN_NAME, PROBABILITY_MASS, SEED, TEMPERATURE, Rule, one_of, whole
from bench.errors import BenchError, printable, quoted
from bench.pools import readers, records, stopping
from bench.pools.arrays import GROUP
from bench.pools.columns import Columns, whole_number
from bench.pools.export import made
from bench.pools.grid import Grid, Laid
from bench.pools.judging import MATCHES, Judged, matched
from bench.pools.logs import Choices
from bench.pools.readers import FORMATS
from bench.progress import say
from bench.records.frames import Runs, load
from bench.records.read import as_number, changed, is_finished, read_config
from bench.store.reading import sha256

VERSION = 3  # raise it where equal files get other records
SAMPLER = ("temperature", "top_p")
NUMBERS = {"seed": whole_number, "largest_n": whole_number, **dict.fromkeys(SAMPLER, as_number)}  # how words are read
VERIFIER = "bench.scoring.verifier.verify"
OPTIONS: dict[str, Rule] = {
    "name": PLAIN_NAME,
    "format": one_of(*FORMATS),
    "match": one_of(*MATCHES),
    "largest_n": whole(1),
    "temperature": TEMPERATURE,
    "top_p": PROBABILITY_MASS,
    "seed": SEED,
    "outputs": FOLDER,
    "store": FOLDER,
}


def main(words: Sequence[str]) -> None:
    files = [word for word in words if "=" not in word or os.path.isfile(word)]
    given = dict(word.split("=", 1) for word in words if word not in files)
    task = [word for word in words if word not in files and word.startswith(("task=", "task.", "+task."))]
    options: dict[str, Any] = {name: given[name] for name in (*OPTIONS, "filter") if name in given}
    for name in NUMBERS.keys() & options.keys():
        if (number := NUMBERS[name](options[name])) is not None:  # else the option's rule refuses the words
            options[name] = number
    others = (*options, *stopping.WORDS, *(word.partition("=")[0] for word in task))
    columns = {name: value for name, value in given.items() if name not in others}
    if "name" not in options:
        raise BenchError("name=NAME is missing: the folder of the run, outputs/imported/NAME.")
    runs = import_pool(files, columns=columns, task=task, stopped=stopping.of_words(given), **options)
    print(f"run       {printable(str(runs[0].folder))}")


def import_pool(
    files: str | Path | Sequence[str | Path],
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    filter: str | None = None,
    task: str | Sequence[str] = (),
    match: str | None = None,
    largest_n: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    stopped: Mapping[str, int] | bool | None = None,
    seed: int = 0,
    outputs: str | Path = "outputs",
    store: str | Path = "store",
) -> Runs:
    """Import completions that were drawn elsewhere as a run in outputs/imported/<name>, and read it.

    files: one or more, in any of `bench.pools.readers.FORMATS`. columns: column -> field, where a field has another
    name than its column, see `python -m bench.pools import --help`; "reward.NAME" adds a reward, of which the first one
    chooses. task: a task of conf/task that judges the texts, with its settings as ("task=gsm8k", "task.path=FILE").
    temperature, top_p: how the completions were sampled, where that is known.
    stopped: {"block": B, "limit": L} of counts that stopped at the first success; True: counts that only look so. Rows
    that can't be read are counted, said, and listed in left_out.parquet. The same import again is found done.
    Raises BenchError, and leaves no run, where a file can't be read, or nothing in it can be measured.
    """
    numbers: Any = (largest_n, temperature, top_p, seed)  # NumPy's, too
    largest_n, temperature, top_p, seed = (n.item() if isinstance(n, np.generic) else n for n in numbers)
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    settings = [f"task={task}"] if isinstance(task, str) else list(task)
    given = {"name": name, "format": format, "match": match, "largest_n": largest_n, "seed": seed}
    sampler = {name: value for name, value in zip(SAMPLER, (temperature, top_p), strict=True) if value is not None}
    given |= {"outputs": str(outputs), "store": str(store)}
    for option, value in (given | sampler).items():
        if value is not None and not OPTIONS[option].allows(value):
            raise BenchError(f"{option}={quoted(value)} is not allowed: it must be {OPTIONS[option].words(value)}.")
    if re.fullmatch(r"report(_.*)?|[0-9a-f]{10}", name):
        raise BenchError(f"name={name} is not allowed: reports and the ids of runs have such names.")
    if match is not None and not settings:
        raise BenchError(f"match={match} needs task=NAME: it says which answers that task compares with.")
    if not paths:
        raise BenchError("No file is given: python -m bench.pools import FILE ... name=NAME.")
    folder = (Path(outputs) / GROUP / name).absolute()
    source = {
        "files": [path.name for path in paths],
        "format": format,
        "filter": filter,
        "columns": dict(columns or {}),
        "task": settings,
        "match": match,
        "largest_n": largest_n,
        "stopped": stopped,
        **sampler,
        "content": content_hash(VERSION, [_hash_of(path) for path in paths]),
    }
    if _is_done(folder, source, seed):
        say(f"{folder} has this import already.")
        return load(folder)
    parsed = Columns(dict(columns or {}))
    laid = read(paths, parsed, format, Choices(filter))
    said = stopping.check(laid.correct, stopping.plan_of(stopped), counts=bool(laid.grid.counts))
    judged = matched(laid, settings, match) if settings else None
    with made(folder) as scratch, stores.using(stores.Store(Path(store))):
        scratch.mkdir(parents=True)
        notes = _write(scratch, judged.laid if judged else laid, judged, source, given)
        if folder.exists():  # a damaged one
            shutil.rmtree(folder)
    for note in [*notes, *said]:
        say(note)
    return load(folder)


def read(files: Sequence[Path], columns: Columns, said: str | None, choices: Choices) -> Laid:
    """The completions of these files on their grid. BenchError where none can be read."""
    grid = Grid()
    for file in files:
        kind = readers.kind_of(file, said)
        known = file if [other.name for other in files].count(file.name) > 1 else file.name
        where = f"{known}, {readers.noun(kind)}" if len(files) > 1 else readers.noun(kind)
        for number, row, reason in readers.rows(file, kind, choices=choices):
            grid.left_out.rows += 1
            place = f"{where} {number}"
            if row is None:
                grid.skip(place, reason)
                continue
            try:
                grid.add(columns.of(row), columns.rewards)
            except BenchError:
                raise
            except ValueError as error:
                grid.skip(place, str(error))
    names = ", ".join(file.name for file in files)
    if not grid.left_out.rows:
        raise BenchError(f"{names} has no rows.")
    if len(grid.left_out.lines) == grid.left_out.rows:
        raise BenchError(f"{names} has no row that can be read: {grid.left_out}.")
    columns.check()
    return grid.finish()


def _write(
    folder: Path, laid: Laid, judged: Judged | None, source: Mapping[str, Any], given: Mapping[str, Any]
) -> list[str]:
    """Write the run; returns what its reader should know."""
    prompts = judged.prompts if judged else laid.prompts
    stored = laid.has_texts or not laid.grid.token_ids.empty
    pool = records.stored_pool(laid, prompts.key, source, VERSION) if stored else laid.completions()
    verdicts, votes = judged.verdicts(pool) if judged else (None, laid.predictions)
    labelled = not np.isnan(laid.correct).all()
    if (laid.predictions != None).any():  # noqa: E711  elementwise
        votes = laid.predictions
    gold = verdicts if verdicts is not None and not labelled else laid.correct
    beside = verdicts if labelled else None
    plan = stopping.plan_of(source["stopped"])
    stopped = plan if isinstance(plan, stopping.FirstSuccess) else None
    imported = records.Imported(
        prompts, pool, laid.lengths, gold, laid.rewards, votes, beside, given["largest_n"], stopped
    )
    left_out = laid.grid.left_out
    records.check(imported, left_out)
    counts: dict[str, float] = {"import/rows": left_out.rows, "import/rows_left_out": len(left_out.lines)}
    if beside is not None:
        known = ~(np.isnan(laid.correct) | np.isnan(beside))
        counts["import/judged_agreement"] = float((laid.correct == beside)[known].mean())
    tables: dict[str, Any] = {"prompts.parquet": records.table_of_prompts(prompts)}
    if left_out.lines:
        places, reasons = zip(*left_out.lines, strict=True)
        tables["left_out.parquet"] = {"place": places, "reason": reasons}
    target = {"_target_": "bench.pools.import_pool"}
    config = {
        "name": GROUP,
        "seed": given["seed"],
        "num_completions": imported.n,
        "control": "none",
        "split": "test",
        **({"task": judged.node} if judged else {}),
        "generation": target | dict(source),
        "scoring": {"_target_": f"imported.{imported.reward}" if imported.rewards or labelled else VERIFIER},
        "store": str(Path(given["store"]).absolute()),
        "outputs": str(Path(given["outputs"]).absolute()),
    }
    records.write(folder, imported, config, counts, tables)
    return _notes(imported, judged, str(left_out))


def _notes(imported: records.Imported, judged: Judged | None, left_out: str) -> list[str]:
    drawn, prompts = imported.pool.drawn, len(imported.prompts)
    notes = [
        f"{int(drawn.sum()):,} completions of {prompts:,} prompts were imported.",
        f"{left_out}." if left_out else "",
    ]
    few = imported.usable
    if imported.largest_n is None and imported.n < few.max():
        notes.append(
            f"n goes to {imported.n}, as some prompts have no more samples to count on; largest_n={few.max()} goes on "
            "without those prompts."
        )
    for name, values in imported.rewards.items():
        if missing := int((np.isnan(values) & drawn).sum()):
            notes.append(
                f"The reward {name} is missing or NaN in {missing:,} completions: they are never chosen by it."
            )
    if missing := int((np.isnan(imported.gold) & drawn).sum()) if imported.labelled else 0:
        notes.append(f"{missing:,} completions have no label: they count as never drawn.")
    if imported.rewards and not imported.weighs_votes and (imported.votes != None).any():  # noqa: E711  elementwise
        notes.append(records.TOO_MANY)
    if judged is not None:
        beside = (
            "" if imported.judged is None else "; the labels that came along are used, the verdicts are beside them"
        )
        notes.append(f"Judged by task={judged.task.name} with the answers of its {judged.how}{beside}.")
    return [note for note in notes if note]


def _is_done(folder: Path, source: Mapping[str, Any], seed: int) -> bool:
    """Whether the folder has this import. BenchError where it has another one."""
    if not folder.exists():
        return False
    if not is_finished(folder):
        raise BenchError(f"{folder} is there and holds no finished run: give another name=, or delete it.")
    if changed(folder) is not None:
        return False
    config = read_config(folder)
    target = {name: value for name, value in config.get("generation", {}).items() if name != "_target_"}
    if target != dict(source) or config.get("seed") != seed:
        raise BenchError(f"{folder} holds another import or run: give another name=, or delete that folder.")
    return True


def _hash_of(path: Path) -> str:
    try:
        if path.is_dir():
            return content_hash([[file.name, sha256(file)] for file in readers.files_of(path)])
        return sha256(path)
    except OSError as error:
        raise BenchError(f"{error.filename or path} can't be read: {error.strerror or error}.") from error
