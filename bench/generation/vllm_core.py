"""One running vLLM engine: processes of its own, weights that can be swapped, adapters, and a death that is noticed.

The engine runs outside this process. So it can be closed with all its memory, this process survives its death, and its
CPU worker, which binds threads and replaces torch.set_num_threads, leaves our torch alone. Its client is asynchronous
(the only one that serves several data-parallel replicas), so a thread keeps an event loop for it.
"""

import asyncio
import gc
import itertools
import json
import os
import threading
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.artifacts import Policy
from bench.errors import BenchError, first_line
from bench.generation.vllm_launch import Adapter, Options, launch, quiet
from bench.models.sampler import Sampler

T = TypeVar("T")
Cell = Hashable

# Entries of a model's configuration that change neither the weights' shapes nor the forward pass
INCIDENTAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"} | {
    f"{name}_token_id" for name in ("bos", "eos", "pad")
}
PATIENCE = 30.0  # seconds for the engine to end by itself; after vLLM's own 5 it leaves shared memory behind
LOOK_EVERY = 0.5  # seconds between looks at whether the engine is alive


@dataclass(frozen=True)
class Request:
    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Answer:
    """One finished completion, EOS included where it was drawn."""

    token_ids: list[int]
    logprob: float  # nats per sequence by vLLM: of the policy, before temperature, top-k and top-p


class EngineDiedError(Exception):
    """vLLM's processes ended; what had finished was handed over."""


class Core:
    """A vLLM engine that holds one base model. Close it: its processes outlive the object."""

    def __init__(self, base: Policy, options: Options, *, lora_rank: int) -> None:
        """Start the engine (half a minute or more). lora_rank 0: without adapters. BenchError where it can't start."""
        self.options, self.lora_rank, self.process = options, lora_rank, os.getpid()
        self.fingerprint, self.shape, self.trusts = base.fingerprint, shape(base.path), base.trust_remote_code
        self._adapters: dict[str, int] = {}  # fingerprint -> vLLM's number
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm client", daemon=True)
        self._thread.start()
        try:
            with quiet():
                self._engine: Any = self._wait(
                    launch(base.path, options, lora_rank=lora_rank, trust_remote_code=self.trusts)
                )
                self._wait(self._engine.collective_rpc("end_with", args=(os.getpid(),)))
        except BaseException as error:
            self._stop_loop()
            if isinstance(error, BenchError) or not isinstance(error, Exception):
                raise
            raise BenchError(f"vLLM could not start on {base.path}: {first_line(error)}") from error

    @property
    def alive(self) -> bool:
        return self._engine is not None and not self._engine.errored

    def complete(
        self,
        requests: Mapping[Cell, Request],
        sampler: Sampler,
        *,
        max_new_tokens: int,
        eos_ids: set[int],
        adapter: Adapter | None,
        finished: Callable[[Cell, Answer], None],
    ) -> None:
        """Draw every request and call `finished` with each; EngineDiedError where the engine ends before the last.

        Requests are held back until all are there and the prefix cache is empty. So what is computed together, and
        with it the rounding, depends on the requests alone.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        def params(request: Request) -> SamplingParams:
            return SamplingParams(
                **sampler.settings,
                max_tokens=max_new_tokens,
                seed=None if sampler.is_greedy else request.seed,
                stop_token_ids=sorted(eos_ids),
                logprobs=0,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )

        self._wait(self._unless_it_dies(self._complete(requests, params, adapter, finished)))

    async def _complete(
        self,
        requests: Mapping[Cell, Request],
        params: Callable[[Request], Any],
        adapter: Adapter | None,
        finished: Callable[[Cell, Answer], None],
    ) -> None:
        from vllm.inputs.engine import tokens_input

        replicas = self.options.data_parallel_size
        lora = await self._adapted(adapter)
        await self._engine.pause_generation(mode="keep", clear_cache=True)
        open_ids: set[str] = set()

        async def take(cell: Cell, collector: Any) -> None:
            output = (await collector.get()).outputs[0]
            open_ids.discard(collector.request_id)
            if output.finish_reason not in ("stop", "length"):
                raise BenchError(f"vLLM gave up a completion ({output.finish_reason}); its log says why.")
            finished(cell, Answer(list(output.token_ids), float(output.cumulative_logprob)))

        try:
            collectors = []
            for number, (cell, request) in enumerate(requests.items()):
                collector = await self._engine.add_request(
                    str(number),
                    tokens_input(request.prompt_ids),
                    params(request),
                    lora_request=lora,
                    data_parallel_rank=number % replicas if replicas > 1 else None,
                )
                open_ids.add(collector.request_id)
                collectors.append(take(cell, collector))
            await self._engine.resume_generation()
            for result in await asyncio.gather(*collectors, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        finally:
            if open_ids and not self._engine.errored:
                await self._engine.abort(open_ids, internal=True)
                await self._engine.resume_generation()

    async def _adapted(self, adapter: Adapter | None) -> Any:
        """vLLM's request for an adapter; only the adapter in use stays loaded."""
        from vllm.lora.request import LoRARequest

        if adapter is None:
            return None
        for fingerprint, number in list(self._adapters.items()):
            if fingerprint != adapter.fingerprint:
                await self._engine.remove_lora(number)
                del self._adapters[fingerprint]
        number = self._adapters.setdefault(adapter.fingerprint, next(_numbers))
        return LoRARequest(adapter.fingerprint, number, str(adapter.path))

    def swap(self, base: Policy) -> None:
        """Load other weights of the same shape into the running engine; caches made with the old ones are dropped."""
        self.fingerprint = ""  # of neither weights, until it is done
        self._wait(self._unless_it_dies(self._swap(base.path)))
        self.fingerprint = base.fingerprint

    async def _swap(self, base: Path) -> None:
        await self._engine.pause_generation(mode="keep", clear_cache=True)
        await self._engine.collective_rpc("reload_every_weight", args=(str(base),))
        self._adapters.clear()  # reloading forgets them
        await self._engine.resume_generation()

    def close(self) -> None:
        """End the engine's processes; their memory is free when this returns."""
        if self._engine is not None:
            self._wait(self._shut_down())
            self._stop_loop()
            self._engine = None
            gc.collect()  # it refers to itself, and would try to end itself once more when Python ends

    async def _shut_down(self) -> None:
        self._engine.shutdown(timeout=PATIENCE)

    def _stop_loop(self) -> None:
        async def cancel_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._wait(cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work done on the loop's thread; an interrupt here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _unless_it_dies(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work, or EngineDiedError: a killed engine never answers the calls to it."""
        from vllm.v1.engine.exceptions import EngineDeadError

        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=LOOK_EVERY))[0]:
                if self._engine.errored:
                    raise EngineDiedError
            return task.result()
        except EngineDeadError as error:
            raise EngineDiedError from error
        finally:
            task.cancel()


def shape(folder: Path) -> dict[str, Any]:
    """The configuration that must agree for a model's weights to fit into the engine of another."""
    config = json.loads((folder / "config.json").read_text())
    return {name: value for name, value in config.items() if name not in INCIDENTAL}


_numbers = itertools.count(1)  # vLLM knows an adapter by a number that must not be used twice
