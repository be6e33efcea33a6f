"""Policies by folder or pretrained here; a Policy is an address, these functions load what lies there."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bench.allowed import ABOVE_ZERO, FOLDER, Count, Seed
from bench.artifacts import Policy
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.training.pretraining import Corpus


def tiny(
    task: "Corpus",
    *,
    seed: Seed,
    demonstrations: Count = 32_000,
    steps: Count = 1100,
    batch_size: Count = 32,
    learning_rate: Annotated[float, ABOVE_ZERO] = 2.5e-3,
    hidden_size: Count = 96,
    layers: Count = 2,
    heads: Count = 3,
    feedforward_size: Count = 256,
    vocabulary: Count = 400,
) -> Policy:
    """The embedded default: a small Llama pretrained from scratch on the task's noisy demonstrations."""
    from bench.training.pretraining import pretrain

    return pretrain(
        task,
        seed=seed,
        demonstrations=demonstrations,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        feedforward_size=feedforward_size,
        vocabulary=vocabulary,
    )


def from_folder(task: Any, *, path: Annotated[str, FOLDER]) -> Policy:
    """A policy that lies in a local folder, whatever the task."""
    return folder(path)


def folder(path: str | Path) -> Policy:
    """The policy in a local folder in Hugging Face format; its fingerprint is that of every file's content."""
    import hashlib

    path = Path(path).absolute()
    if not (path / "config.json").is_file():
        raise BenchError(f"policy.path={path} holds no config.json; give a folder that save_pretrained wrote.")
    if not list(path.glob("*.safetensors")):
        raise BenchError(
            f"policy.path={path} holds no weights (*.safetensors); save the model there with save_pretrained."
        )
    digest = hashlib.blake2b(digest_size=10)
    for file in sorted(path.iterdir()):
        if file.suffix in {".json", ".safetensors", ".jinja", ".model", ".txt"} and file.name != "manifest.json":
            digest.update(file.name.encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
    return Policy(path, digest.hexdigest())


def load_tokenizer(policy: Policy) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(policy.path)


def load_model(policy: Policy, *, dtype: str = "float32", device: str = "cpu") -> Any:
    """The model in evaluation mode. dtype: a torch name, e.g. "float32" or "bfloat16"."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bar over weight tensors says nothing about our stages
    model: Any = AutoModelForCausalLM.from_pretrained(policy.path, dtype=getattr(torch, dtype))
    return model.to(device).eval()


def count_parameters(policy: Policy) -> int:
    """The numbers stored in the policy's weights, read from the files' headers."""
    from safetensors import safe_open

    total = 0
    for path in sorted(policy.path.glob("*.safetensors")):
        with safe_open(path, framework="np") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total
