"""Whether two policies have the same token ids: else neither can train on the other's, nor be measured by it."""

from typing import Any

from bench import chat, policies
from bench.artifacts import Policy, Prompts
from bench.generation import tokens


def ids_differ(one: Policy, other: Policy, prompts: Prompts) -> str | None:
    """What of their token ids is not alike on these prompts, in words; None where an id of one is the other's too.

    Compared are the vocabulary, the tokens that end a completion, and the ids of every prompt, chat template included.
    """
    if one.key == other.key:
        return None
    ours, theirs = (policies.load_tokenizer(policy) for policy in (one, other))
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
    if found is not None or one.key == other.key:
        return found
    ours, theirs = (configured(policy, policies.load_tokenizer(policy))[2] for policy in (one, other))
    return None if ours == theirs else "number of logits"


def configured(policy: Policy, tokenizer: Any) -> tuple[set[int], int | None, int]:
    """The ids that end a completion, the context in tokens and the number of logits; an adapter's are its base's."""
    return tokens.configured(policies.adapter_base(policy.path) or policy.path, tokenizer)
