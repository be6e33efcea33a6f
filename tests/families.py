"""Small stand-ins for the model families that users train: their special tokens, chat formats and kinds of layers.

Templates are written here in each family's format; weights are random.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.artifacts import Policy
from bench.models import loading

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_2_5 = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + CHATML
QWEN_3 = (
    CHATML + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}{% set first = '' %}{% set turns = messages %}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}{% endif %}"
    "{% for m in turns %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ first if loop.first else '' }}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
OLMO_2 = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """`asked` is how its prompt for "Hi" reads by default, `told` with the system prompt "Be brief."."""

    model: str  # transformers' class
    special: tuple[str, ...]
    endings: tuple[str, ...]  # the tokenizer's EOS first
    template: str | None
    asked: str
    told: str | None  # None: refused
    bos: str | None = None
    writes_bos: bool = False  # the tokenizer does, before a text
    config: dict[str, Any] = field(default_factory=dict)
    configured: int | None = None  # how many of the endings its configuration names, from the first; None: all


FAMILIES = {
    "qwen_2_5": Family(
        model="Qwen2",
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        endings=("<|im_end|>", "<|endoftext|>"),
        template=QWEN_2_5,
        asked="<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        told="<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "qwen_2_5_base": Family(
        model="Qwen2",
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        endings=("<|endoftext|>", "<|im_end|>"),
        configured=1,  # its template alone knows how a turn ends
        template=QWEN_2_5,
        asked="<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        told="<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "qwen_3": Family(
        model="Qwen3",
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        endings=("<|im_end|>", "<|endoftext|>"),
        template=QWEN_3,
        asked="<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        told="<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        config={"head_dim": 16},
    ),
    "llama_3": Family(
        model="Llama",
        special=("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        endings=("<|eot_id|>", "<|end_of_text|>"),
        template=LLAMA_3,
        asked="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        told="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        bos="<|begin_of_text|>",
        writes_bos=True,
    ),
    "gemma_2": Family(
        model="Gemma2",
        special=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        endings=("<eos>", "<end_of_turn>"),
        template=GEMMA_2,
        asked="<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        told=None,
        bos="<bos>",
        writes_bos=True,
        config={"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    ),
    "gemma_3": Family(
        model="Gemma3",
        special=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        endings=("<eos>", "<end_of_turn>"),
        template=GEMMA_3,
        asked="<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        told="<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n",
        bos="<bos>",
        writes_bos=True,
        config={"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    ),
    "olmo_2": Family(
        model="Olmo2",
        special=("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"),
        endings=("<|endoftext|>",),
        template=OLMO_2,
        asked="<|endoftext|><|user|>\nHi\n<|assistant|>\n",
        told="<|endoftext|><|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\n",
        bos="<|endoftext|>",  # which is its EOS too
    ),
    "base": Family(
        model="Llama",
        special=("<s>", "</s>"),
        endings=("</s>",),
        template=None,
        asked="Hi",
        told=None,
        bos="<s>",
        writes_bos=True,
    ),
}


def make(name: str, folder: Path, *, hidden_size: int = 32) -> Policy:
    """A two-layer model of the family with two heads and random weights, saved in `folder`."""
    import torch
    import transformers

    family = FAMILIES[name]
    tokenizer = _tokenizer(family)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in family.endings]
    kind = "Gemma3TextConfig" if family.model == "Gemma3" else f"{family.model}Config"
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[: family.configured],
        pad_token_id=tokenizer.pad_token_id,
        **family.config,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family.model}ForCausalLM")(config)
        head = model.get_output_embeddings().weight.data
        head[ends] = 3 * head[ends[0]]  # drawn often enough, still by chance, and one as often as the other
    model.generation_config.eos_token_id = ends[: family.configured]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loading.folder(folder)


def _tokenizer(family: Family) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<pad>", *family.special], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["user assistant model system You are Qwen. How many coins in all?"] * 8, trainer)
    if family.writes_bos and family.bos is not None:
        known = [(family.bos, tokenizer.token_to_id(family.bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=known)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.endings[0],
        pad_token="<pad>",
        additional_special_tokens=[token for token in family.special if token not in (family.bos, family.endings[0])],
    )
    fast.chat_template = family.template
    return fast
