"""Draw the figures of this page from data.csv, without simulating: python reports/estimators/figures.py"""

import csv
from pathlib import Path
from typing import Any

from bench.reporting.style import PAPER

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers differ as well
BLUE, ORANGE, GREEN, PINK, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999", "#000000"


def read(folder: Path) -> dict[tuple[str, str, int, int], dict[str, float]]:
    """Return (quantity, method, n, prompts) -> the numbers of that row."""
    rows = {}
    with (folder / "data.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = row.pop("quantity"), row.pop("method"), int(row.pop("n")), int(row.pop("prompts"))
            rows[key] = {name: float(value) for name, value in row.items()}
    return rows


def draw(folder: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    data = read(folder)
    larger = {"font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8.5}
    with pyplot.style.context([PAPER, larger]):
        for name, figure in (("coverage", coverage), ("bias", bias), ("intervals", intervals)):
            drawn = figure(pyplot, data)
            for kind, undated in (("png", "Software"), ("pdf", "CreationDate")):
                drawn.savefig(folder / f"{name}.{kind}", dpi=160, metadata={undated: None})
            pyplot.close(drawn)


OURS = [
    ("Best-of-N", "all n-subsets", (1, 4, 16, 64)),
    ("pass@k", "all n-subsets", (1, 4, 16, 64)),
    ("KL (verifier)", "jackknife", (2, 4, 8, 16)),
    ("KL (reward model)", "jackknife", (2, 4, 8, 16)),
    ("paired: two reward models", "paired", (16,)),
    ("paired: tuned policy - Best-of-4", "paired", (4,)),
    ("paired: no difference", "paired", (16,)),
]
NAIVE = [  # quantity, method, label, marker, colour, vertical shift so that none hides another
    ("Best-of-N", "with replacement", "resampled with replacement", "s", ORANGE, 0.0),
    ("pass@k", "pooled pass rate", "pooled pass rate", "D", GREEN, 0.0),
    ("pass@k", "samples as units", "every sample a unit", "X", BLACK, 0.0),
    ("KL (verifier)", "pooled pass rate", None, "D", GREEN, -0.25),
    ("KL (verifier)", "plug_in", "plug-in KL", "v", PINK, 0.0),
    ("KL (reward model)", "plug_in", None, "v", PINK, -0.2),
    ("KL (verifier)", "bound", "log n − (n − 1)/n", "P", GREY, 0.25),
    ("KL (reward model)", "bound", None, "P", GREY, 0.2),
    ("paired: two reward models", "unpaired", "pairing ignored", "o", ORANGE, 0.0),
    ("paired: tuned policy - Best-of-4", "unpaired", None, "o", ORANGE, 0.0),
    ("paired: no difference", "unpaired", None, "o", ORANGE, 0.0),
]


def coverage(pyplot: Any, data: dict) -> Any:
    """Draw the coverage of the suite's intervals, and at another scale that of shortcuts on the same pools."""
    drawn, (left, right) = pyplot.subplots(1, 2, figsize=(8.2, 5.6), sharey=True, width_ratios=[1, 1.15])
    position, ticks, labels = 0.0, [], []
    places = {}
    for quantity, method, sizes in OURS:
        for n in sizes:
            row = data[quantity, method, n, 200]
            left.errorbar(
                100 * row["coverage"], position, xerr=196 * row["coverage_se"], fmt="o", color=BLUE, ms=4, elinewidth=1
            )
            places[quantity, n] = position
            ticks.append(position)
            label = quantity.replace("k", str(n)) if quantity == "pass@k" else f"{quantity}, n = {n}"
            labels.append(quantity.replace(" - ", " − ") if quantity.startswith("paired") else label)
            position += 1
        position += 0 if quantity.startswith("paired") else 0.6
    for quantity, method, label, marker, colour, shift in NAIVE:
        keys = {y + shift: (quantity, method, n, 200) for (q, n), y in places.items() if q == quantity}
        known = [(100 * data[key]["coverage"], y) for y, key in keys.items() if key in data]
        right.plot(
            *zip(*known, strict=True), marker, color=colour, ms=5.5, label=label, clip_on=False, linestyle="none"
        )
    for axes in (left, right):
        axes.axvspan(93, 97, color=BLUE, alpha=0.12, lw=0)
        axes.axvline(95, color=BLUE, lw=0.8)
        axes.grid(axis="y", color="#eeeeee", lw=0.6)
    left.set(xlim=(90, 100), yticks=ticks, yticklabels=labels, title="The suite's estimators")
    left.invert_yaxis()
    right.set(xlim=(-2, 102), title="Other ways, same pools")
    left.set_xlabel("coverage of 95 % intervals, % (± 1.96 SE)")
    right.set_xlabel("coverage, %")
    right.legend(loc="upper left", bbox_to_anchor=(0.2, 0.6))
    return drawn


def bias(pyplot: Any, data: dict) -> Any:
    """Draw the mean estimate of each method over n."""
    drawn, panels = pyplot.subplots(1, 3, figsize=(9.4, 3.5))
    sizes = (1, 2, 4, 8, 16, 32, 64)
    curves = (
        ("Best-of-N", "gold accuracy of Best-of-n", [("with replacement", "with replacement", "s", ORANGE)]),
        ("pass@k", "pass@n", [("pooled pass rate", "pooled pass rate", "D", GREEN)]),
        (
            "KL (verifier)",
            "KL(Best-of-n ‖ sampler), nats",
            [
                ("pooled pass rate", "pooled pass rate", "D", GREEN),
                ("plug_in", "plug-in", "v", PINK),
                ("bound", "log n − (n − 1)/n", "P", GREY),
            ],
        ),
    )
    for axes, (quantity, label, others) in zip(panels, curves, strict=True):
        ours = "jackknife" if quantity.startswith("KL") else "all n-subsets"
        rows = [data[quantity, ours, n, 200] for n in sizes]
        axes.plot(sizes, [row["truth"] for row in rows], color=BLACK, lw=1.4, label="truth", zorder=1)
        mean = [row["mean_estimate"] for row in rows]
        axes.errorbar(
            sizes,
            mean,
            yerr=[1.96 * row["standard_deviation"] for row in rows],
            fmt="o",
            color=BLUE,
            ms=4.5,
            elinewidth=1,
            capsize=2,
            label="jackknife (default)" if quantity.startswith("KL") else "all n-subsets (default)",
            zorder=3,
        )
        for method, name, marker, colour in others:
            values = [data[quantity, method, n, 200]["mean_estimate"] for n in sizes]
            axes.plot(sizes, values, marker=marker, color=colour, ms=4.5, lw=1, ls="--", label=name, zorder=2)
        axes.set_xscale("log", base=2)
        axes.set(xticks=sizes, xticklabels=sizes, xlabel="n, of N = 64 samples", title=label)
        handles, names = axes.get_legend_handles_labels()
        order = [0, len(names) - 1, *range(1, len(names) - 1)]  # truth, ours, the others
        place = {"Best-of-N": "lower center", "pass@k": "lower right"}.get(quantity, "upper left")
        axes.legend([handles[i] for i in order], [names[i] for i in order], loc=place)
    panels[0].set_ylim(0.1, 0.5)
    panels[1].set_ylim(0.2, 1.03)
    panels[2].axvline(16, color=GREY, lw=0.8, ls=":")
    panels[2].annotate("n = N/4", (16, 2.9), xytext=(3, 0), textcoords="offset points", color="#666666", fontsize=8)
    return drawn


def intervals(pyplot: Any, data: dict) -> Any:
    """Draw the coverage of three intervals with few prompts, and with few training seeds."""
    drawn, panels = pyplot.subplots(1, 5, figsize=(10.4, 3.3), sharey=True)
    methods = (
        ("BCa at t levels (default)", "o", BLUE, -0.12),
        ("percentile bootstrap", "s", ORANGE, 0.0),
        ("t interval", "v", GREEN, 0.12),
    )
    titles = {"Best-of-4": "Best-of-4", "pass@1": "pass@1", "KL n = 8": "KL at n = 8", "0/1 at 5 %": "0/1, rate 5 %"}
    for axes, quantity in zip(panels, titles, strict=False):
        for method, marker, colour, shift in methods:
            for place, prompts in enumerate((20, 50, 200)):
                row = data[f"interval: {quantity}", method, 0, prompts]
                axes.errorbar(
                    place + shift,
                    100 * row["coverage"],
                    yerr=196 * row["coverage_se"],
                    fmt=marker,
                    color=colour,
                    ms=4.5,
                    elinewidth=1,
                    label=method if place == 0 else None,
                )
        axes.set(xticks=range(3), xticklabels=["20", "50", "200"], xlabel="prompts M", title=titles[quantity])
    seeds = (
        ("two levels (default)", "o", BLUE, -0.12),
        ("prompts only", "D", PINK, 0.0),
        ("t(S - 1) on seed means", "X", BLACK, 0.12),
    )
    for method, marker, colour, shift in seeds:
        for place, count in enumerate((2, 3, 5)):
            row = data["training seeds", method, count, 200]
            panels[4].errorbar(
                place + shift,
                100 * row["coverage"],
                yerr=196 * row["coverage_se"],
                fmt=marker,
                color=colour,
                ms=4.5,
                elinewidth=1,
                label=method if place == 0 else None,
            )
    panels[4].set(xticks=range(3), xticklabels=["2", "3", "5"], xlabel="training seeds S", title="accuracy over seeds")
    for axes in panels:
        axes.axhspan(93, 97, color=BLUE, alpha=0.12, lw=0)
        axes.axhline(95, color=BLUE, lw=0.8)
        axes.set_xlim(-0.5, 2.5)
    panels[0].set(ylim=(55, 100), ylabel="coverage of 95 % intervals, %")
    panels[0].legend(loc="lower left")
    panels[4].legend(loc="lower left")
    return drawn


if __name__ == "__main__":
    draw(Path(__file__).parent)
