"""How alike a prompt's completions are, for mbr: each function gives the prompts' [N, N] matrices in turn.

They are made as they are asked for, a shard of prompts in memory at a time. All are symmetric, at most 1, and 1 for
two equal texts; they are a setting of mbr, e.g. `similarity: {_target_: bench.selection.similarity.same_path, ...}`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy
from bench.config.rules import FOLDER, Count, or_null
from bench.devices import device
from bench.models import loading
from bench.progress import bar
from bench.store import stage
from bench.tasks import Task


def same_path(completions: Completions, task: Task, policy: Policy) -> Iterator[np.ndarray]:
    """1 where two completions reason alike (the task's path), else 0; one without a path is like none but itself.

    With equal rewards mbr then takes a completion of the commonest path. `policy` is unused.
    """
    for _, part in completions.shards():
        for texts in part.text:
            paths = [task.path(text) for text in texts]
            named = np.array([f"path {path}" if path else f"sample {n}" for n, path in enumerate(paths)], object)
            yield (named[:, None] == named[None, :]).astype(float)


def token_overlap(completions: Completions, task: Task, policy: Policy) -> Iterator[np.ndarray]:
    """2 x common tokens / all tokens of the two, repeated ones counted as often as both have them (F1 of unigrams, as
    ROUGE-1; Lin 2004), on the policy's own tokens. `task` and `policy` are unused."""
    for _, part in completions.shards():
        for drawn in part.token_ids:
            counts = [Counter(ids.tolist()) for ids in drawn]
            place = {token: i for i, token in enumerate(sorted(set().union(*counts)))}
            table = np.zeros((len(drawn), len(place)))  # [N, distinct tokens]
            for sample, count in enumerate(counts):
                table[sample, [place[token] for token in count]] = list(count.values())
            lengths = table.sum(axis=1)
            common = np.stack([np.minimum(row, table).sum(axis=1) for row in table])
            total = lengths[:, None] + lengths[None, :]
            yield np.where(total > 0, 2 * common / np.maximum(total, 1), 1.0)


def embedding_cosine(
    completions: Completions,
    task: Task,
    policy: Policy,
    *,
    model: Annotated[str | None, or_null(FOLDER)] = None,
    batch_tokens: Count = 16_384,
) -> Iterator[np.ndarray]:
    """The cosine of two texts' embeddings: the mean of a model's last hidden states over the text's tokens.

    model: the folder of any Hugging Face model with hidden states (e.g. a sentence embedder); None: the policy itself.
    batch_tokens: texts x tokens read at once. A text without tokens is like none but its equals. `task` is unused.
    Matrices are kept in the store, a shard of prompts each.
    """
    embedder = policy if model is None else loading.folder(model)
    for _, part in completions.shards():
        yield from text_similarity(embedder, part, batch_tokens=batch_tokens)


def _load(folder: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(folder / "similarity.safetensors")["similarity"]


@stage(version=1, load=_load, speed_only=("batch_tokens",))
def text_similarity(policy: Policy, completions: Completions, *, batch_tokens: int, out: Path) -> dict[str, float]:
    """[rows, N, N] float32 of some prompts; each distinct text is read once, alone, without its prompt."""
    from safetensors.numpy import save_file

    texts, inverse = np.unique(np.asarray(completions.text, object).astype(str), return_inverse=True)
    vectors, counts = _embed(policy, texts.tolist(), batch_tokens)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    which = inverse.reshape(completions.shape)  # [rows, N]
    cosine = np.einsum("mih,mjh->mij", unit[which], unit[which]).clip(-1, 1)
    cosine[which[:, :, None] == which[:, None, :]] = 1.0
    save_file({"similarity": cosine.astype(np.float32)}, out / "similarity.safetensors")
    return counts


def _embed(policy: Policy, texts: list[str], batch_tokens: int) -> tuple[np.ndarray, dict[str, float]]:
    """[texts, H] mean last hidden states (0 for a text without tokens), and what it took."""
    import torch
    from transformers import AutoModel

    tokenizer = loading.load_tokenizer(policy)
    model: Any = AutoModel.from_pretrained(policy.path, dtype=torch.float32, trust_remote_code=policy.trust_remote_code)
    model = model.to(device()).eval()
    limit = getattr(model.config, "max_position_embeddings", None)
    ids = [tokenizer.encode(text) for text in texts]
    cut = [tokens[:limit] for tokens in ids]
    vectors = np.zeros((len(texts), model.config.hidden_size))
    order = sorted((n for n in range(len(cut)) if cut[n]), key=lambda n: (-len(cut[n]), n))
    with bar("embed", total=len(order), unit="texts") as progress, torch.inference_mode():
        while order:
            width = len(cut[order[0]])
            size = max(1, batch_tokens // width)
            batch, order = order[:size], order[size:]
            tokens = torch.zeros(len(batch), width, dtype=torch.long)
            attended = torch.zeros(len(batch), width, dtype=torch.long)
            for i, n in enumerate(batch):
                tokens[i, : len(cut[n])], attended[i, : len(cut[n])] = torch.tensor(cut[n]), 1
            attended = attended.to(model.device)
            states = model(input_ids=tokens.to(model.device), attention_mask=attended).last_hidden_state.double()
            vectors[batch] = ((states * attended[..., None]).sum(1) / attended.sum(1, keepdim=True)).cpu().numpy()
            progress.advance(len(batch))
    read = sum(map(len, cut))
    truncated = sum(len(tokens) > len(kept) for tokens, kept in zip(ids, cut, strict=True))
    flops = 2 * loading.count_parameters(policy) * read
    return vectors, {"texts": len(texts), "read_tokens": read, "truncated_texts": truncated, "flops": flops}
