"""A methods paragraph to paste, from the runs' own settings, and the BibTeX of what it cites."""

import re
from collections.abc import Sequence
from typing import Any

from bench.records.read import Run
from bench.reporting.bibliography import ENTRIES
from bench.reporting.exhibits import method_sentences
from bench.reporting.groups import Group, grouped
from bench.reporting.words import policy_words, scorer_words, split, task_words

SELECTIONS = {  # where a method comes from, for those with a source in the bibliography
    "top_per_prompt": "touvron2023",
    "top_k_per_prompt": "touvron2023",
    "distinct_correct": "yuan2023",
    "softmax": "verdun2025",
    "rso": "liu2023",
    "pessimism": "huang2025",
    "mbr": "jinnai2024",
    "kl_regularised": "jinnai2024",
    "self_consistency": "wang2022",
}


def methods(runs: Sequence[Run]) -> str:
    """Markdown with citations in Pandoc's form, [@key]; a setting that differs among the runs is given with all
    values.
    """
    groups = grouped(runs)
    paragraphs = [_training(groups), _evaluation(groups), _statistics(groups)]
    return "\n\n".join(" ".join(sentence for sentence in sentences if sentence) for sentences in paragraphs) + "\n"


def references(text: str) -> str:
    """The BibTeX entries of the keys that a methods paragraph cites."""
    return "\n\n".join(ENTRIES[key] for key in sorted(set(re.findall(r"(?<!\w)@(\w+)", text)))) + "\n"


def _training(groups: Sequence[Group]) -> list[str]:
    def of(name: str) -> str:
        return _values(groups, name)

    selections = sorted({_selection(group.runs[0]) for group in groups})
    policies, tasks, scorers = (
        list(dict.fromkeys(words(group.runs[0].config[part]) for group in groups))
        for part, words in (("policy", policy_words), ("task", task_words), ("scoring", scorer_words))
    )
    kept = sorted({int(run.metrics["selection/kept"]) for group in groups for run in group.runs})
    control = "A control was fine-tuned alike on as many random completions of the same prompts."
    return [
        f"**Training.** The task was {_joined(tasks)}. The base policy was {_joined(policies)}. For each of "
        f"{_measured(groups, 'train/prompts')} training prompts we drew {of('num_completions')} completions at "
        "temperature "
        f"{of('temperature')} and top-p {of('top_p')}, of at most {of('generation.max_new_tokens')} tokens.",
        *method_sentences("methods", groups),
        f"They were scored by {_joined(scorers)}, and {_range(kept)} were selected by {_joined(selections)}.",
        f"The base was fine-tuned on them for {of('training.epochs')} epochs with AdamW (learning rate "
        f"{of('training.learning_rate')}, {of('training.scheduler')} schedule with a warm-up of "
        f"{of('training.warmup')}, "
        f"{of('training.batch_size')} examples an update, weight decay {of('training.weight_decay')}).",
        _adapters(groups),
        *method_sentences("methods_after", groups),
        control if any(group.controlled for group in groups) else "",
        _varied(groups),
    ]


def _adapters(groups: Sequence[Group]) -> str:
    if all(_at(run.config, "training.lora") is None for group in groups for run in group.runs):
        return ""
    rank, alpha = (_values(groups, f"training.lora.{name}") for name in ("r", "alpha"))
    return f"What was trained were LoRA adapters of rank {rank}, alpha {alpha} [@hu2021]."


def _evaluation(groups: Sequence[Group]) -> list[str]:
    def of(name: str) -> str:
        return _values(groups, name)

    raw = all(run.config["temperature"] == 1 and run.config["top_p"] == 1 for group in groups for run in group.runs)
    chain = "" if raw else ", and the sampler's own distance from the raw base is added by the chain rule"
    return [
        f"**Evaluation.** On {_measured(groups, 'test/prompts')} {split(groups)} prompts we drew "
        f"{of('evaluation.num_completions')} completions a prompt from every policy at temperature "
        f"{of('evaluation.temperature')} and top-p {of('evaluation.top_p')}, and one greedily.",
        f"Best-of-n of the base uses a pool of {_measured(groups, 'best_of_n/pool_size')} completions a prompt and "
        "is its exact "
        "mean over all subsets of n, ties broken uniformly [@nakano2021; @gao2022]; pass@k likewise [@chen2021].",
        "Every KL is from the base at temperature 1 and top-p 1, in nats a sequence. That of a fine-tuned policy "
        "sums the "
        "exact KLs of its steps over sampled completions (Rao-Blackwellised; [@amini2025]). That of Best-of-n is "
        "estimated "
        f"from the pass rates or reward levels of each prompt, ties included, with a jackknife{chain}; the bound "
        "log n - (n - 1)/n [@beirami2024] is given beside it.",
        "Compute is counted as 2 FLOPs a parameter and token for a forward pass and 6 for training [@kaplan2020].",
    ]


def _statistics(groups: Sequence[Group]) -> list[str]:
    seeds = sorted({seed for group in groups for seed in group.seeds})
    several = any(len(group.runs) > 1 for group in groups)
    listed = f"the training seed{'s' if len(seeds) > 1 else ''} {_joined([str(seed) for seed in seeds], 'and')}"
    return [
        f"**Statistics.** Results are over {listed}. Intervals are at 95 %, with the prompt as the unit: by the "
        "bootstrap "
        "over prompts (BCa; [@efron1993])"
        + (
            "; over several seeds, by the two-way variance components of seeds and prompts with Satterthwaite's "
            "degrees of "
            "freedom [@satterthwaite1946]."
            if several
            else "."
        ),
        "Comparisons are paired on the same prompts"
        + (" and seeds" if several else "")
        + ("" if several else ", tested by the bootstrap, or by McNemar's exact test for 0/1 outcomes [@mcnemar1947]")
        + ", and no difference is called resolved that swapping the arms within prompts at random leaves open "
        "[@fisher1935]"
        + ". All but the primary one (against the control; against the base where there is none) are adjusted for "
        "their number by Holm's procedure [@holm1979]; configurations that are compared with one another or with their "
        "controls are adjusted likewise.",
        "A comparison that this leaves open is called not resolved, and given with the difference that would be "
        "found with "
        "a power of 80 % [@miller2024].",
    ]


def _values(groups: Sequence[Group], name: str) -> str:
    """The setting's values among the groups, in order of size where they are numbers; nothing is left out."""
    found = list(dict.fromkeys(_shown(_at(group.runs[0].config, name)) for group in groups))
    if all(_is_number(value) for value in found):
        found.sort(key=float)
    return _joined(found)


def _measured(groups: Sequence[Group], name: str) -> str:
    return _range(sorted({int(run.metrics[name]) for group in groups for run in group.runs}))


def _varied(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        return ""
    columns = {name: list(dict.fromkeys(group.settings[name] for group in groups)) for name in groups[0].settings}
    parts = [f"{name} ({_joined(values)})" for name, values in columns.items()]
    return f"Varied were {_joined(parts, 'and')}, {len(groups)} configurations in all."


def _selection(run: Run) -> str:
    """The method with its settings and source, e.g. "softmax (temperature 0.1) [@verdun2025]"."""
    name = run.selection
    settings = {key: value for key, value in run.config["selection"].items() if not key.startswith("_")}
    shown = [
        f"{key} {_shown(value.get('_target_') if isinstance(value, dict) else value)}"
        for key, value in settings.items()
    ]
    words = f"{name} ({', '.join(shown)})" if shown else name
    return f"{words} [@{SELECTIONS[name]}]" if name in SELECTIONS else words


def _at(config: dict[str, Any], name: str) -> Any:
    node: Any = config
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.startswith("bench."):
        return value.rsplit(".", 1)[-1]
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"


def _joined(words: Sequence[str], last: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
