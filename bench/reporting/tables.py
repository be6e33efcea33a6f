"""Tables of one run, from its records, as aligned Markdown."""

from collections.abc import Sequence
from typing import Any

from bench.reporting.collect import Estimate, Run

PLACES = ("store", "outputs", "name")


def main_table(run: Run) -> str:
    """Base, fine-tuned policy, its random twin and Best-of-N at each n: accuracy and KL, with 95 % intervals."""
    names = {"base": "base", "tuned": f"tuned: {run.selection}", "control": "control: random twin"}
    rows: list[tuple[str, ...]] = [
        ("policy", "greedy accuracy", "sampled accuracy", "KL, nats/sequence", "log n bound", "tuned is")
    ]
    for arm, name in names.items():
        rows.append(
            (
                name,
                str(run.series(arm, "greedy", "accuracy")[1]),
                str(run.series(arm, "pass", "accuracy")[1]),
                str(run.series(arm, "policy", "kl")[1]),
                "",
                run.metrics.get(f"tuned_vs_{arm}/pass@1/verdict", ""),
            )
        )
    accuracy, kl, bound = (run.series("base", "best_of_n", metric) for metric in ("accuracy", "kl", "kl_bound"))
    rows += [
        (
            f"Best-of-{n}",
            "",
            str(accuracy[n]),
            str(kl[n]),
            f"{bound[n].value:.2f}",
            run.metrics[f"tuned_vs_best_of_{n}/accuracy/verdict"],
        )
        for n in accuracy
        if n > 1
    ]
    return markdown(rows)


def runs_table(runs: Sequence[Run]) -> str:
    """One row a run: what differs in their settings, both arms' accuracy, and the paired selection effect."""
    settings = [_flat(run.config) for run in runs]
    differing = [
        key
        for key in settings[0]
        if key not in PLACES
        and len({str(setting.get(key)) for setting in settings}) > 1
        and not _inherited(key, settings)
    ]
    header = (*(key.removesuffix("._target_") for key in differing), "tuned pass@1", "control pass@1")
    rows: list[tuple[str, ...]] = [("run", *header, "tuned - control", "verdict", "tuned greedy", "control greedy")]
    for run, setting in zip(runs, settings, strict=True):
        difference = Estimate(
            *(run.metrics[f"tuned_vs_control/pass@1/difference{end}"] for end in ("", "_low", "_high"))
        )
        rows.append(
            (
                run.folder.name,
                *(str(setting.get(key)).rsplit("bench.selection.", 1)[-1] for key in differing),
                *(str(run.series(arm, "pass", "accuracy")[1]) for arm in ("tuned", "control")),
                str(difference),
                run.metrics["tuned_vs_control/pass@1/verdict"],
                *(str(run.series(arm, "greedy", "accuracy")[1]) for arm in ("tuned", "control")),
            )
        )
    return markdown(rows)


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _inherited(key: str, settings: Sequence[dict[str, Any]]) -> bool:
    """A part's setting that only repeats the one of the same name at the top, e.g. policy.seed."""
    top = key.rsplit(".", 1)[-1]
    return top != key and all(setting.get(key) == setting.get(top) for setting in settings)


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """The first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
