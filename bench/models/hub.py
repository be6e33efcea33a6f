"""Folders of models: snapshots of one commit of the Hugging Face hub, and whether a folder holds a whole model.

Weights are in safetensors alone. A folder is checked by its files' headers, before any work and without running code.
"""

import contextlib
import functools
import importlib.util
import json
import logging
import re
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from bench.errors import BenchError, first_line, quoted
from bench.progress import say

PATIENCE = 2.0  # seconds for a connection to the hub
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # weights in other formats can run code when read
COMMIT = re.compile(r"[0-9a-f]{40}")
DESCRIBED = ("config.json", "generation_config.json", "tokenizer_config.json", "adapter_config.json")
INDEX = "model.safetensors.index.json"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")  # [vocabulary, width]
FLOATS = ("F64", "F32", "F16", "BF16")
LARGEST_HEADER = 100_000_000  # bytes, the format's own limit


class Asking(NamedTuple):
    """Names for the messages here: the settings of a model's id and revision, and what to do without the hub."""

    id: str
    revision: str
    instead: str


POLICY = Asking("policy.id", "policy.revision", "use policy=folder")


def snapshot(id: str, revision: str, *, code: bool = False, asking: Asking = POLICY) -> Path:
    """The folder of the model `id` at `revision` (a branch, a tag or a commit), downloaded if it is missing.

    Without a network, or under HF_HUB_OFFLINE=1, a branch or tag is the commit that the local cache last knew for it.
    code: include the model's own Python files. BenchError where there is no such model or revision, no access, no
    network, or no complete set of weights.
    """
    from huggingface_hub import errors, snapshot_download

    where = f"{asking.id}={id}"
    of_revision = "" if revision == "main" else f" --revision {revision}"
    away = None
    try:
        with at_once() as away:
            found = snapshot_download(
                id,
                revision=revision,
                allow_patterns=[*FILES, "*.py"] if code else [*FILES],
                ignore_patterns=["*/*", "consolidated*"],  # other formats' folders, second copies of weights
            )
    except errors.GatedRepoError as error:
        raise BenchError(
            f"{where} is gated: accept its terms at https://huggingface.co/{id}, and give a token (hf auth login, or "
            "HF_TOKEN)."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BenchError(f"{asking.revision}={revision} is no branch, tag or commit of {id}.") from error
    except errors.RepositoryNotFoundError as error:
        raise BenchError(
            f"{where} is no model of the hub, or a private one: check the spelling, or give a token (hf auth login)."
        ) from error
    except errors.HFValidationError as error:
        raise BenchError(f"{where} is no name of a model: {error}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HTTPError, OSError) as error:
        raise BenchError(
            f"{where} at revision {revision} is not in the local cache and the hub can't be reached; download it where "
            f"there is a network (hf download {id}{of_revision}) or {asking.instead}. ({away or first_line(error)})"
        ) from error
    folder = Path(found)
    _check_weights(folder, where, asking)
    if not COMMIT.fullmatch(revision):
        say(f"{where}: revision {revision} is commit {folder.name}; {asking.revision}={folder.name} keeps it")
    return folder


@contextlib.contextmanager
def at_once() -> Iterator[str | None]:
    """Let the hub's client inside say nothing of retries, and use its cache alone where the hub can't be reached.

    Yields why it can't be reached, or None.
    """
    from huggingface_hub import constants

    offline, log = constants.HF_HUB_OFFLINE, logging.getLogger("huggingface_hub")
    away, level = None if offline else _unreachable(constants.ENDPOINT), log.level
    constants.HF_HUB_OFFLINE = offline or away is not None  # the client looks at it before each request
    log.setLevel(logging.ERROR)
    try:
        yield away
    finally:
        constants.HF_HUB_OFFLINE = offline
        log.setLevel(level)


def _unreachable(endpoint: str) -> str | None:
    """Why no connection to the server, or to the proxy before it, comes about within PATIENCE; None where one does."""
    address = urlsplit(endpoint)
    proxy = None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)
    if proxy is not None:
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
    outcome = [f"{host} did not answer within {PATIENCE:.0f} seconds"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PATIENCE).close()
            outcome[0] = ""
        except OSError as error:
            outcome[0] = f"{host}: {error.strerror or error}"

    attempt = threading.Thread(target=connect, daemon=True)  # the look-up of a name has no time limit of its own
    attempt.start()
    attempt.join(PATIENCE)
    return outcome[0] or None


def named_by(folder: Path) -> tuple[str, str] | None:
    """Return id and commit of the model whose snapshot in the hub's cache the folder is, or None for another folder."""
    cache, snapshots, commit = folder.parts[-3:] if len(folder.parts) > 3 else ("", "", "")
    if not cache.startswith("models--") or snapshots != "snapshots" or not COMMIT.fullmatch(commit):
        return None
    return cache.removeprefix("models--").replace("--", "/"), commit


def _check_weights(folder: Path, where: str, asking: Asking) -> None:
    if not (folder / "config.json").is_file():
        raise BenchError(f"{where} holds no config.json in {folder}: it is no model that transformers can load.")
    index = folder / INDEX
    expected = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    missing = sorted(name for name in expected if not (folder / name).is_file())
    if not missing:
        return
    if not list(folder.glob("*.safetensors")):
        raise BenchError(
            f"{where} has no weights in safetensors, and other formats are not read as they can run code; choose a "
            f"revision that has them, or convert it (save_pretrained) and {asking.instead}."
        )
    raise BenchError(f"{where} is not complete in {folder}: {missing[0]} is missing; run once with a network.")


def check_folder(folder: Path, files: list[Path], *, setting: str, code: bool) -> None:
    """Raise BenchError where a file is damaged, missing or would fetch code of others. files: those that are read."""
    where = f"{setting}={folder}"
    status = {file: _status(file, where) for file in files}
    if no_file := next((file for file in files if not stat.S_ISREG(status[file].st_mode)), None):
        raise BenchError(f"{where}: {no_file.name} is no file; give a folder that save_pretrained wrote.")
    described = {file.name: _object(file, where) for file in files if file.name in (*DESCRIBED, INDEX)}
    config = described.get("config.json", {})
    if not code and (kernels := sorted(set(_kernels(config)))):
        raise BenchError(
            f"{where}: config.json asks for the attention code {quoted(kernels[0])}, which would be fetched from the "
            "hub and run; remove the entry, or trust it: trust_remote_code=true."
        )
    tensors = {
        file: _header(file, of_file.st_size, of_file.st_mtime_ns, where)
        for file, of_file in status.items()
        if file.suffix == ".safetensors"
    }
    placed = described.get(INDEX, {}).get("weight_map", {})
    if not isinstance(placed, dict) or not all(isinstance(shard, str) for shard in placed.values()):
        raise BenchError(f"{where}: {INDEX} holds no weight_map of tensors to files.")
    for name, shard in placed.items():
        if name not in tensors.get(folder / shard, {}):
            raise BenchError(
                f"{where} is not complete: {INDEX} names {quoted(name)} in {quoted(shard)}, which lacks it."
            )
    if "quantization_config" not in config:
        _check_numbers(tensors, config, where)


def _check_numbers(tensors: dict[Path, dict[str, dict[str, Any]]], config: dict[str, Any], where: str) -> None:
    """Raise BenchError where weights are no floating-point numbers, or the embeddings are of another vocabulary."""
    named = [(name, tensor) for of_file in tensors.values() for name, tensor in of_file.items()]
    for name, tensor in named:
        if name.endswith(".weight") and tensor["dtype"] not in FLOATS:
            raise BenchError(
                f"{where} holds {quoted(name)} as {quoted(tensor['dtype'])}; a model without a quantization_config has "
                f"{', '.join(FLOATS)}."
            )
    text = config.get("text_config", config)
    vocabulary = text.get("vocab_size") if isinstance(text, dict) else None
    embeddings = [(name, tensor["shape"]) for name, tensor in named if name.endswith(EMBEDDINGS)]
    if vocabulary is not None and embeddings and all(shape[:1] != [vocabulary] for _, shape in embeddings):
        name, shape = embeddings[0]
        raise BenchError(
            f"{where}: config.json says vocab_size={quoted(vocabulary)}, but {quoted(name)} has the shape {shape}."
        )


def _status(file: Path, where: str) -> Any:
    try:
        return file.stat()
    except OSError as error:
        raise BenchError(f"{where}: {file.name} can't be read ({error.strerror}).") from error


def _object(file: Path, where: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{where}: {file.name} is no JSON: it is damaged, or was cut.") from error
    if not isinstance(found, dict):
        raise BenchError(f"{where}: {file.name} must hold a JSON object, but is a {type(found).__name__}.")
    return found


def _kernels(config: Any) -> Iterator[str]:
    """The names of implementations that transformers takes from the hub."""
    if isinstance(config, list):
        for part in config:
            yield from _kernels(part)
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        inside = value.values() if isinstance(value, dict) else [value]
        for name in inside if str(key).endswith("_implementation") else ():
            if isinstance(name, str) and ("/" in name or ("flash" in name and _falls_back_to_hub())):
                yield name
        yield from _kernels(value)


def _falls_back_to_hub() -> bool:
    """Whether transformers, which lacks the package flash-attn here, would fetch its kernel instead."""
    return importlib.util.find_spec("kernels") is not None and importlib.util.find_spec("flash_attn") is None


@functools.lru_cache(maxsize=256)
def _header(file: Path, size: int, changed: int, where: str) -> dict[str, dict[str, Any]]:
    """Name of a tensor -> its dtype and shape. Raise BenchError where the file is no whole safetensors file."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length)) if length <= min(size, LARGEST_HEADER) else {}
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        end = max(tensor["data_offsets"][1] for tensor in tensors.values())
        whole = end == size - 8 - length
        if not all(
            isinstance(tensor["shape"], list) and isinstance(tensor["dtype"], str) for tensor in tensors.values()
        ):
            raise ValueError("a tensor without shape or dtype")
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise BenchError(f"{where}: {file.name} is no safetensors file: it is damaged, or was cut.") from error
    if not whole:
        raise BenchError(f"{where}: {file.name} has {size:,} bytes, but its header tells of another size: it was cut.")
    return tensors
