"""The one reader of what a server completes: of a policy's samples, and of a judge's replies.

It is strict about types, ranges and lengths. An answer that breaks a rule is one sentence (BenchError), so that no part
of it is rescored, graded or kept.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.config.rules import Rule, list_of, whole
from bench.errors import BenchError, quoted
from bench.models.tokens import ids_of, texts_of

HELD_BACK = 8  # characters at the end that a server may leave out with a character that was cut
PLACES = {True: "choices[0].message.content", False: "choices[0].text"}  # of the text, by whether it is a chat


def _is_logprob(value: Any) -> bool:
    """Whether it is a finite number of at most 0, or above it by rounding."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 < value < 0.01


SURROGATE = re.compile("[\ud800-\udfff]")
TEXT = Rule(lambda value: isinstance(value, str) and SURROGATE.search(value) is None, "a text in Unicode")
COUNT = Rule(lambda value: whole(0).allows(value) and value < 2**31, "a whole number from 0 to 2147483647")
OBJECT = Rule(lambda value: isinstance(value, dict), "an object")
FIRST = Rule(lambda value: whole(0).allows(value) and value == 0, "0, the only one asked for")
TOKEN_IDS = list_of(COUNT, "a list of token ids")
LOGPROBS = list_of(Rule(_is_logprob, ""), "a list of finite log-probabilities")


@dataclass(frozen=True)
class CompletionAnswer:
    """One completion as the server gave it; None is what a server does not tell."""

    text: str | None
    token_ids: list[int] | None
    reason: str | None  # finish_reason: "stop" by itself, "length" at the limit, or the server's own
    stop: int | None  # the id that stopped it, where that isn't the tokenizer's EOS
    prompt_ids: list[int] | None
    prompt_tokens: int | None
    num_tokens: int | None  # of the completion, as the server counts them
    logprobs: list[float] | None  # nats per token
    model: str | None


def read(answer: Any, who: str, *, chat: bool) -> CompletionAnswer:
    """Return the one completion in an answer's JSON. who: begins the sentence of a BenchError, e.g. "The answer"."""

    def told(place: str, value: Any, rule: Rule) -> Any:
        if value is not None and not rule.allows(value):
            raise BenchError(f"{who} has {place}={quoted(value)}, which is not {rule.description}.")
        return value

    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        raise BenchError(f"{who} has no list of choices.")
    if len(answer["choices"]) != 1 or not isinstance(answer["choices"][0], dict):
        raise BenchError(f"{who} has {len(answer['choices'])} choices where n=1 was asked for.")
    choice = answer["choices"][0]
    told("choices[0].index", choice.get("index"), FIRST)
    usage = told("usage", answer.get("usage"), OBJECT) or {}
    if chat and not isinstance(choice.get("message"), dict):
        raise BenchError(f"{who} has no choices[0].message: is it from an OpenAI-compatible chat server?")
    outside = told("prompt_token_ids", answer.get("prompt_token_ids"), TOKEN_IDS)
    inside = told("choices[0].prompt_token_ids", choice.get("prompt_token_ids"), TOKEN_IDS)
    values = told("choices[0].logprobs", choice.get("logprobs"), OBJECT) or {}
    logprobs = values.get("token_logprobs")
    if chat and isinstance(logprobs := values.get("content"), list):
        logprobs = [token.get("logprob") if isinstance(token, dict) else token for token in logprobs]
    return CompletionAnswer(
        text=told(PLACES[chat], choice["message"].get("content") if chat else choice.get("text"), TEXT),
        token_ids=told("choices[0].token_ids", choice.get("token_ids"), TOKEN_IDS),
        reason=told("choices[0].finish_reason", choice.get("finish_reason"), TEXT),
        stop=told("choices[0].stop_reason", choice.get("stop_reason"), COUNT),  # no texts to stop at are sent
        prompt_ids=inside if outside is None else outside,
        prompt_tokens=told("usage.prompt_tokens", usage.get("prompt_tokens"), COUNT),
        num_tokens=told("usage.completion_tokens", usage.get("completion_tokens"), COUNT),
        logprobs=told("choices[0].logprobs", logprobs, LOGPROBS),
        model=told("model", answer.get("model"), TEXT),
    )


@dataclass(frozen=True)
class Tokens:
    """The allowed token ids of a policy's completions."""

    tokenizer: Any
    eos_ids: set[int]  # each ends a completion
    vocabulary: int  # number of logits

    def drawn(self, answer: CompletionAnswer, who: str, *, max_tokens: int, chat: bool) -> tuple[list[int], bool]:
        """Return the ids of a completion with the EOS that ended it, and whether these are the ids that were drawn.

        The ids have at most max_tokens entries and no EOS but at the end. Where the server tells no ids, they are the
        text's: what is longer in these tokens than in those that were drawn is cut at max_tokens.
        """
        given, counted, stopped = answer.token_ids, answer.num_tokens, answer.reason == "stop"
        ids = self._encoded(answer, who, max_tokens, stopped=stopped) if given is None else given
        exact = given is not None or self._is_as_drawn(ids, answer, stopped=stopped)
        if stopped and not self.eos_ids.intersection(ids[-1:]):
            ids = [*ids, self._end(answer, who)]
        elif answer.stop is not None and (not stopped or answer.stop != ids[-1]):
            raise BenchError(f"{who} has stop_reason={answer.stop}, but doesn't end there.")
        if max(ids, default=0) >= self.vocabulary:
            raise BenchError(
                f"{who} holds the token id {max(ids)}, beyond the policy's vocabulary of {self.vocabulary}: the server "
                "serves another model."
            )
        cut = (answer.text or "").count("\N{REPLACEMENT CHARACTER}")  # a part of a character is written in three bytes
        room = max_tokens + (max(2, max_tokens // 8) + 3 * cut if given is None and counted is not None else 0)
        longest = max(len(ids) if len(ids) > room else 0, counted or 0)
        if longest > max_tokens:
            raise BenchError(f"{who} has {longest:,} tokens, more than the {max_tokens} that were asked for.")
        if ended := self.eos_ids.intersection(ids[:-1]):
            raise BenchError(f"{who} goes on after the token {min(ended)}, which ends a completion.")
        if given is not None and counted not in (None, len(given), len(ids)):
            raise BenchError(f"{who} counts {counted} tokens, but holds {len(given)}.")
        length = counted if given is None else len(given)
        if not stopped and length is None:
            raise BenchError(f"{who} was cut, and neither token ids nor usage.completion_tokens say after how many.")
        if not stopped and length != max_tokens:
            raise BenchError(f"{who} was cut after {length} of {max_tokens} tokens; raise the server's own limit.")
        exact, ids = exact and len(ids) <= max_tokens, ids[:max_tokens]
        if given is not None and answer.text is not None and not self._spells(ids, answer.text, chat=chat):
            raise BenchError(f"{who} has a text that its token ids don't spell: the server's tokenizer is another one.")
        if exact and answer.logprobs and len(answer.logprobs) not in (len(ids), len(ids) - 1):
            raise BenchError(f"{who} has {len(answer.logprobs)} log-probabilities for {len(ids)} tokens.")
        return ids, exact

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokenizer.get_vocab()))

    def _encoded(self, answer: CompletionAnswer, who: str, max_tokens: int, *, stopped: bool) -> list[int]:
        """Return the ids of the text. What only reads like an EOS, before the end, is text that the model wrote."""
        if len(answer.text or "") > max_tokens * self._longest:
            raise BenchError(f"{who} has {len(answer.text or ''):,} letters, more than {max_tokens} tokens can spell.")
        (ids,) = ids_of(self.tokenizer, [answer.text or ""])
        if self.eos_ids.intersection(ids[:-1] if stopped else ids):
            ids = self.tokenizer.encode(answer.text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def _is_as_drawn(self, ids: list[int], answer: CompletionAnswer, *, stopped: bool) -> bool:
        """Return whether a text's tokens are as many as were drawn (EOS counted or not), and give the same text."""
        counts = (None, len(ids), len(ids) + 1) if stopped else (None, len(ids))
        return answer.num_tokens in counts and texts_of(self.tokenizer, [ids]) == [answer.text]

    def _end(self, answer: CompletionAnswer, who: str) -> int:
        end = self.tokenizer.eos_token_id if answer.stop is None else answer.stop
        if end is None:
            end = min(self.eos_ids, default=-1)
        if end not in self.eos_ids:
            raise BenchError(f"{who} stopped at the token {end}, which doesn't end the policy's completions.")
        return int(end)

    def _spells(self, ids: list[int], text: str, *, chat: bool) -> bool:
        """Return whether the ids decode to the text; in a chat, to a text that holds it beside its reasoning.

        Spaces, a character that is cut, and the end of a completion are written by each server in its own way.
        """
        bare = ids[:-1] if self.eos_ids.intersection(ids[-1:]) else ids
        read, parts = _letters(text), ((bare, True), (ids, True), (ids, False))
        written = [_letters(self.tokenizer.decode(part, skip_special_tokens=skipped)) for part, skipped in parts]
        if chat:
            return any(read in whole for whole in written)
        return any(whole.startswith(read) and len(whole) - len(read) <= HELD_BACK for whole in written)


def _letters(text: str) -> str:
    return "".join(text.split()).replace("\N{REPLACEMENT CHARACTER}", "")
