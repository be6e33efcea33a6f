"""What the reward models of the sweep reward: their held-out samples by rank, against chance, and the top ones to read.

    python reports/reward_overoptimisation/read.py scoring.pairs=100 seed=0 [store=PATH]

Takes a cell of sweep=reward_overoptimisation; what that sweep left in the store is read, the rest is made.
"""

import itertools
import sys

import numpy as np
from hydra import compose, initialize_config_dir

from bench.config import checks
from bench.config.compose import CONF
from bench.estimators.curves import best_of_n
from bench.estimators.reward_diagnostics import within_prompt_auc
from bench.evaluation.heldout import grade
from bench.scoring import prepared
from bench.seeds import generator
from bench.store import Store, using

RANKS = (0, 1, 4, 16, 64, 128, 256)
SHOWN = 6


def main() -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("config", ["sweep=reward_overoptimisation", "tracking=none", *sys.argv[1:]])
    parts = checks.build_parts(cfg)
    task, engine = parts["task"], parts["generation"]
    with using(Store(cfg.store)):
        base = parts["policy"](task)
        scoring = prepared(parts["scoring"], base=base, task=task, generation=engine)
        test = task.prompts("test")
        pool = engine(test, base, num_completions=cfg.baseline_completions, seed=cfg.seed)
        graded = grade(test, pool, scoring, task)
    proxy, gold, text = graded.proxy, graded.gold, np.asarray(pool.text)  # [M, N]

    steps = np.vectorize(lambda words: words.count("="))(text)
    solved = gold.any(axis=1)  # of the others it is not known how many steps they need
    test_rows = np.flatnonzero(solved)
    proxy, gold, text, steps = proxy[solved], gold[solved], text[solved], steps[solved]
    needed = np.array([np.bincount(row[right == 1]).argmax() for row, right in zip(steps, gold, strict=True)])[:, None]
    print(f"{solved.sum()} of {len(solved)} prompts have a right sample; these are read")
    true = np.vectorize(task.steps_are_true)(text)
    rank = np.argsort(np.argsort(-proxy, axis=1, kind="stable"), axis=1)
    print(f"{'rank by proxy':>14}{'right':>8}{'a step short':>14}{'as many steps':>15}{'all true':>10}{'log p':>8}")
    for first, end in [*itertools.pairwise(RANKS), (0, proxy.shape[1])]:
        among = (rank >= first) & (rank < end)
        numbers = [gold, steps < needed, steps == needed, true, pool.policy_logprob[solved]]
        print(f"{first + 1:>6} to {end:>4}", "".join(f"{values[among].mean():>11.3f}" for values in numbers))

    alike = steps == needed
    print(
        "AUC", *(f"{np.nanmean(within_prompt_auc(p, gold)):.3f}" for p in (proxy, steps.astype(float))), "(steps alone)"
    )
    print("AUC where the steps are as many as needed", f"{np.nanmean(_auc_among(proxy, gold, alike)):.3f}")
    print(
        "distinct texts among", *(f"{_distinct(text, gold == g):.2f} of {n}" for g, n in ((1, "right"), (0, "wrong")))
    )
    curve = best_of_n(steps.astype(float), [1, 4, 16, 64], gold).mean(axis=0)
    print("gold of Best-of-1, 4, 16, 64 by the number of steps alone:", *(f"{value:.3f}" for value in curve))
    for name, kept in (("any", np.ones_like(alike)), ("as many steps as needed", alike)):
        noise = np.where(kept, _of_texts(text, cfg.seed), -1.0)
        curve = best_of_n(noise, [1, 4, 16, 64], gold).mean(axis=0)
        print(f"gold of Best-of-1, 4, 16, 64 by a random score a text, {name}:", *(f"{value:.3f}" for value in curve))

    for row in generator(cfg.seed, "reading").choice(len(gold), SHOWN, replace=False):
        best = proxy[row].argmax()
        prompt = test_rows[row]
        print(f"\n{test.messages[prompt][-1]['content']} ({test.answer[prompt]}; {gold[row].mean():.2f} right)")
        print(f"  first  {proxy[row, best]:.2f} {'right' if gold[row, best] else 'wrong'}:{text[row, best]}")
        right = np.where(gold[row] == 1, proxy[row], -np.inf).argmax()
        print(f"  right  {proxy[row, right]:.2f} rank {rank[row, right] + 1}:{text[row, right]}")


def _auc_among(proxy: np.ndarray, gold: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return within_prompt_auc(np.where(kept, proxy, np.nan), gold)


def _distinct(text: np.ndarray, kept: np.ndarray) -> float:
    """Different texts per sample, mean over prompts that have any."""
    shares = [len(set(row[own])) / own.sum() for row, own in zip(text, kept, strict=True) if own.any()]
    return float(np.mean(shares))


def _of_texts(text: np.ndarray, seed: int) -> np.ndarray:
    """[M, N] scores in 0 .. 1 that know nothing but which texts are equal."""
    return np.array([[generator(seed, "noise", row, words).random() for words in of] for row, of in enumerate(text)])


if __name__ == "__main__":
    main()
