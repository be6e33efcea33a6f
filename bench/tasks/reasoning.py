"""Any generator of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760), by name; its own score is the verifier.

    python -m bench task=reasoning_gym task.generator=leg_counting policy=folder policy.path=PATH   (extra reasoning)

Each split is drawn with a seed of its own. A completion is right where the generator scores its answer 1; a partial
score is wrong.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

from bench.artifacts import content_hash
from bench.config.rules import Count, Rule, Seed, text, whole
from bench.errors import BenchError
from bench.seeds import small_seed
from bench.tasks import SPLITS, Judge, arithmetic, wanted_prompts
from bench.tasks.extraction import after_thinking, marked
from bench.tasks.rows import NearDuplicate, Row, RowsTask, Words
from bench.tasks.splits import Example

VERSION = 4  # raise it when equal completions get other verdicts
OPTIONS = Rule(lambda value: isinstance(value, Mapping), "settings of the generator by name")


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(RowsTask):
    """generator: a name that reasoning_gym.create_dataset knows. options: its settings, as JSON text or a mapping.
    near_duplicate is 1 by default, because many generators put few numbers into one long text."""

    generator: Annotated[str, text(r"[a-z0-9_]+", "the name of a generator of reasoning-gym")]
    options: Annotated[Any, OPTIONS] = None
    train_prompts: Count = 600
    validation_prompts: Count = 300
    test_prompts: Annotated[int, whole(2)] = 300
    near_duplicate: NearDuplicate = 1.0
    instruction: Words = "Reason step by step. End with a line that says 'Answer:' and the answer alone."
    seed: Seed = 0

    name: ClassVar[str] = "reasoning_gym"
    keeps_verdicts: ClassVar[bool] = True

    def __post_init__(self, path: str | None) -> None:
        super().__post_init__(path)
        if not isinstance(self.options, str):  # as text it can be hashed
            object.__setattr__(self, "options", json.dumps(dict(self.options or {}), sort_keys=True))

    @property
    def judge(self) -> "GeneratorScore":
        return GeneratorScore(self)

    @property
    def judged_by(self) -> str:
        return f"{self.name} {VERSION}, {version('reasoning-gym')} {self.generator} {self.options} {self.seed}"

    def check(self) -> None:
        if self.files is not None:
            raise BenchError("task=reasoning_gym generates its prompts: task.path does not apply.")
        if find_spec("reasoning_gym") is None:
            raise BenchError("task=reasoning_gym needs the package reasoning-gym: add the extra `reasoning`.")

    def rows(self) -> dict[str, list[Row]]:
        """Return the prompts of each split and a tenth more, which replace those that other splits have."""
        found = {}
        for split in SPLITS:
            data = self.generated(split)
            found[split] = [dict(data[index]) | {"split": split, "index": index} for index in range(len(data))]
        return found

    def generated(self, split: str) -> Any:
        """Return the generator's data for a split; it can score answers."""
        wanted = wanted_prompts(self, split)
        return _generated(self.generator, self.options, small_seed(self.seed, self.name, split), wanted + wanted // 10)

    def example(self, row: Row, name: str) -> Example | None:
        question = str(row["question"]).strip()
        answer = json.dumps({"split": row["split"], "index": row["index"], "answer": row["answer"]})
        return Example(name, question, self.chat(question), answer)


@dataclass(frozen=True)
class GeneratorScore(Judge):
    """Right is an answer that the generator scores 1; an answer that is not marked is wrong."""

    task: ReasoningGym

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        found = []
        for completion, answer in zip(completions, answers, strict=True):
            place, said = json.loads(answer), self.extract_answer(completion)
            data = self.task.generated(place["split"])
            found.append(said is not None and _score(data, said, data[place["index"]]) >= 1.0)
        return found

    def extract_answer(self, completion: str) -> str | None:
        """Return the last box, else the last <answer> tag, else what follows the last "Answer:" or "answer is"."""
        answer = marked(after_thinking(completion)) or ""
        return answer.strip().strip("*`").strip() or None

    def steps_are_true(self, completion: str) -> bool:
        return arithmetic.steps_are_true(completion)

    def path(self, completion: str) -> str | None:
        """Return the equations in their order; without any, a hash of the text."""
        return arithmetic.path(completion) or (content_hash(completion.split()) if completion.strip() else None)


def _score(data: Any, said: str, entry: Row) -> float:
    try:
        return float(data.score_answer(said, entry))
    except Exception:  # some generators fail on an answer of another form, e.g. words for prime_factorization
        return 0.0


@lru_cache(maxsize=6)
def _generated(generator: str, options: str, seed: int, size: int) -> Any:
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(generator, seed=seed, size=size, **json.loads(options))
    except (ValueError, TypeError, AssertionError) as error:
        raise BenchError(f"task.generator={generator} with task.options={options} is refused: {error}") from error
