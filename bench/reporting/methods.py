"""Write a report's methods paragraph from the settings of its runs (the text: methods.md), and the BibTeX it cites."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.config.keys import import_of
from bench.records.frames import dotted
from bench.records.read import Run, as_number
from bench.reporting import words
from bench.reporting.exhibits import method_sentences
from bench.reporting.groups import grouped
from bench.reporting.tables import inline

HERE = Path(__file__).parent
SOURCES = {  # selection -> the key of its source in references.bib
    "top_per_prompt": "touvron2023",
    "top_k_per_prompt": "touvron2023",
    "distinct_correct": "yuan2023",
    "softmax": "verdun2025",
    "rso": "liu2023",
    "rso_pairs": "liu2023",
    "right_wrong": "pang2024",
    "best_worst": "yuan2024",
    "pessimism": "huang2025",
    "mbr": "jinnai2024",
    "kl_regularised": "jinnai2024",
    "self_consistency": "wang2022",
}


def methods(runs: Sequence[Run]) -> str:
    """Three paragraphs of Markdown, with citations as [@key]; a setting that differs is given with all its values."""
    groups = grouped(runs)
    configs = [group.runs[0].config for group in groups]
    flat = [dotted(config) for config in configs]
    varied = {name: _distinct(group.settings[name] for group in groups) for name in groups[0].settings}

    def setting(name: str) -> str:
        values = _distinct(words.setting_words(own.get(name)) for own in flat)
        return words.listed(values if None in map(as_number, values) else sorted(values, key=float))

    def count(name: str) -> str:
        """A number of metrics.json: its range over the runs."""
        numbers = [int(run.metrics[name]) for run in runs]
        low, high = min(numbers), max(numbers)
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    environment = Environment(
        loader=FileSystemLoader(HERE), trim_blocks=True, undefined=StrictUndefined, autoescape=False
    )
    environment.filters["listed"] = words.listed
    if not all(run.trained for run in runs):
        judges = _distinct(words.task_words(run.config["task"]) for run in runs if "task" in run.config)
        samplers = _distinct(filter(None, (words.sampler_words(run.config["generation"]) for run in runs)))
        text = environment.get_template("imported.md").render(count=count, tasks=judges, samplers=samplers)
        return _paragraphs(text)
    updates = [own.get("training.updates") for own in flat]
    lengths = [
        f"{own['training.epochs']:g} epochs" if made is None else f"{made} updates"
        for own, made in zip(flat, updates, strict=True)
    ]
    text = environment.get_template("methods.md").render(
        length=words.listed(_distinct(lengths)) if any(updates) else f"{setting('training.epochs')} epochs",
        samplers=_distinct(map(_sampler_of_imports, runs)),
        setting=setting,
        count=count,
        split=words.split(groups),
        tasks=_distinct(words.task_words(config["task"]) for config in configs),
        policies=_distinct(words.policy_words(config["policy"]) for config in configs),
        scorers=_distinct(words.scorer_words(config["scoring"]) for config in configs),
        selections=sorted({_selection(config["selection"]) for config in configs}),
        sampling=method_sentences("methods", groups),
        repetition=method_sentences("methods_after", groups),
        taken=[split for split in ("train", "test") if any(import_of(each["generation"], split) for each in configs)],
        preferred=_distinct(str(own["training.beta"]) for own in flat if own.get("training.beta")),
        selected=any("online/updates" not in group.runs[0].metrics for group in groups),
        lora=any("training.lora.r" in own for own in flat),
        controlled=any(group.controlled for group in groups),
        varied=[f"{name} ({words.listed(values)})" for name, values in varied.items()] if len(groups) > 1 else [],
        configurations=len(groups),
        chain_rule=any(run.config["temperature"] != 1 or run.config["top_p"] != 1 for run in runs),
        seeds=[str(seed) for seed in sorted({run.config["seed"] for run in runs})],
        several_seeds=any(len(group.runs) > 1 for group in groups),
        pooled=sum(len(group.runs) > 2 for group in groups) > 1,
    )
    return _paragraphs(text)


def _sampler_of_imports(run: Run) -> str:
    """How the imports that a run took were sampled."""
    taken = [use["settings"] for use in run.lineage if use["settings"].get("engine") == "from_import"]
    return next(filter(None, map(words.sampler_words, taken)), "by a sampler that the runs do not know")


def _paragraphs(text: str) -> str:
    """A rendered template with one line per paragraph."""
    return re.sub(r" (?=\*\*[A-Z][a-z]+\.\*\* )", "\n\n", " ".join(text.split())) + "\n"


def references(text: str) -> str:
    """The entries of references.bib that a methods paragraph cites, in order of their keys."""
    entries, cited = bibliography(), set(re.findall(r"(?<![\w\\])@(\w+)", text))
    return "\n\n".join(entries[key] for key in sorted(cited & set(entries))) + "\n"


def bibliography() -> dict[str, str]:
    """The entries of references.bib by key."""
    entries = (HERE / "references.bib").read_text().strip().split("\n\n")
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}


def _selection(settings: dict[str, Any]) -> str:
    """The method with its settings and source, e.g. "softmax (temperature 0.1) [@verdun2025]"."""
    name = words.function_name(settings)
    details = _distinct(
        f"{key} {words.setting_words(value)}" for key, value in settings.items() if not key.startswith("_")
    )
    return name + (f" ({', '.join(details)})" if details else "") + (f" [@{SOURCES[name]}]" if name in SOURCES else "")


def _distinct(texts: Iterable[str]) -> list[str]:
    """The words of settings, each once and as it is: an @ in one cites nothing."""
    return list(dict.fromkeys(inline(text).replace("@", r"\@") for text in texts))
