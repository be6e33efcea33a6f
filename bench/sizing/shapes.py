"""The shape of a model without its weights: from a folder, the hub's cache, a table of known models, or its name."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.rules import defaults
from bench.errors import BenchError
from bench.models.loading import refusing_code

# config.json of the models in conf/experiment; tests compare their parameters with the published numbers
_FIELDS = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings"),
)
_QWEN_1_5B = ("qwen2", 1536, 8960, 28, 12, 2, 128, 151936, True)
KNOWN: dict[str, dict[str, Any]] = {
    name: dict(zip(_FIELDS, values, strict=True))
    for name, values in {
        "Qwen/Qwen2.5-1.5B": _QWEN_1_5B,
        "Qwen/Qwen2.5-Coder-1.5B": _QWEN_1_5B,
        "meta-llama/Llama-3.1-8B-Instruct": ("llama", 4096, 14336, 32, 32, 8, 128, 128256, False),
        "HuggingFaceTB/SmolLM2-135M-Instruct": ("llama", 576, 1536, 30, 9, 3, 64, 49152, True),
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B": ("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True),
        "Skywork/Skywork-Reward-V2-Qwen3-4B": ("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True),
    }.items()
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    query_width: int  # heads x head size
    kv_width: int  # key-value heads x head size
    vocabulary: int
    source: str  # how the sizes are known, in words

    def kv_bytes(self, tokens: int, width: int) -> int:
        """Bytes of the keys and values of this many tokens. width: bytes per number."""
        return 2 * self.layers * self.kv_width * width * tokens

    def lora_parameters(self, r: int, targets: Any) -> int:
        """Weights of an adapter: r (in + out) per matrix. targets: "all-linear" or names of a Llama's modules."""
        sizes = {
            "q_proj": (self.hidden, self.query_width),
            "k_proj": (self.hidden, self.kv_width),
            "v_proj": (self.hidden, self.kv_width),
            "o_proj": (self.query_width, self.hidden),
            **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), (self.hidden, self.intermediate)),
        }
        names = sizes if isinstance(targets, str) else [name for name in targets if name in sizes]
        return self.layers * r * sum(sum(sizes[name]) for name in names)


def of_config(config: Any, source: str) -> Shape:
    """The shape in a transformers configuration. Parameters are counted on torch's meta device, without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(
        parameters=sum(weight.numel() for weight in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        query_width=heads * size,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * size,
        vocabulary=text.vocab_size,
        source=source,
    )


def of_model(place: str, *, revision: str = "main", parameters: float | None = None) -> Shape:
    """The shape of a local folder's model, or of a hub id, without a download.

    parameters: their number, used where nothing on this machine knows the model. BenchError where its size is unknown.
    """
    from transformers import AutoConfig

    if Path(place).expanduser().is_dir():
        if not (Path(place).expanduser() / "config.json").is_file():
            raise BenchError(f"{place} holds no config.json; give a folder that save_pretrained wrote.")
        with refusing_code(place, "policy.trust_remote_code=true", trusted=False):
            config = AutoConfig.from_pretrained(Path(place).expanduser())
        return of_config(config, f"the config.json in {place}")
    if Path(place).is_absolute() or place.startswith((".", "~")) or place.count("/") > 1:
        raise BenchError(f"{place} is no folder here; give one that save_pretrained wrote, or a hub id, OWNER/NAME.")
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(place, "config.json", revision=revision)
    if isinstance(cached, str):
        return of_config(AutoConfig.from_pretrained(Path(cached).parent), f"{place} in the hub's cache")
    if place in KNOWN:
        settings = dict(KNOWN[place])
        return of_config(AutoConfig.for_model(settings.pop("model_type"), **settings), f"the published {place}")
    if parameters is not None:
        return _of_size(parameters, f"{parameters:.3g} parameters as given, its layers guessed")
    named = re.search(
        r"(?<![\w.])(\d+(?:\.\d+)?)\s*([BM])(?![A-Za-z])", place.rpartition("/")[2].replace("-", " "), re.I
    )
    if named is None:
        raise BenchError(
            f"The size of {place} can't be told from its name; give size.parameters=NUMBER (of a reward model "
            "size.reward_parameters=NUMBER), e.g. 1.5e9."
        )
    count = float(named[1]) * (1e9 if named[2].upper() == "B" else 1e6)
    return _of_size(count, f"{place}: {named[0].strip()} read from the name, its layers guessed")


def _of_size(parameters: float, source: str) -> Shape:
    """A typical Llama of this many parameters: the hidden size is 100 times the layers, 8 key-value heads of 128."""
    layers = max(1, round((parameters / 1.2e5) ** (1 / 3)))
    hidden = max(128, 128 * round(layers * 100 / 128))
    kv = min(1024, hidden)
    return Shape(int(parameters), layers, hidden, round(3.5 * hidden), hidden, kv, 128_000, source)


def of_tiny(settings: Mapping[str, Any]) -> Shape:
    from transformers import LlamaConfig

    from bench.policies import tiny

    value = {**defaults(tiny), **settings}
    config = LlamaConfig(
        vocab_size=value["vocabulary"],
        hidden_size=value["hidden_size"],
        intermediate_size=value["feedforward_size"],
        num_hidden_layers=value["layers"],
        num_attention_heads=value["heads"],
        num_key_value_heads=value["heads"],
        tie_word_embeddings=True,
    )
    return of_config(config, "policy=tiny")


def of_policy(policy: Mapping[str, Any], parameters: float | None = None) -> Shape:
    """The shape of a configured policy, for an adapter that of its base. parameters: see `of_model`."""
    if "start" in policy:
        return of_policy(policy["start"], parameters)
    if "id" in policy:
        return of_model(policy["id"], revision=policy["revision"], parameters=parameters)
    if "path" not in policy:
        return of_tiny(policy)
    adapter = Path(policy["path"]) / "adapter_config.json"
    base = json.loads(adapter.read_text())["base_model_name_or_path"] if adapter.is_file() else policy["path"]
    return of_model(str(base), parameters=parameters)
