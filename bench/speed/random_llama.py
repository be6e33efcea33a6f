"""Randomly initialised Llamas of any size: policies and reward models whose speed is that of trained ones."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from bench import policies
from bench.artifacts import Policy
from bench.devices import device
from bench.models import loading
from bench.seeds import generator, small_seed
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems

LOGIT_SPREAD = 4.0  # standard deviation of a random policy's logits; its nucleus is then as small as a trained one's


def random_policy(folder: Path, layers: int, hidden: int, vocabulary: int) -> Policy:
    """A random Llama with a tokenizer for the default task; it hardly ever draws EOS."""
    import torch
    from transformers import LlamaForCausalLM

    texts = WordProblems().demonstrations(2000, generator(0, "speed", "tokenizer"))
    heads = max(1, hidden // (64 if hidden >= 512 else 32))
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers}
    of_heads = {"num_attention_heads": heads, "num_key_value_heads": heads // 4 if heads % 4 == 0 else heads}
    tokenizer, config = _with_tokenizer(texts, vocabulary, 4096, **sizes, **of_heads, dtype="bfloat16")
    with torch.random.fork_rng(devices=[]), torch.device(device()):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
        model.to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight.mul_(LOGIT_SPREAD / (config.initializer_range * hidden**0.5))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loading.folder(folder)


def embedded_or_random(options: Namespace, folder: Path) -> Policy:
    """A random policy of options.layers layers in `folder`; None: the embedded one, from options.store or made now."""
    if options.layers is not None:
        return random_policy(folder, options.layers, options.hidden, options.vocabulary)
    with using(Store(options.store)):
        return policies.tiny(WordProblems(), seed=0)


def random_reward_model(
    folder: Path, messages: list[Any], completions: list[str], *, hidden: int, layers: int, longest: int
) -> None:
    """Save a random Llama with one output, and a tokenizer trained on these prompts and completions, in `folder`."""
    import torch
    from transformers import LlamaForSequenceClassification

    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    heads = max(1, hidden // 32)
    texts = [(own[-1]["content"], completion) for own, completion in zip(messages, completions, strict=True)]
    tokenizer, config = _with_tokenizer(texts, 0, 2 * longest, **sizes, num_attention_heads=heads, num_labels=1)
    with torch.random.fork_rng():
        torch.manual_seed(small_seed(0, "speed", "model"))
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _with_tokenizer(texts: Any, vocabulary: int, longest: int, **sizes: Any) -> tuple[Any, Any]:
    """A tokenizer trained on these texts, and the configuration of a Llama whose vocabulary may be larger."""
    from transformers import LlamaConfig
    from transformers.utils import logging

    from bench.training.pretraining import train_tokenizer

    logging.disable_progress_bar()
    tokenizer = train_tokenizer(texts, vocabulary=400)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size = max(vocabulary, len(tokenizer))
    return tokenizer, LlamaConfig(vocab_size=size, max_position_embeddings=longest, **sizes, **ids)
