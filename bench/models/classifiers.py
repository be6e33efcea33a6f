"""Trained classifiers that grade text: sequence classifiers (reward models) and token classifiers (process rewards)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.artifacts import content_hash
from bench.devices import Halving, device
from bench.errors import BenchError
from bench.models import hub
from bench.models.loading import cap_attention, folder, refusing_code, silent

HEADS = ("score", "classifier", "classification_head")  # names that the library's models give their last layers
PADDING = {"cpu": 128, "cuda": 4_096}  # tokens of padding that cost about as much as one more call of the model
SCORER = hub.Asking("scoring.model", "scoring.revision", "give the path of a folder that is there")
TRUST = "scoring.trust_remote_code=true"
ENDLESS = 10**9  # tokenizers without a limit state a number beyond this


@dataclass(frozen=True)
class Classifier:
    """The address of a classifier in Hugging Face format, not its weights."""

    name: str  # of a local folder, or on the hub
    revision: str | None  # a commit of the hub
    key: str  # of the files' contents, or of hub id and commit
    trust_remote_code: bool = False  # run the Python files that lie beside the weights

    def load(self, auto_class: Any, **settings: Any) -> Any:
        """Load the model by `auto_class.from_pretrained`; BenchError where it has code that is not trusted."""
        with refusing_code(self.name, TRUST, trusted=self.trust_remote_code):
            return auto_class.from_pretrained(
                self.name, revision=self.revision, trust_remote_code=self.trust_remote_code, **settings
            )


def find(
    model: str, revision: str = "main", *, trust_remote_code: bool = False, asking: hub.Asking = SCORER
) -> Classifier:
    """The address of a model in a local folder, or on the hub at a revision; its key says whether its code is run.

    A model of the hub is downloaded where the cache lacks it. asking: the settings that name the model, for the errors.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
            raise BenchError(f"{asking.id}={model} lacks config.json or *.safetensors; save_pretrained writes both.")
        content = replace(folder(path, code=trust_remote_code, setting=asking.id), trust_remote_code=trust_remote_code)
        return Classifier(str(path.absolute()), None, content.key, trust_remote_code)
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise BenchError(f"{asking.id}={model} is not a folder; give one, or a hub id such as OWNER/NAME.")
    commit = _commit(model, revision, trust_remote_code, asking)
    key = f"{model}@{commit}"
    return Classifier(model, commit, content_hash(key, "code") if trust_remote_code else key, trust_remote_code)


@lru_cache(maxsize=64)  # called once per unit of a pool; the hub is asked once
def _commit(model: str, revision: str, code: bool, asking: hub.Asking) -> str:
    return hub.snapshot(model, revision, code=code, asking=asking).name  # of the commit's folder in the hub's cache


def find_configured(settings: Mapping[str, Any]) -> None:
    """Raise BenchError where the model that a scorer's settings name is missing."""
    if settings.get("model") is not None:
        find(**{name: settings[name] for name in ("model", "revision", "trust_remote_code") if name in settings})


class LoadedClassifier:
    """A classifier in memory, in evaluation mode, with its tokenizer, on a GPU where there is one.

    kind: "reward model", a sequence classifier with one output, or "process reward model", a token classifier.
    dtype: a torch name; the last layers are float32 always. Raises BenchError where the files are of another kind or
    lack a trained output layer.
    """

    def __init__(self, address: Classifier, kind: str, *, dtype: str) -> None:
        import torch
        import transformers

        sequences = kind == "reward model"
        if sequences and (outputs := address.load(transformers.AutoConfig).num_labels) != 1:
            raise BenchError(
                f"{address.name} is no reward model: it has {outputs} outputs; it must be a sequence classifier with "
                "one (num_labels=1)."
            )
        auto = getattr(transformers, f"AutoModelFor{'Sequence' if sequences else 'Token'}Classification")
        with silent():  # a missing layer is refused below in our words
            model, info = address.load(auto, dtype=getattr(torch, dtype), output_loading_info=True)
        if info["missing_keys"]:
            raise BenchError(
                f"{address.name} is no {kind}{'' if sequences else ' (a token classifier)'}: its files lack "
                f"{', '.join(sorted(info['missing_keys']))}, which would be random numbers."
            )
        cap_attention(model)
        for name in HEADS:
            if hasattr(model, name):
                _compute_in_float32(getattr(model, name))
        self.model: Any = model.to(device()).eval()
        self.halving = Halving("text", "set scoring.dtype=bfloat16, or use a smaller model")
        self.tokenizer = address.load(transformers.AutoTokenizer)
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or ENDLESS
        self.readable = min(limit, self.tokenizer.model_max_length)  # tokens of one text

    def batches(self, lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
        """Row numbers of texts of these lengths (tokens), batch by batch."""
        return batches(lengths, batch_tokens, PADDING[self.model.device.type])

    def compute_counts(self, tokens: int) -> dict[str, float]:
        """The counts of reading so many tokens."""
        parameters = self.model.num_parameters()
        return {"parameters": parameters, "flops": 2.0 * parameters * tokens}


def _compute_in_float32(layers: Any) -> None:
    """Let layers compute in float32 whatever comes in: bfloat16 has 8 bits, which would make ties of near scores."""
    layers.float()
    layers.register_forward_pre_hook(lambda module, args: tuple(argument.float() for argument in args))


def batches(lengths: np.ndarray, batch_tokens: int, padding: float = math.inf) -> Iterator[np.ndarray]:
    """Row numbers, longest first: as many at a time as rows x longest <= batch_tokens allows, at least one.

    padding: tokens of padding beyond which a batch is cut.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        most = max(1, batch_tokens // longest)
        wasted = np.cumsum(longest - lengths[order[start : start + most]])  # never falls
        end = start + int(np.searchsorted(wasted, padding, side="right"))
        yield order[start:end]
        start = end
