"""Pretrain the embedded default policy: a Llama of a quarter of a million parameters, from scratch, in a minute.

The result is an ordinary Hugging Face folder, which transformers, vLLM and lm-eval load unchanged. Two runs with the
same seed give the same bytes: they use one thread and their own generators, and touch no global state.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.models.loading import folder
from bench.models.tokens import padded
from bench.progress import bar
from bench.seeds import generator, small_seed
from bench.store import stage
from bench.tasks import Corpus
from bench.training.packing import IGNORED

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
WORDS = r" ?[A-Za-z]+| ?[0-9]+| ?#+| ?[^\sA-Za-z0-9#]+|\s+"  # a number is one piece, so " 17" becomes one token
CONTEXT = 256  # tokens of prompt and completion
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens")
BUCKET = 50  # batches within which sequences are sorted by length, to pad less


@stage(version=1, load=folder, later=("member",))
def pretrain(
    corpus: Corpus,
    *,
    seed: int,
    demonstrations: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    hidden_size: int,
    layers: int,
    heads: int,
    feedforward_size: int,
    vocabulary: int,
    member: int = 0,
    out: Path,
) -> dict[str, float]:
    """A policy trained on the completions of `demonstrations` pairs, in `steps` batches of `batch_size`.

    heads: vLLM's CPU build accepts hidden_size / heads = 32, and refuses 24.
    member: the number of a policy in a family whose sizes may differ. All have the tokenizer of member 0 with the same
    seed, demonstrations and vocabulary; each has its own demonstrations, first weights and batches.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bar counts files
    own = (member,) if member else ()
    pairs = _first_demonstrations(corpus, demonstrations, seed)
    tokenizer = train_tokenizer(pairs, vocabulary)
    if member:
        pairs = corpus.demonstrations(demonstrations, generator(seed, "pretrain", "corpus", *own))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=feedforward_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(small_seed(seed, "pretrain", "weights", *own))
        model = LlamaForCausalLM(config)
        tokens = _train(
            model,
            encode_pairs(tokenizer, pairs),
            pad=tokenizer.pad_token_id,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            rng=generator(seed, "pretrain", "batches", *own),
        )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"train_tokens": tokens, "train_flops": 6.0 * model.num_parameters() * tokens}


def _first_demonstrations(corpus: Corpus, count: int, seed: int) -> list[tuple[str, str]]:
    """Those of a family's first member, on which the tokenizer of all members is trained."""
    return corpus.demonstrations(count, generator(seed, "pretrain", "corpus"))


def tokenizer_of(corpus: Corpus, *, seed: int, demonstrations: int, vocabulary: int) -> Any:
    """The tokenizer of a policy that is not yet made."""
    return train_tokenizer(_first_demonstrations(corpus, demonstrations, seed), vocabulary)


def train_tokenizer(pairs: Sequence[tuple[str, str]], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of `vocabulary` tokens that writes BOS before every text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((prompt + completion for prompt, completion in pairs), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompt (with BOS) and completion (with EOS), tokenised separately, as in generation."""
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    completions = tokenizer([completion for _, completion in pairs], add_special_tokens=False)["input_ids"]
    return [
        (prompt, [*completion, tokenizer.eos_token_id]) for prompt, completion in zip(prompts, completions, strict=True)
    ]


def batches(lengths: np.ndarray, *, batch_size: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`steps` arrays of row numbers, each of rows of similar length; every row comes once before any is repeated."""
    given = 0
    while True:
        order = rng.permutation(len(lengths))
        bucket = BUCKET * batch_size
        parts = [order[start : start + bucket] for start in range(0, len(order), bucket)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
        starts = rng.permutation(np.arange(0, len(order), batch_size))
        for start in starts:
            yield order[start : start + batch_size]
            given += 1
            if given == steps:
                return


def _train(
    model: Any,
    encoded: Sequence[tuple[list[int], list[int]]],
    *,
    pad: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    rng: np.random.Generator,
) -> int:
    """Train with AdamW, a short warm-up and a cosine, the loss on completions alone. Returns the tokens read."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    examples = [
        {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}
        for prompt, completion in encoded
    ]
    lengths = np.array([len(example["input_ids"]) for example in examples])
    tokens = 0
    model.train()
    with bar("pretrain", steps, "steps") as progress:
        for rows in batches(lengths, batch_size=batch_size, steps=steps, rng=rng):
            batch = padded([examples[row] for row in rows], {"input_ids": pad, "labels": IGNORED})  # (B, T) each
            # Padding lies to the right, so the causal mask alone keeps it from every position that carries loss.
            hidden = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state  # (B, T, D)
            labels = batch["labels"][:, 1:]  # (B, T - 1)
            logits = model.lm_head(hidden[:, :-1][labels != IGNORED])  # (completion tokens, V)
            loss = torch.nn.functional.cross_entropy(logits, labels[labels != IGNORED])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            tokens += int(lengths[rows].sum())
            progress.advance()
    model.eval()
    return tokens


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: it fixes the order of sums, and a model this small gains nothing from a second."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
