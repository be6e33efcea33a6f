"""Methods by which a prompt's samples vote, and how similar two samples are.

A similarity gives the prompts' [N, N] matrices in turn, a shard of prompts in memory at a time. All are symmetric, at
most 1, and 1 for two equal texts. It is a setting of mbr, e.g. `similarity: {_target_:
bench.selection.similarity.same_path, ...}`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy, Selection
from bench.config.rules import FOLDER, Tokens, here, number, or_null
from bench.devices import device
from bench.errors import BenchError
from bench.models import loading
from bench.models.classifiers import batches
from bench.models.tokens import padded
from bench.progress import bar
from bench.selection.cells import finite, indifferent, same_shape
from bench.selection.ranking import top_per_prompt
from bench.store import stage
from bench.store.files import load_arrays, save_arrays
from bench.tasks import Task

FILE = "similarity.safetensors"


def self_consistency(rewards: np.ndarray, rng: np.random.Generator, *, answers: np.ndarray) -> Selection:
    """A random completion with the answer that most of a prompt's completions give; ties are broken at random.

    rewards: [M, N], read only for which completions are scored. answers: [M, N] objects; None casts no vote. A prompt
    without answers selects nothing. Source: self-consistency (Wang et al. 2022, arXiv 2203.11171), with the vote as a
    pseudo-label as in LMSI (Huang et al. 2022, arXiv 2210.11610).
    """
    same_shape("answers", answers, rewards)
    votes = indifferent(rewards)
    for row, given in enumerate(answers):
        voting = zip(given, votes[row], strict=True)
        counted = Counter(answer for answer, vote in voting if answer is not None and vote == 0)
        most = max(counted.values(), default=0)
        plurality = [answer for answer, count in counted.items() if count == most]
        elected = plurality[rng.integers(len(plurality))] if plurality else None
        votes[row, [answer is None or answer != elected for answer in given]] = np.nan
    return top_per_prompt(votes, rng)


def mbr(
    rewards: np.ndarray,
    rng: np.random.Generator,
    *,
    similarity: Iterable[np.ndarray],
    beta: Annotated[float | None, or_null(number(0))],
) -> Selection:
    """The completion with the largest r + beta x mean similarity to the prompt's other scored ones, per prompt.

    rewards: [M, N]; similarity: the [N, N] matrix of each prompt in turn. A lone completion has similarity 0. beta = 0
    is top_per_prompt. beta = None is minimum Bayes risk decoding, by similarity alone; with a large beta, rewards would
    still break ties. ValueError where similarity has another shape or is not finite between scored completions. Source:
    MBR-regularised Best-of-N (Jinnai et al. 2024, arXiv 2404.01054), where the mean includes a completion's similarity
    to itself, which changes only the scale of beta.
    """
    rewards = finite(rewards)
    samples = rewards.shape[1]
    objective = np.full(rewards.shape, np.nan)
    for row, (values, matrix) in enumerate(zip_longest(rewards, similarity)):
        if values is None or matrix is None or np.shape(matrix) != (samples, samples):
            raise ValueError(
                f"similarity must give {len(rewards)} matrices [{samples}, {samples}], one per prompt; at prompt {row} "
                f"it gives {'none' if matrix is None else list(np.shape(matrix))}."
            )
        scored = ~np.isnan(values)
        among = np.asarray(matrix, float)[np.ix_(scored, scored)]
        if not np.isfinite(among).all():
            raise ValueError(f"similarity is not finite between two scored completions of prompt {row}.")
        # the row's sum minus its diagonal, so that identical completions have identical sums wherever they stand
        others = (among.sum(axis=1) - among.diagonal()) / max(len(among) - 1, 1)
        objective[row, scored] = others if beta is None else values[scored] + beta * others
    return top_per_prompt(objective, rng)


def same_path(completions: Completions, task: Task, policy: Policy) -> Iterator[np.ndarray]:
    """1 where two completions have the same path of reasoning, else 0; without a path, 1 only with itself.

    With equal rewards, mbr then takes a completion of the commonest path. `policy` is unused.
    """
    for _, part in completions.shards():
        for texts in part.text:
            paths = [task.path(text) for text in texts]
            named = np.array([f"path {path}" if path else f"sample {n}" for n, path in enumerate(paths)], object)
            yield (named[:, None] == named[None, :]).astype(float)


def token_overlap(completions: Completions, task: Task, policy: Policy) -> Iterator[np.ndarray]:
    """2 x common tokens / all tokens of the two completions, each token counted as often as both have it.

    The tokens are the policy's own. Source: F1 of unigrams, ROUGE-1 (Lin 2004). `task` and `policy` are unused.
    """
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


def _find(settings: Mapping[str, Any]) -> None:
    """Raise BenchError where the embedder's folder is missing."""
    model = settings.get("model")
    if model is not None and not (Path(model, "config.json").is_file() and list(Path(model).glob("*.safetensors"))):
        raise BenchError(
            f"selection.similarity.model={model} holds no config.json or no *.safetensors; give the folder of a model, "
            "or null for the policy."
        )


@here(_find)
def embedding_cosine(
    completions: Completions,
    task: Task,
    policy: Policy,
    *,
    model: Annotated[str | None, or_null(FOLDER)] = None,
    batch_tokens: Tokens = 16_384,
) -> Iterator[np.ndarray]:
    """The cosine of two texts' embeddings, each the mean of a model's last hidden states over the text's tokens.

    model: the folder of any Hugging Face model with hidden states (e.g. a sentence embedder); None: the policy itself.
    batch_tokens: texts x tokens read at once. A text without tokens is similar only to its equals. `task` is unused.
    Matrices are kept in the store, one artifact per shard of prompts.
    """
    embedder = policy if model is None else loading.folder(model)
    for _, part in completions.shards():
        yield from text_similarity(embedder, part, batch_tokens=batch_tokens)


@stage(version=1, load=lambda out: load_arrays(out / FILE)["similarity"], speed_only=("batch_tokens",))
def text_similarity(policy: Policy, completions: Completions, *, batch_tokens: int, out: Path) -> dict[str, float]:
    """[rows, N, N] float32 for a shard of prompts; each distinct text is read once, alone, without its prompt."""
    texts, inverse = np.unique(np.asarray(completions.text, object).astype(str), return_inverse=True)
    vectors, counts = _embed(policy, texts.tolist(), batch_tokens)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    which = inverse.reshape(completions.shape)  # [rows, N]
    cosine = np.einsum("mih,mjh->mij", unit[which], unit[which]).clip(-1, 1)
    cosine[which[:, :, None] == which[:, None, :]] = 1.0
    save_arrays(out / FILE, similarity=cosine.astype(np.float32))
    return counts


def _embed(policy: Policy, texts: list[str], batch_tokens: int) -> tuple[np.ndarray, dict[str, float]]:
    """[texts, H] mean last hidden states (0 for a text without tokens), and the counts."""
    import torch
    from transformers import AutoModel

    tokenizer = loading.load_tokenizer(policy)
    model: Any = AutoModel.from_pretrained(policy.path, dtype=torch.float32, trust_remote_code=policy.trust_remote_code)
    model = model.to(device()).eval()
    limit = getattr(model.config, "max_position_embeddings", None)
    ids = [tokenizer.encode(text) for text in texts]
    cut = [tokens[:limit] for tokens in ids]
    vectors = np.zeros((len(texts), model.config.hidden_size))
    some = np.flatnonzero([len(tokens) for tokens in cut])
    with bar("embed", total=len(some), unit="texts") as progress, torch.inference_mode():
        for chosen in batches(np.array([len(cut[n]) for n in some]), batch_tokens):
            batch = some[chosen]
            inputs = padded([{"input_ids": cut[n]} for n in batch], {}, model.device)
            attended = inputs["attention_mask"]
            states = model(**inputs).last_hidden_state.double()
            vectors[batch] = ((states * attended[..., None]).sum(1) / attended.sum(1, keepdim=True)).cpu().numpy()
            progress.advance(len(batch))
    read = sum(map(len, cut))
    truncated = sum(len(tokens) > len(kept) for tokens, kept in zip(ids, cut, strict=True))
    flops = 2 * loading.count_parameters(policy) * read
    return vectors, {"texts": len(texts), "read_tokens": read, "truncated_texts": truncated, "flops": flops}
