"""Machines by name: memory, arithmetic, bandwidth, and the share of them that real work reaches."""

import os
import time
from dataclasses import dataclass, replace

from bench.errors import BenchError

GIB = 2**30


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
