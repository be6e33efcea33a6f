"""A stand-in for a server of one policy: its tokens are noise, its log-probabilities of them the policy's own."""

from typing import Any

import numpy as np
import torch
from loopback import Answer

from bench.artifacts import Policy
from bench.models import loading

MODEL = "served"
EOS = 2


class FakeServer:
    """Answers as vLLM does, but for what a test changes: `change(path, body, answer)` sees every answer first."""

    def __init__(self, policy: Policy, *, heeds_seeds: bool = True, gives_ids: bool = True) -> None:
        self.tokenizer, self.model = loading.load_tokenizer(policy), loading.load_model(policy)
        self.heeds_seeds, self.gives_ids = heeds_seeds, gives_ids
        self.asked: list[Any] = []  # bodies, probes included
        self.change = lambda path, body, answer: answer

    def __call__(self, path: str, body: Any) -> Answer:
        if path == "/v1/models":
            return self.change(path, body, (200, {"object": "list", "data": [{"id": MODEL, "max_model_len": 256}]}))
        self.asked.append(body)
        chat = path == "/v1/chat/completions"
        assert chat or path == "/v1/completions"
        content = "\n\n".join(message["content"] for message in body["messages"]) if chat else ""
        prompt = self.tokenizer.encode(content) if chat else body["prompt"]
        ids = self.draw(prompt, body)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop" if ids[-1] == EOS else "length",
            "stop_reason": None,
            "logprobs": None,
        }
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if self.gives_ids:
            choice |= {"token_ids": ids, "prompt_token_ids": None if chat else prompt}
        if body.get("logprobs"):
            values = self.logprobs(prompt, ids)
            choice["logprobs"] = {"content": [{"logprob": x} for x in values]} if chat else {"token_logprobs": values}
        answer = {
            "model": MODEL,
            "choices": [choice],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(ids)},
        }
        if self.gives_ids and chat:
            answer["prompt_token_ids"] = prompt
        return self.change(path, body, (200, answer))

    def draw(self, prompt: list[int], body: Any) -> list[int]:
        """Characters at random, an eighth of them the end; the same for every seed at temperature 0."""
        seed = body["seed"] if body["temperature"] > 0 and self.heeds_seeds else None
        rng = np.random.default_rng([*prompt, 0] if body["temperature"] == 0 else seed)
        ids: list[int] = []
        while len(ids) < body["max_tokens"] and EOS not in ids:
            ids.append(EOS if rng.random() < 1 / 8 else int(rng.integers(10, 90)))
        return ids

    def logprobs(self, prompt: list[int], ids: list[int]) -> list[float]:
        with torch.inference_mode():
            logits = self.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(dim=-1)[torch.arange(len(ids)), torch.tensor(ids)].tolist()
