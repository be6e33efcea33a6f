"""Commands on finished pools: two compared, verdicts audited, and counts whose sampling stopped early."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench
from bench import estimators
from bench.errors import BenchError
from bench.pools import __main__ as command
from bench.records.read import Estimate
from bench.seeds import generator

M, N = 40, 8
RNG = np.random.default_rng(0)
RATE = RNG.random(M)
BASE = RNG.random((M, N)) < RATE[:, None]
BETTER = RNG.random((M, N)) < np.sqrt(RATE)[:, None]
REWARD = BASE + RNG.normal(0, 0.5, (M, N))

Run = Callable[..., str]


def rows(correct: np.ndarray, **more: Any) -> list[dict[str, Any]]:
    """One row per prompt. more: further columns, by row."""
    return [
        {
            "id": f"q{row}",
            "prompt": f"Question {row}?",
            "answer": "7",
            "completion": [f"The answer is {7 if right else 8}. Try {at}." for at, right in enumerate(correct[row])],
            "correct": correct[row].tolist(),
            **{name: values[row] for name, values in more.items()},
        }
        for row in range(len(correct))
    ]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line; returns what it prints."""

    def call(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["bench.pools", *words])
        command.main()
        return capsys.readouterr().out

    return call


def make(name: str, content: list[dict[str, Any]], **settings: Any) -> None:
    path = Path(f"{name}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    bench.import_pool(path, name=name, **settings)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_two_pools_are_compared_on_the_prompts_that_both_have(run: Run):
    """The numbers are the estimators' own; the order of rows and a prompt of one pool alone change nothing."""
    make("base", rows(BASE, reward=REWARD.tolist())[::-1])
    make("better", rows(BETTER, reward=REWARD.tolist())[1:])
    said = run("compare", "better", "base")
    assert "1 prompts of base have no partner and are left out. 39 prompts are compared, for k up to 8." in said
    k = np.arange(1, N + 1)
    a, b = (estimators.pass_at_k(correct[1:], k) for correct in (BETTER, BASE))
    order = np.argsort([f"q{row}" for row in range(1, M)])  # as the command has it: its draws go by the order
    expected = estimators.crossover(a[order], b[order], k, generator(0, "compare", "pass@k"))
    found = [row for row in table(Path("outputs/compared/better_vs_base/crossover.csv")) if row["measure"] == "pass@k"]
    for name, values in (("difference", expected.difference), ("difference_low", expected.low)):
        assert [float(row[name]) for row in found] == pytest.approx(values)
    assert [row["leads"] for row in found] == [{1: "better", 0: "open"}[int(leader)] for leader in expected.leader]
    assert expected.leader[0] == 1
    assert "pass@k: better leads at k = 1" in said
    best = [row for row in table(Path("outputs/compared/better_vs_base/crossover.csv")) if row["measure"] != "pass@k"]
    curve = estimators.best_of_n(REWARD[1:], k, BASE[1:].astype(float)).mean(axis=0)
    assert [row["measure"] for row in best] == ["Best-of-k by reward"] * N
    assert [float(row["b"]) for row in best] == pytest.approx(curve)
    assert (Path("outputs/compared/better_vs_base/crossover.png")).stat().st_size > 5_000


def test_a_pattern_is_several_training_seeds(run: Run):
    for seed in range(3):
        make(f"seed{seed}", rows(np.roll(BETTER, seed, axis=1) & (np.random.default_rng(seed).random((M, N)) < 0.95)))
    make("base", rows(BASE))
    run("compare", "outputs/imported/seed*", "base", "to=seeds")
    run("compare", "seed0", "base", "to=alone")
    widths = [
        [float(row["difference_high"]) - float(row["difference_low"]) for row in table(Path(name) / "crossover.csv")]
        for name in ("seeds", "alone")
    ]
    assert len(widths[0]) == N
    assert widths[0] != widths[1]


def test_ragged_pools_are_compared_up_to_the_samples_that_all_have(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.pools.compare.write_figure", lambda *_: None)  # the slowest part
    short = rows(BASE)
    short[3] |= {name: short[3][name][:5] for name in ("completion", "correct")}
    make("short", short)
    make("better", rows(BETTER))
    said = run("compare", "better", "short")
    assert "40 prompts are compared, for k up to 5. largest_k=8 goes on, with the prompts that have so many." in said
    said = run("compare", "better", "short", "largest_k=8")
    assert "39 prompts are compared, for k up to 8. 1 paired prompts have fewer than 8 judged completions." in said


def test_rewards_and_labels_that_are_there_in_part(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.pools.compare.write_figure", lambda *_: None)
    holes = [[None, *values[1:]] if at < 38 else list(values) for at, values in enumerate(REWARD)]
    for name, correct in (("one", BASE), ("two", BETTER)):
        make(name, rows(correct, reward=holes))
    said = run("compare", "one", "two")
    assert "40 prompts are compared, for k up to 8. Best-of-k by reward is over 2 of these prompts" in said
    for name, labelled in (("left", slice(0, 20)), ("right", slice(20, 40))):
        make(
            name,
            [row | ({} if at in range(40)[labelled] else {"correct": [None] * N}) for at, row in enumerate(rows(BASE))],
        )
    with pytest.raises(SystemExit, match="No prompt has judged completions in both pools"):
        run("compare", "left", "right")
    assert "| outputs/imported/../imported/one | difference" in run(
        "compare", "outputs/imported/one", "outputs/imported/../imported/one"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["base"], "1 pools are given; two are compared"),
        (["base", "other"], "base and other share no prompt: equal ids have different texts"),
        (["base", "nowhere"], "nowhere holds no finished run"),
        (["base", "base", "largest_k=9"], "largest_k=9 is not allowed: no prompt has more than 8"),
        (["base", "base", "largest_k=x"], "largest_k=x is not allowed: it must be a whole number"),
        (["base", "base", "colour=3"], "colour=3 is no option: give largest_k="),
        (["base", "unjudged"], "has no verdicts: import its pool with correct=FIELD"),
        (["base", "base", "split=train"], "has no pool of split train: it has test"),
    ],
)
def test_what_can_not_be_compared_is_said(words: list[str], said: str, run: Run):
    make("base", rows(BASE))
    make("other", [row | {"prompt": f"Another {row['id']}"} for row in rows(BASE)])
    make(
        "unjudged", [{"id": row["id"], "completion": row["completion"], "reward": [0.0, 1.0] * 4} for row in rows(BASE)]
    )
    with pytest.raises(SystemExit, match=said):
        run("compare", *words)


def test_an_audit_from_the_sheet_to_the_corrected_accuracy(run: Run):
    """The pool's own verdicts are wrong for a tenth; the hand labels are what the texts say."""
    verdicts = BASE ^ (np.random.default_rng(1).random((M, N)) < 0.1)
    make("base", [row | {"correct": verdicts[at].tolist()} for at, row in enumerate(rows(BASE))])
    said = run("audit", "base", "size=60")
    assert "60 of 320 completions are in outputs/audits/base/sheet.csv" in said
    sheet = table(Path("outputs/audits/base/sheet.csv"))
    assert list(sheet[0]) == ["prompt_id", "sample", "prompt", "completion", "answer", "weight", "label"]
    assert sum(float(row["weight"]) for row in sheet) == pytest.approx(M * N, rel=1e-4)
    with pytest.raises(SystemExit, match=r"sheet\.csv is there already"):
        run("audit", "base")
    for row in sheet[:-5]:  # the last ones stay unlabelled
        row["label"] = "1" if "is 7." in row["completion"] else "0"
    with Path("filled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(sheet[0]))
        writer.writeheader()
        writer.writerows(sheet)
    said = run("audit", "base", "labels=filled.csv")
    places = np.array([(int(row["prompt_id"][1:]), int(row["sample"])) for row in sheet[:-5]])
    audit = estimators.audit_verifier(verdicts, *places.T, BASE[tuple(places.T)])
    assert "audited by 55 labels by hand" in said
    assert f"verifier's errors | {Estimate(*audit.accuracy)} |" in said
    assert audit.accuracy.low <= BASE.mean() <= audit.accuracy.high


def test_a_sheet_has_no_formulas_and_texts_of_any_length(run: Run):
    long = "=" + "x" * 140_000  # longer than Python's csv reads by itself
    make("base", [row | {"completion": [long] * N} for row in rows(BASE)])
    run("audit", "base", "size=10")
    sheet = Path("outputs/audits/base/sheet.csv")
    assert sheet.read_text().count(f",'{long},") == 10
    with pytest.raises(SystemExit, match="has no label: fill its column"):
        run("audit", "base", f"labels={sheet}")
    make("other", rows(BASE))
    with pytest.raises(SystemExit, match="names 2 runs; one is audited"):
        run("audit", "outputs/imported/*")


def test_a_tasks_verdicts_are_audited_beside_labels_that_came_along(run: Run, there: Path):
    """Sampled by the cells of both; where they differ is a file to read."""
    came_along = BASE.copy()
    came_along[0, :3] = ~came_along[0, :3]
    content = [row | {"correct": came_along[at].tolist()} for at, row in enumerate(rows(BASE))]
    (there / "task.jsonl").write_text("".join(json.dumps({"question": "Q?", "answer": "7"}) + "\n" for _ in range(9)))
    make("base", content, task=("task=jsonl", f"task.path={there}/task.jsonl", "task.compare=number"), match="answers")
    said = run("audit", "base", "size=40")
    assert "3 disagreements; 3 of them in disagreements.csv." in said
    differ = table(Path("outputs/audits/base/disagreements.csv"))
    assert [(row["prompt_id"], row["sample"]) for row in differ] == [("q0", "0"), ("q0", "1"), ("q0", "2")]
    assert all(row["came_along"] != row["verdict"] for row in differ)
    sheet = {(row["prompt_id"], row["sample"]) for row in table(Path("outputs/audits/base/sheet.csv"))}
    assert {("q0", "0"), ("q0", "1"), ("q0", "2")} <= sheet


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("prompt_id,sample,label\nq0,0,maybe\n", "line 2: label=maybe is not allowed"),
        ("prompt_id,sample,label\nq0,³,1\n", "line 2: the pool has no judged sample ³ of q0"),
        ("prompt_id,sample,label\nq0,99,1\n", "line 2: the pool has no judged sample 99 of q0"),
        ("prompt_id,sample,label\nq0,0,1\nq0,0,1\n", "line 3: sample 0 of q0 is labelled twice"),
        ("prompt_id,sample,label\nq0,0,\n", "has no label: fill its column"),
        ("prompt_id,label\n", "has no column sample"),
        ("prompt_id,sample,label\nq0,0,1\n", "The labels allow no audit: stratum [01] must have"),
    ],
)
def test_labels_that_can_not_be_used_are_named_by_line(content: str, said: str, run: Run):
    make("base", rows(BASE))
    Path("labels.csv").write_text(content)
    with pytest.raises(SystemExit, match=said):
        run("audit", "base", "labels=labels.csv")


def counts_by_rule() -> list[dict[str, Any]]:
    """Sampling in blocks of 10 up to the first success, at most 60."""
    rng = np.random.default_rng(2)
    drawn = rng.random((60, 60)) < rng.choice([0.0, 0.02, 0.1, 0.5], 60)[:, None]
    solved = drawn.reshape(60, 6, 10).any(axis=2)
    n = np.where(solved.any(axis=1), 10 * (solved.argmax(axis=1) + 1), 60)
    return [{"id": f"p{row}", "n": int(n[row]), "c": int(drawn[row, : n[row]].sum())} for row in range(60)]


def test_counts_that_stopped_early_are_refused_or_estimated_by_their_rule(run: Run):
    content = counts_by_rule()
    with pytest.raises(BenchError, match=r"sampling had stopped at successes.*block=10 limit=60, or accept_fixed=true"):
        make("counts", content)
    assert not Path("outputs/imported/counts").exists()
    run("import", "counts.jsonl", "name=counts", "stopped=first_success", "block=10", "limit=60")
    n, c = (np.array([row[name] for row in content]) for name in ("n", "c"))
    expected = estimators.stopped_pass_at_k(c, n, [1, 32, 60], enough=1, limit=60, block=10).mean(axis=0)
    metrics = bench.load("outputs/imported/counts")[0].metrics
    assert [metrics[f"sampler/pass@{k}"] for k in (1, 32, 60)] == pytest.approx(expected)
    assert "best_of_2/kl" not in metrics
    run("import", "counts.jsonl", "name=fixed", "accept_fixed=true")
    fixed = bench.load("outputs/imported/fixed")[0].metrics
    assert fixed["sampler/pass@1"] == pytest.approx(estimators.pass_at_k_of_counts(c, n, 1).mean())
    with pytest.raises(SystemExit, match="counts that stopped early; this takes a fixed number"):
        run("compare", "counts", "fixed")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stopped=first_success", "block=10"], "stopped=first_success needs block=B limit=L"),
        (["stopped=first_success", "block=7", "limit=60"], "The counts don't fit stopped=first_success"),
        (["stopped=never", "block=10", "limit=60"], "stopped=never must be first_success"),
        (["block=10"], "block= and limit= belong to stopped=first_success"),
        (["accept_fixed=maybe"], "accept_fixed=maybe is not allowed"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(words: list[str], said: str, run: Run):
    Path("counts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in counts_by_rule()))
    with pytest.raises(SystemExit, match=said):
        run("import", "counts.jsonl", "name=counts", *words)


def test_completions_that_may_have_stopped_are_told(there: Path, capsys: pytest.CaptureFixture[str]):
    content = [
        {
            "id": row["id"],
            "completion": ["x"] * row["n"],
            "correct": [True] * row["c"] + [False] * (row["n"] - row["c"]),
        }
        for row in counts_by_rule()
    ]
    make("ragged", content)
    assert "Sampling may have stopped at successes" in capsys.readouterr().err


def test_pass_hat_stands_beside_pass(there: Path):
    make("base", rows(BASE))
    metrics = bench.load("outputs/imported/base")[0].metrics
    assert metrics["sampler/pass_hat@4"] == pytest.approx(estimators.pass_hat_k(BASE, 4).mean())
