"""The peak memory of each stage in bytes, counted tensor by tensor for models of Llama's architecture.

A number takes 4 bytes in float32, 2 in bfloat16, and 0.52 in QLoRA's NF4, scales included (Dettmers et al. 2023, arXiv
2305.14314, section 3). AdamW holds two float32 numbers per trained weight; the gradient is a third.
"""

from dataclasses import dataclass

from bench.generation import transformers_engine
from bench.models.logprobs import BATCH_TOKENS, LOGITS_AT_ONCE
from bench.sizing.machines import Machine
from bench.sizing.shapes import Shape

TILE = (4_096, 32_768)  # tokens x vocabulary
NF4 = 0.52  # bytes per weight
OVERHEAD = 1.5 * 2**30  # a CUDA context, the libraries' workspaces and fragmentation; assumed


@dataclass(frozen=True)
class Training:
    """The settings of a fine-tuning that decide its memory."""

    rows: int  # sequences in memory at a time
    width: int  # tokens per sequence, padding included
    accumulation: int = 1
    checkpointing: bool = False
    bfloat16: bool = True
    learnt: int | None = None  # weights of the adapter; None: all weights are trained
    four_bit: bool = False
    shards: int = 1  # processes that share the weights and the optimizer's state (FSDP)
    on_gpu: bool = True


def activations(shape: Shape, tokens: int, *, bfloat16: bool, checkpointing: bool) -> float:
    """Bytes kept for the backward pass. With checkpointing a layer keeps its input, and one at a time has all.

    A layer keeps per token, always in float32, the input and the normalised input of both norms (4 hidden); in the
    matrices' precision the outputs of the norms (2 hidden), the rotated queries, keys and values, the attention's
    output, and four times the feed-forward's width.
    """
    exact = 4 * shape.hidden
    rest = 2 * shape.hidden + 2 * shape.query_width + 2 * shape.kv_width + 4 * shape.intermediate
    layer = 4 * exact + (2 if bfloat16 else 4) * rest
    kept = shape.layers * 4 * shape.hidden + layer if checkpointing else shape.layers * layer
    return float(tokens * kept)


def head(shape: Shape, tokens: int, *, bfloat16: bool, on_gpu: bool) -> float:
    """Bytes of one tile of logits: TRL's chunked log-probabilities (trl.kernels) compute the head tile by tile.

    A GPU kernel turns the tile into its gradient in place; on a CPU each step of that makes another tile.
    """
    rows = min(tokens, TILE[0])
    if on_gpu:
        return float(rows * TILE[1] * (2 if bfloat16 else 4))
    return float(rows * min(shape.vocabulary, TILE[1]) * 4 * 8)


def training(shape: Shape, how: Training) -> float:
    """Peak bytes of an update: weights, AdamW's state, gradients, activations, and a tile of the head's logits."""
    tokens = how.rows * how.width
    learnt = shape.parameters if how.learnt is None else how.learnt
    frozen = 0 if how.learnt is None else shape.parameters
    width = NF4 if how.four_bit else 2 if how.bfloat16 else 4
    state = (12 * learnt + frozen * width) / how.shards
    gradients = 4 * learnt / how.shards
    # autocast keeps the matrices that it casts until the backward pass ends
    cast = 2 * shape.parameters / how.shards if how.bfloat16 and how.learnt is None else 0
    kept = activations(shape, tokens, bfloat16=how.bfloat16, checkpointing=how.checkpointing) + cast
    kept += head(shape, tokens, bfloat16=how.bfloat16, on_gpu=how.on_gpu)
    return state + (gradients + kept if how.accumulation > 1 else max(gradients, kept))


def at_once(shape: Shape, machine: Machine, held: float, number_bytes: int) -> int:
    """Tokens that the transformers engine decodes at once by default: on a GPU, those that half of the rest holds."""
    rest = machine.memory - held - shape.parameters * number_bytes
    return int(rest / 2 / shape.kv_bytes(1, number_bytes)) if machine.on_gpu else transformers_engine.BATCH_TOKENS


def generation(shape: Shape, *, rows: int, width: int, number_bytes: int) -> float:
    """Bytes of the weights, the keys and values of `rows` sequences of `width` tokens, and a step's float32 logits."""
    logits = 3 * 4 * rows * shape.vocabulary
    return shape.parameters * number_bytes + shape.kv_bytes(rows * width, number_bytes) + logits


def divergence(shape: Shape, *, number_bytes: int, rows: int, width: int, steps: int, models: int = 2) -> float:
    """Bytes that teacher forcing needs: the models, and each one's logits of a bounded batch, plus five in float32.

    A GPU reads more at once, where half of its free memory holds more. rows: sequences of a shard, at most `width`
    tokens each, of which the completion has the last `steps`.
    """
    together = max(1, min(rows, BATCH_TOKENS // width))
    logits = max((steps + 1) * shape.vocabulary, min(LOGITS_AT_ONCE, together * (steps + 1) * shape.vocabulary))
    return models * shape.parameters * number_bytes + logits * (models * number_bytes + 5 * 4)
