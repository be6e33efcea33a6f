"""Parts of a configuration in words that a reader of a paper knows: the policy, the task, the scorer, the procedure."""

import inspect
import re
from typing import Any

from bench import policies

TASKS = {
    "Gsm8k": "GSM8K",
    "Math500": "MATH-500",
    "HumanEval": "HumanEval",
    "IfEval": "IFEval",
    "Mbpp": "MBPP",
    "UltraFeedback": "UltraFeedback",
    "ReasoningGym": "Reasoning Gym",
    "Jsonl": "prompts of a local file",
}
SCORERS = {"verify": "the task's verifier", "judge": "a language model as judge"}
STARTS = {"base": "the base", "current": "the policy of the round before"}
TRAINED_ON = {
    "union": "what all rounds selected",
    "last": "what this round selected",
    "best": "what is selected from all that was drawn so far",
}


def policy_words(settings: dict[str, Any]) -> str:
    """By the hub's id or its folder's name, without where that is on this machine; one of ours by how it was made."""
    if settings.get("path"):
        return str(settings["path"]).rstrip("/").rsplit("/", 1)[-1]
    if settings.get("id"):
        return str(settings["id"])
    if _last(settings) != "tiny":
        return _last(settings)
    known = {name: one.default for name, one in inspect.signature(policies.tiny).parameters.items()} | settings
    return (
        f"a Llama of {known['layers']} layers and hidden size {known['hidden_size']}, pretrained from scratch on "
        f"{known['demonstrations']:,} of the task's noisy demonstrations ({known['steps']:,} steps of "
        f"{known['batch_size']} sequences, learning rate {known['learning_rate']:g})"
    )


def task_words(settings: dict[str, Any]) -> str:
    """The published name, or the class's in lower case, e.g. "word problems"."""
    name = _last(settings)
    return TASKS.get(name) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def scorer_words(settings: dict[str, Any]) -> str:
    return SCORERS.get(_last(settings)) or _last(settings).replace("_", " ")


def procedure_words(settings: dict[str, Any]) -> str:
    """A sentence on what is done otherwise than in one round of equally many samples of one policy; "" for that."""
    kind = _last(settings)
    if kind == "in_rounds":
        stopped = "" if settings.get("stop", "none") == "none" else " or until accuracy on validation prompts fell"
        return (
            f"This was repeated for {settings['rounds']} rounds{stopped}, each drawing from the policy that the last "
            f"one fine-tuned and fine-tuning {STARTS[settings['start']]} on {TRAINED_ON[settings['train_on']]}."
        )
    if kind == "from_several":
        names = [str(name) for name in settings["drawn_by"]]
        weights = [f"{settings['generators'][name]['weight']:g}" for name in names]
        shares = f" in shares of {' to '.join(weights)}" if len(names) > 1 else ""
        return f"They were drawn by {' and '.join(names)}{shares}, where the student is the policy that is fine-tuned."
    if kind == "adaptively":
        how = "That many are the most of every prompt"
        if settings["allocate"] == "hard":
            unsolved = f"none had been accepted after {settings['look']}"
            how = f"That many are the mean, with at most {settings['most']} where {unsolved}"
        enough = f"; a prompt was done with {settings['enough']} of a reward above {settings['accept_above']:g}"
        return f"{how}{enough if settings['stop'] == 'accepted' else ''}."
    return ""


def _last(settings: dict[str, Any]) -> str:
    return str(settings["_target_"]).rsplit(".", 1)[-1]
