"""Tasks over published data sets: rows from the hub at a pinned revision, or from local files of the same format."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from bench.artifacts import Message, Prompts
from bench.config.rules import Count, Seed, number, or_null, text, whole
from bench.errors import BenchError
from bench.models import hub
from bench.tasks import Judge, Task, wanted_prompts
from bench.tasks.files import SUFFIXES, Row, UnreadableError, is_missing, is_text, kind, read, stem, text_of
from bench.tasks.splits import WHOLE, Divided, Example, divided

Size = Annotated[int | None, or_null(whole(1, 100_000_000))]
Share = Annotated[float, number(0, 1, open_high=True)]
Words = Annotated[str | None, or_null(text(r"[^\0]*", "text"))]
Place = Annotated[str | None, or_null(text(r"[^\0\n]+", "the path of a file or folder"))]
Repo = Annotated[str, text(r"[\w.-]+/[\w.-]+", "a data set on the hub, OWNER/NAME")]
Revision = Annotated[str, text(r"[^\0\s]+", "a commit, tag or branch of the hub")]
NearDuplicate = Annotated[float | None, or_null(number(0, 1, open_low=True))]


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """The settings of every `RowsTask`.

    path: a local file or folder in the published format, instead of the hub. *_prompts: the number of prompts of each
    split, null: all; the first hundred are the same for every number. *_share: the share of train that becomes a split
    which the data lacks; `seed` is the seed of that choice (bench.tasks.splits). near_duplicate: the similarity from
    which a prompt is left out of train or validation because a later split has a similar one; null keeps all.
    system: the system message; instruction: what stands under each question.
    """

    path: InitVar[Place] = None  # kept as `files`, because `path` is a method of a task
    train_prompts: Size = None
    validation_prompts: Size = None
    test_prompts: Annotated[int | None, or_null(whole(2, 100_000_000))] = None
    validation_share: Share = 0.1
    test_share: Share = 0.2
    near_duplicate: NearDuplicate = 0.5
    seed: Seed = 0
    system: Words = None
    instruction: Words = None
    max_new_tokens: Count = 512
    files: str | None = dataclass_field(init=False, default=None)

    def __post_init__(self, path: str | None) -> None:
        object.__setattr__(self, "files", path)


class RowsTask(RowSettings, Task):
    """A task whose prompts are rows of a data set. A subclass states `name`, `repo`, `revision`, `example`, `judge`.

    repo, config, revision: the data set on the hub; as settings, where users may change them.
    """

    repo: str
    config: str | None = None
    revision: str
    data_splits: ClassVar[dict[str, str]] = {"train": "train", "test": "test"}  # our name (or WHOLE) -> the data's

    def example(self, row: Row, name: str) -> Example | None:
        """Return the prompt that a row makes, with this id; None where its answer can't be judged.

        It may raise UnreadableError as well, as `text` and `field` do.
        """
        raise NotImplementedError

    @property
    def judge(self) -> Judge:
        """The judge of completions."""
        raise NotImplementedError

    def rows(self) -> dict[str, list[Row]]:
        """Return the data by split, from `path` where it is given, else from the hub."""
        if self.files is not None:
            return from_path(self.files, splits=self.data_splits, folder=self.config)
        return from_hub(self.repo, config=self.config, revision=self.revision, splits=self.data_splits)

    def prompts(self, split: str) -> Prompts:
        self.check()
        wanted = wanted_prompts(self, split)
        found, unreadable, _ = _loaded(self)
        held = found.prompts[split]
        if not len(held):
            remedy = (
                "lower task.validation_share and task.test_share"
                if split == "train"
                else f"give its data, or a task.{split}_share above 0"
            )
            lost = "".join(f"; row {row} makes no prompt: {reason}" for row, reason in [*unreadable.items()][:1])
            if lost and not any(map(len, found.prompts.values())):
                raise BenchError(f"None of the {len(unreadable)} rows of {self.name} can be read{lost}.")
            raise BenchError(f"The {split} split of {self.name} is empty: {remedy}{lost}.")
        if wanted is not None and wanted > len(held):
            raise BenchError(
                f"task.{split}_prompts={wanted} is more than the {split} split of {self.name} has: {len(held)} "
                f"prompts; set {len(held)} at most, or null for all."
            )
        return held[: len(held) if wanted is None else wanted]

    def counts(self) -> dict[str, int]:
        """Return the rows that did not become prompts: near-duplicates, and rows that can't be judged."""
        found, unreadable, _ = _loaded(self)
        return {"near_duplicates_removed": sum(found.near_duplicates.values()), "rows_unreadable": len(unreadable)}

    def chat(self, question: str) -> tuple[Message, ...]:
        """Return the messages for a question: the system message, the question and the instruction."""
        system = ({"role": "system", "content": self.system},) if self.system else ()
        content = f"{question}\n\n{self.instruction}" if self.instruction else question
        return (*system, {"role": "user", "content": content})

    def field(self, row: Row, name: str, *, otherwise: str = "") -> Any:
        """Return a row's field. BenchError where the row lacks it, UnreadableError where it is null or NaN.

        otherwise: what the user can do where it lacks it.
        """
        if name not in row:
            raise BenchError(
                f"A row of {self.name} has no field {name!r}; its fields are {', '.join(map(str, row)) or 'none'}"
                f"{': ' if otherwise else ''}{otherwise}."
            )
        if is_missing(row[name]):
            raise UnreadableError(f"its field {name!r} is null")
        return row[name]

    def text(self, row: Row, name: str) -> str:
        """Return a row's field that is a text; raise what `field` does, and UnreadableError where it is no text."""
        return text_of(self.field(row, name), name)

    def check(self) -> None:
        self.judge.check()

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> Sequence[bool]:
        return self.judge.are_correct(completions, answers)

    def extract_answer(self, completion: str) -> str | None:
        return self.judge.extract_answer(completion)

    def path(self, completion: str) -> str | None:
        return self.judge.path(completion)

    def steps_are_true(self, completion: str) -> bool:
        return self.judge.steps_are_true(completion)

    @property
    def gold_reward(self) -> Any:
        return self.judge.gold_reward

    @property
    def programs(self) -> Any:
        return self.judge.programs


class SolvedRows(RowsTask):
    """A task whose rows have worked solutions; its `example` gives them."""

    lacks_solution: ClassVar[str] = ""  # what the user can do where a row has none

    def solutions(self, prompts: Prompts) -> list[str]:
        """Return [M] the worked solution of each prompt, as published. BenchError where one has none.

        ValueError for a prompt of another task.
        """
        known = _loaded(self)[2]
        names = prompts.id.tolist()
        if strange := set(names) - known.keys():
            raise ValueError(
                f"prompt {min(strange)} is not one of {self.name} as it is set, so it has no solution here."
            )
        lacking = [name for name in names if known[name] is None]
        if lacking:
            raise BenchError(
                f"{len(lacking)} of {len(names)} prompts of task={self.name} have no worked solution, e.g. "
                f"{lacking[0]}{self.lacks_solution}."
            )
        return [str(known[name]) for name in names]


@lru_cache(maxsize=4)  # every cell of a sweep and every arm of a run reads the same prompts
def _loaded(task: RowsTask) -> tuple[Divided, dict[str, str], dict[str, str | None]]:
    """The splits; why a row makes no prompt, by the row's number; and the solution of each prompt, by its id."""
    made: dict[str, list[Example]] = {}
    unreadable: dict[str, str] = {}
    for split, rows in task.rows().items():
        made[split] = []
        for number_, row in enumerate(rows):
            name = f"{split}-{number_:05d}"
            try:
                example = task.example(row, name)
            except UnreadableError as reason:
                unreadable[name] = str(reason)
                continue
            if example is None:
                unreadable[name] = "completions can't be judged by it"
            elif not is_text(example.text):
                unreadable[name] = "its prompt is no text"
            else:
                made[split].append(example)
    found = divided(
        made,
        validation_share=task.validation_share,
        test_share=task.test_share,
        seed=task.seed,
        near_duplicate=np.inf if task.near_duplicate is None else task.near_duplicate,
    )
    return found, unreadable, {example.id: example.solution for some in made.values() for example in some}


def from_path(path: str, *, splits: Mapping[str, str], folder: str | None = None) -> dict[str, list[Row]]:
    """Return the rows by split of a file or folder; a file alone has no splits and gives {WHOLE: rows}.

    splits: our name of each split and the data's, e.g. {"train": "train_prefs"}. A folder (or its subfolder `folder`,
    where there is one) gives every file of a split at any depth: train.jsonl, or the hub's
    train-00000-of-00002.parquet.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return {WHOLE: _rows([place])}
    if not place.is_dir():
        wrong = "is neither a file nor a folder" if place.exists() else "does not exist"
        raise BenchError(f"task.path={path} {wrong}; give a file ({', '.join(SUFFIXES)}) or a folder of them.")
    root = place / folder if folder and (place / folder).is_dir() else place
    files = sorted(file for file in root.rglob("*") if kind(file))
    found: dict[str, list[Row]] = {}
    for split, name in splits.items():
        of_split = [file for file in files if re.fullmatch(rf"{re.escape(name)}(-\d+-of-\d+)?", stem(file))]
        if of_split:
            found[split] = _rows(of_split)
    if not found:
        names = " or ".join(f"{name}.jsonl" for name in splits.values())
        raise BenchError(f"task.path={path} holds no rows: it needs files such as {names} ({', '.join(SUFFIXES)}).")
    return found


def _rows(files: Sequence[Path]) -> list[Row]:
    """The rows of a split's files, of which some may be empty, but not all."""
    rows = [row for file in files for row in read(file)]
    if not rows:
        raise BenchError(f"{', '.join(map(str, files))} {'has' if len(files) == 1 else 'have'} no rows.")
    return rows


def from_hub(repo: str, *, config: str | None, revision: str, splits: Mapping[str, str]) -> dict[str, list[Row]]:
    """Return the rows by split of a data set on the hub, or in its cache. BenchError says what to do without it."""
    import datasets

    try:
        with hub.at_once():
            return {
                split: list(datasets.load_dataset(repo, config, split=name, revision=revision))
                for split, name in splits.items()
            }
    except (OSError, ValueError, RuntimeError) as error:
        raise BenchError(f"The data set {repo} ({_remedy(error, revision)}") from error


def _remedy(error: BaseException, revision: str) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    local = "or give its files as task.path=PATH"
    if "gated" in reason.lower():
        return f"gated) needs your consent: accept its terms on its page and log in with `hf auth login`, {local}."
    if "offline" in reason.lower() or isinstance(error, ConnectionError):
        return f"revision {revision}) is not in the cache, and the hub can't be reached: go online once, {local}."
    return (
        f"revision {revision}) can't be loaded: {reason[:200].rstrip('.')}. Check task.repo and task.revision, {local}."
    )
