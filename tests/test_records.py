"""What samples.parquet says of each completion, beside its reward, and environment.json of the machine."""

from importlib import metadata

import numpy as np

from bench.artifacts import Completions, Divergence, Policy, Prompts, Rewards, Selection
from bench.evaluation.heldout import Graded, Outcomes
from bench.procedures.findings import Results
from bench.records.environment import PACKAGES, environment
from bench.records.fingerprint import code_of
from bench.records.write import _samples
from bench.tasks.word_problems import WordProblems


def prompts(name: str, answers: list[str]) -> Prompts:
    messages = tuple(({"role": "user", "content": f"Which number? {answer}"},) for answer in answers)
    return Prompts(np.array([f"{name}-{row}" for row in range(len(answers))]), messages, np.array(answers))


def completions(texts: list[list[str]]) -> Completions:
    text = np.array(texts, object)
    ids = np.empty(text.shape, object)
    for cell in np.ndindex(text.shape):
        ids[cell] = np.zeros(len(text[cell]), np.int32)
    zeros = np.zeros(text.shape)
    return Completions(text, ids, np.full(text.shape, "stop", object), zeros, zeros, key="k")


def test_a_sample_says_whether_it_is_right_even_where_its_reward_says_otherwise(tmp_path):
    """The reward here is the text's length over ten: the right completions are not those with the highest."""
    train, test = prompts("train", ["7", "9"]), prompts("test", ["5"])
    pool = completions([["#### 7", " 3 + 5 = 8. #### 8"], [" nothing", " 4 + 5 = 9. #### 9"]])
    greedy = Graded(
        completions([["#### 6"]]),
        np.array([[0.9]]),
        np.array([[0.0]]),
        np.array([["6"]], object),
        np.array([[None]], object),
    )
    right = Graded(
        completions([["#### 5"]]),
        np.array([[0.1]]),
        np.array([[1.0]]),
        np.array([["5"]], object),
        np.array([[None]], object),
    )
    nowhere = Divergence(np.zeros(1), "k1", "base")
    policy = Policy(tmp_path, "fingerprint")
    chosen = Selection(np.array([0, 1]), np.array([1, 1]), np.ones(2))
    results = Results(
        train=train,
        pool=pool,
        rewards=Rewards(np.array([[0.6, 1.8], [0.8, np.nan]])),
        prompts_filtered=0,
        selections={"tuned": chosen, "control": Selection(np.array([0, 1]), np.array([1, 0]), np.ones(2))},
        policies={"base": policy, "tuned": policy},
        split="test",
        test=test,
        outcomes={
            "base": Outcomes(greedy, greedy, nowhere, nowhere, 0.0, np.zeros((1, 1)), None, {}),
            "tuned": Outcomes(right, right, nowhere, nowhere, 0.0, np.zeros((1, 1)), None, {}),
        },
        best_of_n=greedy,
    )
    rows = _samples(results, WordProblems())
    said = [(row["split"], row["policy"], row["prompt_id"], row["sample"], row["correct"]) for row in rows]
    assert said == [
        ("train", "base", "train-0", 0, True),
        ("train", "base", "train-0", 1, False),
        ("train", "base", "train-1", 0, False),
        ("train", "base", "train-1", 1, True),
        ("test", "base", "test-0", 0, False),
        ("test", "tuned", "test-0", 0, True),
    ]
    assert [row["selected_for"] for row in rows[:4]] == ["", "tuned and control", "control", "tuned"]


def test_the_environment_has_the_versions_of_what_is_installed_and_the_processor(monkeypatch):
    found = environment()
    assert found["torch"] == metadata.version("torch")
    assert set(found) - {"gpu", "processor", "python"} <= set(PACKAGES)
    assert not [name for name, value in found.items() if not value.strip(" ,")]
    monkeypatch.setattr("bench.records.environment.PACKAGES", ("numpy", "no-such-package"))
    assert set(environment.__wrapped__()) - {"gpu"} == {"python", "numpy", "processor"}


def test_neither_packages_outside_the_environment_nor_compiled_modules_are_code_of_a_run(tmp_path, monkeypatch):
    """As after `pip install --user`. Their files, some of them binary, would end a run when it writes its records."""
    own, packages = tmp_path / "own", tmp_path / "site-packages"
    for folder in (own, packages):
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
    (packages / "package_of_others.py").write_text("")
    (own / "compiled_part.so").write_bytes(b"\x80")
    (own / "scorer_of_mine.py").write_text(
        "def score():\n    import package_of_others\n    import compiled_part\n    import helper_of_mine\n"
    )
    (own / "helper_of_mine.py").write_text("")
    code = code_of({"scoring": {"_target_": "scorer_of_mine.score"}})
    mine = {name for name in code if not name.startswith("bench.")}
    assert mine == {str(own / "scorer_of_mine.py"), str(own / "helper_of_mine.py")}
