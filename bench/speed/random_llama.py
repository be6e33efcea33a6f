"""Randomly initialised Llamas of any size: policies and reward models whose speed is that of trained ones."""

from pathlib import Path
from typing import Any

from bench.artifacts import Policy
from bench.devices import device
from bench.models import loading
from bench.seeds import generator, small_seed
from bench.tasks.word_problems import WordProblems

LOGIT_SPREAD = 4.0  # standard deviation of a random policy's logits; its nucleus is then as small as a trained one's


def random_policy(folder: Path, layers: int, hidden: int, vocabulary: int) -> Policy:
    """A random Llama with a tokenizer for the default task; it hardly ever draws EOS."""
    import torch
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    from bench.training.pretraining import train_tokenizer

    logging.disable_progress_bar()
    tokenizer = train_tokenizer(WordProblems().demonstrations(2000, generator(0, "speed", "tokenizer")), 400)
    heads = max(1, hidden // (64 if hidden >= 512 else 32))
    config = _config(
        tokenizer,
        vocab_size=max(vocabulary, len(tokenizer)),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4 if heads % 4 == 0 else heads,
        max_position_embeddings=4096,
        dtype="bfloat16",
    )
    with torch.random.fork_rng(devices=[]), torch.device(device()):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
        model.to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight.mul_(LOGIT_SPREAD / (config.initializer_range * hidden**0.5))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loading.folder(folder)


def random_reward_model(folder: Path, texts: list[tuple[str, str]], *, hidden: int, layers: int, longest: int) -> None:
    """Save a random Llama with one output, and a tokenizer trained on these prompts and completions, in `folder`."""
    import torch
    from transformers import LlamaForSequenceClassification
    from transformers.utils import logging

    from bench.training.pretraining import train_tokenizer

    logging.disable_progress_bar()
    tokenizer = train_tokenizer(texts, vocabulary=400)
    config = _config(
        tokenizer,
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        max_position_embeddings=2 * longest,
    )
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(small_seed(0, "speed", "model"))
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _config(tokenizer: Any, **sizes: Any) -> Any:
    from transformers import LlamaConfig

    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return LlamaConfig(**sizes, **ids)
