"""Reward models: any sequence-classification model with one output, by hub id or local folder.

    python -m bench scoring=reward_model scoring.model=PATH_OR_HUB_ID

Texts are sorted by length and batched by a token budget, so that little is computed on padding. A text's score does
not depend on its batch: padding lies to the right, masked, and is never taken for the text's last token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from bench.artifacts import Completions, Message, Prompts, Rewards, content_hash
from bench.config.rules import DTYPE, TRUE_OR_FALSE, or_null, text, whole
from bench.devices import device, resolve_dtype
from bench.errors import BenchError
from bench.models import chat, hub
from bench.models.loading import folder, refusing_code
from bench.progress import bar, say
from bench.scoring.prefix_sharing import applicable, forward_shared, shared_lengths
from bench.scoring.units import scored
from bench.store import current

if TYPE_CHECKING:
    import torch

VERSION = 2  # raise it when equal settings give other scores or counts
STAGE = "score_reward_model"
HEADS = ("score", "classifier", "classification_head")  # what the library's models call their last layers
BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}  # a CPU is slower on what its caches can't hold
PADDING = {"cpu": 128, "cuda": 4_096}  # tokens that cost as much as one more call of the model, about
SCORER = hub.Asking("scoring.model", "scoring.revision", "give the path of a folder that is there")
TRUST = "scoring.trust_remote_code=true"
ENDLESS = 10**9  # tokenizers without a limit state a number beyond this


@dataclass(frozen=True)
class RewardModel:
    """The address of a sequence-classification model, not its weights."""

    name: str  # of a local folder, or on the hub
    revision: str | None  # a commit of the hub
    key: str  # of the files' contents, or of hub id and commit
    trust_remote_code: bool = False  # run the Python files that lie beside the weights

    @property
    def found(self) -> dict[str, Any]:
        """How transformers' from_pretrained is told where it is and whether its code is run."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


def reward_model(
    prompts: Prompts,
    completions: Completions,
    *,
    model: Annotated[str, text(r"[^\0\n]+", "a hub id or the path of a folder")],
    revision: Annotated[str, text(r"[^\0\s]+", "a branch, tag or commit of the hub")] = "main",
    max_length: Annotated[int | None, or_null(whole(2))] = None,
    dtype: Annotated[str, DTYPE] = "auto",
    batch_tokens: Annotated[int | None, or_null(whole(1))] = None,
    trust_remote_code: Annotated[bool, TRUE_OR_FALSE] = False,
) -> Rewards:
    """[M, N]: the model's single output for each prompt with the completion as the assistant's turn.

    max_length: tokens; a longer input loses what follows its first token, so that the completion's end is read; such
    inputs are counted and reported. None: what the model can read. dtype: of the weights, "auto" being bfloat16 on a
    GPU and float32 on a CPU; the last layers are float32 always. batch_tokens: rows x longest of one batch;
    None: 2,048 on a CPU, 16,384 on a GPU. trust_remote_code: run the model's own Python files.
    Scores that are not finite are NaN. Raises BenchError where the model has another number of outputs than one, or
    no trained output layer.
    """
    address = find(model, revision, trust_remote_code=trust_remote_code)
    return score(prompts, completions, address, max_length=max_length, dtype=dtype, batch_tokens=batch_tokens)


def find(
    model: str, revision: str = "main", *, trust_remote_code: bool = False, asking: hub.Asking = SCORER
) -> RewardModel:
    """The address of a model in a local folder, or on the hub at a revision; its key says whether its code is run.

    A model of the hub is downloaded where the cache lacks it. asking: the settings that name it, for the errors.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
            raise BenchError(f"{asking.id}={model} lacks config.json or *.safetensors; save_pretrained writes both.")
        content = replace(folder(path, code=trust_remote_code), trust_remote_code=trust_remote_code)
        return RewardModel(str(path.absolute()), None, content.key, trust_remote_code)
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise BenchError(f"{asking.id}={model} is not a folder; give one, or a hub id such as OWNER/NAME.")
    commit = _commit(model, revision, trust_remote_code, asking)
    key = f"{model}@{commit}"
    return RewardModel(model, commit, content_hash(key, "code") if trust_remote_code else key, trust_remote_code)


@lru_cache(maxsize=64)  # every unit of a pool asks, and the hub is asked once
def _commit(model: str, revision: str, code: bool, asking: hub.Asking) -> str:
    return hub.snapshot(model, revision, code=code, asking=asking).name  # of the commit's folder in the hub's cache


def score(
    prompts: Prompts,
    completions: Completions,
    model: RewardModel,
    *,
    max_length: int | None,
    dtype: str,
    batch_tokens: int | None,
) -> Rewards:
    """[M, N]: as `reward_model`, of a model by its address; loaded where a score is missing in the store."""
    dtype = resolve_dtype(dtype)
    opened: list[Scorer] = []

    def score_texts(rows: Sequence[int], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        if not opened:
            opened.append(Scorer(model, max_length=max_length, dtype=dtype, batch_tokens=batch_tokens))
        return opened[0].score([prompts.messages[row] for row in rows], texts)

    earlier = len(current().uses)
    rewards = scored(
        prompts,
        completions,
        score_texts,
        stage=STAGE,
        version=VERSION,
        settings={"max_length": max_length, "dtype": dtype},
        parents={"reward_model": model.key},
    )
    report([use.counts for use in current().uses[earlier:] if use.stage == STAGE], max_length)
    return rewards


class Scorer:
    """A loaded reward model and its tokenizer. dtype: a torch name; the rest as in `reward_model`."""

    def __init__(self, model: RewardModel, *, max_length: int | None, dtype: str, batch_tokens: int | None) -> None:
        from transformers import AutoTokenizer

        self.model = load(model, dtype=dtype)
        with refusing_code(model.name, TRUST, trusted=model.trust_remote_code):
            self.tokenizer = AutoTokenizer.from_pretrained(model.name, **model.found)
        self.batch_tokens = batch_tokens or BATCH_TOKENS[self.model.device.type]
        config = self.model.config.get_text_config()
        self.own_pad_id = config.pad_token_id
        self.shares = not model.trust_remote_code and applicable(self.model)  # code of its own may look at all tokens
        readable = min(getattr(config, "max_position_embeddings", None) or ENDLESS, self.tokenizer.model_max_length)
        if max_length is not None and max_length > readable:
            raise BenchError(
                f"scoring.max_length={max_length} is more than the {readable} tokens that {model.name} can read."
            )
        self.max_length = readable if max_length is None else max_length

    def score(self, prompts: Sequence[Sequence[Message]], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        """[D] scores of D pairs of prompt and completion, NaN where not finite, and what was counted."""
        import torch

        inputs = chat.encode_conversations(self.tokenizer, prompts, texts)
        truncated = 0
        for row in inputs:
            truncated += len(row["input_ids"]) > self.max_length
            for name, ids in row.items():
                if len(ids) > self.max_length:
                    row[name] = [ids[0], *ids[len(ids) - self.max_length + 1 :]]
        lengths = np.array([len(row["input_ids"]) for row in inputs], dtype=int)
        values, read = np.empty(len(inputs)), 0
        with bar("score", total=len(inputs), unit="completions") as progress, torch.inference_mode():
            for batch, logits, tokens in self._forward(inputs, prompts, lengths):
                values[batch] = logits[:, 0].double().cpu().numpy()
                read += tokens
                progress.advance(len(batch))
        finite = np.isfinite(values)
        counts = {
            "scored_tokens": int(lengths.sum()),
            "truncated_inputs": int(truncated),
            "not_finite": int((~finite).sum()),
            "parameters": self.model.num_parameters(),
            "flops": 2.0 * self.model.num_parameters() * read,
        }
        return np.where(finite, values, np.nan), counts

    def batches(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Row numbers of texts of these lengths (tokens), batch by batch."""
        return batches(lengths, self.batch_tokens, PADDING[self.model.device.type])

    def _forward(
        self, inputs: list[dict[str, list[int]]], prompts: Sequence[Sequence[Message]], lengths: np.ndarray
    ) -> "Iterator[tuple[np.ndarray, torch.Tensor, int]]":
        """Texts by their numbers, their logits [B, 1], and the tokens read; where it pays, a prompt is read once."""
        shared = np.zeros(len(inputs), int)
        if self.shares:
            ids = [row["input_ids"] for row in inputs]
            group = np.unique([id(messages) for messages in prompts], return_inverse=True)[1]
            shared = shared_lengths(ids, group, self.own_pad_id)
            some = np.flatnonzero(shared)
            if len(some):
                part = (self.model, [ids[i] for i in some], group[some], shared[some], self.batches, self._pad_id)
                for batch, logits, read in forward_shared(*part):
                    yield some[batch], logits, read
        rest = np.flatnonzero(shared == 0)
        for batch in self.batches(lengths[rest]):
            yield rest[batch], self._alone([inputs[i] for i in rest[batch]]), int(lengths[rest[batch]].sum())

    def _alone(self, rows: list[dict[str, list[int]]]) -> "torch.Tensor":
        """[B, 1]. Padding is to the right, where no token before it attends to it and positions don't shift."""
        import torch

        width = max(len(row["input_ids"]) for row in rows)
        pad_id = self._pad_id([row["input_ids"][-1] for row in rows])
        fill = {"input_ids": pad_id, "token_type_ids": 0, "attention_mask": 0}
        rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
        batch = {
            name: torch.tensor([row[name] + [fill[name]] * (width - len(row[name])) for row in rows])
            for name in rows[0]
        }
        return self.model(**{name: tensor.to(self.model.device) for name, tensor in batch.items()}).logits

    def _pad_id(self, last: list[int]) -> int:
        """The id by which the model finds each text's end: its own, or for a model without, one that ends no text."""
        if self.own_pad_id is not None:
            return self.own_pad_id
        pad_id = next(i for i in range(len(last) + 1) if i not in last)
        self.model.config.get_text_config().pad_token_id = pad_id
        return pad_id


def load(model: RewardModel, *, dtype: str) -> Any:
    """The model in evaluation mode, its last layers in float32, on a GPU where there is one."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    with refusing_code(model.name, TRUST, trusted=model.trust_remote_code):
        outputs = AutoConfig.from_pretrained(model.name, **model.found).num_labels
    if outputs != 1:
        raise BenchError(
            f"{model.name} is no reward model: it has {outputs} outputs; it must be a sequence classifier with one "
            "(num_labels=1)."
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a missing layer is refused below in our words
    try:
        with refusing_code(model.name, TRUST, trusted=model.trust_remote_code):
            loaded, info = AutoModelForSequenceClassification.from_pretrained(
                model.name, dtype=getattr(torch, dtype), output_loading_info=True, **model.found
            )
    finally:
        logging.set_verbosity(verbosity)
    if info["missing_keys"]:
        raise BenchError(
            f"{model.name} is no reward model: its files lack {', '.join(sorted(info['missing_keys']))}, which would "
            "be random numbers."
        )
    for name in HEADS:
        if hasattr(loaded, name):
            in_float32(getattr(loaded, name))
    return loaded.to(device()).eval()


def in_float32(layers: Any) -> None:
    """Let layers compute in float32 whatever comes in: bfloat16 has 8 bits, which would make ties of near scores."""
    layers.float()
    layers.register_forward_pre_hook(lambda module, args: tuple(argument.float() for argument in args))


def batches(lengths: np.ndarray, batch_tokens: int, padding: int) -> Iterator[np.ndarray]:
    """Row numbers, longest first: as many at a time as rows x longest <= batch_tokens allows, one at least, and cut
    where they would hold more than `padding` tokens of padding."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        most = max(1, batch_tokens // longest)
        wasted = np.cumsum(longest - lengths[order[start : start + most]])  # never falls
        end = start + int(np.searchsorted(wasted, padding, side="right"))
        yield order[start:end]
        start = end


def report(counts: Sequence[dict[str, float]], max_length: int | None, *, who: str = "reward model") -> None:
    """Say what a reader of the scores must know; the numbers are in the lineage too."""
    total, truncated, not_finite = (
        int(sum(count.get(name, 0) for count in counts)) for name in ("scored", "truncated_inputs", "not_finite")
    )
    if truncated:
        limit = "the model can read" if max_length is None else f"max_length={max_length}"
        say(f"warning: {truncated:,} of {total:,} inputs of the {who} were longer than {limit} and were cut")
    if not_finite:
        say(f"warning: {not_finite:,} of {total:,} scores of the {who} were not finite and count as unscored")
