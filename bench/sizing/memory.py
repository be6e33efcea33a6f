"""Bytes that a stage holds at its peak, counted tensor by tensor for models of Llama's kind.

Numbers in float32 have 4 bytes, in bfloat16 2, in QLoRA's NF4 0.52 with its scales (Dettmers et al. 2023, arXiv
2305.14314, section 3). AdamW holds two float32 numbers for every weight that is trained, and its gradient is a third.
"""

from dataclasses import dataclass

from bench.models.logprobs import LOGITS_AT_ONCE
from bench.sizing.shapes import Shape

BATCH_TOKENS = 16_384  # by default, of bench.models.logprobs
TILE = (4_096, 32_768)  # tokens x vocabulary
NF4 = 0.52  # bytes a weight
OVERHEAD = 1.5 * 2**30  # of a CUDA context, its libraries' workspaces and fragmentation: an assumption


@dataclass(frozen=True)
class Training:
    """How a model is fine-tuned, as far as memory goes: `rows` in memory at a time, `width` tokens each, padded."""

    rows: int
    width: int
    accumulation: int = 1
    checkpointing: bool = False
    bfloat16: bool = True
    learnt: int | None = None  # weights of an adapter; None: all
    four_bit: bool = False
    shards: int = 1  # processes that share weights and optimizer (FSDP)
    on_gpu: bool = True


def saved_numbers(shape: Shape) -> tuple[int, int]:
    """Numbers that one layer keeps for its backward pass, a token: those that stay float32, and those of the matrices.

    Float32: each norm's input, and what it has normalised (4 hidden). Matrices: what the norms hand on (2 hidden), the
    rotated queries, keys and values, the attention's output, and four of the feed-forward's width.
    """
    keys_and_values = 2 * shape.kv_width
    return 4 * shape.hidden, 2 * shape.hidden + 2 * shape.query_width + keys_and_values + 4 * shape.intermediate


def activations(shape: Shape, tokens: int, *, bfloat16: bool, checkpointing: bool) -> float:
    """Bytes kept between forward and backward. With checkpointing each layer keeps its input, and one has all of it."""
    exact, rest = saved_numbers(shape)
    layer = 4 * exact + (2 if bfloat16 else 4) * rest
    kept = shape.layers * 4 * shape.hidden + layer if checkpointing else shape.layers * layer
    return float(tokens * kept)


def head(shape: Shape, tokens: int, *, bfloat16: bool, on_gpu: bool) -> float:
    """Bytes of one tile of logits, in which TRL's chunked log-probabilities (trl.kernels) read the head.

    On a GPU one kernel turns the tile into its gradient in place; on a CPU every step of that makes a tile of its own.
    """
    rows = min(tokens, TILE[0])
    if on_gpu:
        return float(rows * TILE[1] * (2 if bfloat16 else 4))
    return float(rows * min(shape.vocabulary, TILE[1]) * 4 * 8)


def training(shape: Shape, how: Training) -> float:
    """Bytes at the peak of an update: weights, AdamW, gradients, activations, and a tile of the head's logits."""
    tokens = how.rows * how.width
    learnt = shape.parameters if how.learnt is None else how.learnt
    frozen = 0 if how.learnt is None else shape.parameters
    width = NF4 if how.four_bit else 2 if how.bfloat16 else 4
    state = (12 * learnt + frozen * width) / how.shards
    gradients = 4 * learnt / how.shards
    # autocast keeps the matrices that it has cast until the backward pass is through
    cast = 2 * shape.parameters / how.shards if how.bfloat16 and how.learnt is None else 0
    kept = activations(shape, tokens, bfloat16=how.bfloat16, checkpointing=how.checkpointing) + cast
    kept += head(shape, tokens, bfloat16=how.bfloat16, on_gpu=how.on_gpu)
    return state + (gradients + kept if how.accumulation > 1 else max(gradients, kept))


def generation(shape: Shape, *, rows: int, width: int, bytes_a_number: int) -> float:
    """Bytes of weights, of keys and values of `rows` sequences of `width` tokens, and of one step's float32 logits."""
    logits = 3 * 4 * rows * shape.vocabulary
    return shape.parameters * bytes_a_number + shape.kv_bytes(rows * width, bytes_a_number) + logits


def divergence(shape: Shape, *, bytes_a_number: int, rows: int, width: int, steps: int, models: int = 2) -> float:
    """Bytes of both models and of their logits in one bounded batch: two of each number, and five in float32.

    rows: sequences that there are of a shard, `width` tokens each at most, the last `steps` of them the completion's.
    """
    together = max(1, min(rows, BATCH_TOKENS // width))
    logits = max((steps + 1) * shape.vocabulary, min(LOGITS_AT_ONCE, together * (steps + 1) * shape.vocabulary))
    return models * shape.parameters * bytes_a_number + logits * (models * bytes_a_number + 5 * 4)
