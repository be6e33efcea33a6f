"""Several generators: shares by weight, whose samples are selected, other tokenizers, a small run and its report."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawing import generate
from made_runs import made_run
from omegaconf import OmegaConf
from sharing import Finished, Shared, composed

from bench import policies
from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection
from bench.blocks import side_by_side
from bench.config import checks
from bench.config.compose import CONF
from bench.errors import BenchError
from bench.generators import by_generator, correct_paths, from_several, generator_seed, shares
from bench.models import loading
from bench.models.tokens import distributions_differ, ids_differ, reencoded
from bench.procedures.parts import Parts
from bench.records.read import Run, read_run
from bench.reporting.exhibits.generators import (
    against_own,
    generators_figure,
    generators_table,
    mixes,
    mixes_table,
    sentences,
)
from bench.reporting.files import drawn
from bench.reporting.groups import grouped
from bench.scoring.units import scored
from bench.selection import distinct_correct, every_prompt, top_per_prompt
from bench.sweeps.cells import cells as cells_of_sweep
from bench.sweeps.plan import workload
from bench.tasks import Task
from bench.tasks.word_problems import WordProblems

# --- shares --------------------------------------------------------------------------------------------------------


def closest(weights: dict[str, float], total: int) -> set[tuple[int, ...]]:
    """Of all ways to share `total`, those whose sum of squared distances from the exact shares is smallest.

    Hamilton's largest remainder has that property (Birkhoff 1976), so this finds it without remainders.
    """
    exact = np.array(list(weights.values())) * total / sum(weights.values())
    ways = [way for way in itertools.product(range(total + 1), repeat=len(weights)) if sum(way) == total]
    distance = np.array([((np.array(way) - exact) ** 2).sum() for way in ways])
    return {way for way, d in zip(ways, distance, strict=True) if d < distance.min() + 1e-9}


@pytest.mark.parametrize(
    "weights",
    [(1, 1, 1), (1, 2), (3, 1, 1), (0.5, 0.3, 0.2), (1, 1, 1, 1), (2.5, 1, 0.9), (0.1, 0.1, 0.1)],
)
@pytest.mark.parametrize("total", [5, 8, 12, 13])
def test_shares_are_the_whole_numbers_nearest_to_the_weights(weights, total):
    named = {f"g{i}": weight for i, weight in enumerate(weights)}
    allowed = {way for way in closest(named, total) if 0 not in way}
    if not allowed:
        with pytest.raises(BenchError, match=f"num_completions={total} leaves none"):
            shares(named, total, seed=0)
        return
    found = shares(named, total, seed=0)
    assert list(found) == list(named)
    assert tuple(found.values()) in allowed


def test_equal_remainders_favour_no_place():
    """16 among three alike: the odd one goes to each about as often; one seed always says the same."""
    odd = [[*shares({"a": 1, "b": 1, "c": 1}, 16, seed=seed).values()].index(6) for seed in range(300)]
    assert min(np.bincount(odd, minlength=3)) > 70
    assert shares({"a": 1, "b": 1, "c": 1}, 16, seed=4) == shares({"a": 2, "b": 2, "c": 2}, 16, seed=4)


def test_none_for_a_generator_is_refused():
    with pytest.raises(BenchError, match="num_completions=2 leaves none for rare"):
        shares({"often": 10, "rare": 1}, 2, seed=0)


# --- the procedure, with texts for policies ------------------------------------------------------------------------


class Mixed(Task):
    """Policies that draw texts "<policy><sample>"; every odd sample is right."""

    def __init__(self, prompts: Prompts) -> None:
        self.rows, self.drawn, self.trained, self.judged, self.scored = prompts, [], [], [], 0

    def prompts(self, split: str) -> Prompts:
        return self.rows

    def path(self, completion: str) -> str:
        return completion[-1]

    extract_answer = steps_are_true = path

    def policy(self, task) -> Policy:
        return Policy(Path("base"), "base")

    def other(self, name: str):
        return lambda task: Policy(Path(name), name)

    def generation(self, prompts, policy, *, num_completions, seed) -> Completions:
        self.drawn.append((policy.key, num_completions, seed))
        shape = len(prompts), num_completions
        text = np.array([[f"{policy.key}{n}" for n in range(num_completions)]] * len(prompts), object)
        ids = np.empty(shape, object)
        for cell in np.ndindex(shape):
            ids[cell] = np.array([ord(letter) for letter in text[cell]], np.int32)
        return Completions(text, ids, np.full(shape, "stop"), np.zeros(shape), np.zeros(shape), key=policy.key)

    def scoring(self, prompts, completions) -> Rewards:
        self.scored += 1
        return Rewards(np.array([[int(text[-1]) % 2 for text in row] for row in np.asarray(completions.text)], float))

    def training(self, policy, prompts, completions, selection, *, seed) -> Policy:
        cells = zip(selection.row.tolist(), selection.column.tolist(), strict=True)
        self.trained.append((policy.key, [str(completions.text[cell]) for cell in cells]))
        return Policy(Path("made"), f"made{len(self.trained)}")

    def evaluation(self, policy, base, prompts, generation, scoring, task, others, *, validation=None, seed) -> str:
        self.judged.append((policy.key, base.key, sorted(others)))
        return policy.key

    def run(self, monkeypatch, select=top_per_prompt, **settings):
        monkeypatch.setattr("bench.procedures.parts.ids_differ", lambda one, other, prompts: None)
        generators = {
            "mine": {"policy": None, "weight": 1},
            "big": {"policy": self.other("big"), "weight": 2},
            "odd": {"policy": self.other("odd"), "weight": 1},
        }
        drawn_by = settings.pop("drawn_by", ["mine", "big", "odd"])
        return from_several(self.parts(monkeypatch, select, **settings), generators=generators, drawn_by=drawn_by)

    def parts(self, monkeypatch, select=top_per_prompt, **settings) -> Parts:
        monkeypatch.setattr("bench.procedures.parts.grade", lambda *given: None)
        work = {"task": self, "policy": self.policy, "training": self.training, "evaluation": self.evaluation}
        given = {"prompt_filter": every_prompt, "selection": select, "num_completions": 8, "baseline_completions": 3}
        given |= {"control": "matched", "split": "test", "seed": 5}
        return Parts(generation=self.generation, scoring=self.scoring, **work, **{**given, **settings})


def test_each_draws_its_share_from_a_stream_of_its_own(few_prompts, monkeypatch):
    loop = Mixed(few_prompts)
    results = loop.run(monkeypatch)
    assert loop.drawn[:3] == [
        ("base", 2, 5),
        ("big", 4, generator_seed(5, "big", is_student=False)),
        ("odd", 2, generator_seed(5, "odd", is_student=False)),
    ]
    assert loop.drawn[3] == ("base", 8, 5)  # Best-of-N is the student's
    assert len({seed for _, _, seed in loop.drawn[:3]}) == 3
    assert loop.scored == 1
    assert results.pool.text[0].tolist() == ["base0", "base1", "big0", "big1", "big2", "big3", "odd0", "odd1"]
    assert [one.outcomes_name for one in results.findings.each] == ["base", "generator_big", "generator_odd"]


def test_the_student_is_trained_and_judged_against_itself_and_every_generator(few_prompts, monkeypatch):
    loop = Mixed(few_prompts)
    results = loop.run(monkeypatch)
    assert [start for start, _ in loop.trained] == ["base", "base"]
    assert set(loop.trained[0][1]) <= {"base1", "big1", "big3", "odd1"}
    assert loop.judged == [
        ("base", "base", []),
        ("made1", "base", ["big", "mine", "odd"]),
        ("made2", "base", []),
        ("big", "base", []),
        ("odd", "base", []),
    ]
    assert set(results.outcomes) == {"base", "tuned", "control", "generator_big", "generator_odd"}
    assert results.selections["control"].row.tolist() == results.selections["tuned"].row.tolist()


def test_every_generator_is_chosen_by_its_share_of_right_samples(few_prompts, monkeypatch):
    """Right are 1 of 2, 2 of 4, 1 of 2 samples: top_per_prompt takes a quarter, a half and a quarter of its ties."""
    counts = np.zeros(3)
    for seed in range(60):
        results = Mixed(few_prompts).run(monkeypatch, seed=seed, control="none")
        chosen = by_generator(results.selections["tuned"], [2, 4, 2])
        counts += [one["selected"] for one in chosen]
    assert counts.sum() == 60 * 7
    assert counts / counts.sum() == pytest.approx([0.25, 0.5, 0.25], abs=0.06)


def test_the_student_alone_is_the_experiment_of_one(few_prompts, monkeypatch):
    from bench.experiment import run

    loop, alone = Mixed(few_prompts), Mixed(few_prompts)
    loop.run(monkeypatch, drawn_by=["mine"])
    run(alone.parts(monkeypatch))
    assert loop.drawn == alone.drawn
    assert loop.trained == alone.trained


def test_a_name_that_is_no_generators_is_refused(few_prompts, monkeypatch):
    loop = Mixed(few_prompts)
    with pytest.raises(BenchError, match="drawn_by names tiny, which is none of"):
        loop.run(monkeypatch, drawn_by=["mine", "tiny"])
    assert not loop.drawn


def test_pools_side_by_side_are_scored_as_each_alone_whatever_their_blocks_hold(few_prompts, random_policy, store):
    """Three samples in blocks of two: the fourth of one pool lies where the other's first does, and must not count."""
    pools = [generate(few_prompts, random_policy, num_completions=count, seed=seed) for seed, count in ((0, 3), (1, 5))]

    def length(rows, texts):
        return np.array([float(len(text)) for text in texts]), {}

    together = scored(few_prompts, side_by_side(pools), length, stage="lengths", version=1, settings={}).value
    expected = [[len(text) for pool in pools for text in pool.text[row]] for row in range(len(few_prompts))]
    assert together.tolist() == expected


def union_by_hand(paths: np.ndarray, right: np.ndarray) -> set[tuple[int, str]]:
    return {
        (row, paths[row, column])
        for row, column in np.ndindex(paths.shape)
        if right[row, column] and paths[row, column] is not None
    }


def test_the_union_keeps_each_path_once_whoever_drew_it():
    """Of random pools side by side: as many as there are distinct (prompt, path) of right samples, each one once."""
    rng = np.random.default_rng(0)
    widths = [3, 5, 2]
    for _ in range(20):
        paths = rng.choice(np.array(["a", "b", "c", None], object), (6, sum(widths)))
        right = rng.random(paths.shape) < 0.5
        chosen = distinct_correct(right.astype(float), rng, paths=paths)
        kept = [(row, paths[row, column]) for row, column in zip(chosen.row, chosen.column, strict=True)]
        assert len(kept) == len(set(kept))
        assert set(kept) == union_by_hand(paths, right)


def test_shares_of_a_selection_by_hand():
    """Pools of 2, 3 and 1 columns: columns 0-1, 2-4, 5."""
    chosen = Selection(np.array([0, 0, 1, 2, 2, 3]), np.array([0, 1, 2, 4, 5, 1]), np.ones(6))
    first, second, third = by_generator(chosen, [2, 3, 1])
    assert [one["selected"] for one in (first, second, third)] == [3, 2, 1]
    assert [one["selected_share"] for one in (first, second, third)] == [3 / 6, 2 / 6, 1 / 6]
    assert [one["prompts_covered"] for one in (first, second, third)] == [2, 2, 1]
    assert [one["prompts_covered_only"] for one in (first, second, third)] == [2, 1, 0]


# --- tokenizers ----------------------------------------------------------------------------------------------------

SMALL = {"demonstrations": 200, "steps": 2, "batch_size": 4, "hidden_size": 32, "heads": 1, "feedforward_size": 64}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    from bench.store import Store, using

    with using(Store(tmp_path_factory.mktemp("family"))):
        task = WordProblems()
        return {
            "student": policies.tiny(task, seed=0, **SMALL),
            "sibling": policies.tiny(task, seed=0, member=1, **(SMALL | {"layers": 1})),
            "narrow": policies.tiny(task, seed=0, vocabulary=300, **SMALL),
        }


def test_a_familys_members_share_the_tokenizer_and_nothing_else(family):
    student, sibling = family["student"], family["sibling"]
    one, other = (json.loads((policy.path / "tokenizer.json").read_text()) for policy in (student, sibling))
    assert one == other
    ours, theirs = (loading.load_model(policy).get_input_embeddings().weight for policy in (student, sibling))
    assert ours.shape == theirs.shape
    assert not np.allclose(ours.detach().numpy(), theirs.detach().numpy(), atol=0.1)
    prompts = WordProblems(train_prompts=5).prompts("train")
    assert ids_differ(student, sibling, prompts) is None
    assert distributions_differ(student, sibling, prompts) is None


def test_a_default_that_came_later_changes_no_key(tmp_path):
    """What was pretrained before `member` was a setting is found, and member 0 is it."""
    from bench.store import Store, using

    with using(Store(tmp_path)) as store:
        policies.tiny(WordProblems(), seed=0, **SMALL)
        policies.tiny(WordProblems(), seed=0, member=0, **SMALL)
        policies.tiny(WordProblems(), seed=0, member=1, **SMALL)
    assert [use.reused for use in store.uses] == [False, True, False]
    assert "member" not in store.uses[0].settings
    assert store.uses[2].settings["member"] == 1


def test_what_differs_is_named(family, few_prompts, tmp_path):
    import shutil

    assert ids_differ(family["student"], family["narrow"], few_prompts) == "vocabulary"
    templated = tmp_path / "templated"
    shutil.copytree(family["sibling"].path, templated)
    tokenizer = loading.load_tokenizer(family["sibling"])
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}Q: {{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(templated)
    assert ids_differ(family["student"], loading.folder(templated), few_prompts) == "encoding of the prompts"
    ending = tmp_path / "ending"
    shutil.copytree(family["sibling"].path, ending)
    model = loading.load_model(family["sibling"])
    model.generation_config.eos_token_id = [2, 7]
    model.generation_config.save_pretrained(ending)
    assert ids_differ(family["student"], loading.folder(ending), few_prompts) == "tokens that end a completion"
    wide = tmp_path / "wide"
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(wide)
    loading.load_tokenizer(family["sibling"]).save_pretrained(wide)
    padded = loading.folder(wide)
    assert ids_differ(family["student"], padded, few_prompts) is None  # ids mean the same: they can be trained on
    assert distributions_differ(family["student"], padded, few_prompts) == "number of logits"


def test_other_tokenizers_texts_are_encoded_anew_and_checked(family):
    texts = [["3 + 4 = 7. #### 7", "Grün 5", "ends </s> early"], ["", "a  b", "9 + 8 = 17"]]
    shape = (2, 3)
    text = np.array(texts, object)
    ids = np.empty(shape, object)
    for cell in np.ndindex(shape):
        ids[cell] = np.array([250], np.int32)
    reasons = np.array([["stop", "length", "stop"], ["length", "stop", "stop"]])
    pool = Completions(text, ids, reasons, np.full(shape, -1.0), np.full(shape, -2.0), key="drawn")
    found, faithful = reencoded(pool, family["narrow"])
    tokenizer = loading.load_tokenizer(family["narrow"])
    for cell in np.ndindex(shape):
        written = tokenizer.encode(text[cell], add_special_tokens=False)
        expected = [*written, tokenizer.eos_token_id] if reasons[cell] == "stop" else written
        assert found.token_ids[cell].tolist() == expected
        assert found.length[cell] == len(expected)
        if faithful[cell]:
            assert tokenizer.decode(found.token_ids[cell], skip_special_tokens=True) == text[cell]
    # a special token written out, and nothing at all, can't be kept
    assert faithful.tolist() == [[True, True, False], [False, True, True]]
    assert found.text is pool.text
    assert found.logprob.tolist() == pool.logprob.tolist()
    assert found.key != pool.key
    beside = side_by_side([pool, found])
    assert [part.shape for _, part in beside.shards()] == [(2, 6)]
    assert beside.first(4).token_ids[0, 3].tolist() == found.token_ids[0, 0].tolist()


def test_paths_of_right_completions():
    task = WordProblems()
    texts = np.array([["1 + 2 = 3. #### 3", "2 + 1 = 3. #### 3", "1 + 2 = 3. #### 3", "no path"]], object)
    ids = np.empty(texts.shape, object)
    for cell in np.ndindex(texts.shape):
        ids[cell] = np.array([1], np.int32)
    pool = Completions(texts, ids, np.full(texts.shape, "stop"), np.zeros((1, 4)), np.zeros((1, 4)), key="k")
    everything = correct_paths(pool, np.ones((1, 4), bool), task)
    assert everything == [{task.path(text) for text in texts[0]} - {None}]
    assert len(correct_paths(pool, np.array([[True, False, False, True]]), task)[0]) == 1


# --- a small run, as a user starts it ------------------------------------------------------------------------------

SETTINGS = [
    "procedure=generators",
    "selection=distinct_correct",
    "selection.every_step=false",
    "num_completions=12",
    "baseline_completions=16",
    # as many demonstrations of the same seed as the student's: its tokenizer
    "procedure.generators.larger.policy.demonstrations=32000",
    "procedure.generators.larger.policy.steps=60",
    "procedure.generators.larger.policy.hidden_size=64",
    "procedure.generators.larger.policy.heads=2",
    "procedure.generators.larger.policy.layers=1",
    "procedure.generators.smaller.policy.demonstrations=1000",
    "procedure.generators.smaller.policy.steps=40",
    "+procedure.generators.smaller.policy.vocabulary=300",
]


@pytest.fixture(scope="module")
def finished(finished_run: Callable[..., Finished]) -> Finished:
    return finished_run(*SETTINGS)


def metrics(run: Finished) -> dict:
    return json.loads((run.folder / "metrics.json").read_text())


NAMES = ("student", "larger", "smaller")


def test_what_each_gave_is_in_the_records(finished):
    folder, found = finished.folder, metrics(finished)
    assert found["generators/names"] == "student larger smaller"
    assert [found[f"generators/{name}/samples"] for name in NAMES] == [4, 4, 4]
    assert sum(found[f"generators/{name}/selected_share"] for name in NAMES) == pytest.approx(1)
    assert sum(found[f"generators/{name}/selected"] for name in NAMES) == found["selection/kept"]
    assert found["base/pass@1"] is not None
    for name in ("generator_larger", "generator_smaller"):
        assert 0 <= found[f"{name}/pass@1_low"] <= found[f"{name}/pass@1"] <= found[f"{name}/pass@1_high"]
    rows = pq.read_table(folder / "rewards.parquet").to_pylist()
    right = {name: [row["reward"] for row in rows if row["generator"] == name] for name in NAMES}
    solved: dict[str, set[str]] = {name: set() for name in NAMES}
    for row in rows:
        if row["reward"] == 1:
            solved[row["generator"]].add(row["prompt_id"])
    for name in NAMES:
        assert len(right[name]) == 4 * 40
        assert found[f"generators/{name}/pass@1"] == pytest.approx(np.nanmean(right[name]))
        assert found[f"generators/{name}/pass@4"] == pytest.approx(len(solved[name]) / 40)
        others = set().union(*(solved[other] for other in NAMES if other != name))
        assert found[f"generators/{name}/prompts_solved_only"] == len(solved[name] - others)
    assert found["generators/prompts_solved"] == len(set().union(*solved.values()))


def test_a_generator_with_another_vocabulary_is_encoded_anew_and_has_no_kl(finished):
    found = metrics(finished)
    assert found["generators/larger/token_ids"] == "the student's"
    assert found["generators/smaller/token_ids"] == "another vocabulary"
    assert [found[f"generators/{name}/reencoded"] for name in NAMES] == [0, 0, 160]
    assert found["pool/unscored"] == found["generators/smaller/left_out"]
    assert found["tuned/kl_from_larger"] > 0
    assert found["tuned/kl_from_student"] == found["tuned/kl"]
    assert found["tuned/kl_from_smaller"] is None
    assert found["generators/kl_undefined"] == 1
    assert found["generator_larger/kl"] > 0
    assert found.get("generator_smaller/kl") is None
    assert found["tuned/kl_from_larger_reference"] == "larger at temperature 1, top-p 1"


def test_each_generators_cost_is_that_of_its_lineage(finished):
    folder, found = finished.folder, metrics(finished)
    lineage = json.loads((folder / "lineage.json").read_text())
    chain = json.loads((folder / "chain.json").read_text())
    policies_ = {link["role"]: link["name"].removeprefix("policy-") for link in chain if link["type"] == "policy"}
    prompt_tokens = 0.0  # of all training prompts, the mean over the generators' tokenizers
    train = {entry["parents"]["prompts"] for entry in lineage if entry["stage"] == "generate"}
    for name, role in zip(NAMES, ("base", "generator_larger", "generator_smaller"), strict=True):
        drew = [entry for entry in lineage if entry["stage"] == "generate"]
        drew = [entry for entry in drew if entry["parents"]["policy"] == policies_[role]]
        first = drew[0]["parents"]["prompts"]  # the training prompts come first
        units = [entry for entry in drew if entry["parents"]["prompts"] == first]
        tokens = sum(entry["counts"]["generated_tokens"] for entry in units)
        assert found[f"generators/{name}/cost_generated_tokens"] == tokens == found[f"generators/{name}/tokens"]
        assert found[f"generators/{name}/cost_flops"] == sum(entry["counts"]["flops"] for entry in units)
        prompt_tokens += sum(entry["counts"]["prompt_tokens"] for entry in units) / len(NAMES)
    assert len(train) == 2
    # what fine-tuning costs once: each generator reads the prompts and writes its share, the student is trained
    sizes = {name: found[f"generators/{name}/parameters"] for name in NAMES}
    drew = sum(2 * sizes[name] * (prompt_tokens + found[f"generators/{name}/tokens"]) for name in NAMES)
    trained = found["selection/kept"] * (prompt_tokens / 40 + found["pool/mean_length"])
    assert found["cost/fine_tuning_flops"] == pytest.approx(drew + 6 * sizes["student"] * trained)


def test_the_chain_names_every_generator_and_its_pool(finished):
    links = json.loads((finished.folder / "chain.json").read_text())
    named = {link["name"] for link in links}
    assert len(named) == len(links)
    assert all(parent in named for link in links for parent in link["parents"])
    pools = [link for link in links if link["type"] == "pool"]
    assert [link["role"] for link in pools] == ["train_student", "train_larger", "train_smaller"]
    (rewards,) = (link for link in links if link["type"] == "rewards")
    assert rewards["parents"] == [link["name"] for link in pools]
    roles = {link["role"] for link in links if link["type"] == "policy"}
    assert roles == {"base", "tuned", "control", "generator_larger", "generator_smaller"}
    samples = pq.read_table(finished.folder / "samples.parquet").to_pylist()
    drew = {row["policy"] for row in samples if row["split"] == "train"}
    assert drew == {"base", "generator_larger", "generator_smaller"}


def test_the_run_says_whose_samples_were_selected_and_the_figure_shows_it(finished):
    run = read_run(finished.folder)
    shares_ = [run.metrics[f"generators/{name}/selected_share"] for name in NAMES]
    said = ", ".join(f"{share:.0%} come from {name}" for share, name in zip(shares_, NAMES, strict=True))
    assert f"Of the selected completions, {said}." in finished.out
    assert "The generators' own sampled accuracy: student 0." in finished.out
    figure = generators_figure(grouped([run]))
    assert figure is not None
    assert [row["kl"] is None for row in figure.rows] == [False, False, True]
    assert [row["kl"] for row in figure.rows][:2] == [run.metrics[f"tuned/kl_from_{name}"] for name in NAMES[:2]]
    with drawn(figure) as canvas:
        assert len(canvas.axes) == 3
        widths = sorted(bar.get_width() for bar in canvas.axes[1].patches)
        assert widths == pytest.approx(sorted([*shares_, 1]))  # 1: the pale bar below them


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("procedure.drawn_by=[student,giant]", "procedure.drawn_by=giant is not allowed: the generators are "),
        ("procedure.drawn_by=[]", "procedure.drawn_by=[] is not allowed"),
        ("procedure.drawn_by=[student,student]", "each once"),
        ("procedure.generators.larger.weight=0", "procedure.generators.larger.weight=0 is not allowed"),
        ("procedure.generators.larger.policy=null", "at most one of which has policy=null"),
        ("+procedure.generators.larger.wieght=2", "it must be a policy and a weight, no more"),
        ("procedure.generators.larger.policy.layers=0", "procedure.generators.larger.policy.layers=0 is not allowed"),
    ],
)
def test_a_mistaken_mix_is_refused_before_any_work(setting, said):
    cfg = composed("procedure=generators", setting)
    with pytest.raises(BenchError) as refused:
        checks.check(cfg)
    assert said in str(refused.value)


def test_generators_are_pretrained_as_long_as_the_student_and_else_as_long_as_the_default():
    tiny = OmegaConf.load(Path(CONF) / "policy" / "tiny.yaml")
    given = ["policy=folder", "policy.path=anywhere"]
    for overrides, expected in ((["experiment=quick"], (8000, 300)), (given, (tiny.demonstrations, tiny.steps))):
        found = cells_of_sweep([*overrides, "seed=0,1", "procedure=generators"], CONF)
        assert found is not None
        for one in (found[0].cfg.procedure.generators[name].policy for name in ("larger", "smaller")):
            assert (one.demonstrations, one.steps) == expected


def test_a_plan_counts_each_generators_pool_once():
    found = cells_of_sweep(
        [
            *("procedure=generators", "task.train_prompts=10", "num_completions=4,8", "baseline_completions=8"),
            *("procedure.drawn_by=[student],[larger],[student,larger]", "evaluation.temperatures=null"),
        ],
        CONF,
    )
    assert found is not None
    planned = workload(found)
    assert len(found) == 6
    assert planned.pools == 2
    assert planned.trainings == 12
    assert planned.evaluations == 2 + 12  # the student, the larger one, and what was trained
    assert planned.completions == 10 * (8 + 8) + 300 * 16 + 300 + 13 * 300 * 17  # Best-of-N is among the base's


# --- the report ----------------------------------------------------------------------------------------------------


def mix(outputs: Path, seed: int, names: list[str], tuned: float, **settings):
    metrics: dict = {
        "generators/names": " ".join(names),
        "generators/prompts_solved": 80,
        "generators/correct_paths": 2.0,
    }
    for name in names:
        metrics |= {f"generators/{name}/{key}": 1.0 for key in ("parameters", "pass@1", "correct_paths", "left_out")}
        metrics |= {f"generators/{name}/{key}": 10 for key in ("tokens", "cost_flops", "prompts_solved_only")}
        metrics |= {
            f"generators/{name}/outcomes": "base" if name == "student" else f"generator_{name}",
            f"generators/{name}/samples": 12 / len(names),
            f"generators/{name}/selected_share": 1 / len(names),
            f"generators/{name}/prompts_covered_only": 3 + seed,
            f"tuned/kl_from_{name}": None,
        }
    skill = {"tuned": tuned} | {f"generator_{name}": 0.4 for name in names if name != "student"}
    return made_run(outputs, seed=seed, skill=skill, metrics=metrics, settings={"procedure.drawn_by": names} | settings)


@pytest.fixture(scope="module")
def reported(shared: Shared) -> list[Run]:
    """Three seeds of three mixes, made once for all workers."""
    skills = {("student",): 0.4, ("larger",): 0.41, ("student", "larger"): 0.75}

    def make(outputs: Path) -> None:
        made = [mix(outputs, seed, list(names), tuned) for names, tuned in skills.items() for seed in (0, 1, 2)]
        (outputs / "runs").write_text("\n".join(str(run.folder) for run in made))

    lines = (shared.once("reported_generators", make) / "runs").read_text().splitlines()
    return [read_run(Path(line)) for line in lines]


def test_a_mix_is_compared_with_as_many_of_the_students_own(reported):
    found = against_own(mixes(grouped(reported)))
    assert [one.label for one, _ in found] == ["larger", "student + larger"]
    own, other, union = (
        np.stack([run.per_prompt("tuned", "pass", "accuracy", 1) for run in reported[start : start + 3]])
        for start in (0, 3, 6)
    )
    for (_, one), theirs in zip(found, (other, union), strict=True):
        assert one.difference.value == pytest.approx((theirs - own).mean())
        assert one.seeds == 3
    assert found[1][1].verdict == "better"


def test_the_sentences_say_whether_the_union_beats_the_students_own(reported):
    alone, union, own = sentences(grouped(reported))
    assert "Training on larger is not shown to differ from training on as many of the student's own samples" in alone
    assert "detectable: " in alone
    assert "Training on the union of student, larger is better than training on" in union
    assert union.endswith("(60 test prompts, 3 seeds).")
    assert own.startswith("The generators' own sampled accuracy: student 0.")
    assert sentences(grouped(reported[:3])) == [own.split(", larger")[0] + "."]


def test_mixes_of_other_sample_counts_are_not_compared(tmp_path):
    runs = [mix(tmp_path, 0, ["student"], 0.4), mix(tmp_path, 0, ["larger"], 0.6, num_completions=8)]
    assert against_own(mixes(grouped(runs))) == []


def test_the_tables_have_a_row_a_mix_and_a_generator(reported, tmp_path):
    table, parts = mixes_table(grouped(reported)), generators_table(grouped(reported))
    assert table is not None
    assert parts is not None
    assert [row["mix"] for row in table.rows] == ["student", "larger", "student + larger"]
    assert [row["samples"] for row in table.rows] == [12, 12, 12]
    assert table.rows[0]["verdict"] is None
    assert [row["generator"] for row in parts.rows] == ["student", "larger", "student", "larger"]
    assert [row["prompts_covered_only"] for row in parts.rows] == [4, 4, 4, 4]
    assert all(row["kl"] is None for row in parts.rows)
    assert "procedure.drawn_by" not in table.columns.values()
    none = grouped([made_run(tmp_path)])
    assert mixes_table(none) is generators_table(none) is generators_figure(none) is None
    assert sentences(none) == []


def test_the_figure_draws_its_rows(reported):
    figure = generators_figure(grouped(reported))
    assert figure is not None
    with drawn(figure) as canvas:
        accuracy, share, kl = canvas.axes
        assert len(share.patches) - 3 == len(figure.rows) == 4  # a pale bar for each of the three mixes
        drawn_at = [float(x) for line in accuracy.lines for x in line.get_xdata()]
        for row in figure.rows:
            assert any(np.isclose(row["tuned"], drawn_at))
            assert any(np.isclose(row["own"], drawn_at))
        assert not kl.containers  # none has the student's token ids here
