"""Sampling from an OpenAI-compatible server: `vllm serve` or another, on this machine or elsewhere.

Each (prompt, sample) is a request of its own (n=1) with its own seed, so that pools nest and no two samples share a
random stream. Prompts are sent as the suite's token ids, and token ids come back where the server can give them. Texts
are tokenized again where it can't, and those that do not give the same tokens are counted. Log-probabilities are the
suite's own, by teacher forcing from the policy's folder. Before an engine draws, it checks that the server holds that
policy and heeds seeds.

    vllm serve FOLDER --port 8000 --no-enable-chunked-prefill    (the last on a CPU only: it makes seeded requests safe)
    python -m bench generation=openai policy=folder policy.path=FOLDER
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.config import rules
from bench.devices import resolve_dtype
from bench.errors import BenchError
from bench.generation.model_server import PATHS, CompletionRequest, Server
from bench.generation.pool import draw
from bench.generation.server_answers import CompletionAnswer, Tokens
from bench.models import loading
from bench.models.logprobs import Rescorer, token_logprobs
from bench.models.sampler import RAW, Sampler
from bench.progress import Bar, say
from bench.seeds import stream_key

VERSION = 1  # raise it when equal settings draw other samples
COLDEST = 0.01  # vLLM draws at this temperature where a lower one is asked for
# Before an engine draws, it asks for a few short completions:
PROMPTS = 8  # one completion of each tells whether the weights are the policy's
SEEDS = 8  # each draws one completion twice, of one prompt
HOT = 2.0  # temperature of those completions: even a sure policy then draws other tokens with another seed
TOKENS = 16  # per completion
ALIKE = 2  # first tokens that make two completions alike: later tokens may differ by rounding in 16 bits

SERVED = rules.text(
    r"[^\0\n]+", "the local folder of the policy that the server serves (with policy=folder, policy.path)"
)
URL = rules.text(r"https?://[^\s/]\S*", "an address such as http://localhost:8000/v1")
NAME = rules.text(r"\S(.*\S)?", "a name as text")

_say_once = cache(say)
_served = cache(loading.folder)


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise BenchError for samplers that the server would change or refuse."""
    generation = config["generation"]
    rules.refuse_colder(config, COLDEST, "openai")
    if generation.get("top_k", 0) > 0 and not generation.get("extended_fields", True):
        raise BenchError(
            f"generation.top_k={generation['top_k']} is beyond OpenAI's fields: it needs "
            "generation.extended_fields=true, or be 0."
        )


def find_served(settings: Mapping[str, Any]) -> None:
    """Raise BenchError where the folder of the served policy is missing."""
    if not (Path(settings["serves"]) / "config.json").is_file():
        raise BenchError(
            f"generation.serves={settings['serves']} holds no config.json; it must be {SERVED.description}."
        )


@rules.here(find_served)
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
    serves: Annotated[str, SERVED],
    url: Annotated[str, URL],
    model: Annotated[str | None, rules.or_null(NAME)] = None,
    endpoint: Annotated[str, rules.one_of(*PATHS)] = "completions",
    extended_fields: Annotated[bool, rules.TRUE_OR_FALSE] = True,
    accept_unseeded: Annotated[bool, rules.TRUE_OR_FALSE] = False,
    logprob_tolerance: Annotated[float, rules.ABOVE_ZERO] = 0.05,
    api_key_env: Annotated[str | None, rules.or_null(NAME)] = None,
    concurrency: rules.Requests = 32,
    timeout: rules.Seconds = 600.0,
    retries: rules.Retries = 6,
    dtype: Annotated[str, rules.DTYPE] = "auto",
    block_size: rules.Count = 4,
    shard_size: rules.Count = 256,
    first_sample: Annotated[int, rules.whole(0)] = 0,
    others: Callable[..., Completions] | None = None,
) -> Completions:
    """Return N completions per prompt [M, N], from the store where they were drawn before.

    serves: the folder here of the policy that the server serves; completions of any other policy (a fine-tuned one) are
    drawn by `others`, another engine. url: up to and with /v1. model: its name there; null: the only one. endpoint:
    "completions" sends token ids, "chat" messages, which the server renders. extended_fields: send top_k, min_p,
    repetition_penalty, stop_token_ids, return_token_ids, which OpenAI's own server refuses. accept_unseeded: draw from
    a server that ignores seeds, into a pool of its own, as it can't be repeated. logprob_tolerance: mean difference
    between the server's log-probabilities and ours, nats per token. api_key_env: the environment variable with the API
    key. concurrency: requests at once. timeout: seconds per answer. retries: per request. dtype: of the suite's
    log-probabilities. first_sample: the samples before it are left out. BenchError, in one sentence, for a server that
    can't be reached, refuses a request, or fails a check.
    """
    if not _holds(serves, policy, others):
        assert others is not None
        sampler = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": max_new_tokens}
        later = {"first_sample": first_sample} if first_sample else {}
        return others(prompts, policy, num_completions=num_completions, seed=seed, **sampler, **later)
    if 0 < temperature < COLDEST:
        raise BenchError(
            f"temperature={temperature} is not allowed with generation=openai, as vLLM would draw at {COLDEST}: it "
            f"must be 0 or at least {COLDEST}."
        )
    if top_k > 0 and not extended_fields:
        raise BenchError(f"top_k={top_k} is beyond OpenAI's fields: it needs generation.extended_fields=true, or be 0.")
    dtype = resolve_dtype(dtype)
    # fewer fields, or no seeds, make another pool
    variants = [] if extended_fields else ["openai_fields"]
    variants += ["unseeded"] if accept_unseeded and temperature > 0 else []

    def open_engine() -> ServerEngine:
        server = Server(url, model, endpoint, extended_fields, api_key_env, concurrency, timeout, retries)
        return ServerEngine(
            policy, server, seeded=not accept_unseeded, logprob_tolerance=logprob_tolerance, dtype=dtype
        )

    return draw(
        prompts,
        policy,
        open_engine,
        Sampler(temperature, top_p, top_k),
        engine="/".join(["openai", endpoint, *variants]),
        version=VERSION,
        samples=range(first_sample, num_completions),
        max_new_tokens=max_new_tokens,
        seed=seed,
        dtype=dtype,
        block_size=block_size,
        shard_size=shard_size,
    )


def _holds(serves: str, policy: Policy, others: Callable[..., Completions] | None) -> bool:
    """Whether the server holds this very policy. BenchError where nothing could draw from it."""
    find_served({"serves": serves})
    if _served(Path(serves).absolute(), code=policy.trust_remote_code).fingerprint == policy.fingerprint:
        return True
    if others is None:
        raise BenchError(
            f"The server holds {serves}, not {policy.path}: set generation.others to an engine for such policies "
            "(generation@generation.others=transformers)."
        )
    _say_once(f"the server holds {serves}; generation.others draws from {policy.path}")
    return False


class ServerEngine(Rescorer):
    """A policy as a server holds it, checked before the first unit is drawn."""

    def __init__(self, policy: Policy, server: Server, *, seeded: bool, logprob_tolerance: float, dtype: str) -> None:
        super().__init__(policy, dtype=dtype, limit=server.context)
        self.server, self.seeded, self.logprob_tolerance = server, seeded, logprob_tolerance
        self.tokens = Tokens(self.tokenizer, self.eos_ids, self.vocabulary)
        self._checked = False

    def sample(
        self, prompts: Prompts, samples: range, sampler: Sampler, *, max_new_tokens: int, seed: int, progress: Bar
    ) -> tuple[Completions, dict[str, float]]:
        """Return the given samples of every prompt [M, len(samples)], each from a request of its own, and counts.

        retokenized_otherwise: completions without token ids whose texts do not give their tokens again.
        """
        prompt_ids = self.encode(prompts, max_new_tokens)

        def request(row: int, sampler: Sampler, **settings: Any) -> CompletionRequest:
            messages = prompts.messages[row]
            if self.policy.system is not None and messages[0]["role"] != "system":  # the server's template lacks it
                messages = ({"role": "system", "content": self.policy.system}, *messages)
            return CompletionRequest(str(prompts.id[row]), prompt_ids[row], messages, sampler, **settings)

        if not self._checked:
            few = prompts[:PROMPTS]
            rooms = [self.context - len(ids) for ids in prompt_ids[: len(few)]] if self.context is not None else []
            short = partial(request, max_tokens=min([TOKENS, *rooms]))
            self._check_weights(few, short)
            if not sampler.is_greedy:
                self._check_seeds(short)
            self._checked = True
        seeds = [[stream_key(seed, "generate", str(name), sample) % 2**63 for sample in samples] for name in prompts.id]
        requests = [
            request(row, sampler, max_tokens=max_new_tokens, seed=None if sampler.is_greedy else seeds[row][column])
            for row in range(len(prompts))
            for column in range(len(samples))
        ]
        token_ids, otherwise = np.empty((len(prompts), len(samples)), object), 0
        for index, _, ids, exact in self._drawn(requests):
            token_ids.flat[index] = np.array(ids, np.int32)
            otherwise += not exact
            progress.advance(len(ids))
        if otherwise:
            say(
                f"warning: {otherwise} of {len(requests)} completions came as text that tokenizes otherwise than as it "
                "was drawn; a server that returns token ids (vLLM) avoids it"
            )
        logprobs = self.pair(prompts, token_ids, sampler)
        completions, counts = self.completions(prompts, prompt_ids, token_ids, samples, *logprobs)
        return completions, counts | {"retokenized_otherwise": otherwise}

    def _check_weights(self, prompts: Prompts, request: Callable[..., CompletionRequest]) -> None:
        """Raise BenchError where the server holds another model than the policy. request: of a row, with a sampler."""
        asked = [
            request(row, RAW, seed=stream_key(row, "ask a server") % 2**63, logprobs=True)
            for row in range(len(prompts))
        ]
        drawings = {i: (ids, answer.logprobs if exact else None) for i, answer, ids, exact in self._drawn(asked)}
        token_ids, logprobs = zip(*(drawings[row] for row in range(len(prompts))), strict=True)
        rows = [row for row, values in enumerate(logprobs) if values]  # None: the server tells none
        url, path = self.server.url, self.policy.path
        if not rows:
            say(f"warning: {url} tells no log-probabilities, so whether it holds {path} can't be checked")
            return
        theirs = [np.array(logprobs[row][: len(token_ids[row])]) for row in rows]  # they may leave out the EOS
        ids = [token_ids[row][: len(values)] for row, values in zip(rows, theirs, strict=True)]
        ours = token_logprobs(self.policy, prompts.take(np.array(rows)), ids, dtype=self.dtype)
        difference = float(np.abs(np.concatenate(theirs) - np.concatenate(ours)).mean())  # nats per token
        if not difference <= self.logprob_tolerance:
            raise BenchError(
                f"{url} serves another model than {path}: its log-probabilities are {difference:.3f} nats per token "
                f"away from the policy's, more than generation.logprob_tolerance={self.logprob_tolerance}."
            )

    def _check_seeds(self, request: Callable[..., CompletionRequest]) -> None:
        """Raise BenchError where the server ignores seeds: each draws one completion of the first prompt twice.

        Where seeds need not repeat a completion: once, as not all may be the same.
        """
        url = self.server.url
        seeds = [stream_key(i, "ask again") % 2**63 for i in range(SEEDS)]
        asked = [request(0, Sampler(HOT), seed=seed) for seed in seeds * (2 if self.seeded else 1)]
        drawn = {i: ids for i, _, ids, _ in self._drawn(asked)}
        first, second = ([drawn.get(i + start, []) for i in range(len(seeds))] for start in (0, len(seeds)))
        if all(ids == first[0] for ids in first):
            raise BenchError(f"{url} draws the same completion whatever the seed, so its samples are not independent.")
        repeated = sum(a[:ALIKE] == b[:ALIKE] for a, b in zip(first, second, strict=True))
        if self.seeded and 2 * repeated <= len(first):
            raise BenchError(
                f"{url} ignores seeds: of {len(first)} completions asked for twice with equal seeds, "
                f"{len(first) - repeated} began differently. Pools from it can't be repeated; "
                "generation.accept_unseeded=true draws them so."
            )

    def _drawn(self, requests: Sequence[CompletionRequest]) -> Iterator[tuple[int, CompletionAnswer, list[int], bool]]:
        """Yield (index, answer, token ids with the EOS that ended them, whether these are the ids that were drawn)."""
        chat = self.server.endpoint == "chat"
        for index, answer in self.server.answers(requests, sorted(self.tokens.eos_ids)):
            request = requests[index]
            yield index, answer, *self.tokens.drawn(answer, request.answer, max_tokens=request.max_tokens, chat=chat)
