"""Audit the verdicts on a pool: draw completions to label by hand, then correct the accuracy for the verifier's errors.

python -m bench.pools audit NAME [size=200] [seed=0]      write sheet.csv, whose column `label` you fill with 1 or 0
python -m bench.pools audit NAME labels=FILE              sensitivity, specificity and accuracy, from the filled sheet

NAME: an imported pool, or a run's folder. Where labels came along and a task judged too (import with task=NAME), the
task's verdicts are audited, equally many of each cell of the table of both, and disagreements.csv lists where they
differ. The sheet doesn't show the verdicts, and is in random order: label any first part of it.
An apostrophe stands before a text that a spreadsheet would take for a formula.
split=test store=PATH outputs=outputs to=FOLDER (outputs/audits/NAME by default)
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError, printable, quoted
from bench.estimators.audit import agreement_table, audit_verifier, stratified_sample
from bench.estimators.bootstrap import bootstrap_interval
from bench.pools.arrays import PoolArrays, options_of, read, runs_of, whole_of
from bench.pools.columns import VERDICTS, whole_number
from bench.pools.export import pool_rows
from bench.pools.readers import LONGEST
from bench.records.read import Estimate
from bench.reporting.tables import markdown
from bench.seeds import generator
from bench.store import write_durably
from bench.tasks.files import long_cells

USAGE = "python -m bench.pools audit --help"
SHEET, DISAGREEMENTS, PAGE = "sheet.csv", "disagreements.csv", "audit.md"
KEYS = ("prompt_id", "sample", "label")
FORMULA = re.compile(r"\A(?=[=+\-@\t\r])")  # a spreadsheet computes such a text, unless an apostrophe is before it
MOST = 200  # disagreements in the file


def main(words: Sequence[str]) -> None:
    known = ("labels", "size", "seed", "split", "store", "outputs", "to")
    places, options = options_of(words, known, USAGE)
    if len(places) != 1:
        raise BenchError(f"{len(places)} pools are given; one is audited: {USAGE}")
    outputs, split = options.get("outputs", "outputs"), options.get("split", "test")
    runs = runs_of(places[0], outputs)
    if len(runs) != 1:
        raise BenchError(f"{quoted(places[0])} names {len(runs)} runs; one is audited: give its folder.")
    pool = read(runs[0], split)
    folder = Path(options.get("to") or Path(outputs) / "audits" / pool.run.folder.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if "labels" in options:
            text = page(pool, _labels(Path(options["labels"]), pool))
            write_durably(folder / PAGE, text + "\n")
        else:
            size, seed = whole_of(options, "size", 200) or 200, whole_of(options, "seed", 0, 0) or 0
            store = Path(options["store"]) if "store" in options else None
            text = draw(pool, pool_rows(pool.run, split, store), folder, size, seed)
    except OSError as error:
        raise BenchError(f"{folder} can't be written ({error.strerror or error}).") from error
    print(printable(text))
    print(f"written   {printable(str(folder))}")


def strata(pool: PoolArrays) -> tuple[np.ndarray, np.ndarray]:
    """The verdicts [M, N] to audit, and their strata: the cells of verdict by label where labels came along."""
    if pool.judged is None:
        return pool.correct, pool.correct
    return pool.judged, 2 * pool.judged + np.where(np.isnan(pool.correct), 0.5, pool.correct)


def draw(pool: PoolArrays, rows: Sequence[Mapping[str, Any]], folder: Path, size: int, seed: int) -> str:
    """Write the sheet, and the disagreements where labels came along. BenchError where there is a sheet already."""
    if (folder / SHEET).exists():
        raise BenchError(
            f"{folder / SHEET} is there already: label it and give labels={folder / SHEET}, or move it away."
        )
    verdicts, cells = strata(pool)
    rng = generator(seed, "audit")
    sample = stratified_sample(cells, size, rng)
    by_place = {(str(row["id"]), int(row["sample"])): row for row in rows}
    order = rng.permutation(len(sample.prompts))
    sheet = [
        {**_shown(by_place, str(pool.ids[row]), int(column)), "weight": f"{weight:.6g}", "label": ""}
        for row, column, weight in zip(*(values[order] for values in sample), strict=True)
    ]
    _write(folder / SHEET, sheet)
    told = [
        f"{len(sheet):,} of {int((~np.isnan(verdicts)).sum()):,} completions are in {folder / SHEET}: fill `label`."
    ]
    if not any(row["completion"] for row in sheet):
        told.append("The pool has no texts: label by id.")
    if pool.judged is not None:
        differ = np.argwhere(np.abs(pool.judged - pool.correct) == 1)
        places = differ[np.sort(rng.permutation(len(differ))[:MOST])]
        shown = [
            {
                **_shown(by_place, str(pool.ids[row]), int(column)),
                "came_along": int(pool.correct[row, column]),
                "verdict": int(pool.judged[row, column]),
            }
            for row, column in places.tolist()
        ]
        if shown:
            _write(folder / DISAGREEMENTS, shown)
        told += [_agreement(pool), f"{len(differ):,} disagreements; {len(shown):,} of them in {DISAGREEMENTS}."]
    return "\n\n".join(told)


def page(pool: PoolArrays, labels: Mapping[tuple[int, int], float]) -> str:
    """The audit as a page. BenchError where the labels don't allow one."""
    verdicts, cells = strata(pool)
    rows, columns = np.array(list(labels)).reshape(-1, 2).T
    try:
        found = audit_verifier(verdicts, rows, columns, list(labels.values()), strata=cells)
    except ValueError as error:
        raise BenchError(f"The labels allow no audit: {error}.") from error
    table = [
        ("quantity", "value"),
        ("accuracy by the verdicts", str(_apparent(verdicts))),
        ("accuracy, corrected for the verifier's errors", str(Estimate(*found.accuracy))),
        ("sensitivity: correct completions accepted", str(Estimate(*found.sensitivity))),
        ("specificity: wrong completions rejected", str(Estimate(*found.specificity))),
    ]
    told = [
        f"The verdicts on {pool.run.folder.name}, audited by {found.labels:,} labels by hand.",
        markdown(table),
        "95 % intervals. That of the corrected accuracy is for new prompts; it carries the uncertainty of both error "
        "rates. Accuracy is the mean over prompts (pass@1); the correction does not extend to pass@k.",
    ]
    if found.sensitivity.share + found.specificity.share <= 1:
        told.append(
            "Sensitivity and specificity sum to at most 1: the verdicts tell nothing of correctness, and the corrected "
            "accuracy is that of the labels alone."
        )
    if pool.judged is not None:
        told.append(_agreement(pool))
    return "\n\n".join(told)


def _apparent(verdicts: np.ndarray) -> Estimate:
    values = np.nanmean(verdicts[~np.isnan(verdicts).all(axis=1)], axis=1)
    low, high = bootstrap_interval(values, generator(0, "audit", "apparent"), shares=True)
    return Estimate(float(values.mean()), float(low), float(high))


def _agreement(pool: PoolArrays) -> str:
    counts = agreement_table(pool.judged, pool.correct)
    rows = [
        (f"verdict: {name}", *(f"{count:,}" for count in row))
        for name, row in zip(("wrong", "correct"), counts, strict=True)
    ]
    return markdown([("", "label that came along: wrong", "correct"), *rows])


def _shown(by_place: Mapping[tuple[str, int], Mapping[str, Any]], name: str, column: int) -> dict[str, Any]:
    row = by_place.get((name, column), {})
    texts = {key: FORMULA.sub("'", str(row.get(key, ""))) for key in ("prompt", "completion", "answer")}
    return {"prompt_id": name, "sample": column, **texts}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def _labels(path: Path, pool: PoolArrays) -> dict[tuple[int, int], float]:
    """(row, column) -> label, of the sheet's rows that have one. BenchError, with the line, for what can't be read."""
    try:
        with long_cells(LONGEST), path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise BenchError(f"{path} can't be read: {quoted(getattr(error, 'strerror', None) or error)}.") from error
    missing = [name for name in KEYS if name not in (reader.fieldnames or ())]
    if missing:
        raise BenchError(f"{path} has no column {', '.join(missing)}: give a sheet that bench.pools audit wrote.")
    place = {name: row for row, name in enumerate(pool.ids.tolist())}
    verdicts, _ = strata(pool)
    labels: dict[tuple[int, int], float] = {}
    for line, row in rows:
        label = (row["label"] or "").strip().lower()
        if not label:
            continue
        if label not in VERDICTS:
            raise BenchError(f"{path}, line {line}: label={quoted(label)} is not allowed: it must be 1, 0 or empty.")
        sample = (row["sample"] or "").strip()
        at = place.get(row["prompt_id"], -1), -1 if (number := whole_number(sample)) is None else number
        if min(at) < 0 or at[1] >= pool.correct.shape[1] or np.isnan(verdicts[at]):
            raise BenchError(
                f"{path}, line {line}: the pool has no judged sample {quoted(sample)} of {quoted(row['prompt_id'])}."
            )
        if at in labels:
            raise BenchError(f"{path}, line {line}: sample {sample} of {quoted(row['prompt_id'])} is labelled twice.")
        labels[at] = VERDICTS[label]
    if not labels:
        raise BenchError(f"{path} has no label: fill its column `label` with 1 (correct) or 0 (wrong).")
    return labels
