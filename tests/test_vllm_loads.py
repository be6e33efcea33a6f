"""vLLM loads the embedded policy's folder unchanged: the same tokens in, the same greedy completions out."""

import hashlib
from pathlib import Path

import pytest
import torch

from bench import policies
from bench.artifacts import Policy
from bench.chat import encode, render
from bench.tasks.word_problems import WordProblems

pytestmark = pytest.mark.vllm
PROMPTS = 50


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_vllm_and_transformers_agree_on_the_folder(tiny_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    task = WordProblems()
    model, tokenizer = policies.load_model(tiny_policy), policies.load_tokenizer(tiny_policy)
    messages = task.prompts("test").messages[:PROMPTS]
    expected = []
    for turns in messages:
        ids = torch.tensor([encode(tokenizer, turns)])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=task.max_new_tokens
        )
        expected.append((ids[0].tolist(), made[0, ids.shape[1] :].tolist()))

    before = contents(tiny_policy.path)
    engine = LLM(str(tiny_policy.path), dtype="float32", enforce_eager=True, max_model_len=256, disable_log_stats=True)
    outputs = engine.generate(
        [render(tokenizer, turns) for turns in messages],
        SamplingParams(temperature=0.0, max_tokens=task.max_new_tokens),
        use_tqdm=False,
    )
    found = [(output.prompt_token_ids, list(output.outputs[0].token_ids)) for output in outputs]
    assert [prompt for prompt, _ in found] == [prompt for prompt, _ in expected]
    # Two engines may round two near-equal logits apart: at most one completion of the fifty.
    differing = [i for i in range(PROMPTS) if found[i][1] != expected[i][1]]
    assert len(differing) <= 1
    assert {output.outputs[0].finish_reason for output in outputs} == {"stop"}
    assert contents(tiny_policy.path) == before
