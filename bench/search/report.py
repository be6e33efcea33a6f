"""What a search will cost, how far it is, and what it came to: the front on validation, the chosen cell on test."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench import store
from bench.estimators.uncertainty import gap_if_equal, paired_difference, unpaired_difference
from bench.records.read import Estimate, Run, read_run
from bench.reporting.tables import markdown
from bench.search import Search
from bench.search.results import LOOKS, Tried, chosen_of, eligible, estimate, per_prompt, tried
from bench.seeds import generator
from bench.sweeps import plan
from bench.sweeps.cells import Cell, State, is_done, state
from bench.sweeps.rehearsal import prompts_in

if TYPE_CHECKING:
    from optuna import Study

RECORD = "search.json"  # what `conclusion` says, for scripts


def summary(search: Search) -> str:
    """The space, the objectives, what is done, and what the whole search will cost, by the store's own history."""
    from bench.search.space import described, draw

    study = search.study()
    known = tried(search, study) if study else []
    rng = generator(search.wanted.seed, "search", "plan")
    open_trials = range(len(known), search.wanted.trials)
    drawn = [{key: draw(found, rng) for key, found in search.space.items()} for _ in open_trials]
    if not known and search.baseline_is_inside:
        drawn[0] = search.baseline  # the first trial
    to_come = [search.cell(params) for params in drawn]
    chosen = chosen_of(search, known) if not drawn else None
    test = chosen.params if chosen else (drawn[-1] if drawn else search.baseline)
    cells = [*(trial.cell for trial in known), *to_come, search.cell(search.baseline)]
    cells += [search.cell(params, "test") for params in (test, search.baseline)]
    space = "; ".join(f"{key} {described(found)}" for key, found in search.space.items())
    return "\n".join(
        [
            f"Search of {search.wanted.trials} trials, {search.wanted.at_once} at a time, over {space}",
            f"  {search.wanted.maximize} up and {search.wanted.minimize} down, on validation prompts",
            f"  {_progress(search, known)}",
            "With the chosen cell and the one without a search on test prompts, and settings drawn for trials to come:",
            plan.summary(list({cell.folder: cell for cell in cells}.values())),
        ]
    )


def status(search: Search) -> str:
    """A line a trial that is not done, the counts, the time left, and the best so far."""
    study = search.study()
    known = tried(search, study) if study else []
    lines = [f"{trial.cell.label}: {plan.described(trial.state)}" for trial in known if trial.state.kind != "done"]
    lines.append(_progress(search, known))
    took = [trial.state.seconds for trial in known if trial.values is not None and trial.state.seconds > 0]
    left = search.wanted.trials - len(known) + sum(trial.values is None and not trial.failed for trial in known)
    if took and left:
        at_once = max(sum(trial.state.kind == "running" for trial in known), 1)
        seconds = left * sum(took) / len(took) / at_once
        lines.append(f"about {plan.duration(seconds)} left, {at_once} at a time at the pace of what is done")
    if any(trial.best for trial in known):
        lines += ["", _front(search, known)]
    chosen = chosen_of(search, known)
    if study and chosen and not left:
        on_test = {name: state(cell) for name, cell in _on_test(search, chosen).items()}
        lines += ["", *(f"{name} on test: {plan.described(found)}" for name, found in on_test.items())]
    return "\n".join(lines)


def conclusion(search: Search) -> tuple[str, bool]:
    """The front, the choice, its worth on test and the winner's curse; and whether all of it is there.

    Writes the same numbers to outputs/<name>/search.json.
    """
    study = search.study()
    assert study is not None
    known = tried(search, study)
    lines = ["", _progress(search, known)]
    lines += [f"  {trial.cell.label}: {plan.described(trial.state)}" for trial in known if trial.failed]
    record: dict[str, Any] = {"trials": [_record(trial) for trial in known], "limit": search.wanted.limit}
    chosen = chosen_of(search, known)
    found = False
    if any(trial.best for trial in known):
        lines += [
            "",
            f"The Pareto front on {_prompts(known)} validation prompts:",
            "",
            _front(search, known),
        ]
    if chosen is None:
        lines += ["", _nothing_chosen(search, known)]
    else:
        on_test = _on_test(search, chosen)
        lines += ["", _choice(search, known, chosen)]
        missing: dict[str, State] = {name: state(cell) for name, cell in on_test.items() if not is_done(cell.folder)}
        lines += [f"{name} on test: {plan.described(why)}" for name, why in missing.items()]
        found = not missing
        if found:
            worth = _worth(search, known, chosen, {name: read_run(cell.folder) for name, cell in on_test.items()})
            record |= worth.pop("record")
            lines += ["", *worth["lines"], *_looked_before(study)]
    store.write_durably(search.root / RECORD, json.dumps(record, indent=1))
    return "\n".join(lines), found


def _on_test(search: Search, chosen: Tried) -> dict[str, Cell]:
    return {"chosen": search.cell(chosen.params, "test"), "without a search": search.cell(search.baseline, "test")}


def _progress(search: Search, known: Sequence[Tried]) -> str:
    to_go = search.wanted.trials - len(known)
    parts = [plan.tally([trial.state.kind for trial in known]), f"{to_go} to propose" if to_go > 0 else ""]
    return f"{search.wanted.trials} trials: " + ", ".join(part for part in parts if part)


def _front(search: Search, known: Sequence[Tried]) -> str:
    names = (search.wanted.maximize, search.wanted.minimize)
    chosen = chosen_of(search, known)
    rows: list[tuple[str, ...]] = [("trial", *search.space, *names, "")]
    best = sorted((trial for trial in known if trial.best and trial.values), key=lambda trial: trial.values or ())
    baseline = search.cell(search.baseline)
    for trial in best + [trial for trial in known if trial.cell.folder == baseline.folder and not trial.best]:
        run = read_run(trial.cell.folder)
        notes = ["chosen"] if trial is chosen else []
        notes += ["without a search"] if trial.cell.folder == baseline.folder else []
        values = [override.partition("=")[2] for override in search.values(trial.params)]
        numbers = [str(estimate(run, name)) for name in names]
        rows.append((str(trial.number), *values, *numbers, ", ".join(notes)))
    return markdown(rows)


def _choice(search: Search, known: Sequence[Tried], chosen: Tried) -> str:
    wanted = search.wanted
    rule = f"the highest {wanted.maximize} of {len(eligible(search, known))} trials"
    rule += f" with {wanted.minimize} at most {wanted.limit:g}" if wanted.limit is not None else ""
    return f"Chosen on validation: trial {chosen.number}, {chosen.cell.label}: {rule}."


def _nothing_chosen(search: Search, known: Sequence[Tried]) -> str:
    lowest = min((trial.values[1] for trial in known if trial.values), default=None)
    if lowest is None:
        return "Nothing is chosen: no trial has both objectives."
    return (
        f"Nothing is chosen, and no test prompt was looked at: no trial has {search.wanted.minimize} at most "
        f"hydra.sweeper.limit={search.wanted.limit:g}; the lowest is {lowest:.4g}."
    )


def _worth(search: Search, known: Sequence[Tried], chosen: Tried, runs: dict[str, Run]) -> dict[str, Any]:
    """The chosen cell and the baseline on both splits, their difference on test, and the winner's curse."""
    up, down = search.wanted.maximize, search.wanted.minimize
    validation = {"chosen": read_run(chosen.cell.folder)}
    baseline = search.cell(search.baseline)
    if is_done(baseline.folder):
        validation["without a search"] = read_run(baseline.folder)
    rows: list[tuple[str, ...]] = [("", f"{up}, validation", f"{up}, test", f"{down}, validation", f"{down}, test")]
    for name, run in runs.items():
        sides = (validation.get(name), run)
        rows.append((name, *(str(estimate(side, metric)) if side else "" for metric in (up, down) for side in sides)))
    on_test, before = per_prompt(runs["chosen"], up), per_prompt(validation["chosen"], up)
    gap = Estimate(*unpaired_difference(before, on_test))
    rivals = np.stack([per_prompt(read_run(trial.cell.folder), up) for trial in eligible(search, known)], axis=1)
    by_chance = gap_if_equal(rivals) if rivals.shape[1] > 1 else 0.0
    lines = [markdown(rows), ""]
    record: dict[str, Any] = {
        "chosen": {"run": runs["chosen"].folder.name, **_both(search, runs["chosen"])},
        "baseline": {"run": runs["without a search"].folder.name, **_both(search, runs["without a search"])},
        "winners_curse": {**asdict(gap), "if_equal": by_chance, "trials": rivals.shape[1]},
    }
    if runs["chosen"].folder == runs["without a search"].folder:
        lines.append("What is chosen is what there was without a search.")
    else:
        rng = generator(search.wanted.seed, "search", "contrast")
        effect = paired_difference(on_test, per_prompt(runs["without a search"], up), rng)
        found = Estimate(effect.mean, effect.low, effect.high)
        least = effect.minimum_detectable_effect
        shown = "" if np.isnan(least) else f" ({effect.prompts} prompts could show {least:.3f})"
        lines.append(f"{up} on test, chosen less without a search: {found}, {effect.verdict}{shown}.")
        record["chosen_less_baseline"] = {**asdict(found), "verdict": effect.verdict}
    lines.append(
        f"Winner's curse: {up} of the chosen on validation, for which it was chosen, less on test: {gap}; choosing the "
        f"best of {rivals.shape[1]} equal trials would by itself add {by_chance:.3f}."
    )
    return {"lines": lines, "record": record}


def _both(search: Search, run: Run) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate(run, name)) for name in (search.wanted.maximize, search.wanted.minimize)}


def _looked_before(study: "Study") -> list[str]:
    earlier = study.user_attrs.get(LOOKS, [])[:-1]
    return [
        f"The test prompts had been looked at before, after {look['trials']} trials (run {look['run']}): what is "
        "chosen now is not judged on fresh prompts."
        for look in earlier
    ]


def _prompts(known: Sequence[Tried]) -> int:
    task: Any = OmegaConf.to_container(known[0].cell.cfg.task, resolve=True)
    found = prompts_in(task, "validation")
    return len(instantiate(task, _convert_="all").prompts("validation")) if found is None else found


def _record(trial: Tried) -> dict[str, Any]:
    found = trial.state
    return {
        "trial": trial.number,
        "settings": trial.cell.label,
        "run": trial.cell.folder.name,
        "state": found.kind,
        "reason": found.detail,
        "values": trial.values,
        "on_front": trial.best,
    }
