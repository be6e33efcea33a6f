"""Tables of one run, from its records, as aligned Markdown."""

from bench.reporting.collect import Run


def main_table(run: Run) -> str:
    """Base, fine-tuned policy, its random twin and Best-of-N at each n: accuracy and KL, with 95 % intervals."""
    names = {"base": "base", "tuned": f"tuned: {run.selection}", "control": "control: random twin"}
    rows = [("policy", "greedy accuracy", "sampled accuracy", "KL, nats/sequence", "log n bound", "tuned is")]
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


def markdown(rows: list[tuple[str, ...]]) -> str:
    """The first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
