"""Machines by name, and the peak memory of each stage on them, counted tensor by tensor for Llama's architecture.

A number takes 4 bytes in float32, 2 in bfloat16, and 0.52 in QLoRA's NF4, scales included (Dettmers et al. 2023, arXiv
2305.14314, section 3). AdamW holds two float32 numbers per trained weight; the gradient is a third.
"""

import os
import time
from dataclasses import dataclass, replace

from bench.errors import BenchError
from bench.generation import transformers_engine
from bench.models.logprobs import BATCH_TOKENS, LOGITS_AT_ONCE
from bench.sizing.shapes import Shape

GIB = 2**30
TILE = (4_096, 32_768)  # tokens x vocabulary
NF4 = 0.52  # bytes per weight
OVERHEAD = 1.5 * 2**30  # a CUDA context, the libraries' workspaces and fragmentation; assumed


@dataclass(frozen=True)
class Machine:
    """One GPU or CPU, with the share of `flops` (in decoding, of `bandwidth` too) that each kind of work reaches."""

    name: str
    memory: float  # bytes
    flops: float  # FLOP/s, dense, in bfloat16 on a GPU and float32 on a CPU
    bandwidth: float  # bytes/s
    decoding: float  # assumed
    reading: float  # prompts, teacher forcing, scoring; assumed
    training: float  # assumed; Llama 3's pretraining reached 0.38 to 0.43 (arXiv 2407.21783, table 4)
    pretraining: float  # of policy=tiny
    on_gpu: bool = True


def _gpu(name: str, gigabytes: float, teraflops: float, terabytes_per_second: float) -> Machine:
    return Machine(name, gigabytes * 1e9, teraflops * 1e12, terabytes_per_second * 1e12, 0.5, 0.4, 0.3, 0.3)


# From NVIDIA's data sheets: dense bfloat16 with float32 accumulation, which is half of the number "with sparsity"
GPUS = {
    "h200": _gpu("h200", 141, 989, 4.8),
    "h100": _gpu("h100", 80, 989, 3.35),  # SXM
    "a100": _gpu("a100", 80, 312, 2.039),  # SXM, 80 GB
    "l40s": _gpu("l40s", 48, 362, 0.864),
    "4090": _gpu("4090", 24, 165, 1.008),
}
# Measured: policy=tiny in reports/default, one thread of a CPU that multiplies matrices at 1.04e11 FLOP/s
CPU_SHARES = {"decoding": 0.16, "reading": 0.28, "training": 0.15, "pretraining": 0.44}


def machine(name: str, flops: float | None = None, *, threads: int = 1) -> Machine:
    """The machine of this name. flops: FLOP/s instead of its own; a "cpu" without it is measured, in under a second."""
    if name in GPUS:
        return GPUS[name] if flops is None else replace(GPUS[name], flops=flops)
    if name != "cpu":
        raise BenchError(f"size.gpu={name} is not known; it is one of cpu, {', '.join(GPUS)}.")
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Machine("cpu", memory, flops or _measured_flops(threads), 1e10, **CPU_SHARES, on_gpu=False)


def _measured_flops(threads: int) -> float:
    """FLOP/s of float32 products of 512 x 512 matrices, the best of several."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        left, right = torch.ones(512, 512), torch.ones(512, 512)
        seconds = []
        for _ in range(20):
            start = time.perf_counter()
            left @ right
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return 2 * 512**3 / min(seconds)


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


def training(
    shape: Shape,
    rows: int,
    width: int,
    *,
    accumulation: int = 1,
    checkpointing: bool = False,
    bfloat16: bool = True,
    learnt: int | None = None,
    four_bit: bool = False,
    shards: int = 1,
    on_gpu: bool = True,
) -> float:
    """Peak bytes of an update: weights, AdamW's state, gradients, activations, and a tile of the head's logits.

    rows: sequences in memory at a time; width: tokens of each, padding included. learnt: weights of the adapter; None:
    all weights are trained. shards: processes that share the weights and the optimizer's state (FSDP).
    """
    tokens = rows * width
    trained, frozen = (shape.parameters, 0) if learnt is None else (learnt, shape.parameters)
    state = (12 * trained + frozen * (NF4 if four_bit else 2 if bfloat16 else 4)) / shards
    gradients = 4 * trained / shards
    # autocast keeps the matrices that it casts until the backward pass ends
    cast = 2 * shape.parameters / shards if bfloat16 and learnt is None else 0
    kept = activations(shape, tokens, bfloat16=bfloat16, checkpointing=checkpointing) + cast
    kept += head(shape, tokens, bfloat16=bfloat16, on_gpu=on_gpu)
    return state + (gradients + kept if accumulation > 1 else max(gradients, kept))


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
