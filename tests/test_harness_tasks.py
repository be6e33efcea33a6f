"""lm-eval's tasks by name, here from a folder of one's own, on base and tuned: its metrics, once a policy and task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawing import next_logits
from families import make

from bench import chat, policies, processes
from bench.artifacts import Policy
from bench.errors import BenchError
from bench.evaluation import harness_tasks as module
from bench.evaluation.harness_tasks import harness_tasks

DOCUMENTS = [
    {"question": f"Leo has {n} coins. Is that many?", "choices": ["no", "yes"], "right": n % 2} for n in range(12)
]
TASK = """
task: coins
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{question}} Answer:"
doc_to_choice: "{{choices}}"
doc_to_target: right
num_fewshot: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    (folder / "coins.yaml").write_text(TASK.replace("DATA", str(folder / "documents.jsonl")))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    return folder


@pytest.fixture
def measured(folder: Path, store) -> Callable[..., dict[str, float]]:
    def call(policy: Policy, names: Any = ("coins",), **settings: Any) -> dict[str, float]:
        defaults = {"include": str(folder), "num_fewshot": None, "limit": None, "seeds": (0,)}
        return harness_tasks(policy, names, **{**defaults, **settings})

    return call


def chosen(policy: Policy, asked: Callable[[Any, str], str]) -> np.ndarray:
    """The likelier answer to each question, by a plain forward."""
    tokenizer = policies.load_tokenizer(policy)
    answers = []
    for document in DOCUMENTS:
        prompt = asked(tokenizer, f"{document['question']} Answer:")
        before = tokenizer.encode(prompt, add_special_tokens=tokenizer.chat_template is None)
        totals = []
        for choice in (" no", " yes") if tokenizer.chat_template is None else ("no", "yes"):
            ids = [*before, *tokenizer.encode(choice, add_special_tokens=False)]
            logprobs = torch.tensor(next_logits(policy, ids)).log_softmax(-1).numpy()
            totals.append(logprobs[np.arange(len(before) - 1, len(ids) - 1), ids[len(before) :]].sum())
        answers.append(int(np.argmax(totals)))
    return np.array(answers)


def test_the_metrics_are_those_of_a_plain_forward(measured, random_policy):
    right = chosen(random_policy, lambda tokenizer, text: text) == [one["right"] for one in DOCUMENTS]
    found = measured(random_policy)
    assert 0 < right.mean() < 1
    assert found["coins/acc,none"] == pytest.approx(right.mean())
    assert found["coins/acc_stderr,none"] == pytest.approx(right.std(ddof=1) / 12**0.5)
    assert measured(random_policy, limit=4)["coins/acc,none"] == pytest.approx(right[:4].mean())


def test_a_chat_model_is_asked_as_chat(measured, tmp_path):
    policy = make("llama_3", tmp_path / "chat")
    told = lambda tokenizer, text: chat.render(tokenizer, ({"role": "user", "content": text},))  # noqa: E731
    right = chosen(policy, told) == [one["right"] for one in DOCUMENTS]
    assert measured(policy)["coins/acc,none"] == pytest.approx(right.mean())


def test_each_policy_task_seed_and_content_is_measured_once(measured, random_policy, folder, store):
    first = measured(random_policy, num_fewshot=2, seeds=(0, 1))
    assert measured(random_policy, num_fewshot=2, seeds=(1, 0)) == first
    assert [use.reused for use in store.uses] == [False, False, True, True]
    assert [use.counts["documents"] for use in store.uses[:2]] == [12, 12]
    alone = [measured(random_policy, num_fewshot=2, seeds=(seed,))["coins/acc,none"] for seed in (0, 1)]
    assert first["coins/acc,none"] == pytest.approx(np.mean(alone))
    text = (folder / "coins.yaml").read_text()
    (folder / "coins.yaml").write_text(text + "\n# another content\n")
    measured(random_policy, num_fewshot=2, seeds=(0,))
    assert not store.uses[-1].reused


def test_where_there_is_a_gpu_it_runs_in_a_process_of_its_own(measured, random_policy, monkeypatch):
    called = []

    def own(setting: str, count: int, out: Path, function: Callable[..., Any], *given: Any) -> Any:
        called.append((setting, count))
        monkeypatch.undo()
        return function(*given)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(processes, "call", own)
    measured(random_policy)
    assert called == [("evaluation.harness_tasks=coins", 1)]


def test_a_process_of_its_own_gives_what_this_one_gives(measured, random_policy, folder, tmp_path):
    given = (random_policy, "coins", str(folder), None, None, 0, 64)
    metrics, documents = processes.call("evaluation.harness_tasks=coins", 1, tmp_path, module._run, *given)
    assert (metrics, documents) == (measured(random_policy), 12)


def test_what_is_no_task_or_no_folder_is_said(measured, random_policy):
    with pytest.raises(BenchError, match=r"evaluation\.harness_tasks=notes is no task of lm-eval nor in"):
        measured(random_policy, ["notes"])
    with pytest.raises(BenchError, match=r"evaluation\.harness_include=nowhere is no folder"):
        measured(random_policy, include="nowhere")
    with pytest.raises(BenchError, match=r"evaluation\.harness_tasks=gsm8k: its data can't be had here"):
        measured(random_policy, ["gsm8k"])
