"""LoRA adapters as policies: a folder with adapter_config.json that names a local folder as its base model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.artifacts import Policy
from bench.errors import BenchError

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM has room for


# What PEFT can train beside the two low-rank factors, and vLLM refuses to serve or ignores.
PLAIN: dict[str, Any] = {
    "modules_to_save": None,  # layers trained whole
    "trainable_token_indices": None,  # rows of the embeddings, likewise
    "bias": "none",
    "lora_bias": False,
    "use_dora": False,
    "use_qalora": False,
    "use_bdlora": None,
    "alora_invocation_tokens": None,
    "layer_replication": None,
}


@dataclass(frozen=True)
class Adapter:
    path: Path
    fingerprint: str
    rank: int  # the largest in it

    @property
    def room(self) -> int:
        """The rank that vLLM has to make room for."""
        return min(rank for rank in LORA_RANKS if rank >= self.rank)


def adapter_of(policy: Policy) -> Adapter | None:
    """The LoRA adapter that the policy's folder holds, None where it holds a whole model."""
    if not (policy.path / "adapter_config.json").is_file():
        return None
    config = _adapter_config(policy)
    kind, rank = config.get("peft_type"), max(config.get("r", 0), *(config.get("rank_pattern") or {}).values(), 0)
    if kind != "LORA" or rank > LORA_RANKS[-1]:
        is_what = f"is {kind} of rank {rank}"
    elif also := [name for name, plain in PLAIN.items() if config.get(name, plain) not in (plain, None, [], {})]:
        is_what = f"has {also[0]}={config[also[0]]}"
    else:
        return Adapter(policy.path, policy.fingerprint, rank)
    raise BenchError(
        f"The adapter in {policy.path} {is_what}; generation=vllm serves plain LORA of rank at most {LORA_RANKS[-1]}. "
        "Merge it into its base model, or use generation=transformers."
    )


def _adapter_config(policy: Policy) -> dict[str, Any]:
    return json.loads((policy.path / "adapter_config.json").read_text())
