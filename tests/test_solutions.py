"""Worked solutions: of each task's rows, what is trained on them, and who is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import fixtures_tasks as made
import numpy as np
import pytest
from sharing import composed

from bench.artifacts import Policy, Selection
from bench.config import checks
from bench.config.keys import run_id
from bench.errors import BenchError
from bench.launching import runner
from bench.models import loading
from bench.procedures.parts import Parts
from bench.speed.verify import data_folder
from bench.sweeps.cells import Cell
from bench.sweeps.plan import Workload, workload
from bench.tasks.gsm8k import Gsm8k
from bench.tasks.humaneval import HumanEval
from bench.tasks.jsonl import Jsonl
from bench.tasks.list_programs import ListPrograms
from bench.tasks.math500 import Math500
from bench.tasks.mbpp import Mbpp
from bench.tasks.ultrafeedback import UltraFeedback
from bench.training.sft import fine_tune, training_set

# --- as they are published -----------------------------------------------------------------------------------------

ANSWER = "Half of 10 is 10/2 = <<10/2=5>>5.\nIn all 10+5 = $<<10+5=15>>15.\n#### 15"
ROWS: dict[str, tuple[type, dict[str, Any], str]] = {  # task, a row, its solution
    "gsm8k": (
        Gsm8k,
        {"question": "How many?", "answer": ANSWER},
        "Half of 10 is 10/2 = 5.\nIn all 10+5 = $15.\n#### 15",
    ),
    "math, train": (Math500, {"problem": "1+1?", "solution": " It is $\\boxed{2}$.\n"}, "It is $\\boxed{2}$."),
    "math, test": (
        Math500,
        {"problem": "1+1?", "solution": "It is $\\boxed{2}$.", "answer": "2"},
        "It is $\\boxed{2}$.",
    ),
    "mbpp": (
        Mbpp,
        {"text": "Double.", "code": "def f(x):\r\n    return 2 * x", "test_list": ["assert f(1) == 2"]},
        "```python\ndef f(x):\n    return 2 * x\n```",
    ),
    "mbpp, sanitized": (
        Mbpp,
        {"prompt": "Double.", "code": "def f(x):\n  return 2 * x", "test_list": ["assert f(1) == 2"]},
        "```python\ndef f(x):\n  return 2 * x\n```",
    ),
    "ultrafeedback": (
        UltraFeedback,
        {
            "prompt": "Hi?",
            "chosen": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}],
        },
        "Hello.",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_solution_of_a_row(name: str, tmp_path: Path) -> None:
    task, row, solution = ROWS[name]
    settings = {"gold_model": "anywhere"} if task is UltraFeedback else {}
    assert task(path=str(tmp_path), **settings).example(row, "x").solution == solution


def test_a_function_is_solved_whole_or_by_its_continuation() -> None:
    (row,) = made.humaneval(1)
    solution = HumanEval(path="anywhere").example(row, "x").solution
    assert solution == f"```python\n{row['prompt'].strip()}\n{row['canonical_solution'].rstrip()}\n```"
    as_is = HumanEval(path="anywhere", continuation="as_is").example(row, "x").solution
    assert as_is == row["canonical_solution"]


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("name", ["gsm8k", "humaneval", "math500", "mbpp", "jsonl", "list_programs"])
def test_every_solution_is_right_by_its_own_task(name: str, tmp_path: Path) -> None:
    rows = made.FILES_OF[name]() if name in made.FILES_OF else {}
    if name == "jsonl":
        rows = {split: [row | {"solution": row["answer"]} for row in some] for split, some in rows.items()}
    path = made.write(tmp_path, **rows)
    tasks: dict[str, Any] = {
        "gsm8k": lambda: Gsm8k(path=path),
        "humaneval": lambda: HumanEval(path=path),
        "math500": lambda: Math500(path=path),
        "mbpp": lambda: Mbpp(path=path),
        "jsonl": lambda: Jsonl(path=path),
        "list_programs": lambda: ListPrograms(train_prompts=40, test_prompts=20),
    }
    task = tasks[name]()
    for split in ("train", "test"):
        prompts = task.prompts(split)
        assert all(task.are_correct(task.solutions(prompts), prompts.answer.tolist()))
        few = prompts.take(np.array([1, 0]))
        assert task.solutions(few) == task.solutions(prompts)[1::-1]
    strange = replace(few, id=np.array(["nobody", "noone"]))
    with pytest.raises(ValueError, match="prompt nobody is not one of"):
        task.solutions(strange)


def test_a_hint_is_the_answer_after_the_question(tmp_path: Path) -> None:
    path = made.write(tmp_path, train=made.gsm8k(20), test=made.gsm8k(4, seed=1))
    task = Gsm8k(path=path)
    prompts = task.prompts("train")
    hinted = task.with_hint(prompts)
    for before, after, answer in zip(prompts.messages, hinted.messages, prompts.answer, strict=True):
        assert after[-1]["content"] == f"{before[-1]['content']}\n\n(The answer is {answer}.)"
    assert not set(hinted.id) & set(prompts.id)


# --- who is refused ------------------------------------------------------------------------------------------------

USES = {  # that train on worked solutions
    "sft": ["experiment=sft"],
    "hybrid": ["experiment=hybrid"],
    "rft": ["procedure=generators", "procedure.drawn_by=[student]", "procedure.solutions=true"],
    "warm start": ["policy=warm_started", "policy.start.path=anywhere"],
}


@pytest.fixture(scope="session")
def planned() -> Callable[..., Workload]:
    """The work of one experiment, checked and counted as in a plan."""

    def plan(*settings: str) -> Workload:
        cfg = composed(*settings)
        checks.check(cfg)
        return workload([Cell("", cfg, ())])

    return plan


@pytest.mark.parametrize("use", USES)
def test_a_task_without_solutions_is_refused_in_plans(use: str, planned) -> None:
    with pytest.raises(BenchError, match="task=ifeval has no worked solutions to train on"):
        planned(*USES[use], "task=ifeval", "task.train_prompts=4", "task.test_prompts=4")
    assert planned(*USES[use], "task=gsm8k", "task.train_prompts=4", "task.test_prompts=4").trainings >= 1


@pytest.mark.parametrize("use", USES)
def test_rows_without_a_solution_are_refused_in_plans(use: str, planned, tmp_path: Path) -> None:
    rows = [row | {"worked": row["answer"]} for row in made.prompts(40)]
    file = Path(made.write(tmp_path, own=rows), "own.jsonl")
    given = [*USES[use], "task=jsonl", f"task.path={file}", "task.near_duplicate=null"]
    says = r"\d+ of \d+ prompts of task=jsonl have no worked solution, e\.g\. row-\d+: .* task\.solution_field=NAME\."
    with pytest.raises(BenchError, match=says):
        planned(*given)
    assert planned(*given, "task.solution_field=worked").trainings >= 1


@pytest.mark.parametrize("setting", ["foreign", "noise"])
def test_styles_and_errors_are_those_of_the_tasks_that_write_demonstrations(setting: str, planned) -> None:
    gsm8k = ["experiment=hybrid", "task=gsm8k", "task.train_prompts=4", "task.test_prompts=4"]
    with pytest.raises(BenchError, match=rf"procedure\.{setting}=0\.25 is not allowed with task=gsm8k, .* must be 0"):
        planned(*gsm8k, f"procedure.{setting}=0.25")
    assert planned(*gsm8k, f"procedure.{setting}=0").trainings >= 1
    assert composed("experiment=hybrid").procedure.foreign == 0.5
    assert composed("experiment=hybrid", "task=gsm8k").procedure.foreign == 0.0


def test_settings_of_a_warm_start_are_checked_wherever_it_stands() -> None:
    wrong = "training.micro_batch_size=5"
    warm = ["policy=warm_started", "policy.start.path=anywhere", f"policy.{wrong}"]
    at = "procedure.generators.solved"
    of_generator = [f"+policy@{at}.policy=warm_started", f"{at}.policy.start.path=anywhere", f"{at}.policy.{wrong}"]
    for given in (warm, ["procedure=generators", f"+{at}.weight=1", *of_generator]):
        with pytest.raises(BenchError, match=r"training\.micro_batch_size=5 .* must divide"):
            checks.check(composed(*given))


def test_later_settings_at_their_defaults_leave_run_ids_as_they_were() -> None:
    assert run_id(composed("experiment=hybrid", "evaluation.temperatures=null")) == "50c3b72ff1"
    for given, setting in (
        (["task=jsonl", "task.path=x"], "task.solution_field"),
        (["procedure=generators"], "procedure.solutions"),
    ):
        part, _, name = setting.partition(".")
        cfg = composed(*given)
        without = composed(*given, f"~{setting}")
        assert name not in without[part]
        assert run_id(cfg) == run_id(without)
        assert run_id(composed(*given, f"{setting}={'true' if name == 'solutions' else 'other'}")) != run_id(cfg)


SMALL = [
    *("task.train_prompts=4", "task.test_prompts=2", "task.max_new_tokens=4", "num_completions=2"),
    *("baseline_completions=2", "evaluation.num_completions=1", "evaluation.kl_completions=1"),
    *("evaluation.temperatures=null", "evaluation.lm_eval=false", "tracking=none", "training.epochs=1"),
]


# --- on real data --------------------------------------------------------------------------------------------------

DATA = data_folder()
real_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real data in {DATA}; BENCH_DATA=FOLDER names another folder"
)


@pytest.mark.real_data
@real_data
@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("name", ["gsm8k", "math500", "humaneval"])
def test_published_solutions_are_right_as_they_are_trained_on(name: str) -> None:
    """All of GSM8K and HumanEval; of MATH 300 here, and all 5,000 by hand."""
    whole: dict[str, Any] = {"near_duplicate": None, "validation_share": 0.0}
    tasks: dict[str, Any] = {
        "gsm8k": lambda: Gsm8k(path=str(DATA / "gsm8k"), **whole),
        "math500": lambda: Math500(path=str(DATA / "math"), test_prompts=300, **whole),
        "humaneval": lambda: HumanEval(path=str(DATA / "humaneval" / "HumanEval.jsonl.gz"), **whole),
    }
    task, right = tasks[name](), 0
    for split in ("test",) if name == "math500" else ("train", "test"):
        prompts = task.prompts(split)
        solutions = task.solutions(prompts)
        assert not any("<<" in solution and name == "gsm8k" for solution in solutions)
        right += sum(task.are_correct(solutions, prompts.answer.tolist()))
    assert right == {"gsm8k": 8792, "math500": 300, "humaneval": 164}[name]


@pytest.mark.real_data
@real_data
@pytest.mark.parametrize("experiment", ["hybrid", "sft"])
def test_gsm8ks_own_solutions_are_trained_on_end_to_end(experiment: str, tmp_path: Path) -> None:
    """A random model, a few prompts: the hybrid trains the easy half on demonstrations, and no sample is right."""
    folder = families.make("qwen_2_5_base", tmp_path / "model").path
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    cfg = composed(
        *(
            f"experiment={experiment}",
            "task=gsm8k",
            f"task.path={DATA / 'gsm8k'}",
            *SMALL,
            "task.test_prompts=3",
            "task.near_duplicate=null",
        ),
        *("policy=folder", f"policy.path={folder}", f"store={tmp_path}/store", f"outputs={tmp_path}/outputs"),
        *(["procedure.fallback=rationalise", "procedure.probe_epochs=1"] if experiment == "hybrid" else []),
    )
    metrics = json.loads((runner.run_experiment(cfg, quiet=True) / "metrics.json").read_text())
    assert metrics["tuned/kl"] > 0
    if experiment == "hybrid":
        assert metrics["hybrid/demonstrations_right"] == 1.0
        assert metrics["hybrid/prompts_from_demonstration"] == metrics["selection/kept"] == 2
        assert metrics["hybrid/samples_total"] == 2 * 2 * 2  # two hard prompts, two samples, twice: with a hint
    else:
        assert metrics["solutions/written"] == metrics["selection/kept"] == 4
        assert (metrics["solutions/right"], metrics["solutions/too_long"]) == (1.0, 4)
        assert metrics["train/loss"] > 0


# --- what is trained on --------------------------------------------------------------------------------------------


def parts_of(cfg: Any, **others: Any) -> Parts:
    parts = {name: part for name, part in checks.build_parts(cfg).items() if name not in ("tracking", "procedure")}
    return Parts(**parts | others, **{name: cfg[name] for name in checks.RUN_SETTINGS})


def test_sft_is_the_fine_tuning_by_hand_and_the_warm_start_of_the_same_recipe(store, random_policy: Policy) -> None:
    cfg = composed("experiment=sft", *SMALL, "policy=folder", f"policy.path={random_policy.path}")
    parts = parts_of(cfg)
    results = checks.build_parts(cfg)["procedure"](parts)
    tokenizer, prompts = loading.load_tokenizer(random_policy), parts.train
    texts = parts.task.demonstrations_of(prompts, foreign=0.0, noise=0.0, seed=0)
    examples = training_set(prompts, results.pool, results.selections["tuned"])
    assert [tokenizer.decode(ids[:-1]) for ids in examples.token_ids] == texts
    assert all(ids[-1] == tokenizer.eos_token_id for ids in examples.token_ids)
    assert examples.messages == prompts.messages
    assert examples.weight == (1.0,) * 4

    before = len(store.uses)
    rows = np.arange(4)
    by_hand = fine_tune(
        random_policy, prompts, results.pool, Selection(rows, rows * 0, rows * 0 + 1.0), epochs=1, seed=0
    )
    warm = composed(
        *("experiment=sft", *SMALL, "policy=warm_started", f"policy.start.path={random_policy.path}"),
        "policy.training.epochs=1",
    )
    assert by_hand.path == results.policies["tuned"].path == parts_of(warm).base.path
    assert all(use.reused for use in store.uses[before:])


def test_rft_trains_on_the_samples_and_every_solution(store, random_policy: Policy, tmp_path: Path) -> None:
    """Against the selections of the same run without solutions; so does its control."""
    given = ["procedure=generators", "procedure.drawn_by=[student]", "prompt_filter=all", *SMALL]
    given += ["policy=folder", f"policy.path={random_policy.path}"]
    found = {}
    for solutions in ("false", "true"):
        cfg = composed(*given, f"procedure.solutions={solutions}")
        found[solutions] = checks.build_parts(cfg)["procedure"](parts_of(cfg))
    alone, both = found["false"], found["true"]
    assert both.pool.shape == (4, 3)
    for arm, chosen in alone.selections.items():
        pairs = [*zip(chosen.row.tolist(), chosen.column.tolist(), strict=True), *((row, 2) for row in range(4))]
        also = both.selections[arm]
        assert sorted(zip(also.row.tolist(), also.column.tolist(), strict=True)) == sorted(pairs)
    assert both.rewards.value[:, 2].tolist() == [1.0] * 4
    drawn, rewards = both.findings.drawn(both)
    assert drawn.shape == rewards.shape == (4, 2)
    assert both.findings.drawn_by(both) == ["base", "base", "solution"]
    metrics = both.findings.metrics(both, parts_of(cfg).task, store.uses, seed=0)
    assert (metrics["solutions/written"], metrics["solutions/right"]) == (4, 1.0)
    costs = [results.findings.cost(results, store.uses) for results in (alone, both)]
    assert costs[1].completions_trained == costs[0].completions_trained + 4
    assert costs[1].trainings == (costs[0].trainings[0] + 4,)
    blank = {"completions_trained": 0, "trainings": ()}
    assert replace(costs[1], **blank) == replace(costs[0], **blank)
