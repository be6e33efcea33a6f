"""Policies over sampling temperatures: every temperature in a table, and each policy at its best one in sentences."""

from collections.abc import Sequence
from typing import NamedTuple

from bench.evaluation.measures import AT, AT_BEST, AT_ON_VALIDATION
from bench.records.read import Estimate, short
from bench.reporting import tables
from bench.reporting.contrasts import of_group
from bench.reporting.exhibit import Table, shows
from bench.reporting.groups import Group
from bench.reporting.words import ARMS, over_what


class _At(NamedTuple):
    group: Group
    arm: str
    temperature: str

    def mean(self, metric: str) -> Estimate | None:
        return self.group.series(self.arm, f"{AT}{self.temperature}", metric).get(1)

    def on_validation(self) -> float | None:
        return tables.seeds_mean(self.group, f"{self.arm}/{AT_ON_VALIDATION}{self.temperature}/pass@1")

    def chosen(self) -> str:
        """The seeds, if any, whose validation prompts chose this temperature."""
        name, seeds = f"{self.arm}/best_temperature", len(self.group.runs)
        count = [run.metrics.get(name) for run in self.group.runs].count(float(self.temperature))
        return "" if count == 0 else "yes" if seeds == 1 else f"{count} of {seeds} seeds"


def temperatures_of(group: Group, arm: str) -> list[str]:
    """The temperatures of evaluation.temperatures at which a policy of these runs was judged, in rising order."""
    methods = {method for policy, method, *_ in group.runs[0].curves if policy == arm and method.startswith(AT)}
    return sorted((method.removeprefix(AT) for method in methods - {AT_BEST}), key=float)


@shows("tables", 12)
def temperatures(groups: Sequence[Group]) -> Table | None:
    """Each policy at each temperature in accuracy and KL, with the temperature that validation prompts chose."""
    judged = [dict.fromkeys(key[0] for key in group.runs[0].curves if key[1].startswith(AT)) for group in groups]
    arms = [(group, arm) for group, own in zip(groups, judged, strict=True) for arm in own]
    rows = [_At(group, arm, temperature) for group, arm in arms for temperature in temperatures_of(group, arm)]
    return tables.table(
        "temperatures",
        "One sample of each policy at each temperature: accuracy, and the exact KL per step from the raw base at "
        "temperature 1, top-p 1, in nats per sequence. At temperature 0 it is the surprisal of the greedy completion "
        f"under the raw base. {over_what(groups)}. Chosen: the highest accuracy on validation prompts.",
        rows,
        [
            *tables.settings_columns(groups),
            tables.Column("arm", "policy", lambda row: ARMS.get(row.arm, row.arm)),
            tables.Column("temperature", "temperature", lambda row: row.temperature),
            tables.interval("accuracy", "accuracy", lambda row: row.mean("accuracy")),
            tables.interval("kl", "KL (nats)", lambda row: row.mean("kl")),
            tables.Column("validation", "on validation prompts", _At.on_validation),
            tables.Column("chosen", "chosen", _At.chosen),
            tables.SEEDS,
            tables.PROMPTS,
        ],
        tables.all_runs(groups),
    )


@shows("sentences", 64)
def at_best(groups: Sequence[Group]) -> list[str]:
    """Each policy at the temperature that validation prompts chose, for one configuration; and the winner's curse."""
    (group, *others) = groups
    arms = [arm for arm in ARMS if group.series(arm, AT_BEST, "accuracy")]
    if others or "tuned" not in arms:
        return []
    parts = []
    for arm in arms:
        chosen = sorted({f"{run.metrics[f'{arm}/best_temperature']:g}" for run in group.runs}, key=float)
        curse = tables.seeds_mean(group, f"{arm}/{AT_BEST}/winners_curse") or 0.0
        gap = f"{short(abs(curse))} {'more' if curse < 0 else 'less'} than on validation"
        parts.append(f"{ARMS[arm]} {group.mean(arm, AT_BEST, 'accuracy', 1)} at {' or '.join(chosen)} ({gap})")
    lines = [f"At the temperature that validation prompts chose, accuracy is: {'; '.join(parts)}."]
    found = of_group(group).get(f"tuned_vs_base/{AT_BEST}")
    if found is not None:
        lines.append(f"Each at its best temperature, the tuned policy is {found.against('the base')}.")
    return lines
