"""Models of the Hugging Face hub on this machine: one snapshot of one commit, with weights in safetensors alone."""

import contextlib
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from bench.errors import BenchError, first_line
from bench.progress import say

FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # weights in other formats can run code when read
COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 2.0  # seconds for a connection to the hub


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
                ignore_patterns=[
                    "*/*",
                    "consolidated*",
                ],  # other formats' folders, second copies of weights
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
    index = folder / "model.safetensors.index.json"
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
