"""lm-eval on the tiny policy sees the suite's tokens, and agrees with an independent greedy decode on every prompt."""

import importlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.artifacts import Policy, Prompts
from bench.errors import BenchError
from bench.estimators.uncertainty import mcnemar
from bench.evaluation import harness_models
from bench.evaluation.harness import HarnessResult, harness, lm_eval_exact_match, transferred
from bench.models import loading
from bench.models.chat import encode
from bench.models.tokens import unconfigured_end
from bench.records.metrics import transfer_contrasts
from bench.store import Store, using
from bench.tasks.list_programs import ListPrograms
from bench.tasks.word_problems import WordProblems

task = WordProblems(test_prompts=60)


def greedy(policy: Policy, prompts: Prompts, max_new_tokens: int) -> list[str]:
    """One prompt at a time, argmax of the logits, without cache, padding or generate()."""
    model, tokenizer = loading.load_model(policy), loading.load_tokenizer(policy)
    texts = []
    for messages in prompts.messages:
        prompt = encode(tokenizer, messages)
        ids = list(prompt)
        with torch.no_grad():
            while len(ids) < len(prompt) + max_new_tokens:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] == tokenizer.eos_token_id:
                    break
        texts.append(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True))
    return texts


def test_exact_match_is_the_suites_greedy_accuracy_prompt_by_prompt(tiny_policy: Policy, store: Store) -> None:
    prompts = task.prompts("test")
    found = harness(tiny_policy, prompts, task)
    texts = greedy(tiny_policy, prompts, task.max_new_tokens)
    right = np.array([task.is_correct(text, answer) for text, answer in zip(texts, prompts.answer, strict=True)])
    assert list(found.text) == texts
    assert np.array_equal(found.exact_match, right)
    assert 0 < right.sum() < len(right)  # both verdicts occur, or this proves nothing
    assert found.metrics["word_problems/exact_match"] == right.mean()
    assert found.metrics["word_problems/exact_match_stderr"] == pytest.approx(right.std(ddof=1) / len(right) ** 0.5)


def test_a_second_call_reads_the_store_whatever_the_batch_size(
    tiny_policy: Policy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = task.prompts("test")[:10]
    first = harness(tiny_policy, prompts, task)
    monkeypatch.setattr(loading, "load_tokenizer", lambda policy: pytest.fail("it ran again"))
    again = harness(tiny_policy, prompts, task, batch_size=3)
    assert first.metrics == again.metrics
    assert np.array_equal(first.exact_match, again.exact_match)
    assert [use.reused for use in store.uses] == [False, True]


def test_rows_keep_the_order_of_the_prompts(tiny_policy: Policy, store: Store) -> None:
    prompts = task.prompts("test")
    backwards = prompts[::-1]
    forward, reverse = harness(tiny_policy, prompts, task), harness(tiny_policy, backwards, task, batch_size=7)
    assert list(forward.text) == list(reverse.text[::-1])
    assert np.array_equal(forward.exact_match, reverse.exact_match[::-1])


def test_the_length_limit_cuts_where_the_suite_does(tiny_policy: Policy, store: Store) -> None:
    prompts = task.prompts("test")[:10]
    short = WordProblems(max_new_tokens=5)
    found = harness(tiny_policy, prompts, short)
    assert list(found.text) == greedy(tiny_policy, prompts, 5)
    assert found.exact_match.sum() == 0


@pytest.mark.parametrize("name", ["a[1]", "$HOME", "*", "?", "a::b", "a b#c%20", "{a,b}", "~", "**", "\\é"])
def test_a_store_may_lie_at_any_path(tiny_policy: Policy, tmp_path: Path, name) -> None:
    prompts = task.prompts("test")[:3]
    with using(Store(tmp_path / name)):
        found = harness(tiny_policy, prompts, task)
    assert list(found.text) == greedy(tiny_policy, prompts, task.max_new_tokens)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_odd_prompts_reach_the_model_unchanged(tiny_policy: Policy, store: Store) -> None:
    texts = [
        "{{ 7 * 7 }} {% raw %}",
        'Zoë says "3 – 2"?\n\nHow many?',
        "  Leo has 3 coins.  ",
        "日本 #### 3",
        "\\n{answer}",
    ]
    prompts = Prompts(
        id=np.array([f"p{i}" for i in range(len(texts))]),
        messages=tuple(({"role": "user", "content": text},) for text in texts),
        answer=np.array(["3"] * len(texts)),
    )
    assert list(harness(tiny_policy, prompts, task).text) == greedy(tiny_policy, prompts, task.max_new_tokens)


def test_a_chat_template_is_rendered_once_with_one_bos(tiny_policy: Policy, store: Store, tmp_path) -> None:
    model, tokenizer = loading.load_model(tiny_policy), loading.load_tokenizer(tiny_policy)
    with_bos = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %} answer:"
    for name, template in (("with", with_bos), ("without", with_bos.replace("{{ bos_token }}", ""))):
        tokenizer.chat_template = template
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        policy = loading.folder(tmp_path / name)
        prompts = task.prompts("test")[:8]
        assert list(harness(policy, prompts, task).text) == greedy(policy, prompts, task.max_new_tokens)


def test_a_completion_ends_where_the_template_alone_says_that_a_turn_does(
    tiny_policy: Policy, store: Store, tmp_path
) -> None:
    prompts = task.prompts("test")[:20]
    model, tokenizer = loading.load_model(tiny_policy), loading.load_tokenizer(tiny_policy)
    end, other = tokenizer.eos_token, tokenizer.pad_token
    tokenizer.eos_token, model.generation_config.eos_token_id = other, tokenizer.pad_token_id
    plain = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}END{% endif %}"
    texts = {}
    for name, ends in (("said", end), ("unsaid", "")):
        tokenizer.chat_template = plain.replace("END", ends) + "{% endfor %}"
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        policy = loading.folder(tmp_path / name)
        assert unconfigured_end(policy) == (tokenizer.convert_tokens_to_ids(end) if ends else None)
        texts[name] = list(harness(policy, prompts, task).text)
    assert texts["said"] == greedy(tiny_policy, prompts, task.max_new_tokens)
    assert texts["unsaid"] != texts["said"]  # which ran on


def test_prompts_that_lm_eval_would_cut_are_refused(random_policy: Policy, few_prompts: Prompts, store: Store) -> None:
    long = replace(few_prompts, messages=(*few_prompts.messages[:6], ({"role": "user", "content": "coins " * 300},)))
    with pytest.raises(BenchError, match=r"Prompt p6 has \d+ tokens, .* context of 256"):
        harness(random_policy, long, task)
    assert not list(store.root.glob("lm_eval_exact_match/*"))


def test_it_is_silent_and_leaves_global_state_alone(
    tiny_policy: Policy, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets

    importlib.import_module("lm_eval.evaluator")
    capfd.readouterr()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    level, bars = logging.getLogger("lm_eval").level, datasets.are_progress_bars_disabled()
    harness(tiny_policy, task.prompts("test")[:4], task)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert logging.getLogger("lm_eval").level == level
    assert datasets.are_progress_bars_disabled() == bars


def test_what_it_leaves_is_an_lm_eval_task(tiny_policy: Policy, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user would repeat it: the YAML and JSONL alone, found by lm-eval itself, in the artifact's folder."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    prompts = task.prompts("test")[:10]
    found = harness(tiny_policy, prompts, task)
    (folder,) = store.root.glob("lm_eval_exact_match/*")
    assert str(store.root) not in (folder / "word_problems.yaml").read_text()
    assert [json.loads(line)["id"] for line in (folder / "prompts.jsonl").read_text().splitlines()] == list(prompts.id)
    monkeypatch.chdir(folder)
    with harness_models.quiet():
        results = simple_evaluate(
            model=HFLM(pretrained=str(tiny_policy.path), device="cpu", dtype="float32", batch_size=4),
            tasks=["word_problems"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        )
    assert results["results"]["word_problems"]["exact_match,answer"] == found.exact_match.mean()


def test_the_task_name_and_pattern_are_part_of_the_key(tiny_policy: Policy, store: Store) -> None:
    prompts = task.prompts("test")[:10]
    usual = {"task_name": "sums", "answer_pattern": task.answer_pattern, "max_new_tokens": 48, "batch_size": 8}
    found = lm_eval_exact_match(tiny_policy, prompts, **usual)
    never = lm_eval_exact_match(tiny_policy, prompts, **(usual | {"answer_pattern": "answer: ([a-z]+)"}))
    assert set(found.metrics) == {"sums/exact_match", "sums/exact_match_stderr"}
    assert never.metrics["sums/exact_match"] == 0


def test_another_task_is_judged_on_its_own_prompts_under_the_name_it_is_given(
    tiny_policy: Policy, store: Store
) -> None:
    others = WordProblems(test_prompts=20, train_prompts=20, validation_prompts=20, templates=["events2"])
    found = transferred(tiny_policy, "other_kinds", others)
    assert set(found.metrics) == {"other_kinds/exact_match", "other_kinds/exact_match_stderr"}
    texts = greedy(tiny_policy, others.prompts("test"), others.max_new_tokens)
    right = [others.is_correct(*pair) for pair in zip(texts, others.prompts("test").answer, strict=True)]
    assert found.exact_match.tolist() == right
    with pytest.raises(BenchError, match=r"evaluation\.transfer\.programs is list_programs"):
        transferred(tiny_policy, "programs", ListPrograms())


def test_transfer_is_compared_arm_by_arm_on_the_same_prompts() -> None:
    right = {"base": [0, 0, 1, 0] * 10, "tuned": [1, 1, 1, 0] * 10, "control": [0, 1, 0, 0] * 10}
    outcomes: dict[str, Any] = {
        arm: SimpleNamespace(transfer={"other": HarnessResult({}, np.array(values, float), np.empty(40, object))})
        for arm, values in right.items()
    }
    metrics = transfer_contrasts(outcomes, seed=0)
    differences = {name: metrics[f"{name}/lm_eval/other/difference"] for name in ("tuned_vs_base", "control_vs_base")}
    assert differences == {"tuned_vs_base": 0.5, "control_vs_base": 0.0}
    assert metrics["tuned_vs_control/lm_eval/other/verdict"] == "better"
    assert metrics["control_vs_base/lm_eval/other/verdict"] == "not resolved"
    p_values = [mcnemar(np.array(right["tuned"]), np.array(right[arm])) for arm in ("control", "base")]
    assert metrics["tuned_vs_base/lm_eval/other/p_adjusted"] == pytest.approx(max(3 * min(p_values), 2 * max(p_values)))
    del outcomes["control"]
    assert not [name for name in transfer_contrasts(outcomes, seed=0) if "control" in name]
