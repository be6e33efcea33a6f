"""What the tasks over published data sets share: where rows come from, how they become prompts, and their splits."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from bench.artifacts import Message, Prompts
from bench.config.rules import Count, Seed, number, or_null, text, whole
from bench.errors import BenchError
from bench.tasks.rows import Row, from_hub, from_path
from bench.tasks.splits import Divided, Example, divided

Size = Annotated[int | None, or_null(whole(1))]
Share = Annotated[float, number(0, 1, open_high=True)]
Words = Annotated[str | None, or_null(text(r"[^\0]*", "text"))]
Path = Annotated[str | None, or_null(text(r"[^\0\n]+", "the path of a file or folder"))]
Repo = Annotated[str, text(r"[\w.-]+/[\w.-]+", "a data set on the hub, OWNER/NAME")]
Revision = Annotated[str, text(r"[^\0\s]+", "a commit, tag or branch of the hub")]
NearDuplicate = Annotated[float | None, or_null(number(0, 1, open_low=True))]


@dataclass(frozen=True, kw_only=True)
class RowsTask:
    """A task whose prompts are rows of a data set; a subclass says what a row asks and judges completions.

    path: a local file or folder in the published format, instead of the hub. *_prompts: of each split as many, null:
    all; the first hundred are the same however many are asked for. *_share: of train, for a split that the data lacks
    (bench.tasks.splits has the rule; `seed` is its seed). near_duplicate: the similarity from which a prompt is
    left out of train or validation because a later split has it; null keeps all. Each prompt is the `system` message,
    where there is one, and the row's question with the `instruction` under it.
    """

    path: InitVar[Path] = None  # kept as `files`: a task's `path` is that of a completion
    train_prompts: Size = None
    validation_prompts: Size = None
    test_prompts: Annotated[int | None, or_null(whole(2))] = None
    validation_share: Share = 0.1
    test_share: Share = 0.2
    near_duplicate: NearDuplicate = 0.5
    seed: Seed = 0
    system: Words = None
    instruction: Words = None
    max_new_tokens: Count = 512
    files: str | None = dataclass_field(init=False, default=None)

    label: ClassVar[str]  # the task's name
    repo_splits: ClassVar[dict[str, str]] = {"train": "train", "test": "test"}  # what the data set calls ours

    def __post_init__(self, path: str | None) -> None:
        object.__setattr__(self, "files", path)

    @property
    def name(self) -> str:
        return self.label

    @property
    def answer_pattern(self) -> str | None:
        """None: equal answers are written in many ways, which lm-eval's own task of this name reads for itself."""
        return None

    def prompts(self, split: str) -> Prompts:
        """The prompts of "train", "validation" or "test"."""
        self.check()
        found = _loaded(self)[0].prompts
        if split not in found:
            raise BenchError(f"split={split} is not one of {self.name}; it has {', '.join(found)}.")
        held, wanted = found[split], getattr(self, f"{split}_prompts")
        if not len(held):
            raise BenchError(
                f"The {split} split of {self.name} is empty: give its data, or a task.{split}_share above 0."
                if split != "train"
                else f"The train split of {self.name} is empty: lower task.validation_share and task.test_share."
            )
        if wanted is not None and wanted > len(held):
            raise BenchError(
                f"task.{split}_prompts={wanted} is more than the {split} split of {self.name} has: {len(held)} "
                "prompts; ask for as many at most, or for null: all."
            )
        return held[: len(held) if wanted is None else wanted]

    def check(self) -> None:
        """Raise BenchError where completions could not be judged here; called before anything is drawn."""

    def counts(self) -> dict[str, int]:
        """Rows that did not become prompts: near-duplicates of a later split's, and those that can't be judged."""
        found, unreadable = _loaded(self)
        return {"near_duplicates_removed": sum(found.near_duplicates.values()), "rows_unreadable": unreadable}

    def rows(self) -> dict[str, list[Row]]:
        """The data by split."""
        raise NotImplementedError

    def example(self, row: Row, name: str) -> Example | None:
        """The prompt that a row makes, under this id; None where it has no answer that could be judged."""
        raise NotImplementedError

    def asked(self, question: str) -> tuple[Message, ...]:
        """The chat that asks a question."""
        system = ({"role": "system", "content": self.system},) if self.system else ()
        content = f"{question}\n\n{self.instruction}" if self.instruction else question
        return (*system, {"role": "user", "content": content})

    def read(self, *, repo: str, config: str | None, revision: str) -> dict[str, list[Row]]:
        """From `path` where it is given, else from the hub."""
        if self.files is not None:
            return from_path(self.files, splits=self.repo_splits, folder=config)
        return from_hub(repo, config=config, revision=revision, splits=self.repo_splits)


def field(row: Row, name: str, task: str, *, otherwise: str = "") -> Any:
    """A row's field; BenchError where it has none of this name. otherwise: what the user can do then, e.g. name it."""
    if name not in row:
        raise BenchError(
            f"A row of {task} has no field {name!r}; its fields are {', '.join(map(str, row)) or 'none'}"
            f"{': ' if otherwise else ''}{otherwise}."
        )
    return row[name]


@lru_cache(maxsize=4)  # every cell of a sweep asks, and every arm of a run
def _loaded(task: RowsTask) -> tuple[Divided, int]:
    """The splits, and the number of rows that can't be judged."""
    examples: dict[str, Sequence[Example]] = {}
    unreadable = 0
    for split, rows in task.rows().items():
        made = [task.example(row, f"{split}-{number:05d}") for number, row in enumerate(rows)]
        examples[split] = [one for one in made if one is not None]
        unreadable += len(made) - len(examples[split])
    parted = divided(
        examples,
        validation_share=task.validation_share,
        test_share=task.test_share,
        seed=task.seed,
        near_duplicate=2.0 if task.near_duplicate is None else task.near_duplicate,
    )
    return parted, unreadable
