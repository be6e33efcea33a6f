"""One model of one OpenAI-compatible server: requests for completions, its parsed answers, and explained refusals.

Fields beyond OpenAI's (top_k, penalties, token ids) have vLLM's names, which other servers share or ignore.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.artifacts import Message
from bench.config.rules import Rule, or_null
from bench.errors import BenchError, quoted
from bench.generation import http_client, server_answers
from bench.generation.server_answers import COUNT, TEXT, CompletionAnswer
from bench.models.sampler import Sampler

PATHS = {"completions": "/completions", "chat": "/chat/completions"}  # of a URL that ends in /v1, by endpoint
MODELS = Rule(
    lambda listed: (
        isinstance(listed, dict)
        and isinstance(listed.get("data"), list)
        and all(isinstance(card, dict) and TEXT.allows(card.get("id")) for card in listed["data"])
    ),
    "a list of models",
)


@dataclass(frozen=True)
class CompletionRequest:
    """One completion of one prompt; seed None leaves the seed to the server."""

    prompt: str  # id of the prompt, for messages
    prompt_ids: list[int]
    messages: Sequence[Message]
    sampler: Sampler
    max_tokens: int
    seed: int | None
    logprobs: bool = False

    @property
    def answer(self) -> str:
        """Name its answer, for messages."""
        return f"The server's answer for prompt {self.prompt}"


@dataclass
class Server:
    """One model of one server; model None is the only one that it serves."""

    url: str  # up to and with /v1
    model: str | None
    endpoint: str  # a key of PATHS
    extended: bool  # send vLLM's fields, too
    key_variable: str | None  # the environment variable with the API key
    concurrency: int
    timeout: float  # seconds
    retries: int
    context: int | None = None  # tokens, where the server tells it (vLLM)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self._patience: dict[str, Any] = {
            "api_key": http_client.api_key(self.key_variable),
            "timeout": self.timeout,
            "retries": self.retries,
        }
        self.model, self.context = self._choose(self.model)

    def _choose(self, model: str | None) -> tuple[str, int | None]:
        """Return the model's name and its context."""
        try:
            listed = http_client.get(f"{self.url}/models", **self._patience)
        except http_client.RefusedError as error:
            if error.status == 404 and model is not None:
                return model, None  # a server without a list may still serve this model
            raise self._explained(error, "") from error
        if not MODELS.allows(listed):
            raise BenchError(f"{self.url}/models lists no models; is it an OpenAI-compatible server's address?")
        cards = {card["id"]: card.get("max_model_len") for card in listed["data"]}
        if model is None and len(cards) == 1:
            model = next(iter(cards))
        if model not in cards:
            raise BenchError(
                f"generation.model={'null' if model is None else model} is not one of the models of {self.url}: "
                f"{quoted(', '.join(cards)) or 'none'}."
            )
        if not or_null(COUNT).allows(cards[model]):
            raise BenchError(
                f"{self.url}/models says max_model_len={quoted(cards[model])}; it must be {COUNT.description}."
            )
        return str(model), cards[model]

    def answers(
        self, requests: Sequence[CompletionRequest], stop_token_ids: list[int]
    ) -> Iterator[tuple[int, CompletionAnswer]]:
        """Yield (index, answer) in the order of the answers; BenchError where one is refused or does not fit."""
        bodies = (self._body(request, stop_token_ids) for request in requests)
        url = self.url + PATHS[self.endpoint]
        try:
            for index, answer in http_client.post_all(url, bodies, concurrency=self.concurrency, **self._patience):
                yield index, parse(answer, requests[index], model=self.model, endpoint=self.endpoint)
        except http_client.RefusedError as error:
            prompt = requests[error.index].prompt if error.index is not None else ""
            raise self._explained(error, prompt) from error

    def _body(self, request: CompletionRequest, stop_token_ids: list[int]) -> dict[str, Any]:
        """Return the request's JSON. n is always 1: a server's streams for n > 1 overlap where seeds are neighbours."""
        chat = self.endpoint == "chat"
        fields: dict[str, Any] = {
            "model": self.model,
            "n": 1,
            "temperature": request.sampler.temperature,
            "top_p": request.sampler.top_p,
            "max_tokens": request.max_tokens,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "stream": False,
        }
        fields |= {"messages": list(request.messages)} if chat else {"prompt": request.prompt_ids}
        if request.seed is not None:
            fields["seed"] = request.seed
        if request.logprobs:
            fields["logprobs"] = True if chat else 1
        if self.extended:  # sent even at neutral values: servers take defaults from the model's generation_config.json
            fields |= {
                "top_k": request.sampler.top_k or -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "stop_token_ids": stop_token_ids,
                "return_token_ids": True,
            }
        return fields

    def _explained(self, error: http_client.RefusedError, prompt: str) -> BenchError:
        """Return the refusal with the prompt's id and the settings that may help."""
        sentence = f"{error} (prompt {prompt})" if prompt else f"{error}"
        if error.status in (401, 403):
            return BenchError(f"{sentence}; generation.api_key_env=NAME names the variable with the API key.")
        if error.status == 404:
            return BenchError(
                f"{sentence}; check generation.model={self.model or 'null'} and generation.url={self.url}, which as a "
                "rule ends in /v1."
            )
        hints = []
        if error.status in (400, 422) and self.endpoint == "completions":
            hints.append("generation.endpoint=chat is for servers that take no token ids as a prompt")
        if error.status in (400, 422) and self.extended:
            hints.append("generation.extended_fields=false for those that refuse fields beyond OpenAI's")
        return BenchError("; ".join([sentence, *hints]))


def parse(answer: Any, request: CompletionRequest, *, model: str | None, endpoint: str) -> CompletionAnswer:
    """Return the one completion in an answer; BenchError, with the prompt's id, where it does not fit the request."""
    found = server_answers.read(answer, request.answer, chat=endpoint == "chat")
    if found.model not in (None, model):
        raise BenchError(
            f"{request.answer} is from the model {quoted(found.model)}, not from generation.model={model}."
        )
    if found.reason not in ("stop", "length"):
        raise BenchError(f"{request.answer} ended for the reason {quoted(found.reason)}, neither stop nor length.")
    if found.text is None and found.token_ids is None:
        raise BenchError(f"{request.answer} holds neither text nor token ids.")
    length = found.prompt_tokens if found.prompt_ids is None else len(found.prompt_ids)  # as the server read it
    allowed = (None, len(request.prompt_ids))
    if found.prompt_ids not in (None, request.prompt_ids) or {length, found.prompt_tokens} - {*allowed}:
        raise BenchError(
            f"{request.answer} is for a prompt of {length} tokens that is not the suite's of "
            f"{len(request.prompt_ids)}: the server renders prompts in its own way; use "
            "generation.endpoint=completions, or serve the policy's chat template."
        )
    return found
