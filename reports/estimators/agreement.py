"""Give the same arrays to functions of other projects and to ours, and write how far they differ.

    python reports/estimators/agreement.py FOLDER      # half a minute of one core

FOLDER holds clones of the four projects at the commits below: human-eval, llm_optimization, kl-rb and Skills. Their
files are read from there, and none is copied. Writes agreement.csv beside this file.
"""

import argparse
import ast
import csv
import hashlib
import importlib.util
import itertools
import typing
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from bench.estimators.curves import best_of_n, pass_at_k
from bench.estimators.policy_divergence import rao_blackwell_kl
from bench.estimators.voting import majority_at_k, weighted_majority_at_k
from bench.records.environment import note
from bench.seeds import generator

HERE = Path(__file__).parent
COLUMNS = ("quantity", "code", "commit", "function", "arrays", "value")
Row: TypeAlias = tuple[str, str, str, str, str, str]


class Source(NamedTuple):
    """A function, and the file in FOLDER that defines it; blob begins git's name for the content of that file."""

    code: str
    commit: str
    function: str
    file: str = ""
    blob: str = ""


HUMAN_EVAL = Source(
    "openai/human-eval", "6d43fb9", "estimate_pass_at_k", "human-eval/human_eval/evaluation.py", "9ce96dfc4cb4"
)
LLM_OPTIMIZATION = Source(
    "tlc4418/llm_optimization",
    "416b03c",
    "unbiased_sampler",
    "llm_optimization/src/bon/bon_sampling.py",
    "9abcc51fe003",
)
KL_RB = Source("rycolab/kl-rb", "89cd8e0", "compute_kl", "kl-rb/trl/trainer/utils.py", "678c64c17d1d")
METRICS = "Skills/nemo_skills/evaluation/metrics"
NEMO = Source("NVIDIA-NeMo/Skills", "8b18f39", "_compute_majority_at_k", f"{METRICS}/base.py", "26c00b6d6a97")
NEMO_REWARD = Source(*NEMO[:2], "_compute_reward_at_k", f"{METRICS}/math_metrics.py", "9c9f0cf13609")


def row(quantity: str, source: Source, arrays: str, value: float) -> Row:
    return quantity, source.code, source.commit, source.function, arrays, f"{value:.6g}"


def difference(quantity: str, source: Source, arrays: str, theirs: Any, ours: Any) -> Row:
    """Return the row of the largest absolute difference."""
    return row(f"{quantity}, largest difference", source, arrays, np.abs(np.asarray(theirs) - np.asarray(ours)).max())


def text_of(source: Source, folder: Path) -> str:
    """Return the text of the file; SystemExit where it is missing or is not that of the commit."""
    path = folder / source.file
    if not path.is_file():
        raise SystemExit(f"{path} is missing; FOLDER needs github.com/{source.code} at {source.commit}")
    content = path.read_bytes()
    if not hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest().startswith(source.blob):
        raise SystemExit(f"{path} is not as in {source.code} at {source.commit}; check that commit out")
    return content.decode()


def imported(source: Source, folder: Path) -> dict[str, Any]:
    """Return what the file defines, by name."""
    text_of(source, folder)
    spec = importlib.util.spec_from_file_location(Path(source.file).stem, folder / source.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def defined(name: str, source: Source, folder: Path, needs: dict[str, Any]) -> Any:
    """Return a function or class of a file that cannot be imported here; needs holds the names that it uses."""
    body = ast.parse(text_of(source, folder)).body
    found: list[ast.stmt] = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
    exec(compile(ast.Module(found, []), source.file, "exec"), needs)
    return needs[name]


def passes(folder: Path) -> list[Row]:
    """Compare pass@k on prompts of all pass rates, some of them solved never or always."""
    # The module imports its package, human_eval, which is not installed here.
    needs = {"np": np, "itertools": itertools, "Union": typing.Union, "List": list}
    theirs = defined("estimate_pass_at_k", HUMAN_EVAL, folder, needs)
    rng = generator(0, "agreement", "pass@k")
    rates = np.clip(rng.uniform(-0.1, 1.1, (500, 1)), 0, 1)
    correct = (rng.random((500, 200)) < rates).astype(np.float64)
    sizes = list(range(1, 201))
    values = np.stack([theirs(200, correct.sum(axis=1), k) for k in sizes], axis=1)
    return [difference("pass@k", HUMAN_EVAL, "500 × 200, k = 1 … 200", values, pass_at_k(correct, sizes))]


def questions(proxy: np.ndarray, gold: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return a pool as `unbiased_sampler` takes it: by ascending proxy score, ties in the order of the columns."""
    order = np.argsort(proxy, axis=1, kind="stable")
    ranked = np.take_along_axis(proxy, order, axis=1), np.take_along_axis(gold, order, axis=1)
    return [{"proxy_scores": p, "gold_scores": g} for p, g in zip(*ranked, strict=True)]


def best_without_ties(folder: Path) -> list[Row]:
    """Compare Best-of-N, both of the score that selects and of the gold score."""
    theirs = imported(LLM_OPTIMIZATION, folder)["unbiased_sampler"]
    rng = generator(0, "agreement", "Best-of-N")
    values, ours = [], []
    for shape, sizes in (((200, 128), list(range(1, 129))), ((3, 12_600), [1000])):
        proxy = rng.normal(size=shape)
        gold = 0.5 * proxy + rng.normal(size=shape)
        pool = questions(proxy, gold)
        values += [theirs(pool, n, shape[1]) for n in sizes]
        means = [best_of_n(proxy, sizes, outcome).mean(axis=0) for outcome in (gold, proxy)]
        ours += np.transpose(means).tolist()
    arrays = "200 × 128, n = 1 … 128; 3 × 12,600, n = 1000"
    return [difference("Best-of-N without ties", LLM_OPTIMIZATION, arrays, values, ours)]


def best_under_ties(folder: Path) -> list[Row]:
    """Give the same tied samples in several orders, which change the result there and not here."""
    theirs = imported(LLM_OPTIMIZATION, folder)["unbiased_sampler"]
    rng = generator(0, "agreement", "ties")
    proxy = rng.normal(size=(200, 128))
    gold = 0.5 * proxy + rng.normal(size=proxy.shape)
    proxy = np.round(proxy)

    def ordered(order: np.ndarray) -> float:
        pool = questions(np.take_along_axis(proxy, order, axis=1), np.take_along_axis(gold, order, axis=1))
        return float(theirs(pool, 32, 128)[0])

    drawn, by_gold = np.broadcast_to(np.arange(128), proxy.shape), np.argsort(gold, axis=1)
    orders = {"as drawn": drawn, "reversed": drawn[:, ::-1]}
    orders |= {"good samples first": by_gold[:, ::-1], "good samples last": by_gold}
    ours = best_of_n(proxy, 32, gold).mean()
    shuffled = np.array([ordered(rng.permuted(drawn, axis=1)) for _ in range(400)])
    assert abs(shuffled.mean() - ours) < 4 * shuffled.std() / 20, "not the mean over tie-breaks"
    quantity, arrays = "Best-of-N under ties, mean gold", "200 × 128 rounded to integers, n = 32"
    rows = [row(f"{quantity}, {name}", LLM_OPTIMIZATION, arrays, ordered(order)) for name, order in orders.items()]
    return [*rows, row(f"{quantity}, mean over tie-breaks", Source("this suite", "", "best_of_n"), arrays, ours)]


def divergences(folder: Path) -> list[Row]:
    """Compare the KL of steps from nearly equal policies to distant ones, in float64 and in float32."""
    # The module belongs to a changed trl, whose name the installed one has.
    theirs = defined("compute_kl", KL_RB, folder, {"torch": torch})
    rng = generator(0, "agreement", "KL")
    p = 2 * rng.normal(size=(400, 500))
    q = p + np.geomspace(1e-5, 3, 400)[:, None] * rng.normal(size=p.shape)
    arrays, quantity, rows = "400 steps × 500 tokens", "Rao-Blackwellised KL", []
    for kind in (np.float64, np.float32):
        logits = p.astype(kind), q.astype(kind)
        steps = theirs(None, None, *map(torch.tensor, logits)).numpy()
        rows.append(difference(f"{quantity} in {kind.__name__}", KL_RB, arrays, steps, rao_blackwell_kl(*logits)))
    assert steps.min() < 0, "no negative KL"
    excluded = np.array([[0.0, 1.0, -np.inf]]), np.array([[1.0, 0.0, -np.inf]])  # the last token, by both policies
    assert theirs(None, None, *map(torch.tensor, excluded)).isnan().all()
    assert np.isfinite(rao_blackwell_kl(*excluded)).all()
    return [*rows, row(f"{quantity} in float32, lowest step", KL_RB, arrays, steps.min())]


def samples_of(answers: Any, correct: Any, rewards: Any) -> list[dict[str, Any]]:
    """Return one prompt's samples as NeMo-Skills reads them."""
    names = ("predicted_answer", "symbolic_correct", "reward_model_score")
    return [dict(zip(names, sample, strict=True)) for sample in zip(answers, correct, rewards, strict=True)]


def voted(metrics: Any, prompts: list[list[dict[str, Any]]], k: int) -> np.ndarray:
    """Return NeMo's means over prompts among the first k samples: majority, weighted majority, best by reward."""
    metrics.reset()
    for samples in prompts:
        metrics._compute_majority_at_k(samples, [sample["predicted_answer"] for sample in samples])
        metrics._compute_reward_at_k(samples)
    names = ("majority", "rm_majority", "rm_best")
    return np.array([metrics.eval_dict[f"{name}@{k}"]["symbolic_correct"] for name in names]) / len(prompts)


def check_small_votes(metrics: Any) -> None:
    """Assert what the page says of NeMo's votes, on two or three samples each."""
    shared, first, _ = voted(metrics, [samples_of("78", [1, 0], [1, 1])], 2)
    assert (shared, first) == (0.5, 1), "a tie is shared in the plain vote, and the first answer wins in the weighted"
    assert voted(metrics, [samples_of("87", [0, 1], [1, 1])], 2)[1] == 0, "the first answer wins"
    mixed = voted(metrics, [samples_of("778", [1, 0, 0], [1, 1, 1])], 3)[0]
    assert np.isclose(mixed, 1 / 3), "7 right, 7 wrong and 8 are three candidates"
    assert voted(metrics, [samples_of([None, "7"], [0, 1], [9, 1])], 2)[2] == 1, "the best has no answer: left out"


def votes(folder: Path) -> list[Row]:
    """Compare votes: NeMo's averaged over every k-subset with ours, then NeMo's in random orders of the samples."""
    # The module imports its package, nemo_skills, which is not installed here; the class needs the base's names only.
    metrics = defined("MathMetrics", NEMO_REWARD, folder, imported(NEMO, folder))()
    check_small_votes(metrics)
    rng, shape, sizes = generator(0, "agreement", "votes"), (120, 10), [2, 4, 7]
    correct = (rng.random(shape) < rng.uniform(0, 0.7, (120, 1))).astype(np.float64)
    wrong = rng.choice(np.array(["8", "9", None], object), shape, p=[0.5, 0.3, 0.2])
    answers, rewards = np.where(correct == 1, "17", wrong), rng.random(shape)
    prompts = [samples_of(*columns) for columns in zip(answers, correct, rewards, strict=True)]
    theirs = np.zeros((120, len(sizes), 3))
    for prompt, column in np.ndindex(theirs.shape[:2]):
        subsets = itertools.combinations(prompts[prompt], sizes[column])
        theirs[prompt, column] = np.mean([voted(metrics, [list(s)], sizes[column]) for s in subsets], axis=0)
    arrays = "120 × 10, k = 2, 4, 7, every k-subset"
    plain = majority_at_k(answers, correct, sizes)
    weighted = weighted_majority_at_k(answers, rewards, correct, sizes)
    # Ours has no rule for samples without an answer; the lowest reward makes it take them last, and they are wrong.
    best = best_of_n(np.where(np.equal(answers, np.array(None)), -1, rewards), sizes, correct)
    lowest = f"{arrays}; no answer as the lowest reward"
    rows = [
        difference("majority", NEMO, arrays, theirs[..., 0], plain),
        difference("weighted majority", NEMO_REWARD, arrays, theirs[..., 1], weighted),
        difference("best by reward", NEMO_REWARD, lowest, theirs[..., 2], best),
        row("majority@4, first k samples", NEMO, "120 × 10", voted(metrics, prompts, 4)[0]),
    ]
    shuffled = np.array([voted(metrics, [list(rng.permuted(np.array(s))) for s in prompts], 4)[0] for _ in range(200)])
    ours = plain[:, 1].mean()
    assert abs(shuffled.mean() - ours) < 4 * shuffled.std() / np.sqrt(200), "not around the mean over subsets"
    spread = {"lowest": shuffled.min(), "highest": shuffled.max(), "standard deviation": shuffled.std(ddof=1)}
    rows += [row(f"majority@4, {name}", NEMO, "120 × 10, 200 random orders", value) for name, value in spread.items()]
    return [*rows, row("majority@4, mean over subsets", Source("this suite", "", "majority_at_k"), "120 × 10", ours)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    parts = (passes, best_without_ties, best_under_ties, divergences, votes)
    rows = [found for part in parts for found in part(folder)]
    with (HERE / "agreement.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    note(HERE / "agreement.csv")


if __name__ == "__main__":
    main()
