"""Import the public pools, and write their values beside the published ones to values.csv.

    BENCH_DATA=FOLDER python reports/public_pools/make.py

The runs stay in outputs/imported, the texts in store; only numbers come into this folder.
"""

import csv
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import bench
from bench import estimators
from bench.pools.arrays import PoolArrays, read
from bench.records.environment import note
from bench.seeds import generator

HERE = Path(__file__).parent
DATA = Path(os.environ.get("BENCH_DATA", HERE.parent.parent.parent / "shared" / "data"))
GSM8K = {"6b_finetuning": "", "6b_verification": "39.0 %", "175b_finetuning": "34.7 %", "175b_verification": ""}
ANSWER = re.compile(r"answer:\s*(.*)", re.IGNORECASE)


class Imported(NamedTuple):
    """A file, how it is read, and the task that judges it where no labels came along."""

    file: str
    columns: dict[str, str]
    task: tuple[str, ...] = ()
    match: str | None = None


POOLS = {
    "game24_gpt4": Imported("game24_gpt4_cot.json", {"id": "idx", "completion": "ys", "correct": "infos.r"}),
    "qwen_math": Imported(
        "qwen_math_cot_100.jsonl",
        {"id": "idx", "prompt": "question", "completion": "code", "correct": "score", "prediction": "pred"}
        | {"reward.rm": "pred_score"},
    ),
    **{
        f"gsm8k_{model}": Imported(
            "gsm8k_example_model_solutions.jsonl",
            {"prompt": "question", "completion": f"{model}.solution", "correct": f"{model}.is_correct"},
        )
        for model in GSM8K
    },
    **{
        f"humaneval_{continuation}": Imported(
            "humaneval_codegen16b.jsonl",
            {"completion": "samples"},
            ("task=humaneval", f"task.path={DATA}/humaneval/HumanEval.jsonl.gz", f"task.continuation={continuation}"),
            "prompts",
        )
        for continuation in ("as_is", "function")
    },
}
VALUES = [  # pool, what, policy, method, metric, n, published
    ("game24_gpt4", "pass@1", "sampler", "pass", "accuracy", 1, "4.0 %"),
    ("game24_gpt4", "pass@100", "sampler", "pass", "accuracy", 100, "49 %"),
    ("qwen_math", "majority@8", "sampler", "majority", "accuracy", 8, "93 %"),
    ("qwen_math", "Best-of-8 by the reward model", "base", "best_of_n", "accuracy", 8, "94 %"),
    ("qwen_math", "pass@8", "sampler", "pass", "accuracy", 8, "96 %"),
    ("qwen_math", "pass^8", "sampler", "pass_hat", "accuracy", 8, ""),
    *(
        (f"humaneval_{continuation}", f"pass@{n}", "sampler", "pass", "accuracy", n, share)
        for continuation in ("as_is", "function")
        for n, share in ((10, "50.3 %"), (100, "73.7 %"))
    ),
    *((f"gsm8k_{model}", "pass@1", "sampler", "pass", "accuracy", 1, share) for model, share in GSM8K.items()),
]


def values(name: str, run: Any) -> list[dict[str, Any]]:
    """What this suite makes of a pool, with intervals for new prompts; n beside powers of two from the pool itself."""
    pool, rng = read(run, "test"), generator(0, "public pools", name)
    rows = []

    def row(what: str, n: int, value: float, low: float, high: float, published: str = "") -> None:
        ends = {"value": f"{value:.6f}", "value_low": f"{low:.6f}", "value_high": f"{high:.6f}"}
        rows.append({"pool": name, "what": what, "n": n, "published": published, **ends, "prompts": len(pool.ids)})

    for of, what, policy, method, metric, n, published in VALUES:
        if of == name and (policy, method, metric, n) in run.curves:
            found = run.curves[policy, method, metric, n]
            row(what, n, found.value, found.low, found.high, published)
        elif of == name:
            each = estimators.pass_at_k(pool.correct, n)
            row(what, n, each.mean(), *estimators.bootstrap_interval(each, rng, shares=True), published)
    if name == "game24_gpt4":
        for estimator, what in (("jackknife", "KL of Best-of-10, nats"), ("bound", "its bound")):
            kl = estimators.best_of_n_kl(pool.correct, 10, estimator)
            row(what, 10, kl.mean(), *estimators.bootstrap_interval(kl, rng))
        votes = estimators.majority_at_k(game24_answers(pool), pool.correct, 100)
        ends = estimators.bootstrap_interval(votes, rng, shares=True)
        row("majority@100 of the written answers", 100, votes.mean(), *ends)
        unsolved = ~pool.correct.any(axis=1)
        kl = estimators.best_of_n_kl(pool.correct, 10, "jackknife")
        kl[unsolved] = largest_kl_without_success(pool.correct.shape[1], 10)
        row("largest KL of Best-of-10, nats", 10, kl.mean(), *estimators.bootstrap_interval(kl, rng))
        row("games without a right sample", 100, unsolved.sum(), unsolved.sum(), unsolved.sum())
    if "scorer/auc" in run.metrics and pool.rewards:
        ends = [run.metrics[f"scorer/auc{end}"] for end in ("", "_low", "_high")]
        row(f"within-prompt AUC, {run.metrics['scorer/auc_prompts']} prompts", 1, *ends)
    return rows


def largest_kl_without_success(samples: int, n: int) -> float:
    """The KL of Best-of-n in nats, at the largest pass rate that has no right one of `samples` in 5 % of pools."""
    p = 1 - 0.05 ** (1 / samples)
    chosen = 1 - (1 - p) ** n
    return chosen * np.log(chosen / p) + (1 - chosen) * np.log((1 - chosen) / (1 - p))


def game24_answers(pool: PoolArrays) -> np.ndarray:
    """[M, N] what each completion writes after "Answer:", without spaces; None where it doesn't."""
    answers = np.full(pool.correct.shape, None, object)
    for game in json.loads((DATA / "pools" / POOLS["game24_gpt4"].file).read_text()):
        (row,) = pool.rows([str(game["idx"])])
        for column, text in enumerate(game["ys"]):
            written = ANSWER.findall(text)
            answers[row, column] = written[-1].replace(" ", "") if written else None
    return answers


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name, how in POOLS.items():
        path = DATA / "pools" / how.file
        run = bench.import_pool(path, name=name, columns=how.columns, task=how.task, match=how.match)[0]
        rows += values(name, run)
    one = [
        read(bench.load(f"outputs/imported/gsm8k_{model}")[0], "test")
        for model in ("6b_verification", "175b_finetuning")
    ]
    a, b = (pool.correct[pool.rows(one[0].ids.tolist())] for pool in one)
    found = estimators.crossover(a, b, [1], generator(0, "public pools", "verifier"))
    ends = {f"value_{name}": f"{getattr(found, name)[0]:.6f}" for name in ("low", "high")}
    rows.append(
        {
            "pool": "gsm8k_6b_verification - gsm8k_175b_finetuning",
            "what": "pass@1, paired",
            "n": 1,
            "published": "",
        }
        | {"value": f"{np.mean(a) - np.mean(b):.6f}", **ends, "prompts": found.prompts}
    )
    with (HERE / "values.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    note(HERE / "values.csv")
    for row in rows:
        interval = f"{row['value']} [{row['value_low']}, {row['value_high']}]"
        print(f"{row['pool']:45} {row['what']:36} {row['published']:8} {interval}")


if __name__ == "__main__":
    main()
