"""Process rewards: steps and their tokens, scores against a step-by-step reference, training on step labels."""

import functools
import math

import numpy as np
import pytest
from drawing import generate
from own_code import halved
from texts import pool_of, prompts_of

from bench.artifacts import Policy
from bench.errors import BenchError
from bench.estimators.reward_diagnostics import within_prompt_auc
from bench.models import chat, loading
from bench.scoring import prepared
from bench.scoring import process_reward as module
from bench.scoring.process_reward import process_reward, summary
from bench.scoring.trained_process_reward import labelled_steps, trained_process_reward
from bench.tasks.word_problems import WordProblems
from bench.training.process_reward import (
    IGNORED,
    ReasoningStep,
    StepLabels,
    encode,
    split,
    tokenized,
    train_process_reward_model,
)
from bench.training.trainers import training_log

NAN = float("nan")
WORDS = {"separator": r"\.", "answer_marker": "####"}
PROMPTS = prompts_of(["Leo has 9 coins.", "Eve has 2 coins."], ["17", "3"])
TEXTS = [
    ["9 - 1 = 8. 9 + 8 = 17. #### 17", "9 + 8 = 17.", "#### 17"],
    ["2 + 1 = 3. #### 3", "", "no dot #### 3"],
]


def contents(completion, **settings):
    return [step.content for step in split(completion, **settings)]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("9 - 1 = 8. 9 + 8 = 17. #### 17", ["9 - 1 = 8", "9 + 8 = 17"]),
        ("9 - 1 = 8. #### 8. So", ["9 - 1 = 8"]),
        ("9 - 1 = 8. 9 +", ["9 - 1 = 8", "9 +"]),  # cut off in a step
        ("#### 17", []),
        ("", []),
        (" . .. ", []),
    ],
)
def test_steps_of_word_problems(completion, expected):
    assert contents(completion, **WORDS) == expected


def test_steps_by_other_separators():
    text = "First.\n\nThen 1.5 = 1.5.\nAnswer: 3"
    assert contents(text, separator=r"\n+", answer_marker=None) == ["First.", "Then 1.5 = 1.5.", "Answer: 3"]
    assert contents(text, separator=r"\n+", answer_marker="Answer:") == ["First.", "Then 1.5 = 1.5."]
    assert contents(text, separator=r"\.(?=\s|$)", answer_marker="Answer") == ["First", "Then 1.5 = 1.5"]
    steps = split(text, separator=r"\n+", answer_marker=None)
    assert "".join(step.text for step in steps) == text


def test_tokens_end_where_steps_end(random_policy):
    tokenizer = loading.load_tokenizer(random_policy)
    steps = split(TEXTS[0][0], **WORDS)
    ids, ends = encode(tokenizer, PROMPTS.messages[0], steps, ending=None)
    prompt = chat.encode(tokenizer, PROMPTS.messages[0])
    assert ids[: len(prompt)] == prompt
    assert tokenizer.decode(ids[len(prompt) : ends[0] + 1]) == "9 - 1 = 8."
    assert tokenizer.decode(ids[ends[0] + 1 : ends[1] + 1]) == " 9 + 8 = 17."
    assert ends[1] == len(ids) - 1
    ids, ends = encode(tokenizer, PROMPTS.messages[0], steps, ending="\nOK")
    assert tokenizer.decode(ids[len(prompt) :]) == "9 - 1 = 8\nOK9 + 8 = 17\nOK"
    assert [ids[end] for end in ends] == [tokenizer.encode("\nOK", add_special_tokens=False)[-1]] * 2


def test_summaries_by_hand():
    steps = np.array([0.9, 0.5, 0.8])
    assert [summary(steps, how) for how in module.AGGREGATE] == pytest.approx([0.8, 0.5, 0.36, 2.2 / 3])
    for how in module.AGGREGATE:
        assert math.isnan(summary(np.array([]), how))
        assert math.isnan(summary(np.array([NAN, 0.5]), how))


@pytest.fixture(scope="module")
def classifier(random_policy, tmp_path_factory):
    """An untrained token classifier with three outputs; "good" is the second."""
    return saved(random_policy, tmp_path_factory.mktemp("classifier"), names=["bad", "good", "neutral"])


def saved(policy: Policy, path, *, names, **changes):
    import torch
    from transformers import AutoConfig, AutoModelForTokenClassification

    config = AutoConfig.from_pretrained(policy.path)
    config.id2label = dict(enumerate(names))
    config.update(changes)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoModelForTokenClassification.from_config(config).save_pretrained(path)
    loading.load_tokenizer(policy).save_pretrained(path)
    return path


def by_prefix(path, messages, steps, output):
    """[S]: each step's probability, from a forward pass of nothing but the text up to its end."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model, tokenizer = AutoModelForTokenClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    ids, found = chat.encode(tokenizer, messages), []
    for step in steps:
        ids = ids + tokenizer.encode(step, add_special_tokens=False)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        found.append(float(logits.softmax(-1)[output] if len(logits) > 1 else logits[0].sigmoid()))
    return np.array(found)


@pytest.mark.parametrize("batch_tokens", [1, 16_384])
def test_scores_are_those_of_each_step_at_its_last_token(store, classifier, batch_tokens):
    pool = pool_of(TEXTS)
    settings = {"model": str(classifier), "correct": "good", "dtype": "float32", "batch_tokens": batch_tokens, **WORDS}
    two = by_prefix(classifier, PROMPTS.messages[0], ["9 - 1 = 8.", " 9 + 8 = 17."], 1)
    one = by_prefix(classifier, PROMPTS.messages[0], ["9 + 8 = 17."], 1)
    last = [by_prefix(classifier, PROMPTS.messages[1], [step], 1)[0] for step in ("2 + 1 = 3.", "no dot ")]
    assert np.ptp([*two, *one, *last]) > 0.01  # a score of the wrong token would show
    for how in module.AGGREGATE:
        value = process_reward(PROMPTS, pool, aggregate=how, **settings).value
        expected = [[summary(two, how), one[0], NAN], [last[0], NAN, last[1]]]
        assert value == pytest.approx(np.array(expected), abs=1e-4, nan_ok=True)


def test_outputs_by_number_and_a_single_one_by_sigmoid(store, classifier, random_policy, tmp_path):
    settings = {"aggregate": "min", **WORDS}
    pool = pool_of([["9 + 8 = 17."], ["2 + 1 = 3."]])
    by_name = process_reward(PROMPTS, pool, model=str(classifier), correct="neutral", **settings).value
    by_number = process_reward(PROMPTS, pool, model=str(classifier), correct=2, **settings).value
    assert (by_name == by_number).all()
    with pytest.raises(BenchError, match=r"scoring.correct=fine is no output .* 0 \(bad\), 1 \(good\), 2 \(neutral\)"):
        process_reward(PROMPTS, pool, model=str(classifier), correct="fine", **settings)
    single = saved(random_policy, tmp_path / "single", names=["good"])
    value = process_reward(PROMPTS, pool, model=str(single), **settings).value
    expected = by_prefix(single, PROMPTS.messages[0], ["9 + 8 = 17."], 0)
    assert value[0, 0] == pytest.approx(expected[0], abs=1e-4)


def test_code_of_a_model_is_run_only_where_it_is_trusted(store, random_policy, tmp_path, own_modules):
    settings = {"aggregate": "last", **WORDS}
    pool = pool_of([["9 + 8 = 17."], ["2 + 1 = 3."]])
    plain = saved(random_policy, tmp_path / "plain", names=["correct"])  # one output
    coded = halved(plain, tmp_path / "coded")
    with pytest.raises(BenchError, match=r"coded brings Python code of its own.*: scoring\.trust_remote_code=true\."):
        process_reward(PROMPTS, pool, model=str(coded), **settings)
    native, own = (
        process_reward(PROMPTS, pool, model=str(folder), trust_remote_code=folder is coded, **settings).value
        for folder in (plain, coded)
    )
    logits = np.log(native / (1 - native))
    assert own == pytest.approx(1 / (1 + np.exp(-logits / 2)), abs=1e-5)  # its code did it
    assert (np.abs(own - native) > 1e-3).all()


def test_what_has_no_score_is_counted_and_said(store, random_policy, tmp_path, capsys):
    path = saved(random_policy, tmp_path / "short", names=["bad", "good"], max_position_embeddings=40)
    pool = pool_of([["9 + 8 = 17.", "9 + 8 = 17. " * 9, "#### 17"], ["2 + 1 = 3.", "", "2."]])
    value = process_reward(PROMPTS, pool, model=str(path), aggregate="mean", **WORDS).value
    assert np.isnan(value).tolist() == [[False, True, True], [False, True, False]]
    counts = store.uses[-1].counts
    assert {name: counts[name] for name in module.OUTCOMES} == {"without_steps": 2, "too_long": 1, "not_finite": 0}
    assert counts["scored_steps"] == 3
    assert counts["flops"] == 2 * counts["parameters"] * counts["scored_tokens"] > 0
    assert "of 6 completions the process reward model leaves some unscored: 2 without steps, 1 too long" in (
        capsys.readouterr().err
    )


def test_scores_are_kept_and_a_model_without_its_head_is_refused(store, classifier, random_policy, monkeypatch):
    pool, settings = pool_of(TEXTS), {"model": str(classifier), "aggregate": "last", **WORDS}
    first = process_reward(PROMPTS, pool, **settings).value
    with pytest.raises(BenchError, match=r"is no process reward model .* score"):
        process_reward(PROMPTS, pool, **(settings | {"model": str(random_policy.path)}))
    monkeypatch.setattr(module, "StepScorer", None)  # a second time no model is loaded
    assert process_reward(PROMPTS, pool, **settings).value == pytest.approx(first, nan_ok=True)
    shuffled = pool_of([[row[column] for column in (2, 0, 1)] for row in TEXTS])
    monkeypatch.undo()
    value = process_reward(PROMPTS, shuffled, **settings).value
    assert value == pytest.approx(first[:, [2, 0, 1]], abs=1e-4, nan_ok=True)


def test_labels_lie_on_the_last_token_of_each_step(random_policy):
    tokenizer = loading.load_tokenizer(random_policy)
    steps = tuple(split(TEXTS[0][0], **WORDS))
    examples = StepLabels((PROMPTS.messages[0],), (steps,), ((False, True),))
    (row,) = tokenized(examples, tokenizer, ending=None)
    ids, ends = encode(tokenizer, PROMPTS.messages[0], steps, ending=None)
    assert row["input_ids"] == ids
    assert [(i, label) for i, label in enumerate(row["labels"]) if label != IGNORED] == [(ends[0], 0), (ends[1], 1)]


def drawn(texts):
    """A generation that gives these completions to every prompt."""

    def generation(prompts, policy, *, num_completions, **sampler):
        assert sampler["temperature"] == sampler["top_p"] == 1
        return pool_of([texts[:num_completions]] * len(prompts))

    return generation


def test_steps_are_labelled_by_the_task_each_on_its_own(random_policy, capsys):
    texts = ["9 - 1 = 8. 9 + 8 = 18. #### 18", "9 - 1 = 8. 9 + 8 = 18. #### 18", "#### 1", "2 + = 3. 1 + 1 = 2."]
    settings = {"samples": 4, "seed": 0, **WORDS}
    found = labelled_steps(PROMPTS, random_policy, drawn(texts), WordProblems(), label_noise=0, **settings)
    assert found.correct == ((True, False), (False, True)) * 2
    assert found.steps[0] == (ReasoningStep("9 - 1 = 8.", "9 - 1 = 8"), ReasoningStep(" 9 + 8 = 18.", "9 + 8 = 18"))
    assert "2 of 6 distinct samples have no step" in capsys.readouterr().err
    flipped = labelled_steps(PROMPTS, random_policy, drawn(texts), WordProblems(), label_noise=1, **settings)
    assert flipped.correct == ((False, True), (True, False)) * 2
    with pytest.raises(BenchError, match=r"All 2 labelled steps are correct"):
        labelled_steps(PROMPTS, random_policy, drawn(["1 + 1 = 2."] * 4), WordProblems(), label_noise=0, **settings)


def test_a_share_of_the_labels_is_noise_and_more_noise_flips_more_of_the_same(random_policy):
    texts = [f"{a} + {b} = {a + b}. 1 + 1 = 3." for a in range(10) for b in range(10)]
    settings = {"samples": 100, "seed": 0, **WORDS}

    def labels(noise):
        found = labelled_steps(PROMPTS, random_policy, drawn(texts), WordProblems(), label_noise=noise, **settings)
        return np.array(found.correct)

    clean, some, more = labels(0.0), labels(0.2), labels(0.4)
    assert (some != clean).mean() == pytest.approx(0.2, abs=0.08)  # four standard errors of 400 labels
    assert ((more != clean) >= (some != clean)).all()


TRAINING = {
    "ending": None,
    "epochs": 5,
    "learning_rate": 3e-3,
    "batch_size": 16,
    "warmup": 0.05,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
}


def test_training_learns_what_the_steps_say_and_repeats(store, random_policy, few_prompts):
    """Steps are correct where they hold an "a": a rule that a token classifier can learn in seconds."""
    words = ["ab.", "bc.", "ca.", "cc."]
    texts = [f"{x} {y}" for x in words for y in words]
    steps = [tuple(split(text, separator=r"\.", answer_marker=None)) for text in texts]
    examples = StepLabels(
        messages=tuple(messages for messages in few_prompts.messages for _ in texts),
        steps=tuple(steps * len(few_prompts)),
        correct=tuple(tuple("a" in step.content for step in pair) for pair in steps) * len(few_prompts),
    )
    trained = train_process_reward_model(random_policy, examples, seed=0, **TRAINING)
    log = training_log(trained)
    assert len(log) == 5 * 7
    assert np.mean([update["loss"] for update in log[-7:]]) < 0.15 < math.log(2) - 0.3 < log[0]["loss"]  # nats per step
    counts = store.uses[-1].counts
    assert (counts["labelled_steps"], counts["correct_steps"]) == (2 * 112, 112)
    pool = pool_of([texts] * len(few_prompts))
    model = {"model": str(trained.path), "correct": "correct", "separator": r"\.", "aggregate": "min"}
    value = process_reward(few_prompts, pool, **model).value
    both = np.array([all("a" in step.content for step in pair) for pair in steps])
    assert value[:, both].min() > 0.5 > value[:, ~both].max()
    weights = (trained.path / "model.safetensors").read_bytes()
    (trained.path / "config.json").unlink()  # damaged: made again
    again = train_process_reward_model(random_policy, examples, seed=0, **TRAINING)
    assert (again.path / "model.safetensors").read_bytes() == weights


def test_the_trained_scorer_is_made_once_and_knows_true_equations(store, tiny_policy):
    task = WordProblems(train_prompts=100, test_prompts=20)
    maker = dict(TRAINING, epochs=3, learning_rate=2e-3, batch_size=32, seed=0, aggregate="min", label_noise=0.0)
    maker |= {"samples": 4, "samples_from": "train", "samples_seed": 0, **WORDS}

    def generation(prompts, policy, **settings):
        return generate(prompts, policy, **({"max_new_tokens": 48, "block_size": 8, "shard_size": 100} | settings))

    scorer = functools.partial(trained_process_reward, **maker)
    scoring = prepared(scorer, base=tiny_policy, task=task, generation=generation)
    test = task.prompts("test")
    pool = generation(test, tiny_policy, num_completions=8, seed=1)
    value = scoring(test, pool).value
    truth = np.array([[task.steps_are_true(text) for text in row] for _, part in pool.shards() for row in part.text])
    assert np.nanmean(within_prompt_auc(value, truth.astype(float))) > 0.6
    made = len(store.uses)
    again = prepared(scorer, base=tiny_policy, task=task, generation=generation)
    assert again(test, pool).value == pytest.approx(value, nan_ok=True)
    assert all(use.reused for use in store.uses[made:])
