"""Whether two policies have the same token ids: else neither can train on the other's, nor be measured by it."""

import json
from typing import Any

from bench.artifacts import Policy, Prompts
from bench.models import chat, loading, tokens

DESCRIPTIONS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "tokenizer.model", "config.json", "generation_config.json"),
)

LOADED_FROM = ("is_local", "local_files_only", "name_or_path")


def ids_differ(one: Policy, other: Policy, prompts: Prompts) -> str | None:
    """What of their token ids is not alike on these prompts, in words; None where an id of one is the other's too.

    Compared are the vocabulary, the tokens that end a completion, and the ids of every prompt, chat template included.
    """
    if one.key == other.key or described_alike(one, other):
        return None
    ours, theirs = (loading.load_tokenizer(policy) for policy in (one, other))
    if ours.get_vocab() != theirs.get_vocab():
        return "vocabulary"
    if configured(one, ours)[0] != configured(other, theirs)[0]:
        return "tokens that end a completion"
    if any(chat.encode(ours, messages) != chat.encode(theirs, messages) for messages in prompts.messages):
        return "encoding of the prompts"
    return None


def distributions_differ(one: Policy, other: Policy, prompts: Prompts) -> str | None:
    """Why no KL between them can be taken token by token, in words; None where it can. See `ids_differ`."""
    found = ids_differ(one, other, prompts)
    if found is not None or one.key == other.key or described_alike(one, other):
        return found
    ours, theirs = (configured(policy, loading.load_tokenizer(policy))[2] for policy in (one, other))
    return None if ours == theirs else "number of logits"


def described_alike(one: Policy, other: Policy) -> bool:
    """Whether all files that say what their tokens are say the same, as those of a base and what it became."""
    return all(_content(one, name) == _content(other, name) for name in DESCRIPTIONS)


def _content(policy: Policy, name: str) -> object:
    """Of one of its files, without where the tokenizer was loaded from; None where there is none."""
    of_model = name in ("config.json", "generation_config.json")
    file = ((of_model and loading.adapter_base(policy.path)) or policy.path) / name
    if not file.is_file():
        return None
    if name != "tokenizer_config.json":
        return file.read_bytes()
    return {key: value for key, value in json.loads(file.read_bytes()).items() if key not in LOADED_FROM}


def configured(policy: Policy, tokenizer: Any) -> tuple[set[int], int | None, int]:
    """The ids that end a completion, the context in tokens and the number of logits; an adapter's are its base's."""
    return tokens.configured(loading.base_of(policy), tokenizer)
