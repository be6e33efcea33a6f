"""Token ids: encode prompts, decode completions, find the ids that end one, and compare two policies' ids."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.artifacts import UNKNOWN, Completions, Policy, Prompts, content_hash
from bench.blocks import with_token_ids
from bench.errors import BenchError
from bench.models import chat, loading

if TYPE_CHECKING:
    import torch

DESCRIPTIONS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "tokenizer.model", "config.json", "generation_config.json"),
)
SPACE = "\u2581"  # as vocabularies of the SentencePiece kind write it
LINE = "\n"
DROPS = re.compile(rb'"type"\s*:\s*"(?:Metaspace|Strip)"')  # decoders that drop spaces at the start of a text
LOADED_FROM = ("is_local", "local_files_only", "name_or_path")


def encode(tokenizer: Any, prompts: Prompts, *, max_new_tokens: int = 0, context: int | None = None) -> list[list[int]]:
    """Each prompt's token ids. BenchError names the first that leaves no room for max_new_tokens in the context."""
    prompt_ids = [chat.encode(tokenizer, messages) for messages in prompts.messages]
    for name, ids in zip(prompts.id, prompt_ids, strict=True):
        if context is not None and len(ids) + max_new_tokens > context:
            raise BenchError(
                f"Prompt {name} has {len(ids)} tokens, which with max_new_tokens={max_new_tokens} is more than the "
                f"policy's context of {context}; shorten it or lower task.max_new_tokens."
            )
    return prompt_ids


def ending_ids(tokenizer: Any, generation_config: Any) -> set[int]:
    """The tokens that end a completion: all of the generation configuration, EOS, and the chat template's turn end."""
    end = chat.turn_end(tokenizer)
    return _named_ends(tokenizer, generation_config) | ({end} if end is not None else set())


def _named_ends(tokenizer: Any, generation_config: Any) -> set[int]:
    configured = generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in (*several, tokenizer.eos_token_id) if token is not None}


def _generation_config(base: Policy) -> Any:
    from transformers import GenerationConfig

    if (base.path / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(base.path)
    return GenerationConfig.from_model_config(loading.load_config(base))


@functools.lru_cache(maxsize=64)
def unconfigured_end(policy: Policy) -> int | None:
    """Return the token that ends a turn by the chat template alone; None where EOS or the configuration name it too.

    It is part of the keys of what such a policy drew; other keys stay.
    """
    if not loading.has_chat_template(policy.path):
        return None
    tokenizer = loading.load_tokenizer(policy)
    end = chat.turn_end(tokenizer)
    named = _named_ends(tokenizer, _generation_config(loading.base_of(policy)))
    return None if end in named else end


def configured(policy: Policy, tokenizer: Any) -> tuple[set[int], int | None, int]:
    """The ids that end a completion, the context in tokens (None: no limit is named) and the number of logits.

    An adapter's are its base's. No weights are loaded.
    """
    base = loading.base_of(policy)
    config = loading.load_config(base)
    vocabulary = config.get_text_config().vocab_size
    return ending_ids(tokenizer, _generation_config(base)), loading.context(config), vocabulary


@functools.lru_cache(maxsize=64)
def _template_thinks(policy: Policy) -> bool:
    return "<think" in str(loading.load_tokenizer(policy).chat_template)


def opens_thinking(policy: Policy, prompts: Prompts) -> bool:
    """Return whether a prompt ends in an open <think>. It is part of such pools' keys, because older ones lack the tag
    that `decode` writes; other keys stay."""
    if not loading.has_chat_template(policy.path):
        return any(chat.OPEN_THINKING.search(messages[-1]["content"]) for messages in prompts.messages)
    if not _template_thinks(policy):
        return False
    tokenizer = loading.load_tokenizer(policy)
    return any(chat.opened_thinking(tokenizer, messages) for messages in prompts.messages)


def decode(
    tokenizer: Any,
    token_ids: np.ndarray,
    prompts: Prompts,
    *,
    eos_ids: set[int],
    logprob: np.ndarray,
    policy_logprob: np.ndarray,
    dtype: str,
) -> Completions:
    """Completions [M, N] of token_ids [M, N]; BenchError where a log-probability under the policy is not a number.

    A prompt may end in an open <think>. The text of a completion without </think> then begins with <think>, so that a
    verifier, which sees the text alone, takes nothing in the reasoning for an answer.
    """
    if not np.isfinite(policy_logprob).all():
        raise BenchError(
            f"The policy's logits are not finite numbers in {dtype}; its weights are damaged, or generation.dtype is "
            "too narrow for it."
        )
    ids = [ids.tolist() for ids in token_ids.ravel()]
    texts = texts_of(tokenizer, ids)
    tags = np.repeat([chat.opened_thinking(tokenizer, messages) for messages in prompts.messages], token_ids.shape[1])
    for cell in np.flatnonzero(tags):
        texts[cell] = _with_thinking(tokenizer, ids[cell], texts[cell], str(tags[cell]))
    stopped = [ids[-1] in eos_ids for ids in token_ids.ravel()]
    return Completions(
        text=np.array(texts, object).reshape(token_ids.shape),
        token_ids=token_ids,
        finish_reason=np.where(stopped, "stop", "length").reshape(token_ids.shape),
        logprob=logprob,
        policy_logprob=policy_logprob,
        key="",
    )


def _with_thinking(tokenizer: Any, ids: list[int], text: str, tag: str) -> str:
    """Text after a prompt that ends in `tag`: with its closing tag, or with `tag` where the reasoning does not end."""
    closing = f"</{tag[1:]}"
    if closing in text:
        return text
    end = tokenizer.get_added_vocab().get(closing)  # a special token, which texts leave out
    if end not in ids:
        return f"{tag}{text}"
    place = len(ids) - ids[::-1].index(end)
    after = tokenizer.decode(ids[place:], skip_special_tokens=True)
    return f"{texts_of(tokenizer, [ids[:place]])[0]}{closing}{after}"


def texts_of(tokenizer: Any, completions: Sequence[Sequence[int]]) -> list[str]:
    """Return each completion as it stands after a prompt, without special tokens.

    Decoders of the SentencePiece kind drop one or all of the spaces at the start of a text, which a completion is not.
    """
    before = _anchor(tokenizer)
    start = len(tokenizer.decode(before)) if before else 0
    texts = tokenizer.batch_decode([[*before, *ids] for ids in completions], skip_special_tokens=True)
    return [text[start:] for text in texts]


def ids_of(tokenizer: Any, completions: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each completion as they follow a prompt: `texts_of` them is the completion, if any are.

    Encoders of the SentencePiece kind write a space before a text, which is no part of a completion.
    """
    alone = tokenizer(list(completions), add_special_tokens=False)["input_ids"] if completions else []
    if not _anchor(tokenizer):
        return alone
    line = tokenizer.encode(LINE, add_special_tokens=False)
    after = [tokenizer.encode(LINE + text, add_special_tokens=False) for text in completions]
    bare = [ids[len(line) :] if ids[: len(line)] == line else own for ids, own in zip(after, alone, strict=True)]
    right = [again == text for again, text in zip(texts_of(tokenizer, bare), completions, strict=True)]
    return [ids if same else own for ids, own, same in zip(bare, alone, right, strict=True)]


@functools.lru_cache(maxsize=16)
def _anchor(tokenizer: Any) -> list[int]:
    """Ids to decode before a completion, where the decoder drops spaces at the start of a text; else none."""
    marked = next((token for piece, token in tokenizer.get_vocab().items() if piece.startswith(SPACE)), None)
    letter = tokenizer.encode("a", add_special_tokens=False)[-1:]
    if marked is None or not letter:
        return []
    after = tokenizer.decode([*letter, marked, *letter])[len(tokenizer.decode(letter)) :]
    return letter if tokenizer.decode([marked, *letter]) != after else []


@functools.lru_cache(maxsize=64)
def unlike_older_pools(policy: Policy) -> dict[str, Any]:
    """Return settings that are part of the keys of a policy's pools, where older pools are other ones; often none.

    Older pools ran on beyond a turn's end that only the template names, and lacked the spaces that `_anchor` keeps.
    """
    end = unconfigured_end(policy)
    settings: dict[str, Any] = {} if end is None else {"turn_end": end}
    described, model = (policy.path / name for name in ("tokenizer.json", "tokenizer.model"))
    # the file tells it of most tokenizers, and to load one takes seconds
    may_drop = DROPS.search(described.read_bytes()) if described.is_file() else model.is_file()
    return settings | ({"first_spaces": "kept"} if may_drop and _anchor(loading.load_tokenizer(policy)) else {})


def ids_differ(policy: Policy, other: Policy, prompts: Prompts) -> str | None:
    """Return what differs between two policies' token ids on these prompts, in words; None where they agree.

    Compared are the vocabulary, the tokens that end a completion, and the ids of every prompt, chat template included.
    Where they differ, neither policy can train on the other's token ids.
    """
    if policy.key == other.key or _described_alike(policy, other):
        return None
    ours, theirs = loading.load_tokenizer(policy), loading.load_tokenizer(other)
    if ours.get_vocab() != theirs.get_vocab():
        return "vocabulary"
    if configured(policy, ours)[0] != configured(other, theirs)[0]:
        return "tokens that end a completion"
    if any(chat.encode(ours, messages) != chat.encode(theirs, messages) for messages in prompts.messages):
        return "encoding of the prompts"
    return None


def distributions_differ(policy: Policy, other: Policy, prompts: Prompts) -> str | None:
    """Return why no KL between two policies can be taken token by token, in words; None where it can."""
    difference = ids_differ(policy, other, prompts)
    if difference is not None or policy.key == other.key or _described_alike(policy, other):
        return difference
    ours, theirs = (configured(each, loading.load_tokenizer(each))[2] for each in (policy, other))
    return None if ours == theirs else "number of logits"


def _described_alike(policy: Policy, other: Policy) -> bool:
    """Whether all files that describe their tokens have the same content, as those of a base and its fine-tuning."""
    return all(_content(policy, name) == _content(other, name) for name in DESCRIPTIONS)


def _content(policy: Policy, name: str) -> object:
    """One of the policy's files, without where its tokenizer was loaded from; None where there is no such file."""
    of_model = name in ("config.json", "generation_config.json")
    file = ((of_model and loading.adapter_base(policy.path)) or policy.path) / name
    if not file.is_file():
        return None
    if name != "tokenizer_config.json":
        return file.read_bytes()
    return {key: value for key, value in json.loads(file.read_bytes()).items() if key not in LOADED_FROM}


def reencoded(pool: Completions, reader: Policy) -> tuple[Completions, np.ndarray]:
    """The pool in the token ids of `reader`, made from its texts, and [M, N] bool: whether they are what was drawn.

    For training where tokenizers differ. A text is not what was drawn where the reader's tokenizer does not write it
    back as it was, or it has no tokens. A finished completion gets the reader's EOS, one cut at the length limit none.
    Completions that are not known to be cut count as finished.
    BenchError where the reader has no EOS.
    """
    tokenizer = loading.load_tokenizer(reader)
    if tokenizer.eos_token_id is None:
        raise BenchError(f"The tokenizer in {reader.path} has no EOS, so that no other policy's texts can end in it.")
    token_ids, faithful = np.empty(pool.shape, object), np.empty(pool.shape, bool)
    for rows, part in pool.shards():
        texts = [str(text) for text in part.text.ravel()]
        bare = ids_of(tokenizer, texts)
        back = texts_of(tokenizer, bare)
        cells = np.empty(len(texts), object)
        for cell, (ids, reason) in enumerate(zip(bare, part.finish_reason.ravel(), strict=True)):
            ends = [tokenizer.eos_token_id] if reason in ("stop", UNKNOWN) else []
            cells[cell] = np.array([*ids, *ends], np.int32)
        same = [len(ids) > 0 and again == text for ids, again, text in zip(cells, back, texts, strict=True)]
        token_ids[rows] = cells.reshape(part.shape)
        faithful[rows] = np.array(same).reshape(part.shape)
    return with_token_ids(pool, token_ids, content_hash(pool.key, reader.key)), faithful


def padded(
    rows: Sequence[Mapping[str, list[int]]], fill: Mapping[str, int], device: Any = "cpu", *, left: bool = False
) -> "dict[str, torch.Tensor]":
    """The columns of token rows [B, T] and their attention_mask, padded on the right with `fill` (0 where not named).

    Padding is masked and to the right: no earlier token attends to it, and no position shifts. left: pad on the left,
    so that all rows end together.
    """
    import torch

    columns = {name: [list(row[name]) for row in rows] for name in rows[0]}
    columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
    width = max(map(len, columns["input_ids"]))
    whole = {}
    for name, column in columns.items():
        fillers = [[fill.get(name, 0)] * (width - len(ids)) for ids in column]
        sides = (fillers, column) if left else (column, fillers)
        whole[name] = torch.tensor([[*start, *end] for start, end in zip(*sides, strict=True)], device=device)
    return whole
