"""Policies that were trained elsewhere: how they compare with the base and the tuned policy, in sentences."""

from collections.abc import Sequence

from bench.reporting import tables
from bench.reporting.contrasts import of_groups
from bench.reporting.exhibit import shows
from bench.reporting.groups import Group
from bench.reporting.words import listed, place_words


@shows("sentences", 66)
def sentences(groups: Sequence[Group]) -> list[str]:
    """One sentence for each policy and for each sampler of the base, and what is not known of it."""
    lines: dict[object, str] = {}
    for group, contrasts in zip(groups, of_groups(groups), strict=True):
        for name in group.runs[0].elsewhere:
            found = contrasts[f"{name}_vs_base/pass@1"]
            kl = group.series(name, "policy", "kl").get(1)
            tokens = str(group.runs[0].metrics[f"{name}/token_ids"]).removeprefix("another ")
            far = f"its KL from the base is {kl} nats" if kl else f"it has no KL: its {tokens} differs from the base's"
            key = name, group.key_of([(name, "pass", "accuracy", 1), ("base", "pass", "accuracy", 1)])
            line = f"In sampled accuracy, {name}, which was trained elsewhere, is {found.against('the base')}; {far}."
            lines.setdefault(key, line)
    return list(lines.values())


@shows("methods_after", 60)
def methods(groups: Sequence[Group]) -> list[str]:
    """Which policies these are, for the methods paragraph."""
    found = {
        f"{name} ({place_words(place)})": None
        for run in tables.all_runs(groups)
        for name, (_, place, _) in run.elsewhere.items()
    }
    if not found:
        return []
    return [
        f"Policies that were trained elsewhere were judged alike: {listed([*found], 'and')}. "
        "What their training cost is unknown."
    ]
