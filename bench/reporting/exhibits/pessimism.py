"""Pessimism at inference beside Best-of-n: accuracy against n, where the scorer is not gold itself."""

from collections.abc import Sequence
from typing import Any

from bench.reporting import arrange, plots, style
from bench.reporting.contrasts import contrasts, judged
from bench.reporting.exhibit import Figure, shows
from bench.reporting.exhibits.coverage import METHODS
from bench.reporting.groups import Group

BESIDE = {"pass": ("Best-of-n (oracle)", METHODS["pass"][1]), "weighted_majority": METHODS["weighted_majority"]}
METHOD = "pessimism_of_n@"


@shows("figures", 80)
def pessimism_by_n(groups: Sequence[Group]) -> Figure | None:
    """A panel for each sampler; None where no run has a scorer that is not gold."""
    rows: plots.Rows = []
    for name, group in arrange.samplers(groups):
        if betas := _betas(group):
            best = group.series("base", "best_of_n", "accuracy")
            rows += plots.curve_rows(best, "n", "accuracy", sampler=name, of="best_of_n", beta=None)
            for of in BESIDE:
                curve = {n: found for n, found in group.series("sampler", of, "accuracy").items() if n in best}
                rows += plots.curve_rows(curve, "n", "accuracy", sampler=name, of=of, beta=None)
        for beta in betas:
            curve = group.series("base", f"{METHOD}{beta}", "accuracy")
            rows += plots.curve_rows(curve, "n", "accuracy", sampler=name, of="pessimism", beta=float(beta))
    looks = style.sequence(sorted({row["beta"] for row in rows if row["beta"] is not None}))

    def draw(axes: Any, here: plots.Rows) -> None:
        best = (plots.where(here, of="best_of_n"), style.LOOKS["best_of_n"], {"label": "Best-of-n (learned reward)"})
        beside = [(plots.where(here, of=of), look, {"label": title}) for of, (title, look) in BESIDE.items()]
        others = [
            (plots.where(here, beta=beta), look, {"label": f"pessimism, beta = {beta:g}", "linewidth": 0.8})
            for beta, look in looks.items()
        ]
        plots.side_by_side(axes, [best, *beside, *others], "n", "accuracy", "n samples of a prompt")

    return plots.faceted(
        "pessimism_by_n",
        "Accuracy of one of n samples of the base, chosen by the scorer: the best of them, and by pessimism at "
        "inference, beta in units of the scorer's spread within a prompt. Means over subsets of each held-out "
        "prompt's pool. Oracle: the verifier that judges also chooses.",
        rows,
        groups,
        draw,
        by="sampler",
        y="accuracy on held-out prompts",
    )


def of_pessimism(group: Group) -> list[str]:
    """Pessimism against Best-of-n at the largest n, adjusted for the number of betas (Holm 1979)."""
    betas, n = _betas(group), max(group.series("base", "best_of_n", "accuracy"))
    if not betas or n == 1:
        return []
    best = group.per_prompt("base", "best_of_n", "accuracy", n)
    sides = {beta: (group.per_prompt("base", f"{METHOD}{beta}", "accuracy", n), best) for beta in betas}
    compared = judged(contrasts(sides, "pessimism {}"))
    parts = [f"at beta = {beta} {found.against(f'Best-of-{n}')}" for beta, found in compared.items()]
    return [f"Pessimism at inference, with {n} samples per prompt, is {'; '.join(parts)}."]


def _betas(group: Group) -> list[str]:
    methods = {key[1] for key in group.runs[0].curves}
    return sorted((method.removeprefix(METHOD) for method in methods if method.startswith(METHOD)), key=float)
