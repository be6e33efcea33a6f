"""What is sent to an OpenAI-compatible server and what comes back, for its /completions and /chat/completions.

Fields beyond OpenAI's (top_k, penalties, token ids) are vLLM's names, which other servers share or ignore.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.artifacts import Message
from bench.errors import BenchError

PATHS = {"completions": "/completions", "chat": "/chat/completions"}


@dataclass(frozen=True)
class Request:
    """One completion of one prompt; seed None leaves the server to its own."""

    prompt: str  # its id, for messages
    prompt_ids: list[int]
    messages: Sequence[Message]
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int | None
    logprobs: bool = False


@dataclass(frozen=True)
class Answer:
    """One completion as the server gave it; what a server doesn't tell is None."""

    text: str | None
    token_ids: list[int] | None
    stopped: bool  # by itself, not at the length limit
    stop_token: int | None  # the id that stopped it, where that isn't the tokenizer's EOS
    num_tokens: int | None  # as the server counts them
    logprobs: list[float] | None  # nats a token


def body(request: Request, *, model: str, endpoint: str, stop_token_ids: list[int], extended: bool) -> dict[str, Any]:
    """The request's JSON. n is always 1: a server's own streams for n > 1 overlap where seeds are neighbours."""
    fields: dict[str, Any] = {
        "model": model,
        "n": 1,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "stream": False,
    }
    if endpoint == "chat":
        fields["messages"] = list(request.messages)
    else:
        fields["prompt"] = request.prompt_ids
    if request.seed is not None:
        fields["seed"] = request.seed
    if request.logprobs:
        fields["logprobs"] = True if endpoint == "chat" else 1
    if extended:  # said even where it changes nothing: servers take defaults from the model's generation_config.json
        fields |= {
            "top_k": request.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": stop_token_ids,
            "return_token_ids": True,
        }
    return fields


def parse(answer: Any, request: Request, *, model: str, endpoint: str) -> Answer:
    """The one completion in an answer; BenchError, naming the prompt, where it isn't what was asked for."""

    def wrong(what: str) -> BenchError:
        return BenchError(f"The server's answer for prompt {request.prompt} {what}.")

    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        raise wrong("has no list of choices")
    choices = answer["choices"]
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise wrong(f"has {len(choices)} choices where n=1 was asked for")
    if answer.get("model") not in (None, model):
        raise wrong(f"is from the model {answer['model']}, not from generation.model={model}")
    choice, usage = choices[0], answer.get("usage") or {}
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise wrong(f"ended for the reason {reason}, neither stop nor length")
    message = choice.get("message") if endpoint == "chat" else {"content": choice.get("text")}
    text = message.get("content") if isinstance(message, dict) else None
    token_ids = choice.get("token_ids")
    if not isinstance(text, str | None) or not (token_ids is None or _all(token_ids, int)):
        raise wrong("holds no text or token ids of the expected form")
    if text is None and token_ids is None:
        raise wrong("holds neither text nor token ids")
    counted = usage.get("completion_tokens") if token_ids is None else len(token_ids)
    if reason == "length" and counted is not None and counted < request.max_tokens:
        raise wrong(f"was cut after {counted} of {request.max_tokens} tokens; raise the server's own limit")
    _check_prompt(answer, choice, usage, request, wrong)
    stop = choice.get("stop_reason")
    return Answer(
        text=text,
        token_ids=token_ids,
        stopped=reason == "stop",
        stop_token=stop if isinstance(stop, int) else None,
        num_tokens=counted,
        logprobs=_logprobs(choice.get("logprobs"), endpoint),
    )


def _check_prompt(answer: Any, choice: Any, usage: Any, request: Request, wrong: Any) -> None:
    """BenchError where the server read other tokens than the suite's, as its chat template may make it."""
    read = answer.get("prompt_token_ids") or choice.get("prompt_token_ids")
    same = read == request.prompt_ids if read else usage.get("prompt_tokens") in (None, len(request.prompt_ids))
    if not same:
        count = len(read) if read else usage["prompt_tokens"]
        raise wrong(
            f"is for a prompt of {count} tokens that is not the suite's of {len(request.prompt_ids)}: the server "
            "renders prompts in its own way; use generation.endpoint=completions, or serve the policy's chat template"
        )


def _logprobs(found: Any, endpoint: str) -> list[float] | None:
    if not isinstance(found, dict):
        return None
    if endpoint == "chat":
        content = found.get("content")
        values: Any = [token.get("logprob") for token in content or [] if isinstance(token, dict)]
    else:
        values = found.get("token_logprobs")
    return [float(value) for value in values] if values and _all(values, int | float) else None


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) and not isinstance(value, bool) for value in values)
