"""Collect completions, row by row in any order, and lay them on a grid of M prompts by N samples.

Numbers are kept in memory; texts and token ids go to a temporary file as they are read.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from bench.artifacts import UNKNOWN, Completions, Prompts, content_hash
from bench.blocks import NO_TOKENS
from bench.errors import BenchError, quoted
from bench.pools.columns import Columns, Completion, Prompted
from bench.pools.spool import Messages, Spool

SHOWN = 3  # reasons in a sentence
MOST_CELLS = 50_000_000  # of the grid; a few rows of counts can claim any number
REASONS = ("stop", "length", UNKNOWN)
NUMBERS = ("correct", "logprob", "policy_logprob", "sample")


@dataclass
class LeftOut:
    """Rows that can't be read, with the reasons."""

    rows: int = 0  # all rows
    lines: list[tuple[str, str]] = field(default_factory=list)  # (place, reason)

    def __str__(self) -> str:
        """E.g. "12 of 1,000 rows left out: line 17 is not JSON; line 30 lacks the completion; and 10 more"."""
        if not self.lines:
            return ""
        kinds = Counter(reason for _, reason in self.lines)
        shown = [
            f"{next(place for place, other in self.lines if other == reason)} {quoted(reason)}"
            for reason, _ in kinds.most_common(SHOWN)
        ]
        more = len(self.lines) - len(shown)
        return f"{len(self.lines):,} of {self.rows:,} rows left out: {'; '.join(shown)}" + (
            f"; and {more:,} more" if more else ""
        )


class Grid:
    """The completions that were read so far. Call `finish` after the last one."""

    def __init__(self) -> None:
        self.left_out = LeftOut()
        self.columns: Columns | None = None
        self._prompts: dict[bytes | str, int] = {}  # id, or a hash of the prompt -> row
        self._about: list[bytes] = []  # by row: a hash of prompt and answer
        self.ids: list[str] = []
        self.answers: list[str | None] = []
        self.prompt_texts, self.texts, self.token_ids = Spool(), Spool(), Spool()
        self._row, self._length, self._reason = array("i"), array("q"), array("b")
        self._numbers = {name: array("d") for name in NUMBERS}
        self._rewards: dict[str, array] = {}
        self._prediction, self._codes = array("i"), dict[str, int]()
        self.counts: list[tuple[int, int]] = []  # by row, in place of cells

    def skip(self, place: str, reason: str) -> None:
        self.left_out.lines.append((place, reason))

    def add(self, row: Prompted, rewards: Sequence[str]) -> None:
        """Add the completions of the row that was read last. ValueError, as a clause, where it contradicts another."""
        number = self._number(row)
        if row.counts is not None:
            self.counts.append(row.counts)
            return
        for name in rewards:
            if name not in self._rewards:
                self._rewards[name] = array("d", [np.nan]) * len(self._row)
        for cell in row.cells:
            self._add(number, cell, rewards)

    def _number(self, row: Prompted) -> int:
        """The prompt's number. A prompt with neither id nor text is known by the row's place in the files."""
        if row.id is None and row.prompt is None and not row.whole:
            raise ValueError("has neither id nor prompt")
        place = self.left_out.rows - 1
        key = row.id or _hash(row.prompt, None if row.prompt else str(place))
        about = _hash(row.prompt, row.answer)
        number = self._prompts.get(key)
        if number is None:
            number = self._prompts[key] = len(self.ids)
            self.ids.append(row.id or f"{place if row.whole else number:05d}")
            self._about.append(about)
            self.answers.append(row.answer)
            self.prompt_texts.add(None if row.prompt is None else row.prompt.encode())
            return number
        earlier = "prompt" if row.id is None else f"id {quoted(row.id)[:60]!r}"
        if self._about[number] != about:
            other = "another answer" if row.id is None else "another prompt or answer"
            raise ValueError(f"has the {earlier} of an earlier row, with {other}")
        if row.counts is not None:
            raise ValueError(f"has the {earlier} of an earlier row")
        return number

    def _add(self, number: int, cell: Completion, rewards: Sequence[str]) -> None:
        self._row.append(number)
        self.texts.add(None if cell.text is None else cell.text.encode())
        self.token_ids.add(None if cell.token_ids is None else np.array(cell.token_ids, np.int32).tobytes())
        self._length.append(cell.length)
        self._reason.append(REASONS.index(cell.finish_reason))
        self._prediction.append(
            -1 if cell.prediction is None else self._codes.setdefault(cell.prediction, len(self._codes))
        )
        for name, values in self._numbers.items():
            values.append(getattr(cell, name))
        for name, reward in zip(rewards, cell.rewards, strict=True):
            self._rewards[name].append(reward)
        for name in self._rewards.keys() - set(rewards):
            self._rewards[name].append(np.nan)

    def finish(self) -> "Laid":
        """The completions on their grid. BenchError where there are none, or none of them can be counted on."""
        for spool in (self.prompt_texts, self.texts, self.token_ids):
            spool.flush()
        if self.counts:
            return self._of_counts()
        self._prompts, self._about = {}, []  # of use only while rows come
        row, sample = np.array(self._row, np.int64), np.array(self._numbers["sample"])
        order = np.lexsort((np.arange(len(row)), sample, row))
        ranked = row[order], sample[order]
        again = np.flatnonzero((ranked[0][1:] == ranked[0][:-1]) & (ranked[1][1:] == ranked[1][:-1])) + 1
        for at in order[again].tolist():
            self.skip(f"prompt {self.ids[row[at]]!r}", f"has sample {sample[at]:g} twice, of which the first is kept")
        order = np.delete(order, again)
        held, start, count = np.unique(row[order], return_index=True, return_counts=True)
        for empty in np.setdiff1d(np.arange(len(self.ids)), held).tolist():
            self.skip(f"prompt {self.ids[empty]!r}", "has no completion")
        if not len(held):
            raise BenchError(f"There is no completion in it{because(self.left_out)}.")
        _check_size(len(held), int(count.max()))
        place = np.full((len(held), count.max()), -1)
        within = np.arange(len(order)) - np.repeat(start, count)
        place[np.repeat(np.arange(len(held)), count), within] = order
        rewards = {name: _on(place, np.array(values)) for name, values in self._rewards.items()}
        for name, values in rewards.items():
            if np.isnan(values).all():
                raise BenchError(f"The reward {name} is NaN or missing in every row: give a field that holds numbers.")
        return Laid(self, held, place, _on(place, np.array(self._numbers["correct"])), rewards)

    def _of_counts(self) -> "Laid":
        n, c = np.array(self.counts).T
        _check_size(len(n), int(n.max()))
        at = np.arange(n.max())
        correct = np.where(at < n[:, None], (at < c[:, None]).astype(float), np.nan)
        return Laid(self, np.arange(len(n)), np.where(at < n[:, None], 0, -1), correct, {})

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, by the place of a cell."""
        return np.asarray(getattr(self, f"_{name}") if name in ("length", "reason") else self._numbers[name])

    @cached_property
    def predictions(self) -> np.ndarray:
        """[cells] objects: what each completion answers, or None."""
        known = np.array([*self._codes, None], object)
        return known[np.array(self._prediction, np.int64)]


@dataclass(frozen=True)
class Laid:
    """Completions on a grid [M, N]; NaN where there is no sample, no label or no reward."""

    grid: Grid
    held: np.ndarray  # [M] the grid's numbers of the prompts
    place: np.ndarray  # [M, N] the number of the completion; -1 where there is none
    correct: np.ndarray  # [M, N] the labels that came along
    rewards: dict[str, np.ndarray]  # [M, N] by name

    @property
    def drawn(self) -> np.ndarray:
        return self.place >= 0

    @property
    def samples(self) -> np.ndarray:
        """[M] samples of each prompt."""
        return self.drawn.sum(axis=1)

    @property
    def has_texts(self) -> bool:
        return not self.grid.texts.empty

    @cached_property
    def prompts(self) -> Prompts:
        ids = np.array([self.grid.ids[row] for row in self.held], object)
        answers = np.array([self.grid.answers[row] or "" for row in self.held], object)
        return Prompts(ids.astype(str), Messages(self.grid.prompt_texts, self.held), answers)

    def numbers(self, name: str) -> np.ndarray:
        """[M, N] of logprob, policy_logprob or sample."""
        if self.grid.counts:
            return np.full(self.place.shape, np.nan)
        return _on(self.place, self.grid.column(name))

    @cached_property
    def predictions(self) -> np.ndarray:
        """[M, N] what each completion answers, or None."""
        if self.grid.counts:
            return np.full(self.place.shape, None, object)
        return only(self.drawn, self.grid.predictions[self.place])

    def take(self, rows: np.ndarray) -> "Laid":
        """The prompts in these rows alone."""
        rewards = {name: values[rows] for name, values in self.rewards.items()}
        return Laid(self.grid, self.held[rows], self.place[rows], self.correct[rows], rewards)

    def shards(self, cells: int) -> Iterator[tuple[slice, Completions]]:
        """Consecutive prompts and their completions, about so many cells at a time."""
        step = max(1, cells // self.place.shape[1])
        bounds = [*range(0, len(self.held), step), len(self.held)]
        for start, stop in pairwise(bounds):
            rows = slice(start, stop)
            yield rows, self.completions(rows)

    def completions(self, rows: slice = slice(None)) -> Completions:
        """The completions of some prompts, in memory; `lengths` has their tokens."""
        place = self.place[rows]
        drawn, grid = place >= 0, self.grid
        text, token_ids = np.full(place.shape, "", object), np.full(place.shape, NO_TOKENS, object)
        for cell in np.argwhere(drawn).tolist() if not grid.counts else ():
            number = int(place[cell[0], cell[1]])
            text[cell[0], cell[1]] = grid.texts[number].decode()
            if not grid.token_ids.empty:
                token_ids[cell[0], cell[1]] = np.frombuffer(grid.token_ids[number], np.int32)
        known = UNKNOWN if grid.counts else np.array(REASONS)[grid.column("reason")[place]]
        reason = np.where(drawn, known, "")
        logprob, policy_logprob = (self.numbers(name)[rows] for name in ("logprob", "policy_logprob"))
        return Completions(text, token_ids, reason, logprob, policy_logprob, key=content_hash(place, text[:1]))

    @cached_property
    def lengths(self) -> np.ndarray:
        """[M, N] tokens; NaN where they are not known, 0 where there is no sample."""
        known = -1 if self.grid.counts else self.grid.column("length")[self.place]
        return np.where(self.drawn, np.where(known < 0, np.nan, known), 0)


def only(drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[M, N] objects: the values where there is a sample, else None."""
    kept = values.copy()
    kept[~drawn] = None
    return kept


def _on(place: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[M, N] the values at these places; NaN where there is none."""
    return np.where(place >= 0, values[place], np.nan)


def _hash(*texts: str | None) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(b"\0" if text is None else b"\1" + text.encode() + b"\0")
    return digest.digest()


def because(left_out: LeftOut) -> str:
    return f" ({left_out})" if left_out.lines else ""


def _check_size(prompts: int, samples: int) -> None:
    if prompts * samples > MOST_CELLS:
        raise BenchError(
            f"{prompts:,} prompts with up to {samples:,} samples are {prompts * samples:,} cells; at most "
            f"{MOST_CELLS:,} can be imported: give fewer prompts, or fewer samples of the longest."
        )
