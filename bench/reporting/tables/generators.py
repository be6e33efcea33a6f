"""The tables of pools that several policies drew: what each mix was worth, and what each generator gave to it."""

from collections.abc import Sequence

from bench.reporting.exhibit import Table
from bench.reporting.groups import Group
from bench.reporting.mixes import APART, against_own, mixes
from bench.reporting.tables.shared import over_what, settings_cells, settings_columns, spread


def mixes_table(groups: Sequence[Group]) -> Table | None:
    """A row a mix of generators; None where no pool was drawn by named ones."""
    found = mixes(groups)
    if not found:
        return None
    compared = {mix.group.label: one for mix, one in against_own(found)}
    names = [name for name in groups[0].settings if name != APART]
    rows = []
    for mix in found:
        group, one = mix.group, compared.get(mix.group.label)
        rows.append(
            {
                **settings_cells(group, names),
                "mix": mix.label,
                "samples": sum(mix.mean(f"generators/{name}/samples") for name in mix.names),
                "tokens": sum(mix.mean(f"generators/{name}/tokens") for name in mix.names),
                "flops": sum(mix.mean(f"generators/{name}/cost_flops") for name in mix.names),
                "solved": mix.mean("generators/prompts_solved"),
                "paths": mix.mean("generators/correct_paths"),
                "kept": mix.mean("selection/kept"),
                **spread("greedy", group.mean("tuned", "greedy", "accuracy", 1)),
                **spread("pass", group.mean("tuned", "pass", "accuracy", 1)),
                **spread("kl", group.mean("tuned", "policy", "kl", 1)),
                **spread("difference", one.difference if one else None),
                "p_value": one.p_value if one else None,
                "verdict": one.verdict if one else None,
                "seeds": len(group.runs),
            }
        )
    return Table(
        name="mixes",
        caption=(
            "Fine-tuned on what was selected from pools that different policies drew: samples a prompt in all, their "
            "tokens and the FLOPs of drawing them; training prompts that any of them solves; distinct correct paths a "
            "prompt; completions trained on. Difference: sampled accuracy less that of training on as many of the "
            f"student's own samples, p-values adjusted for the number of mixes (Holm). "
            f"{over_what([mix.group for mix in found])}. KL is from the base, in nats a sequence."
        ),
        rows=rows,
        runs=[run for mix in found for run in mix.group.runs],
        columns={
            **settings_columns(groups, names),
            "mix": "drawn by",
            "samples": "samples",
            "flops": "FLOPs",
            "solved": "solved",
            "paths": "correct paths",
            "kept": "kept",
            "greedy": "greedy",
            "pass": "pass@1",
            "kl": "KL",
            "difference": "less own",
            "verdict": "verdict",
        },
    )


def generators_table(groups: Sequence[Group]) -> Table | None:
    """A row a mix and generator; None where no pool was drawn by named ones."""
    found = mixes(groups)
    if not found:
        return None
    names = [name for name in groups[0].settings if name != APART]
    counted = {
        "parameters": "parameters",
        "samples": "samples",
        "pass@1": "pass@1, training",
        "correct_paths": "correct paths",
        "prompts_solved_only": "solved by it alone",
        "selected_share": "share selected",
        "prompts_covered_only": "covered by it alone",
        "left_out": "left out",
    }
    rows = [
        {
            **settings_cells(mix.group, names),
            "mix": mix.label,
            "generator": name,
            **spread("own", mix.accuracy(name)),
            **spread("own_greedy", mix.group.mean(mix.outcomes(name), "greedy", "accuracy", 1)),
            **{key: mix.mean(f"generators/{name}/{key}") for key in counted},
            **spread("kl", mix.kl_from(name)),
            "seeds": len(mix.group.runs),
        }
        for mix in found
        for name in mix.names
    ]
    return Table(
        name="generators",
        caption=(
            "What each generator is and gave: its own accuracy on held-out prompts, then on training prompts by the "
            "samples it drew; of the training prompts, those that only its samples solve; its share of the completions "
            "that were trained on, and the prompts of which only its were; completions left out because the student's "
            "tokenizer does not write them; and the tuned policy's KL from it, in nats a sequence (none where the "
            f"token ids differ). {over_what([mix.group for mix in found])}; what has none is a mean over seeds."
        ),
        rows=rows,
        runs=[run for mix in found for run in mix.group.runs],
        columns={
            **settings_columns(groups, names),
            "mix": "drawn by",
            "generator": "generator",
            "own": "its pass@1",
            "own_greedy": "its greedy",
            **counted,
            "kl": "KL from it",
        },
    )
