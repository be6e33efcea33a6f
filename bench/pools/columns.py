"""Which field of a row holds what, and the values in it, checked."""

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from bench.artifacts import UNKNOWN
from bench.errors import BenchError, quoted
from bench.pools.logs import Row, text_of
from bench.pools.readers import a_kind

OF_PROMPT = ("id", "prompt", "answer")
LEADS = ("completion", "correct", "prediction")  # a cell without any of these and without a reward is blank
OF_COMPLETION = (*LEADS, "logprob", "policy_logprob", "tokens", "finish_reason", "sample")
COUNTS = ("n", "c")
REWARD = re.compile(r"reward(\.[\w-]+)?")
VERDICTS = {
    **dict.fromkeys(("true", "1", "1.0", "c", "correct", "yes"), 1.0),
    **dict.fromkeys(("false", "0", "0.0", "i", "incorrect", "no", "n"), 0.0),  # Inspect's N: no answer
}
FINISHES = {  # in the words of vLLM, OpenAI, Anthropic, Inspect and text-generation-inference
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_length", "model_length"), "length"),
}
LARGEST = 1e100  # of a number: its square and its sums are finite
MOST_NATS = 1e9  # of a log-probability: no sequence has more, and far larger ones add up to infinity
NO_ANSWER = ("", "[invalid]")  # the latter is lm-eval's


class Completion(NamedTuple):
    """One completion. None and NaN where a value is missing."""

    text: str | None
    correct: float
    prediction: str | None
    logprob: float
    policy_logprob: float
    length: int  # tokens; -1 where unknown
    token_ids: list[int] | None
    finish_reason: str  # stop, length, or unknown
    sample: float
    rewards: tuple[float, ...]


class Prompted(NamedTuple):
    """What a row says: a prompt, and its completions or how many of them are correct."""

    id: str | None
    prompt: str | None
    answer: str | None
    cells: list[Completion]
    whole: bool  # the row has all completions of its prompt
    counts: tuple[int, int] | None = None  # (samples, correct ones)


@dataclass
class Columns:
    """The fields of the columns, of which some are given, and the others are those of the same names."""

    given: Mapping[str, str]
    fields: dict[str, str] = field(default_factory=dict)  # column -> field, known from the first row on
    found: set[str] = field(default_factory=set)  # columns that were in some row
    names: dict[str, None] = field(default_factory=dict)  # of the rows' fields so far
    scored: bool = False  # whether the scores of a log were in some row

    def __post_init__(self) -> None:
        known = (*OF_PROMPT, *OF_COMPLETION, *COUNTS)
        for column, name in self.given.items():
            if column not in known and not REWARD.fullmatch(column):
                raise BenchError(
                    f"{column}={quoted(name)} is neither a column nor an option: columns are {', '.join(known)}, "
                    "reward and reward.NAME; python -m bench.pools import --help lists the options."
                )

    @property
    def rewards(self) -> list[str]:
        """The names of the rewards, in the order in which they are given; the first one chooses."""
        names = [column.partition(".")[2] or column for column in self.fields if REWARD.fullmatch(column)]
        if len(set(names)) < len(names):
            raise BenchError("reward and reward.reward are one name: give one of the two another, reward.NAME=FIELD.")
        return names

    def of(self, row: Row) -> Prompted:
        """What the row says. ValueError, as a clause, where the row can't be read; BenchError where no row can."""
        if not self.names:
            self._resolve(row)
        elif not row.keys() <= self.names.keys():
            self._extend(row)
        self._take_scores(row)
        values = {column: _at(row, name) for column, name in self.fields.items()}
        self.found |= {column for column, value in values.items() if value is not None}
        prompt = text_of(values.get("prompt")) or None
        if not (prompt is None or isinstance(prompt, str)):
            raise ValueError(f"prompt is {a_kind(prompt)}, not text")
        about = _plain("id", values.get("id")), prompt, _plain("answer", values.get("answer"))
        if "n" in self.fields:
            return Prompted(*about, [], True, _counts(values))
        parts = _each(values)
        cells = [cell for part in ([values] if parts is None else parts) if (cell := _cell(part)) is not None]
        if parts is None and not cells:
            raise ValueError("has no completion, label or reward")
        return Prompted(*about, cells, parts is not None)

    def _resolve(self, row: Row) -> None:
        self.fields = dict(self.given)
        self._extend(row)
        self._take_scores(row)
        if any(column in LEADS or REWARD.fullmatch(column) for column in self.fields):
            return
        self.fields |= {name: name for name in COUNTS if name in row}
        if "n" not in self.fields:
            raise BenchError(
                "No column is known: say completion=FIELD, correct=FIELD, reward.NAME=FIELD, or n=FIELD and c=FIELD; "
                f"{self.there}."
            )

    def _extend(self, row: Row) -> None:
        """Add the columns that the rows before lacked."""
        later = row.keys() - self.names.keys() - self.fields.keys()
        self.names |= dict.fromkeys(row)
        columns = OF_PROMPT if "n" in self.fields else (*OF_PROMPT, *OF_COMPLETION)
        rewards = "n" not in self.fields and not any(REWARD.fullmatch(column) for column in self.given)
        own = [name for name in row if name in columns or (rewards and REWARD.fullmatch(name))]
        self.fields |= {name: name for name in own if name in later}

    def _take_scores(self, row: Row) -> None:
        """Add the columns in the scores of a log, from the first row that has some: a sample that failed has none."""
        scores = row.get("scores")
        if self.scored or not isinstance(scores, dict) or not scores or "correct" in self.fields:
            return
        self.scored = True
        own = [name for name in scores if name == "correct" or REWARD.fullmatch(name)]
        if len(own) == len(scores):  # as `export` writes them
            self.fields |= {name: f"scores.{name}" for name in own}
        elif len(scores) > 1:
            raise BenchError(
                f"The log has {len(scores)} scores of each sample, {', '.join(map(str, scores))}: say "
                "correct=scores.NAME, and reward.NAME=scores.NAME for a number."
            )
        else:
            self.fields["correct"] = f"scores.{next(iter(scores))}"

    @property
    def there(self) -> str:
        return f"the fields are {quoted(', '.join(map(str, self.names)) or 'none')}"

    def check(self) -> None:
        """BenchError where a column that was given was in no row."""
        for column, name in self.given.items():
            if column not in self.found:
                raise BenchError(f"{column}={quoted(name)}: no row has that field; {self.there}.")


@functools.cache
def _halves(name: str) -> tuple[tuple[str, str], ...]:
    """The ways to cut a name at a period: a field, and what is inside it."""
    parts = name.split(".")
    return tuple((".".join(parts[:cut]), ".".join(parts[cut:])) for cut in range(1, len(parts)))


def _at(row: Any, name: str) -> Any:
    """The value of a field, or of one inside: `a.b` is the field b of the field a, of each where a is a list."""
    if isinstance(row, list):
        return [_at(item, name) for item in row]
    if not isinstance(row, dict) or name in row:
        return row[name] if isinstance(row, dict) else None
    for start, rest in _halves(name):
        if start in row:
            return _at(row[start], rest)
    return None


def _each(values: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The values of each completion where the leading column is a list, else None: the row is one completion."""
    leads = [name for name in values if name in LEADS or REWARD.fullmatch(name)]
    first = next((name for name in leads if values[name] is not None), None)
    if first is None or not isinstance(values[first], list):
        return None
    count = len(values[first])
    columns = {}
    for name, value in values.items():
        if name in OF_PROMPT:
            continue
        if value is not None and (not isinstance(value, list) or len(value) != count):
            held = f"{len(value)}" if isinstance(value, list) else a_kind(value)
            raise ValueError(f"has {count} values of {first} and {held} of {name}")
        columns[name] = [None] * count if value is None else value
    return [{name: value[number] for name, value in columns.items()} for number in range(count)]


def _cell(values: dict[str, Any]) -> Completion | None:
    """One completion; None where the cell is blank."""
    get = values.get
    rewards = tuple([_number(name, value) for name, value in values.items() if name.startswith("reward")])
    correct, prediction = _verdict(get("correct")), _plain("prediction", get("prediction"))
    text = _one(get("completion"))
    if text is not None and not isinstance(text, str):
        raise ValueError(f"completion is {a_kind(text)}, not text")
    prediction = None if prediction in NO_ANSWER else prediction
    if text is None and prediction is None and math.isnan(correct) and all(map(math.isnan, rewards)):
        return None
    length, ids = _tokens(get("tokens"))
    return Completion(
        text,
        correct,
        prediction,
        _total("logprob", get("logprob")),
        _total("policy_logprob", get("policy_logprob")),
        length,
        ids,
        FINISHES.get(str(get("finish_reason")).lower(), UNKNOWN),
        _number("sample", get("sample")),
        rewards,
    )


def _one(value: Any) -> Any:
    """What a list of one holds."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _counts(values: Mapping[str, Any]) -> tuple[int, int]:
    n, c = (_number(name, values.get(name)) for name in COUNTS)
    if not (n >= 1 and n == int(n) and 0 <= c <= n and c == int(c)):
        raise ValueError(f"n={n:g} and c={c:g} are not whole numbers with 0 <= c <= n and n >= 1")
    return int(n), int(c)


def _plain(column: str, value: Any) -> str | None:
    """A text, or a number as one writes it; None for "", null and NaN, by which tables write what is missing."""
    if (value := _one(value)) is None or value != value or isinstance(value, str):
        return value or None if isinstance(value, str) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 5 and 5.0 are one vote, and one id
    if isinstance(value, bool | int | float):
        return str(value)
    if column == "answer" and isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    raise ValueError(f"{column} is {a_kind(value)}, not text")


def whole_number(text: str) -> int | None:
    """The number that at most 18 digits from 0 to 9 write, else None."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _number(column: str, value: Any) -> float:
    """A number that is finite; NaN for None, NaN and an empty text."""
    if (value := _one(value)) is None or value == "":
        return math.nan
    if not isinstance(value, bool | int | float | str | Decimal):
        raise ValueError(f"{column} is {a_kind(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{column} is too large a number") from None
    except ValueError:
        raise ValueError(f"{column} is {quoted(value)[:40]!r}, not a number") from None
    if abs(number) > LARGEST:
        raise ValueError(f"{column} is {'infinite' if math.isinf(number) else 'too large a number'}")
    return number


def _total(column: str, value: Any) -> float:
    """Nats per sequence, given as they are or token by token."""
    total = sum(_number(column, part) for part in value) if isinstance(value, list) else _number(column, value)
    if total < -MOST_NATS or total > 0.01:  # more than rounding
        raise ValueError(f"{column} is {total:g}, which is beyond {-MOST_NATS:g} to 0 nats")
    return total


def _verdict(value: Any) -> float:
    if (value := _one(value)) is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    if isinstance(value, str):
        if (known := VERDICTS.get(value.strip().lower())) is not None:
            return known
    elif isinstance(value, int | float) and (value in (0, 1) or value != value):
        return float(value)
    shown = quoted(value)[:40] if isinstance(value, str | int | float) else a_kind(value)
    raise ValueError(f"correct is {shown}, which is neither true nor false, 1 nor 0")


def _tokens(value: Any) -> tuple[int, list[int] | None]:
    """(how many tokens, their ids if they came along)."""
    if isinstance(value, list):
        if all(type(token) is int and 0 <= token < 2**31 for token in value):
            return len(value), value
        raise ValueError("tokens is a list that holds other things than ids")
    count = _number("tokens", value)
    if math.isnan(count):
        return -1, None
    if count < 0 or count != int(count) or count >= 2**31:
        raise ValueError(f"tokens is {count:g}, which is no number of tokens")
    return int(count), None
