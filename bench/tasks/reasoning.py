"""Any generator of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760), by name; its own score is the verifier.

    python -m bench task=reasoning_gym task.generator=leg_counting policy=folder policy.path=PATH   (extra reasoning)

Each split is drawn with a seed of its own. A completion is right where the generator scores its answer 1; partial
scores are not right.
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
from bench.tasks import arithmetic
from bench.tasks.numeric import after_phrase, boxed, tagged
from bench.tasks.rows import Row
from bench.tasks.rows_task import NearDuplicate, RowsTask, Words
from bench.tasks.splits import Example
from bench.tasks.thinking import after_thinking

VERSION = 2  # raise it when equal completions get other verdicts
OPTIONS = Rule(lambda value: isinstance(value, Mapping), "settings of the generator by name")


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(RowsTask):
    """generator: a name that reasoning_gym.create_dataset knows; options: its settings as JSON text or a mapping. The
    three *_prompts are numbers here, and near_duplicate is 1: many generators put few numbers into one long text."""

    generator: Annotated[str, text(r"[a-z0-9_]+", "the name of a generator of reasoning-gym")]
    options: Annotated[Any, OPTIONS] = None
    train_prompts: Count = 600
    validation_prompts: Count = 300
    test_prompts: Annotated[int, whole(2)] = 300
    near_duplicate: NearDuplicate = 1.0
    instruction: Words = "Reason step by step. End with a line that says 'Answer:' and the answer alone."
    seed: Seed = 0

    label: ClassVar[str] = "reasoning_gym"

    def __post_init__(self, path: str | None) -> None:
        super().__post_init__(path)
        if not isinstance(self.options, str):  # as text it can be hashed
            object.__setattr__(self, "options", json.dumps(dict(self.options or {}), sort_keys=True))

    @property
    def judged_by(self) -> str:
        """The generator, its settings and the library's version."""
        return f"{self.label} {VERSION}, {version('reasoning-gym')} {self.generator} {self.options} {self.seed}"

    def check(self) -> None:
        if self.files is not None:
            raise BenchError("task=reasoning_gym generates its prompts: task.path does not apply.")
        if find_spec("reasoning_gym") is None:
            raise BenchError("task=reasoning_gym needs the package reasoning-gym: add the extra `reasoning`.")

    def rows(self) -> dict[str, list[Row]]:
        """Of each split as many as asked for and a tenth more, in place of those that others have."""
        found = {}
        for split in ("train", "validation", "test"):
            wanted = getattr(self, f"{split}_prompts")
            data = _dataset(
                self.generator, self.options, small_seed(self.seed, self.label, split), wanted + wanted // 10
            )
            found[split] = [dict(data[index]) | {"split": split, "index": index} for index in range(len(data))]
        return found

    def example(self, row: Row, name: str) -> Example | None:
        question = str(row["question"]).strip()
        answer = json.dumps({"split": row["split"], "index": row["index"], "answer": row["answer"]})
        return Example(name, question, self.asked(question), answer)

    def extract_answer(self, completion: str) -> str | None:
        """The last box, else the last <answer> tag, else what follows the last "Answer:" or "answer is", after what is
        in <think> tags; None where nothing is marked."""
        text = after_thinking(completion)
        found = next((one for one in (boxed(text), tagged(text), after_phrase(text)) if one is not None), None)
        return (found.strip().strip("*`").strip() or None) if found is not None else None

    def are_correct(self, completions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether the generator gives each answer its full score of 1; one that is not marked is wrong."""
        verdicts = []
        for completion, answer in zip(completions, answers, strict=True):
            place = json.loads(answer)
            wanted = getattr(self, f"{place['split']}_prompts")
            stream = small_seed(self.seed, self.label, place["split"])
            data = _dataset(self.generator, self.options, stream, wanted + wanted // 10)
            found = self.extract_answer(completion)
            verdicts.append(found is not None and float(data.score_answer(found, data[place["index"]])) >= 1.0)
        return verdicts

    def is_correct(self, completion: str, answer: str) -> bool:
        return self.are_correct([completion], [answer])[0]

    def steps_are_true(self, completion: str) -> bool:
        """Whether there is arithmetic, and all of it is true."""
        return arithmetic.steps_are_true(completion)

    def path(self, completion: str) -> str | None:  # type: ignore[misc]  # over an InitVar
        """The equations in their order; where there are none, a hash of the text before the answer."""
        return arithmetic.path(completion) or (content_hash(completion.split()) if completion.strip() else None)


@lru_cache(maxsize=6)
def _dataset(generator: str, options: str, seed: int, size: int) -> Any:
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(generator, seed=seed, size=size, **json.loads(options))
    except (ValueError, TypeError, AssertionError) as error:
        raise BenchError(f"task.generator={generator} with task.options={options} is refused: {error}") from error
