"""The cost of a search, its progress, and its conclusion: the front on validation, the chosen cell on test."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from hydra.utils import instantiate

from bench import store
from bench.estimators.power import gap_if_equal
from bench.estimators.uncertainty import paired_contrast, unpaired_difference
from bench.records.read import Estimate, Run, read_run
from bench.reporting.tables import markdown
from bench.search.definition import Search
from bench.search.loop import Progress, estimate, per_prompt, progress
from bench.seeds import generator
from bench.sweeps import plan
from bench.sweeps.cells import is_done, prompts_in, state

RECORD = "search.json"  # the conclusion's numbers, for scripts


def summary(search: Search) -> str:
    """The space, the objectives, the progress, and the cost of the whole search, by the history of the store."""
    from bench.search.space import described, draw

    now = progress(search, search.study())
    rng = generator(search.settings.seed, "search", "plan")
    drawn = [{key: draw(values, rng) for key, values in search.space.items()} for _ in range(now.to_propose)]
    if not now.trials and search.baseline_is_inside:
        drawn[0] = search.baseline  # the first trial
    chosen = now.chosen if not drawn else None
    on_test = chosen.params if chosen else (drawn[-1] if drawn else search.baseline)
    cells = [*(trial.cell for trial in now.trials), *map(search.cell, drawn), search.cell(search.baseline)]
    cells += [search.cell(params, "test") for params in (on_test, search.baseline)]
    space = "; ".join(f"{key} {described(values)}" for key, values in search.space.items())
    return "\n".join(
        [
            f"Search of {search.settings.trials} trials, {search.settings.at_once} at a time, over {space}",
            f"  {search.settings.maximize} up and {search.settings.minimize} down, on validation prompts",
            f"  {_counts(now)}",
            "With the chosen cell and the baseline on test prompts, and drawn settings in place of trials to come:",
            plan.summary(list({cell.folder: cell for cell in cells}.values())),
        ]
    )


def status(search: Search) -> str:
    """One line per trial that is not done, the counts, the time left, and the front so far."""
    now = progress(search, search.study())
    lines = [f"{trial.cell.label}: {plan.described(trial.state)}" for trial in now.trials if trial.state.kind != "done"]
    lines.append(_counts(now))
    took = [trial.state.seconds for trial in now.trials if trial.values is not None and trial.state.seconds > 0]
    left = search.settings.trials - len(now.trials) + sum(trial.open for trial in now.trials)
    if took and left:
        at_once = max(sum(trial.state.kind == "running" for trial in now.trials), 1)
        seconds = left * sum(took) / len(took) / at_once
        lines.append(f"about {plan.duration(seconds)} left, {at_once} at a time, at the pace of finished trials")
    if any(trial.best for trial in now.trials):
        lines += ["", _front(now)]
    if now.chosen and not left:
        lines += ["", *(f"{name} on test: {plan.described(state(cell))}" for name, cell in now.test_cells().items())]
    return "\n".join(lines)


def conclusion(search: Search) -> tuple[str, bool]:
    """The front, the choice, its result on test, the winner's curse; whether all is done. Writes search.json, too."""
    now = progress(search, search.study())
    lines = ["", _counts(now)]
    lines += [f"  {trial.cell.label}: {plan.described(trial.state)}" for trial in now.trials if trial.failed]
    record: dict[str, Any] = {
        "trials": [
            {
                "trial": trial.number,
                "settings": trial.cell.label,
                "run": trial.cell.folder.name,
                "state": trial.state.kind,
                "reason": trial.state.detail,
                "values": trial.values,
                "on_front": trial.best,
            }
            for trial in now.trials
        ],
        "limit": search.settings.limit,
    }
    if any(trial.best for trial in now.trials):
        task = now.trials[0].cell.config["task"]
        prompts = prompts_in(task, "validation") or len(instantiate(task, _convert_="all").prompts("validation"))
        lines += ["", f"The Pareto front on {prompts} validation prompts:", "", _front(now)]
    lines += ["", _choice(now)]
    complete = False
    if now.chosen:
        cells = now.test_cells()
        missing = {name: state(cell) for name, cell in cells.items() if not is_done(cell.folder)}
        lines += [f"{name} on test: {plan.described(why)}" for name, why in missing.items()]
        complete = not missing
        if complete:
            told, numbers = _result(now, {name: read_run(cell.folder) for name, cell in cells.items()})
            record |= numbers
            lines += ["", *told]
            lines += [
                f"The test prompts had been looked at before, after {look['trials']} trials (run {look['run']}): what "
                "is chosen now is not judged on fresh prompts."
                for look in now.looks[:-1]
            ]
    store.write_durably(search.root / RECORD, json.dumps(record, indent=1))
    return "\n".join(lines), complete


def _counts(now: Progress) -> str:
    parts = [plan.tally([trial.state.kind for trial in now.trials])]
    parts += [f"{now.to_propose} to propose"] if now.to_propose else []
    return f"{now.search.settings.trials} trials: " + ", ".join(filter(None, parts))


def _front(now: Progress) -> str:
    """The table of the Pareto front, and of the baseline where that is a trial beside the front."""
    search, names = now.search, (now.search.settings.maximize, now.search.settings.minimize)
    baseline = search.cell(search.baseline).folder
    front = sorted((trial for trial in now.trials if trial.best), key=lambda trial: trial.values or ())
    beside = [trial for trial in now.trials if trial.cell.folder == baseline and not trial.best]
    rows: list[tuple[str, ...]] = [("trial", *search.space, *names, "")]
    for trial in front + beside:
        run = read_run(trial.cell.folder)
        notes = ["chosen"] if trial is now.chosen else []
        notes += ["without a search"] if trial.cell.folder == baseline else []
        values = [override.partition("=")[2] for override in search.values(trial.params)]
        numbers = [str(estimate(run, name)) for name in names]
        rows.append((str(trial.number), *values, *numbers, ", ".join(notes)))
    return markdown(rows)


def _choice(now: Progress) -> str:
    wanted = now.search.settings
    if now.chosen:
        rule = f"the highest {wanted.maximize} of {len(now.eligible)} trials"
        rule += f" with {wanted.minimize} at most {wanted.limit:g}" if wanted.limit is not None else ""
        return f"Chosen on validation: trial {now.chosen.number}, {now.chosen.cell.label}: {rule}."
    lowest = min((trial.values[1] for trial in now.trials if trial.values), default=None)
    if lowest is None:
        return "Nothing is chosen: no trial has both objectives."
    return (
        f"Nothing is chosen, and no test prompt was looked at: no trial has {wanted.minimize} at most "
        f"hydra.sweeper.limit={wanted.limit:g}; the lowest is {lowest:.4g}."
    )


def _result(now: Progress, runs: dict[str, Run]) -> tuple[list[str], dict[str, Any]]:
    """Lines and numbers: both runs of `test_cells` on both splits, their difference on test, and the winner's curse."""
    search = now.search
    up, down = search.settings.maximize, search.settings.minimize
    assert now.chosen is not None
    chosen, baseline = runs.values()
    on_validation = {"chosen": read_run(now.chosen.cell.folder)}
    if is_done((cell := search.cell(search.baseline)).folder):
        on_validation["without a search"] = read_run(cell.folder)
    rows: list[tuple[str, ...]] = [("", f"{up}, validation", f"{up}, test", f"{down}, validation", f"{down}, test")]
    for name, run in runs.items():
        splits = (on_validation.get(name), run)
        rows.append((name, *(str(estimate(run, metric)) if run else "" for metric in (up, down) for run in splits)))
    on_test = per_prompt(chosen, up)
    gap = Estimate(*unpaired_difference(per_prompt(on_validation["chosen"], up), on_test))
    rivals = np.stack([per_prompt(read_run(trial.cell.folder), up) for trial in now.eligible], axis=1)
    by_chance = gap_if_equal(rivals) if rivals.shape[1] > 1 else 0.0
    lines = [markdown(rows), ""]
    record: dict[str, Any] = {
        name: {"run": run.folder.name, **{metric: asdict(estimate(run, metric)) for metric in (up, down)}}
        for name, run in (("chosen", chosen), ("baseline", baseline))
    }
    record["winners_curse"] = {**asdict(gap), "if_equal": by_chance, "trials": rivals.shape[1]}
    if chosen.folder == baseline.folder:
        lines.append("The chosen cell is the baseline, the experiment without a search.")
    else:
        rng = generator(search.settings.seed, "search", "contrast")
        effect = paired_contrast(on_test, per_prompt(baseline, up), rng)
        difference = Estimate(effect.mean, effect.low, effect.high)
        least = effect.minimum_detectable_effect
        shown = "" if np.isnan(least) else f" ({effect.prompts} prompts could show {least:.3f})"
        lines.append(f"{up} on test, chosen less without a search: {difference}, {effect.verdict}{shown}.")
        record["chosen_less_baseline"] = {**asdict(difference), "verdict": effect.verdict}
    lines.append(
        f"Winner's curse: {up} of the chosen on validation, where it was chosen, less on test: {gap}; choosing the "
        f"best of {rivals.shape[1]} equal trials would by itself add {by_chance:.3f}."
    )
    return lines, record
