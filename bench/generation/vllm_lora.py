"""LoRA adapters as policies: a folder with adapter_config.json that names a local folder as its base model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.artifacts import Policy
from bench.errors import BenchError

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM has room for


@dataclass(frozen=True)
class Adapter:
    path: Path
    fingerprint: str
    rank: int  # the largest in it


def adapter_of(policy: Policy) -> Adapter | None:
    """The LoRA adapter that the policy's folder holds, None where it holds a whole model."""
    if not (policy.path / "adapter_config.json").is_file():
        return None
    config = _adapter_config(policy)
    kind, rank = config.get("peft_type"), max(config.get("r", 0), *config.get("rank_pattern", {}).values(), 0)
    if kind != "LORA" or rank > LORA_RANKS[-1]:
        raise BenchError(
            f"The adapter in {policy.path} is {kind} of rank {rank}; generation=vllm serves LORA of rank at most "
            f"{LORA_RANKS[-1]}. Merge it into its base model, or use generation=transformers."
        )
    return Adapter(policy.path, policy.fingerprint, rank)


def _adapter_config(policy: Policy) -> dict[str, Any]:
    return json.loads((policy.path / "adapter_config.json").read_text())
