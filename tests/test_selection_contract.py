"""What every file in conf/selection must keep to, by itself and behind every prompt filter."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import yaml
from omegaconf import DictConfig
from selecting import fits, rng
from sharing import CONF, composed
from test_selection_agreement import pool

from bench import selection
from bench.artifacts import Completions, Policy, Selection
from bench.config import checks
from bench.errors import BenchError
from bench.models import loading
from bench.selection.evidence import evidence_for
from bench.tasks.word_problems import WordProblems

FILES = {path.stem: path for path in sorted((CONF / "selection").glob("*.yaml"))}
METHODS = list(FILES)
WITH_K = [name for name, path in FILES.items() if "k" in yaml.safe_load(path.read_text())]
FILTERS = sorted(path.stem for path in (CONF / "prompt_filter").glob("*.yaml"))
TASK = WordProblems()
M, N = 30, 6
ROWS = 20 * M  # of a pool of equal texts


@pytest.fixture(scope="module")
def configured() -> Callable[..., DictConfig]:
    return partial(composed, f"task.train_prompts={M}", f"num_completions={N}")


def texts(generator: np.random.Generator, rows: int) -> list[list[str]]:
    numbers = generator.integers(1, 4, (rows, N, 2)).tolist()
    return [[f" {a} + {b} = {a + b}. #### {a + b}" for a, b in row] for row in numbers]


@pytest.fixture(scope="module", params=METHODS)
def method(request, configured) -> partial:
    cfg = configured(f"selection={request.param}")
    checks.check(cfg)
    return checks.build_parts(cfg)["selection"]


@pytest.fixture(scope="module")
def pools(random_policy: Policy) -> dict[str, Completions]:
    """One pool of texts that differ, and one of equal texts."""
    tokenizer = loading.load_tokenizer(random_policy)
    written = {"ordinary": texts(rng(9), M), "tied": [[" 1 + 1 = 2. #### 2"] * N] * ROWS}
    return {key: pool(rows, tokenizer, key) for key, rows in written.items()}


@pytest.fixture
def choose(method: partial, store, random_policy: Policy, pools: dict[str, Completions]):
    """The method's selection, with what it asks for read from a pool of texts."""

    def run(rewards: np.ndarray, seed: int, key: str = "ordinary") -> Selection:
        return method(rewards, rng(seed), **evidence_for(method, pools[key], TASK, random_policy))

    return run


def verdicts(seed: int) -> np.ndarray:
    """[M, N] of 0, 1 and NaN, with rows all correct, all wrong and all unscored."""
    rewards = rng(seed).choice([0.0, 1.0, np.nan], (M, N), p=[0.45, 0.45, 0.1])
    rewards[:6] = np.repeat([1.0, 0.0, np.nan], 2)[:, None]
    return rewards


def continuous(seed: int) -> np.ndarray:
    rewards = rng(seed).normal(0.5, 1, (M, N))
    return np.where(rng(seed + 1).random((M, N)) < 0.1, np.nan, rewards)


def check(chosen: Selection, rewards: np.ndarray) -> None:
    assert len(chosen.row) == len(chosen.column) == len(chosen.weight) > 0
    assert np.issubdtype(chosen.row.dtype, np.integer)
    assert np.issubdtype(chosen.column.dtype, np.integer)
    assert chosen.row.min() >= 0
    assert chosen.column.min() >= 0
    flat = chosen.row * N + chosen.column
    assert (np.diff(flat) > 0).all()  # row-major, none twice
    assert not np.isnan(rewards[chosen.row, chosen.column]).any()  # an index too large fails here
    assert np.isfinite(chosen.weight).all()
    assert (chosen.weight >= 0).all()
    assert chosen.weight.sum() > 0


def same(one: Selection, other: Selection) -> bool:
    return all((getattr(one, name) == getattr(other, name)).all() for name in ("row", "column", "weight"))


@pytest.mark.parametrize("made", [verdicts, continuous])
def test_every_method_chooses_scored_cells_in_order_and_repeats_itself(choose, made):
    for seed in range(3):
        rewards = made(seed)
        before = rewards.copy()
        chosen = choose(rewards, seed)
        check(chosen, rewards)
        np.testing.assert_array_equal(rewards, before)
        assert same(chosen, choose(rewards, seed))


@pytest.mark.parametrize("prompt_filter", FILTERS)
def test_every_method_goes_behind_every_filter(choose, prompt_filter, configured):
    drop = checks.build_parts(configured(f"prompt_filter={prompt_filter}"))["prompt_filter"]
    rewards = verdicts(0)
    eligible = drop(rewards)
    assert eligible.shape == rewards.shape
    kept = ~np.isnan(eligible)
    np.testing.assert_array_equal(eligible[kept], rewards[kept])  # it leaves out, it does not score
    assert (kept | np.isnan(eligible).all(axis=1)[:, None] | np.isnan(rewards)).all()  # whole prompts
    check(choose(eligible, 1), eligible)


def test_every_method_breaks_ties_uniformly(choose):
    """Equal rewards and equal texts: no place in a prompt, and no prompt, is more likely than another."""
    chosen = choose(np.ones((ROWS, N)), 0, "tied")
    assert fits(np.bincount(chosen.column, minlength=N), np.full(N, 1 / N))
    halves = np.bincount(chosen.row * 2 // ROWS, minlength=2)
    assert fits(halves, np.full(2, 1 / 2))


def test_every_method_has_a_random_control(choose):
    rewards = verdicts(3)
    chosen = choose(rewards, 0)
    controls = [selection.matched_random(chosen, rewards, rng(seed)) for seed in range(60)]
    for control in controls:
        check(control, rewards)
        assert (control.row == chosen.row).all()
        for row in np.unique(chosen.row):
            assert sorted(control.weight[control.row == row]) == sorted(chosen.weight[chosen.row == row])
    # other rewards for the same scored cells give the same control
    others = np.where(np.isnan(rewards), np.nan, rng(8).random(rewards.shape))
    assert same(controls[0], selection.matched_random(chosen, others, rng(0)))
    # and what they keep is no better than what is there: in each prompt as many of the correct as by chance
    correct = np.concatenate([rewards[control.row, control.column] for control in controls])
    expected = np.mean([np.nanmean(rewards[row]) for row in chosen.row])
    assert correct.mean() == pytest.approx(expected, abs=0.04)


def test_a_pool_without_scores_selects_nothing_or_says_so(choose, method):
    unscored = np.full((M, N), np.nan)
    if method.func in (selection.top_k_overall, selection.random_k_overall):  # which promise k
        with pytest.raises(BenchError, match="0 scored completions"):
            choose(unscored, 0)
    else:
        assert len(choose(unscored, 0)) == 0


def test_a_method_with_k_is_one_whose_file_gives_it(method, request):
    assert ("k" in method.keywords) == (request.node.callspec.params["method"] in WITH_K)


@pytest.mark.parametrize("name", WITH_K)
def test_k_is_bounded_before_any_work(name, configured):
    for k in (0, "null", 1.5):
        with pytest.raises(BenchError, match=f"selection.k={k} is not allowed: .*whole number of at least 1"):
            checks.check(configured(f"selection={name}", f"selection.k={k}"))
    overall = name.endswith("overall")
    most, said = (M * N, f"= {M * N}.") if overall else (N, f"num_completions={N}.")
    checks.check(configured(f"selection={name}", f"selection.k={most}"))
    with pytest.raises(BenchError, match=f"selection.k={most + 1} is more than .*{said}"):
        checks.check(configured(f"selection={name}", f"selection.k={most + 1}"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("selection=softmax selection.temperature=0", "a number above 0"),
        ("selection=rso selection.beta=0", "a number above 0"),
        ("selection=pessimism selection.beta=-1", "a number above 0"),
        ("selection=kl_regularised selection.beta=-1", "a number of at least 0"),
        ("selection=mbr selection.beta=x", "a number of at least 0"),
        ("selection=mbr_embeddings selection.similarity.batch_tokens=0", "whole number of at least 1"),
        ("selection=quantile selection.q=1", "below 1"),
        ("selection=threshold selection.threshold=null", "a number"),
        ("selection=distinct_correct selection.keep=first", "one of random, farthest"),
        ("selection=distinct_correct selection.every_step=2", "true or false"),
        ("selection=balanced selection.allocation=fair", "one of uniform, difficulty"),
        ("control=other", "control=other is not allowed: it must be one of matched, none"),
    ],
)
def test_impossible_settings_are_refused(override, words, configured):
    with pytest.raises(BenchError, match=words):
        checks.check(configured(*override.split()))
