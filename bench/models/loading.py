"""Load what lies at a policy's address: its tokenizer, its configuration, its weights."""

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.artifacts import Policy, content_hash
from bench.errors import BenchError, is_out_of_gpu_memory, quoted
from bench.models import chat, hub
from bench.progress import say

ADAPTER, BASE_PLACE = "adapter_config.json", "base_model_name_or_path"  # PEFT's names
FILES = (".json", ".safetensors", ".jinja", ".model", ".txt")  # the content of these files makes the fingerprint


def folder(path: str | Path, *, code: bool = False, setting: str = "policy.path", on: str | None = None) -> Policy:
    """The policy in a local folder in Hugging Face format; its fingerprint is a hash of its files' contents.

    The folder may hold a LoRA adapter that names another local folder as its base model; the base's files count too.
    code: Python files count too, as they will be run. The fingerprint of a snapshot in the hub's cache is a hash of its
    id and commit. setting: what names the folder, for messages. on: the fingerprint of the model that an adapter is put
    on, whatever it names. BenchError where the folder holds no whole model.
    """
    path = Path(path).absolute()
    found = sorted(path.iterdir()) if path.is_dir() else []
    files = [file for file in found if file.suffix in (*FILES, *[".py"] * code) and file.name != "manifest.json"]
    hub.check_folder(path, files, setting=setting, code=code)
    adapter = adapter_config(path)
    if adapter is not None and on is None:
        on = folder(adapter_base(path) or path, code=code).fingerprint
    if adapter is None and not (path / "config.json").is_file():
        raise BenchError(f"{setting}={path} holds no config.json; give a folder that save_pretrained wrote.")
    if not any(file.suffix == ".safetensors" for file in files):
        raise BenchError(
            f"{setting}={path} holds no weights (*.safetensors); save the model there with save_pretrained."
        )
    if (named := hub.named_by(path)) is not None:
        return Policy(path, content_hash("hub", *named))
    digest = hashlib.blake2b(digest_size=10)
    for file in files:
        digest.update(file.name.encode())
        digest.update(_adapter_digest(file) if file.name == ADAPTER else _file_digest(file))
    if adapter is not None:
        digest.update(str(on).encode())
    return Policy(path, digest.hexdigest())


def base_of(policy: Policy) -> Policy:
    """The whole model that an adapter belongs to; any other policy is its own base."""
    base = adapter_base(policy.path)
    code = policy.trust_remote_code
    return policy if base is None else replace(folder(base, code=code), trust_remote_code=code)


def _file_digest(file: Path) -> bytes:
    """A hash of a file's content, read again in this process only where size or time of change differ."""
    status = file.stat()
    return _digest_of(str(file.resolve()), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest_of(path: str, size: int, changed: int) -> bytes:
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "blake2b").digest()


def _adapter_digest(file: Path) -> bytes:
    """A hash of an adapter's configuration without the path of its base model, which counts by its content."""
    config = {name: value for name, value in json.loads(file.read_text()).items() if name != BASE_PLACE}
    return hashlib.blake2b(json.dumps(config, sort_keys=True).encode()).digest()


def adapter_config(path: Path) -> dict[str, Any] | None:
    """The configuration of the LoRA adapter at `path`, or None where `path` holds no adapter.

    BenchError where transformers would not load the adapter as it was trained.
    """
    if not (path / ADAPTER).is_file():
        return None
    config: dict[str, Any] = json.loads((path / ADAPTER).read_text())
    if config.get("use_dora"):  # transformers loads its directions, and magnitudes at random
        raise BenchError(
            f"The adapter in {path} is a DoRA, which transformers does not load whole: merge it into its base model "
            "(merge_and_unload), and give that."
        )
    return config


def adapter_base(path: Path) -> Path | None:
    """The folder of the model that the adapter at `path` names as its base, or None where `path` holds no adapter.

    BenchError where transformers would not load the adapter as it was trained, or the base is no local folder.
    """
    config = adapter_config(path)
    if config is None:
        return None
    base = Path(str(config.get(BASE_PLACE)))
    if not (base / "config.json").is_file() or base.resolve() == path.resolve():
        raise BenchError(
            f"The adapter in {path} names {base} as its base model, which is no other local folder with a config.json."
        )
    return base.absolute()


def bytes_per_token(model: Any) -> float:
    """What a token takes where nothing is trained: the keys and values of all layers, and one layer's activations."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 1)
    shared = (getattr(config, "num_key_value_heads", None) or heads) / heads
    return model.dtype.itemsize * config.hidden_size * (2 * config.num_hidden_layers * shared + 24)  # 24: estimated


def context(config: Any) -> int | None:
    """The most positions of prompt and completion together that a model can read; None where it names no limit.

    Models that stretch their positions for long texts (rope types "longrope" and "dynamic") do so by the longest text
    of a batch, so that an answer would depend on the rest of its batch. Their limit is where the stretching begins.
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


def has_chat_template(path: Path) -> bool:
    """Whether the tokenizer in this folder has a chat template."""
    if (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file():
        return True
    described = path / "tokenizer_config.json"
    return described.is_file() and "chat_template" in json.loads(described.read_text(encoding="utf-8"))


def load_tokenizer(policy: Policy) -> Any:
    """The policy's tokenizer, with the policy's system prompt and thinking mode in its chat template."""
    from transformers import AutoTokenizer

    with _code_refused(policy):
        tokenizer: Any = AutoTokenizer.from_pretrained(policy.path, trust_remote_code=policy.trust_remote_code)
    if "local_files_only" in tokenizer.init_kwargs:  # it tells of HF_HUB_OFFLINE, and is saved with the tokenizer
        tokenizer.init_kwargs["local_files_only"] = False
    chat.set_defaults(tokenizer, system=policy.system, thinking=policy.thinking)
    return tokenizer


def load_config(policy: Policy) -> Any:
    """The configuration of a whole model."""
    from transformers import AutoConfig

    with _code_refused(policy):
        return AutoConfig.from_pretrained(policy.path, trust_remote_code=policy.trust_remote_code)


def load_model(policy: Policy, *, dtype: str = "float32", device: str = "cpu", four_bit: bool = False) -> Any:
    """The model in evaluation mode. dtype: a torch name, e.g. "float32" or "bfloat16".

    four_bit: hold its linear layers, except the head, in 4-bit NF4 through bitsandbytes; they compute in `dtype`.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how: dict[str, Any] = {"dtype": getattr(torch, dtype), "use_safetensors": True, "ignore_mismatched_sizes": True}
    if four_bit:
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=how["dtype"]
        )
        how["device_map"] = {"": device}
    with silent(), _code_refused(policy):  # what doesn't fit is refused below, in our words
        found: Any = AutoModelForCausalLM.from_pretrained(
            policy.path, trust_remote_code=policy.trust_remote_code, output_loading_info=True, **how
        )
    model, info = found
    _refuse_random_weights(policy, info)
    cap_attention(model)
    if not four_bit:
        return model.to(device).eval()
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):  # else evaluation rounds the weights again, for good
            layer.support_avx512bf16_for_cpu = False
    return model.eval()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, transformers says errors alone. Its bars over weight tensors stay off: they tell of no stage of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def cap_attention(model: Any) -> None:
    """Let a model whose attention scores have a soft cap (Gemma 2) compute it: transformers' "sdpa" leaves it out."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")


def _refuse_random_weights(policy: Policy, info: dict[str, Any]) -> None:
    """Raise BenchError where transformers made up weights that the files lack; say which of theirs it left out."""
    for name, *shapes in sorted(info["mismatched_keys"]):
        raise BenchError(
            f"The weights in {policy.path} don't fit its config.json: {name} has the shape "
            f"{' instead of '.join(str(list(shape)) for shape in shapes)}."
        )
    if info["missing_keys"]:
        raise BenchError(
            f"The weights in {policy.path} are not complete: {len(info['missing_keys'])} tensors of the model are "
            f"missing, e.g. {min(info['missing_keys'])}, and would be random numbers."
        )
    if info["unexpected_keys"]:
        say(
            f"warning: {len(info['unexpected_keys'])} tensors in {policy.path} belong to no part of the model that "
            f"its config.json describes, e.g. {min(info['unexpected_keys'])}"
        )


def _code_refused(policy: Policy) -> AbstractContextManager[None]:
    return refusing_code(policy.path, "policy.trust_remote_code=true", trusted=policy.trust_remote_code)


@contextlib.contextmanager
def refusing_code(place: str | Path, setting: str, *, trusted: bool) -> Iterator[None]:
    """Around the loading of a model: BenchError says why it can't be loaded, or which setting would trust its code."""
    try:
        yield
    except Exception as error:  # libraries raise of all kinds over a damaged file
        if trusted or isinstance(error, BenchError | MemoryError) or is_out_of_gpu_memory(error):
            raise
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise BenchError(
                f"The model in {place} brings Python code of its own, which is not run unless you trust it: {setting}."
            ) from error
        raise BenchError(f"The model in {place} can't be loaded: {type(error).__name__}: {quoted(error)}") from error


def weights(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The names and the shapes of the weights in a folder, by the headers of its files."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                shape: Any = file.get_slice(name).get_shape()
                yield name, list(shape)


def count_parameters(policy: Policy) -> int:
    """Count the policy's parameters by the headers of its files; those of an adapter are added to those of its base."""
    total = sum(math.prod(shape) for _, shape in weights(policy.path))
    base = base_of(policy)
    return total if base == policy else total + count_parameters(base)
