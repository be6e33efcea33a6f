"""Where the seconds and tokens went: what each stage cost, shared through the store and without sharing."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.records.read import Run
from bench.reporting import plots, style, tables
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.groups import Group
from bench.reporting.words import counted

Entry = dict[str, Any]  # an artifact of a lineage


def _by_stage(runs: Sequence[Run], *, total: bool = False) -> dict[str, tuple[list[Entry], list[Entry]]]:
    """stage -> its artifacts counted once for all runs, and once for each run that needs them.

    total: with those of all stages under "all".
    """
    shared: dict[Hashable, Entry] = {}
    alone: dict[Hashable, Entry] = {}
    for run in runs:
        for entry in run.lineage:
            key = entry["stage"], entry["key"], entry["part"]
            shared[key] = alone[run.folder, key] = entry
    stages = [*dict.fromkeys(entry["stage"] for entry in alone.values()), *(["all"] if total else [])]

    def of(stage: str, entries: Mapping[Hashable, Entry]) -> list[Entry]:
        return [entry for entry in entries.values() if stage in (entry["stage"], "all")]

    return {stage: (of(stage, shared), of(stage, alone)) for stage in stages}


def _total(entries: Iterable[Entry], *names: str) -> float:
    return float(sum(sum(entry["counts"].get(name, 0) for entry in entries) for name in names))


def _seconds(entries: Iterable[Entry]) -> float:
    return float(sum(entry["seconds"] for entry in entries))


@shows("figures", 135)
def cost_by_stage(groups: Sequence[Group]) -> Figure | None:
    """Seconds and generated tokens by stage: of all artifacts once, and as if every run had made its own."""
    runs = tables.all_runs(groups)
    rows = [
        {
            "stage": stage,
            "artifacts": len(shared),
            "seconds": _seconds(shared),
            "generated_tokens": _total(shared, "generated_tokens"),
            "seconds_unshared": _seconds(alone),
            "generated_tokens_unshared": _total(alone, "generated_tokens"),
        }
        for stage, (shared, alone) in _by_stage(runs).items()
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: (row["seconds_unshared"], row["stage"]))
    pale = " Pale: what it would have been without a store, each run making its own."
    caption = (
        f"Seconds and generated tokens by stage, of every artifact behind {counted(len(runs), 'run')} once, as "
        f"measured when it was made.{pale * any(row['seconds'] != row['seconds_unshared'] for row in rows)}"
    )
    size = style.FULL_WIDTH, 0.8 + 0.24 * len(rows)
    return plots.figure("cost_by_stage", caption, rows, groups, _costs, size, over="")


def _costs(canvas: Any, rows: plots.Rows) -> None:
    panels = plots.grid_of(canvas, 2, sharey=True)
    places = np.arange(len(rows))
    for axes, name in zip(panels, ("seconds", "generated_tokens"), strict=True):
        made, apart = ([row[f"{name}{end}"] for row in rows] for end in ("", "_unshared"))
        several = made != apart
        if several:
            axes.barh(places, apart, height=0.72, color="#C9DCEB", label="if every run had made its own")
        once = "made once for all runs" if several else None
        axes.barh(places, made, height=0.4, color=style.LOOKS["best_of_n"].colour, label=once)
        widest = max(*apart, 1e-9)
        for place, once, every in zip(places, made, apart, strict=True):
            if every:
                text = plots.short(once) if once == every else f"{plots.short(once)} of {plots.short(every)}"
                axes.text(every + 0.015 * widest, place, text, va="center", fontsize=style.legend_size() - 1)
        axes.set_xlim(0, widest * 1.5)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(plots.short)
        axes.set_xlabel(name.replace("_", " "))
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(places, [row["stage"] for row in rows])


@shows("tables", 130)
def cost(groups: Sequence[Group]) -> Table | None:
    """Every ancestor of these runs once, by stage, beside what each run would have cost alone."""
    runs = tables.all_runs(groups)
    unshared = "without sharing" if len(runs) > 1 else None
    caption = (
        f"What {counted(len(runs), 'run')} cost by stage, each artifact in their lineage counted once, in "
        f"tokens, FLOPs and seconds{'. Without sharing: as if each run had made its own' if unshared else ''}."
    )

    def tokens(key: str, heading: str | None, name: str, entries: int = 1) -> tables.Column:
        return tables.Column(key, heading, lambda item: int(_total(item[entries], name)))

    return tables.table(
        "cost",
        caption,
        [(stage, *entries) for stage, entries in _by_stage(runs, total=True).items()],
        [
            tables.Column("stage", "stage", lambda item: item[0]),
            tables.Column("artifacts", "artifacts", lambda item: len(item[1])),
            tokens("generated_tokens", "generated tokens", "generated_tokens"),
            tokens("train_tokens", "trained tokens", "train_tokens"),
            tables.Column("flops", "FLOPs", lambda item: _total(item[1], "flops", "train_flops")),
            tables.Column("seconds", "seconds", lambda item: _seconds(item[1])),
            tokens("generated_tokens_alone", unshared and f"tokens {unshared}", "generated_tokens", 2),
            tables.Column("seconds_alone", unshared and f"seconds {unshared}", lambda item: _seconds(item[2])),
        ],
        runs,
    )
