"""The contract of every task in conf/task, and of one that lies outside of bench/."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixtures_tasks as made
import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf
from sandbox_attacks import skip_where_it_may_not
from sharing import CONF, composed
from texts import pool_of

from bench.artifacts import content_hash
from bench.config import checks
from bench.errors import BenchError
from bench.scoring.verifier import gold_rewards, verify
from bench.seeds import generator
from bench.tasks import SPLITS, Corpus, Task

CHOICES = sorted(path.stem for path in CONF.glob("task/*.yaml"))
NEEDS = {"reasoning_gym": "reasoning_gym", "math500": "math_verify"}  # packages of extras
SETTINGS = {"reasoning_gym": ["task.generator=leg_counting"], "ultrafeedback": ["task.gold_model=GOLD"]}
CORPORA = ["list_programs", "word_problems"]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Task]:
    """Builds the task of a choice in conf/task from its configuration, on made-up rows where it reads rows."""

    made.ByLength(monkeypatch)

    def build(choice: str, **settings: Any) -> Task:
        pytest.importorskip(NEEDS.get(choice, "json"))
        if choice in made.FILES_OF:
            settings["path"] = made.write(tmp_path / choice, **made.FILES_OF[choice]())
            settings |= {"near_duplicate": None} if choice in ("humaneval", "mbpp") else {}
        cfg = composed(f"task={choice}", *SETTINGS.get(choice, []))
        node: Any = OmegaConf.to_container(cfg.task, resolve=True)
        return get_object(node.pop("_target_"))(**node | settings)

    return build


@pytest.mark.parametrize("choice", CHOICES)
def test_splits_are_disjoint_and_their_first_prompts_depend_on_no_number(choice: str, task) -> None:
    whole = task(choice)
    assert whole.name == choice
    assert whole.max_new_tokens > 0
    prompts = {split: whole.prompts(split) for split in SPLITS}
    ids = [name for members in prompts.values() for name in members.id.tolist()]
    texts = [messages[-1]["content"] for members in prompts.values() for messages in members.messages]
    assert len(set(ids)) == len(ids)
    assert len(set(texts)) == len(texts)
    assert set(whole.counts()) <= {"near_duplicates_removed", "rows_unreadable"}
    few = task(choice, train_prompts=3, test_prompts=2)
    for split, count in (("train", 3), ("test", 2)):
        assert few.prompts(split).key == prompts[split][:count].key
        assert few.prompts(split).messages == prompts[split].messages[:count]
    with pytest.raises(BenchError, match=f"split=dev is not one of {choice}; it has train, validation, test"):
        whole.prompts("dev")


@pytest.mark.parametrize("choice", CHOICES)
def test_the_seed_draws_other_prompts_and_changes_no_corpus(choice: str, task) -> None:
    one, other = task(choice), task(choice, seed=1)
    assert one.prompts("test").id.tolist() != other.prompts("test").id.tolist() or (
        one.prompts("test").messages != other.prompts("test").messages
    )
    assert isinstance(one, Corpus) == (choice in CORPORA)
    if isinstance(one, Corpus):
        assert one.key == other.key == task(choice, test_prompts=7).key


@pytest.mark.parametrize("choice", CHOICES)
def test_verdicts_on_one_and_on_many_agree_and_nothing_is_not_right(choice: str, task) -> None:
    skip_where_it_may_not("auto")
    built = task(choice)
    answers = [str(answer) for answer in built.prompts("test").answer[:3]]
    texts = ["", "I can't.", "#### 12"]
    verdicts = list(built.are_correct(texts, answers))
    assert verdicts == [built.is_correct(*pair) for pair in zip(texts, answers, strict=True)]
    assert not verdicts[0]
    assert list(built.are_correct([], [])) == []
    assert built.extract_answer("") is None
    assert built.path("") is None
    assert not built.steps_are_true("")
    assert choice in built.judged_by
    assert (built.programs is None) == (choice not in ("humaneval", "list_programs", "mbpp"))
    assert (built.gold_reward is None) == (choice != "ultrafeedback")


@pytest.mark.parametrize(
    ("choice", "corpus", "test"),
    [
        ("list_programs", "c63ef200b106a76a90ab", "571634062a76fef8c5a7"),
        ("word_problems", "78ffafb0dfe66cedab30", "7ca763039dce666496c6"),
    ],
)
def test_data_that_changed_says_so(choice: str, corpus: str, test: str, task) -> None:
    """Where the first hash differs, raise corpus_version: stored policies were pretrained on another corpus."""
    built = task(choice)
    demonstrations = [built.demonstrations(500, generator(0, "test")) for _ in range(2)]
    assert [content_hash(pairs) for pairs in demonstrations] == [corpus, corpus]
    assert built.corpus_version == 1
    assert built.prompts("test").key == test


@pytest.mark.parametrize("choice", CORPORA)
def test_numbers_of_prompts_that_a_split_lacks_are_refused(choice: str, task) -> None:
    for split in SPLITS:
        for count in (0, 10**6):
            with pytest.raises(
                BenchError, match=rf"task\.{split}_prompts={count} is not allowed: the {split} split of"
            ):
                task(choice, **{f"{split}_prompts": count}).prompts(split)


MINE = """
from dataclasses import dataclass

import numpy as np

from bench.artifacts import Prompts
from bench.tasks import Task


@dataclass(frozen=True)
class Doubles(Task):
    max_new_tokens: int = 4
    first: int = 0

    name = "doubles"

    def prompts(self, split):
        start = {"train": 0, "validation": 100, "test": 200}[split] + self.first
        numbers = range(start, start + 5)
        texts = [({"role": "user", "content": f"Double {n}."},) for n in numbers]
        ids = [f"{split}-{n}" for n in numbers]
        return Prompts(id=np.array(ids), messages=tuple(texts), answer=np.array([str(2 * n) for n in numbers]))

    def is_correct(self, completion, answer):
        return completion.strip() == answer
"""


def test_a_task_outside_of_the_package_is_one_class_and_one_yaml(
    tmp_path: Path, monkeypatch, random_policy, store
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "doubles.yaml").write_text("_target_: mine.Doubles\nmax_new_tokens: 4\nfirst: 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg = composed(
        f"hydra.searchpath=[file://{tmp_path}]", "task=doubles", "policy=folder", f"policy.path={random_policy.path}"
    )
    checks.check(cfg)
    built = checks.build_parts(cfg)["task"]
    prompts = built.prompts("test")
    rewards = verify(prompts, pool_of([["406", "x"]] * len(prompts)), task=built).value
    assert rewards[0].tolist() == [1, 0]
    assert not rewards[1:].any()
    assert gold_rewards(prompts, pool_of([["406"]] * len(prompts)), task=built) is None
    assert (built.judged_by, built.counts(), built.answer_pattern) == ("doubles", {}, None)
    with pytest.raises(BenchError, match=r"task\.second is not a setting of Doubles"):
        checks.check(composed(f"hydra.searchpath=[file://{tmp_path}]", "task=doubles", "+task.second=1"))
