"""What runs it: memory, arithmetic and bandwidth by name, and which share of them real work reaches."""

import os
import time
from dataclasses import dataclass

from bench.errors import BenchError

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """One GPU or CPU. Efficiencies are shares of flops (or of bandwidth, in decoding) that stages reach."""

    name: str
    memory: float  # bytes
    flops: float  # FLOP/s, dense, in bfloat16 on a GPU and float32 on a CPU
    bandwidth: float  # bytes/s
    decoding: float  # assumed, of bandwidth and of flops
    reading: float  # assumed, of flops: prompts, teacher forcing, scoring
    training: float  # assumed, of flops; 38 to 43 % is what Llama 3's pretraining reached (arXiv 2407.21783, table 4)
    pretraining: float  # of policy=tiny
    on_gpu: bool = True


def _gpu(name: str, gigabytes: float, teraflops: float, terabytes_a_second: float) -> Machine:
    return Machine(name, gigabytes * 1e9, teraflops * 1e12, terabytes_a_second * 1e12, 0.5, 0.4, 0.3, 0.3)


# NVIDIA's data sheets: dense bfloat16 with float32 accumulation, that is half of what is stated "with sparsity"
GPUS = {
    "h200": _gpu("h200", 141, 989, 4.8),
    "h100": _gpu("h100", 80, 989, 3.35),  # SXM
    "a100": _gpu("a100", 80, 312, 2.039),  # SXM, 80 GB
    "l40s": _gpu("l40s", 48, 362, 0.864),
    "4090": _gpu("4090", 24, 165, 1.008),
}
# Of policy=tiny on one thread: what reports/default took, on a CPU that multiplies matrices at 1.04e11 FLOP/s
CPU_SHARES = {"decoding": 0.16, "reading": 0.28, "training": 0.15, "pretraining": 0.44}


def machine(name: str, flops: float | None = None, *, threads: int = 1) -> Machine:
    """By name; "cpu" is this machine's, measured in under a second where `flops` (FLOP/s) does not say what it does."""
    if name in GPUS:
        found = GPUS[name]
        return found if flops is None else Machine(**{**vars(found), "flops": flops})
    if name != "cpu":
        raise BenchError(f"size.gpu={name} is not known; it is one of cpu, {', '.join(GPUS)}.")
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Machine("cpu", memory, flops or _measured_flops(threads), 1e10, **CPU_SHARES, on_gpu=False)


def _measured_flops(threads: int) -> float:
    """FLOP/s in float32 products of 512 x 512 matrices, the best of several."""
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
