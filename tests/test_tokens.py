"""Completions to text and back: tokenizers of the SentencePiece kind drop spaces where a text begins."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.artifacts import Policy
from bench.models.tokens import decode, ids_of, texts_of, unlike_older_pools

KINDS = ("llama", "replace_and_strip", "metaspace")
PIECES = ("▁", "a", "b", "x", "▁a", "▁b", "▁x", "▁▁", "▁▁▁▁", "ab", "▁ab")
MERGES = [("▁", "a"), ("▁", "b"), ("▁", "x"), ("▁", "▁"), ("▁▁", "▁▁"), ("a", "b"), ("▁", "ab")]


def sentencepiece(kind: str) -> Any:
    """A small tokenizer with byte fallback, in each of the three forms in which Llama's has been published."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    special = ("<unk>", "<s>", "</s>")
    vocabulary = {piece: id for id, piece in enumerate((*special, *(f"<0x{i:02X}>" for i in range(256)), *PIECES))}
    if kind == "llama":
        return LlamaTokenizer(vocab=vocabulary, merges=MERGES)
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    whole = [decoders.ByteFallback(), decoders.Fuse()]
    if kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), *whole])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), *whole, decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_keeps_the_spaces_that_it_begins_with(kind: str, few_prompts) -> None:
    tokenizer = sentencepiece(kind)
    written = {
        "    a": ["▁▁▁▁", "a"],
        "     a": ["▁▁▁▁", "▁a"],
        " ab x": ["▁ab", "▁x", "</s>"],
        "ab": ["ab"],
        "\n    a": ["<0x0A>", "▁▁▁▁", "a"],
        "é": ["<0xC3>", "<0xA9>"],
        "": ["</s>"],
        "    ": ["▁▁▁▁"],
    }
    ids = [tokenizer.convert_tokens_to_ids(pieces) for pieces in written.values()]
    assert texts_of(tokenizer, ids) == list(written)
    drawn = np.empty((1, len(ids)), object)
    drawn[0] = [np.array(each, np.int32) for each in ids]
    none = np.zeros(drawn.shape)
    completions = decode(
        tokenizer, drawn, few_prompts[:1], eos_ids={2}, logprob=none, policy_logprob=none, dtype="float32"
    )
    assert completions.text[0].tolist() == list(written)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["    ab", " a", "ab", "a  b", "\nab", "\n    a", "é x", "", "   "])
def test_a_completion_that_came_as_text_gets_the_ids_that_follow_a_prompt(kind: str, text: str) -> None:
    tokenizer = sentencepiece(kind)
    (ids,) = ids_of(tokenizer, [text])
    assert texts_of(tokenizer, [ids]) == [text]
    if text == "ab":
        assert tokenizer.convert_ids_to_tokens(ids) == ["ab"]  # and not with the space of a first word


def test_only_policies_whose_first_spaces_were_lost_get_other_keys(tmp_path: Path, random_policy: Policy) -> None:
    from bench.models import loading

    for kind in KINDS:
        sentencepiece(kind).save_pretrained(tmp_path / kind)
        assert unlike_older_pools(Policy(tmp_path / kind, kind)) == {"first_spaces": "kept"}, kind
    assert unlike_older_pools(random_policy) == {}
    tokenizer = loading.load_tokenizer(random_policy)
    assert ids_of(tokenizer, ["  a b", ""]) == tokenizer(["  a b", ""], add_special_tokens=False)["input_ids"]
    assert texts_of(tokenizer, ids_of(tokenizer, ["  a b"])) == ["  a b"]
