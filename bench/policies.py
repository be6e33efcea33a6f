"""Policies by folder, by hub id or pretrained here; a Policy is an address, these functions load what lies there."""

import contextlib
import functools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bench import chat
from bench.allowed import ABOVE_ZERO, FOLDER, TRUE_OR_FALSE, Count, Seed, or_null, text, whole
from bench.artifacts import Policy, content_hash
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.training.pretraining import Corpus

ADAPTER, BASE_PLACE = "adapter_config.json", "base_model_name_or_path"  # PEFT's names
FILES = (".json", ".safetensors", ".jinja", ".model", ".txt")  # whose content makes a policy what it is
HUB_ID = text(r"\w[\w.-]*(/\w[\w.-]*)?", "the id of a model of the hub, e.g. Qwen/Qwen2.5-1.5B")
SYSTEM = or_null(text(r"(?s).*\S.*", "a text"))
THINKING = or_null(TRUE_OR_FALSE)


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
    member: Annotated[int, whole(0)] = 0,
) -> Policy:
    """The embedded default: a small Llama pretrained from scratch on the task's noisy demonstrations.

    member: of a family that shares a tokenizer and no other random number, see bench.training.pretraining.
    """
    from bench.training.pretraining import pretrain

    if not hasattr(task, "demonstrations"):
        raise BenchError(
            f"policy=tiny is pretrained on its task's own corpus, and task={getattr(task, 'name', task)} has none: "
            "give a policy that can answer its prompts, e.g. policy=folder policy.path=PATH."
        )
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
        member=member,
    )


def from_folder(
    task: Any,
    *,
    path: Annotated[str, FOLDER],
    system: Annotated[str | None, SYSTEM] = None,
    thinking: Annotated[bool | None, THINKING] = None,
    trust_remote_code: Annotated[bool, TRUE_OR_FALSE] = False,
) -> Policy:
    """A policy that lies in a local folder, whatever the task. The other settings are those of `from_hub`."""
    return _asked(folder(path, code=trust_remote_code), system, thinking, trust_remote_code)


def from_hub(
    task: Any,
    *,
    id: Annotated[str, HUB_ID],
    revision: Annotated[str, text(r"\S+", "a branch, a tag or a commit")] = "main",
    system: Annotated[str | None, SYSTEM] = None,
    thinking: Annotated[bool | None, THINKING] = None,
    trust_remote_code: Annotated[bool, TRUE_OR_FALSE] = False,
) -> Policy:
    """A policy of the Hugging Face hub, whatever the task; its fingerprint is that of id and commit.

    system: the system prompt of conversations that bring none. thinking: whether a model that can reason before it
    answers does so; None leaves both to its chat template. What is fine-tuned from it carries them in its own template.
    trust_remote_code: run the model's own Python files. BenchError says which of model, access or network is missing.
    """
    from bench import hub

    path = hub.snapshot(id, revision, code=trust_remote_code)
    return _asked(folder(path), system, thinking, trust_remote_code)


def _asked(policy: Policy, system: str | None, thinking: bool | None, trust_remote_code: bool) -> Policy:
    """The policy with these settings, of which its chat template must know."""
    policy = replace(policy, system=system, thinking=thinking, trust_remote_code=trust_remote_code)
    if system is not None or thinking is not None:
        load_tokenizer(policy)  # which says what the template can't do
    return policy


def folder(path: str | Path, *, code: bool = False) -> Policy:
    """The policy in a local folder in Hugging Face format; its fingerprint is that of every file's content.

    The folder may hold a LoRA adapter that names another local folder as its base model, whose content then counts too.
    code: so does that of Python files, as they will be run. A snapshot in the hub's cache is known by id and commit.
    """
    import hashlib

    from bench import hub

    path = Path(path).absolute()
    base = adapter_base(path)
    if base is None and not (path / "config.json").is_file():
        raise BenchError(f"policy.path={path} holds no config.json; give a folder that save_pretrained wrote.")
    if not list(path.glob("*.safetensors")):
        raise BenchError(
            f"policy.path={path} holds no weights (*.safetensors); save the model there with save_pretrained."
        )
    if (named := hub.named_by(path)) is not None:
        return Policy(path, content_hash("hub", *named))
    digest = hashlib.blake2b(digest_size=10)
    for file in sorted(path.iterdir()):
        if file.suffix in (*FILES, *[".py"] * code) and file.name != "manifest.json":
            digest.update(file.name.encode())
            digest.update(_adapter_digest(file) if file.name == ADAPTER else _file_digest(file))
    if base is not None:
        digest.update(folder(base, code=code).fingerprint.encode())
    return Policy(path, digest.hexdigest())


def base_of(policy: Policy) -> Policy:
    """The whole model that an adapter belongs to; of any other policy, itself."""
    base = adapter_base(policy.path)
    code = policy.trust_remote_code
    return policy if base is None else replace(folder(base, code=code), trust_remote_code=code)


def _file_digest(file: Path) -> bytes:
    """Of a file's content, read once a process for as long as size and time of change stay."""
    found = file.stat()
    return _digest_of(str(file.resolve()), found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest_of(path: str, size: int, changed: int) -> bytes:
    import hashlib

    with open(path, "rb") as content:
        return hashlib.file_digest(content, "blake2b").digest()


def _adapter_digest(file: Path) -> bytes:
    """Of an adapter's configuration, whatever place its base model has: that counts by its own content."""
    import hashlib

    config = {name: value for name, value in json.loads(file.read_text()).items() if name != BASE_PLACE}
    return hashlib.blake2b(json.dumps(config, sort_keys=True).encode()).digest()


def adapter_base(path: Path) -> Path | None:
    """The folder of the model that the adapter at `path` belongs to; None where `path` holds no adapter."""
    if not (path / ADAPTER).is_file():
        return None
    base = Path(str(json.loads((path / ADAPTER).read_text()).get(BASE_PLACE)))
    if not (base / "config.json").is_file():
        raise BenchError(
            f"The adapter in {path} names {base} as its base model, which is no local folder with a config.json."
        )
    return base.absolute()


def context(config: Any) -> int | None:
    """Positions of prompt and completion together up to which a model can be asked; None where it names no limit.

    Models that stretch their positions for long texts (rope types "longrope" and "dynamic") do so by a batch's longest
    text, so that an answer would depend on its company: they count up to where the stretching begins.
    """
    of_text = config.get_text_config()
    limit = getattr(of_text, "max_position_embeddings", None)
    rope = getattr(of_text, "rope_parameters", None) or getattr(of_text, "rope_scaling", None) or {}
    kinds = rope.values() if any(isinstance(kind, dict) for kind in rope.values()) else [rope]
    for kind in kinds:
        if isinstance(kind, dict) and kind.get("rope_type", kind.get("type")) in ("longrope", "dynamic"):
            before = kind.get("original_max_position_embeddings") or getattr(
                of_text, "original_max_position_embeddings", limit
            )
            limit = min(number for number in (limit, before) if number is not None) if before or limit else None
    return limit


def load_tokenizer(policy: Policy) -> Any:
    """The policy's tokenizer, whose chat template knows the policy's system prompt and thinking mode."""
    from transformers import AutoTokenizer

    with _trusted_or_said(policy):
        tokenizer = AutoTokenizer.from_pretrained(policy.path, trust_remote_code=policy.trust_remote_code)
    chat.set_defaults(tokenizer, system=policy.system, thinking=policy.thinking)
    return tokenizer


def load_config(policy: Policy) -> Any:
    """The configuration of a whole model."""
    from transformers import AutoConfig

    with _trusted_or_said(policy):
        return AutoConfig.from_pretrained(policy.path, trust_remote_code=policy.trust_remote_code)


def load_model(policy: Policy, *, dtype: str = "float32", device: str = "cpu", four_bit: bool = False) -> Any:
    """The model in evaluation mode. dtype: a torch name, e.g. "float32" or "bfloat16".

    four_bit: its linear layers but the head in 4-bit NF4, through bitsandbytes; they compute in `dtype`.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bar over weight tensors says nothing about our stages
    how: dict[str, Any] = {"dtype": getattr(torch, dtype), "use_safetensors": True}
    if four_bit:
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=how["dtype"]
        )
        how["device_map"] = {"": device}
    with _trusted_or_said(policy):
        model: Any = AutoModelForCausalLM.from_pretrained(
            policy.path, trust_remote_code=policy.trust_remote_code, **how
        )
    if not four_bit:
        return model.to(device).eval()
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):  # else evaluation rounds its weights anew, for good
            layer.support_avx512bf16_for_cpu = False
    return model.eval()


@contextlib.contextmanager
def _trusted_or_said(policy: Policy) -> Iterator[None]:
    with refusing_code(policy.path, "policy.trust_remote_code=true"):
        yield


@contextlib.contextmanager
def refusing_code(place: str | Path, setting: str) -> Iterator[None]:
    """Around the loading of a model: BenchError that names the setting where it has code that is not trusted."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise BenchError(
            f"The model in {place} brings Python code of its own, which is not run unless you trust it: {setting}."
        ) from error


def count_parameters(policy: Policy) -> int:
    """The numbers stored in the policy's weights, read from the files' headers; an adapter's are beside its base's."""
    from safetensors import safe_open

    total = 0
    for path in sorted(policy.path.glob("*.safetensors")):
        with safe_open(path, framework="np") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    base = base_of(policy)
    return total if base == policy else total + count_parameters(base)
