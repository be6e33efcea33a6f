"""Pools from a server: what is asked, what is refused, and that nothing half-drawn is kept; a stand-in serves."""

import copy
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import LIMIT, asking, ids, same
from fake_server import EOS, MODEL, FakeServer
from hydra import compose, initialize_config_dir
from loopback import serving

from bench import policies
from bench.artifacts import Completions, Policy, Prompts
from bench.config import checks
from bench.errors import BenchError
from bench.generation import http_client, server_engine
from bench.models import chat, loading
from bench.models.logprobs import token_logprobs
from bench.store import Store, using

pytestmark = pytest.mark.usefixtures("short_pauses")
CONF = Path(__file__).resolve().parent.parent / "conf"


@pytest.fixture
def fake(random_policy: Policy) -> FakeServer:
    return FakeServer(random_policy)


@pytest.fixture(scope="module")
def another_policy(random_policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The random policy a little further on, as fine-tuning leaves it."""
    model = loading.load_model(random_policy)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=noise)
    path = tmp_path_factory.mktemp("another")
    model.save_pretrained(path)
    loading.load_tokenizer(random_policy).save_pretrained(path)
    return loading.folder(path)


def draw(prompts: Prompts, policy: Policy, url: str, **settings) -> Completions:
    defaults = {"num_completions": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": LIMIT, "seed": 0}
    server = {"serves": str(policy.path), "url": url, "concurrency": 4, "retries": 2, "dtype": "float32"}
    return server_engine.generate(
        prompts, policy, **(defaults | server | {"block_size": 2, "shard_size": 3} | settings)
    )


def drawn_by(fake: FakeServer, prompts: Prompts, policy: Policy, **settings) -> Completions:
    with serving(fake) as server:
        return draw(prompts, policy, server.url, **settings)


def refused(fake: FakeServer, prompts: Prompts, policy: Policy, match: str, **settings) -> None:
    """The pool ends in one sentence that says `match`, and the store holds no part of it."""
    root = Path(settings.pop("root"))
    with using(Store(root)), serving(fake) as server, pytest.raises(BenchError, match=match) as caught:
        draw(prompts, policy, server.url, **settings)
    assert "\n" not in str(caught.value)
    assert stored(root) == []


def stored(root: Path) -> list[Path]:
    return sorted(path.parent for path in (root / "generate").glob("**/completions.parquet"))


def pool_requests(fake: FakeServer) -> list[dict]:
    """Without the probes: they alone ask for log-probabilities or draw hot."""
    return [body for body in fake.asked if not body.get("logprobs") and body["temperature"] != server_engine.HOT]


def test_each_sample_is_a_request_of_its_own_with_the_suite_s_tokens(fake, few_prompts, random_policy, store):
    drawn = drawn_by(fake, few_prompts, random_policy, temperature=0.7, top_p=0.9, top_k=5)
    tokenizer = loading.load_tokenizer(random_policy)
    bodies = pool_requests(fake)
    assert len(bodies) == 7 * 4
    assert len({body["seed"] for body in bodies}) == 7 * 4
    asked = sorted(body["prompt"] for body in bodies)
    assert asked == sorted(chat.encode(tokenizer, messages) for messages in few_prompts.messages for _ in range(4))
    for body in bodies:
        assert body["n"] == 1
        assert (body["model"], body["temperature"], body["top_p"], body["top_k"]) == (MODEL, 0.7, 0.9, 5)
        assert (body["max_tokens"], body["return_token_ids"], body["stop_token_ids"]) == (LIMIT, True, [EOS])
        assert (body["repetition_penalty"], body["min_p"], body["presence_penalty"]) == (1.0, 0.0, 0)
        assert 0 <= body["seed"] < 2**63
    answers = [fake.draw(body["prompt"], body) for body in bodies]
    assert sorted(cell.tolist() for row in np.asarray(drawn.token_ids) for cell in row) == sorted(answers)
    assert set(drawn.finish_reason.ravel()) == {"stop", "length"}
    for row, cell in enumerate(drawn.token_ids[0]):
        assert drawn.text[0, row] == tokenizer.decode(cell.tolist(), skip_special_tokens=True)
        assert (drawn.finish_reason[0, row] == "stop") == (cell[-1] == EOS)


def test_log_probabilities_are_the_suite_s_own(fake, few_prompts, random_policy, store):
    drawn = drawn_by(fake, few_prompts, random_policy)
    tokenizer = loading.load_tokenizer(random_policy)
    for row, messages in enumerate(few_prompts.messages):
        for column, cell in enumerate(drawn.token_ids[row]):
            exact = sum(fake.logprobs(chat.encode(tokenizer, messages), cell.tolist()))
            assert drawn.policy_logprob[row, column] == pytest.approx(exact, abs=1e-4)
    assert (drawn.logprob == drawn.policy_logprob).all()


def test_pools_nest_and_only_what_is_missing_is_asked(fake, few_prompts, random_policy, tmp_path):
    with using(Store(tmp_path / "one")):
        four = drawn_by(fake, few_prompts, random_policy)
        first = len(pool_requests(fake))
        six = drawn_by(fake, few_prompts, random_policy, num_completions=6)
        assert len(pool_requests(fake)) - first == 7 * 2
        again = len(fake.asked)
        assert same(four, draw(few_prompts, random_policy, "http://127.0.0.1:9/v1"))  # from the store: nobody is asked
        assert len(fake.asked) == again
    with using(Store(tmp_path / "other")):
        assert same(six, drawn_by(fake, few_prompts, random_policy, num_completions=6, concurrency=1))
    assert ids(four) == [row[:4] for row in ids(six)]


def test_greedy_asks_for_no_seed(fake, few_prompts, random_policy, store):
    drawn = drawn_by(fake, few_prompts, random_policy, temperature=0.0, num_completions=1)
    assert [set(body) & {"seed"} for body in pool_requests(fake)] == [set()] * 7
    assert (drawn.logprob == 0).all()
    assert not any(body["temperature"] == server_engine.HOT for body in fake.asked)  # seeds don't matter


def test_only_openai_s_fields_where_a_server_refuses_others(fake, few_prompts, random_policy, store):
    standard = {"model", "n", "temperature", "top_p", "max_tokens", "presence_penalty", "frequency_penalty", "stream"}
    fake.gives_ids = False
    drawn_by(fake, few_prompts, random_policy, extended_fields=False)
    assert {frozenset(body) for body in pool_requests(fake)} == {frozenset(standard | {"prompt", "seed"})}
    with pytest.raises(BenchError, match="top_k=3 is beyond OpenAI's fields"):
        draw(few_prompts, random_policy, "http://127.0.0.1:9/v1", extended_fields=False, top_k=3)


def test_requests_overlap_as_much_as_allowed_and_no_more(fake, few_prompts, random_policy, store):
    full, others = threading.Barrier(3), lambda path, body, answer: answer

    def together(path, body, answer):
        if body is not None and body["temperature"] == 0.9:  # 28 requests of the pool: groups of three and one over
            try:
                full.wait(timeout=0.5)
            except threading.BrokenBarrierError:
                fake.change = others
        return answer

    fake.change = together
    with serving(fake) as server:
        draw(few_prompts, random_policy, server.url, temperature=0.9, concurrency=3, shard_size=7, block_size=4)
        assert server.most_at_once == 3


def test_busy_answers_change_nothing_but_the_time(fake, few_prompts, random_policy, tmp_path):
    with using(Store(tmp_path / "calm")):
        calm = drawn_by(fake, few_prompts, random_policy)
    turn = iter(range(10_000))
    fake.change = lambda path, body, answer: (429, {}) if next(turn) % 3 == 0 else answer
    with using(Store(tmp_path / "busy")):
        assert same(calm, drawn_by(fake, few_prompts, random_policy, concurrency=1))


@pytest.mark.parametrize("death", [(500, {"error": {"message": "engine died"}}), None], ids=["500", "hangs up"])
def test_a_server_that_dies_costs_the_unit_that_was_being_drawn(fake, few_prompts, random_policy, tmp_path, death):
    with using(Store(tmp_path / "calm")):
        calm = drawn_by(fake, few_prompts, random_policy)
    fake.asked.clear()
    fake.change = lambda path, body, answer: death if len(pool_requests(fake)) > 9 else answer
    with using(Store(tmp_path / "store")), serving(fake) as server:
        with pytest.raises(http_client.UnavailableError, match="3 times in a row"):
            draw(few_prompts, random_policy, server.url, concurrency=1)
        assert len(stored(tmp_path / "store")) == 1  # units of 6: the tenth request belongs to the second
        fake.asked.clear()
        fake.change = lambda path, body, answer: answer
        assert same(calm, draw(few_prompts, random_policy, server.url))
    assert len(pool_requests(fake)) == 28 - 6
    assert not list((tmp_path / "store").glob("**/.making*"))


def changed(**fields):
    """An answer whose first choice has other fields."""

    def change(path, body, answer):
        if body is not None:
            answer[1]["choices"][0] |= fields
        return answer

    return change


def choices(count: int):
    def change(path, body, answer):
        if body is not None:
            answer[1]["choices"] *= count
        return answer

    return change


def whole(answer):
    return lambda path, body, _: _ if body is None else answer


def models(*names, **fields):
    listed = (200, {"data": [{"id": name, **fields} for name in names]})
    return lambda path, body, answer: listed if body is None else answer


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (choices(2), "prompt p0 has 2 choices where n=1 was asked for"),
        (choices(0), "has 0 choices where n=1"),
        (whole((200, {"model": MODEL})), "has no list of choices"),
        (whole((200, ["odd"])), "has no list of choices"),
        (whole((200, b"{oops")), "is not JSON: {oops"),
        (whole((401, {"error": "bad key"})), "answers 401: bad key.*api_key_env=NAME"),
        (
            whole((404, {"error": {"message": "no such model"}})),
            "answers 404: no such model.*check generation.model=served",
        ),
        (whole((400, {"error": {"message": "prompt too long"}})), r"answers 400: prompt too long \(prompt p\d\)"),
        (changed(finish_reason=None), "ended for the reason None"),
        (changed(finish_reason="abort"), "ended for the reason abort"),
        (changed(token_ids=None, text=None), "holds neither text nor token ids"),
        (changed(token_ids=["9"]), r"token_ids=\['9'\], which is not a list of token ids"),
        (changed(token_ids=[5], finish_reason="length"), "was cut after 1 of 16 tokens"),
        (changed(token_ids=[5, 4000, EOS]), "token id 4000, beyond the policy's vocabulary of 289"),
        (changed(token_ids=[30] * 5000, finish_reason="length", text=None), "has 5,000 tokens, more than the 16"),
        (changed(token_ids=[30, EOS, 31], text=None), "goes on after the token 2"),
        (whole((500, b"[" * 200_000)), r"answers 500 \(\[.*, 3 times in a row"),
        (models(MODEL, max_model_len="256"), "says max_model_len=256; it must be a whole number"),
        (models(MODEL, max_model_len=-1), "says max_model_len=-1; it must be"),
        (models("\x1b[2J", "b"), r"model=null is not one of .*: \\x1b.2J, b"),
        (models(7), "lists no models"),
        (lambda path, body, answer: (200, {"data": {"id": MODEL}}) if body is None else answer, "lists no models"),
        (changed(prompt_token_ids=[1, 2]), "prompt of 2 tokens that is not the suite's of"),
        (lambda path, body, answer: (200, {}) if body is None else answer, "lists no models"),
        (lambda path, body, answer: (200, {"data": []}) if body is None else answer, "model=null is not one .*: none"),
    ],
)
def test_a_wrong_answer_is_one_sentence_and_leaves_nothing(fake, few_prompts, random_policy, tmp_path, change, match):
    fake.change = change
    refused(fake, few_prompts, random_policy, match, root=tmp_path, concurrency=1)


def test_a_server_that_ignores_seeds_is_named_and_can_be_accepted(few_prompts, random_policy, tmp_path):
    fake = FakeServer(random_policy, heeds_seeds=False)
    refused(fake, few_prompts, random_policy, "ignores seeds: of 8 completions asked for twice", root=tmp_path / "a")
    with using(Store(tmp_path / "b")) as store:
        drawn = drawn_by(fake, few_prompts, random_policy, accept_unseeded=True)
        assert len({cell for row in ids(drawn) for cell in row}) > 20
        assert {use.settings["engine"] for use in store.uses} == {"openai/completions/unseeded"}
        fake.heeds_seeds = True
        drawn_by(fake, few_prompts, random_policy)
        assert {use.settings["engine"] for use in store.uses[-6:]} == {"openai/completions"}
        assert len({use.key for use in store.uses}) == 6  # nothing is shared between the two
        drawn_by(fake, few_prompts, random_policy, extended_fields=False)
        assert store.uses[-1].settings["engine"] == "openai/completions/openai_fields"


@pytest.mark.parametrize("accept_unseeded", [True, False])
def test_one_stream_for_every_request_is_never_accepted(fake, few_prompts, random_policy, tmp_path, accept_unseeded):
    drawing = fake.draw
    fake.draw = lambda prompt, body: drawing(prompt, body | {"seed": 0})
    refused(
        fake,
        few_prompts,
        random_policy,
        "the same completion whatever the seed",
        root=tmp_path,
        accept_unseeded=accept_unseeded,
    )


def test_late_differences_between_equal_seeds_are_rounding(fake, few_prompts, random_policy, store):
    drawing, noise = fake.draw, np.random.default_rng(0)

    def rounded(prompt, body):
        tokens = drawing(prompt, body)
        return [*tokens[:2], *(token + int(noise.integers(2)) if token != EOS else EOS for token in tokens[2:])]

    fake.draw = rounded
    assert drawn_by(fake, few_prompts, random_policy).shape == (7, 4)


def test_a_server_with_other_weights_is_named(fake, few_prompts, another_policy, tmp_path):
    refused(fake, few_prompts, another_policy, "serves another model than .* nats per token", root=tmp_path)
    with using(Store(tmp_path / "tolerant")):
        assert drawn_by(fake, few_prompts, another_policy, logprob_tolerance=5.0).shape == (7, 4)


def test_a_server_that_tells_no_log_probabilities_is_said_to_be_unchecked(
    fake, few_prompts, another_policy, store, capsys
):
    fake.change = changed(logprobs=None)
    drawn_by(fake, few_prompts, another_policy)
    assert "tells no log-probabilities, so whether it holds" in capsys.readouterr().err


def test_which_model_is_asked(fake, few_prompts, random_policy, tmp_path):
    fake.change = models("small", MODEL)
    refused(fake, few_prompts, random_policy, "model=null is not one of the models .*: small, served", root=tmp_path)
    refused(fake, few_prompts, random_policy, "model=big is not one of", root=tmp_path, model="big")
    refused(fake, few_prompts, random_policy, "is from the model served, not from", root=tmp_path, model="small")
    with using(Store(tmp_path / "right")):
        assert drawn_by(fake, few_prompts, random_policy, model=MODEL).shape == (7, 4)
    fake.change = lambda path, body, answer: (404, {}) if body is None else answer  # a server without a list
    with using(Store(tmp_path / "no list")):
        assert drawn_by(fake, few_prompts, random_policy, model=MODEL).shape == (7, 4)
    refused(fake, few_prompts, random_policy, "/models answers 404", root=tmp_path)


def test_a_prompt_beyond_the_server_s_context_is_named_and_nothing_asked(fake, few_prompts, random_policy, tmp_path):
    longest = max(len(chat.encode(fake.tokenizer, messages)) + LIMIT for messages in few_prompts.messages)
    fake.change = lambda path, body, answer: (
        (200, {"data": [{"id": MODEL, "max_model_len": longest - 1}]}) if body is None else answer
    )
    refused(fake, few_prompts, random_policy, r"Prompt p\d has \d+ tokens", root=tmp_path, shard_size=7)
    assert fake.asked == []
    fake.change = lambda path, body, answer: (
        (200, {"data": [{"id": MODEL, "max_model_len": longest}]}) if body is None else answer
    )
    with using(Store(tmp_path / "just")):
        drawn_by(fake, few_prompts, random_policy, shard_size=7)
    assert max(len(body["prompt"]) + body["max_tokens"] for body in fake.asked) == longest  # probes keep to it too


class SplittingServer(FakeServer):
    """Begins some completions with two tokens whose text the tokenizer writes as one."""

    def draw(self, prompt, body):
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        pair = next(token for token in tokens if len(token) == 2 and set(token) <= set(tokens))
        ids = super().draw(prompt, body)
        split = len(ids) > 3 and ids[0] % 3 == 0
        return [*self.tokenizer.convert_tokens_to_ids(list(pair)), *ids[2:]] if split else ids


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_text_alone_is_tokenized_again_and_finish_reason_adds_the_end(few_prompts, random_policy, tmp_path, endpoint):
    pools = []
    for gives_ids in (True, False):
        fake = SplittingServer(random_policy, gives_ids=gives_ids)
        with using(Store(tmp_path / str(gives_ids))) as store:
            pools.append(drawn_by(fake, few_prompts, random_policy, endpoint=endpoint))
            counted = sum(use.counts["retokenized_otherwise"] for use in store.uses)
    exact, again = pools
    assert (np.asarray(exact.text) == np.asarray(again.text)).all()
    assert (exact.finish_reason == again.finish_reason).all()
    otherwise = sum(a != b for x, y in zip(ids(exact), ids(again), strict=True) for a, b in zip(x, y, strict=True))
    assert counted == otherwise
    assert 0 < otherwise < 28


def test_chat_sends_messages_and_refuses_another_rendering(fake, few_prompts, random_policy, tmp_path):
    with using(Store(tmp_path / "same")):
        drawn_by(fake, few_prompts, random_policy, endpoint="chat")
    assert all(isinstance(body["messages"][0]["content"], str) and "prompt" not in body for body in fake.asked)

    def templated(path, body, answer):
        if body is not None:
            answer[1].pop("prompt_token_ids", None)
            answer[1]["usage"]["prompt_tokens"] += 3
        return answer

    fake.change = templated
    refused(fake, few_prompts, random_policy, "renders prompts in its own way", root=tmp_path / "b", endpoint="chat")


def test_chat_sends_the_policy_s_system_prompt(fake, few_prompts, random_policy, store, tmp_path):
    folder = tmp_path / "chatting"
    shutil.copytree(random_policy.path, folder)
    as_it_serves = "<s>{{ messages | map(attribute='content') | join('\n\n') }}"
    (folder / "chat_template.jinja").write_text(as_it_serves)
    own = ({"role": "system", "content": "Go."}, *few_prompts.messages[0])
    told = Prompts(np.array(["own"]), (own,), np.array(["3"]))
    for prompts, system in ((few_prompts, "Be brief."), (told, "Go.")):
        policy = replace(loading.folder(folder), system="Be brief.")
        drawn_by(fake, prompts, policy, endpoint="chat")
        assert [message["content"] for message in fake.asked[-1]["messages"]][:-1] == [system]


def test_the_end_that_a_server_leaves_out_is_put_back(fake, few_prompts, random_policy, store):
    seen = copy.deepcopy(fake.change)

    def cut(path, body, answer):
        if body is not None and answer[1]["choices"][0]["finish_reason"] == "stop":
            answer[1]["choices"][0]["token_ids"].pop()
        return seen(path, body, answer)

    fake.change = cut
    drawn = drawn_by(fake, few_prompts, random_policy)
    ended = np.array([[cell[-1] == EOS for cell in row] for row in ids(drawn)])
    assert (ended == (drawn.finish_reason == "stop")).all()
    assert 0 < ended.sum() < 28


def test_a_policy_whose_own_code_is_trusted_is_the_served_one(fake, few_prompts, random_policy, store, tmp_path):
    folder = tmp_path / "coded"
    shutil.copytree(random_policy.path, folder)
    (folder / "modeling_own.py").write_text("")
    policy = policies.from_folder(None, path=str(folder), trust_remote_code=True)
    assert drawn_by(fake, few_prompts, policy).shape == (7, 4)


def test_another_policy_is_left_to_another_engine(fake, few_prompts, random_policy, another_policy, store, capsys):
    called = []

    def others(prompts, policy, **settings):
        called.append((prompts, policy, settings))
        return "drawn elsewhere"

    sampler = {"num_completions": 3, "temperature": 0.5, "top_p": 0.8, "top_k": 4, "max_new_tokens": 9, "seed": 5}
    settings = {"serves": str(random_policy.path), "url": "http://127.0.0.1:9/v1"}
    for _ in range(2):
        found = server_engine.generate(few_prompts, another_policy, **sampler, **settings, others=others)
    assert found == "drawn elsewhere"
    assert called == [(few_prompts, another_policy, sampler)] * 2
    assert capsys.readouterr().err.count("generation.others draws from") == 1
    with pytest.raises(BenchError, match=r"set generation\.others to an engine"):
        server_engine.generate(few_prompts, another_policy, **sampler, **settings)
    with pytest.raises(BenchError, match=r"generation\.serves=nowhere holds no config\.json"):
        server_engine.generate(few_prompts, another_policy, **sampler, **settings | {"serves": "nowhere"})


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("policy=tiny", r"generation\.serves=null is not allowed: it must be the local folder of the policy"),
        ("generation.url=localhost", r"generation\.url=localhost is not allowed: it must be an address such as"),
        ("generation.endpoint=embeddings", r"must be one of completions, chat"),
        ("generation.others.temperature=0.3", r"it only repeats temperature; set temperature instead"),
        ("generation.others.batch_tokens=0", r"generation\.others\.batch_tokens=0 is not allowed"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(override, match):
    beside = [] if override.startswith("policy") else ["policy=folder", "policy.path=anywhere"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["generation=openai", *beside, override])
    with pytest.raises(BenchError, match=match):
        checks.check(cfg)


def test_a_temperature_that_vllm_would_raise_is_refused(few_prompts, random_policy, store):
    with pytest.raises(BenchError, match=r"temperature=0.005 is not allowed"):
        draw(few_prompts, random_policy, "http://127.0.0.1:9/v1", temperature=0.005)


def test_the_key_is_sent_and_kept_nowhere(fake, few_prompts, random_policy, store, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "very-secret")
    with serving(fake) as server:
        draw(few_prompts, random_policy, server.url, api_key_env="SOME_KEY")
        assert {headers["Authorization"] for _, _, headers in server.requests} == {"Bearer very-secret"}
    kept = [path.read_bytes() for path in store.root.glob("**/*") if path.is_file()]
    assert kept
    assert not any(b"very-secret" in content for content in kept)


def test_token_log_probabilities_are_those_of_one_forward(fake, random_policy):
    prompts = asking("How many", "Leo has 9 coins. How many coins in all?")
    token_ids = [[50, 60, 70, EOS], [80]]
    found = token_logprobs(random_policy, prompts, token_ids, dtype="float32")
    for row, messages in enumerate(prompts.messages):
        exact = fake.logprobs(chat.encode(fake.tokenizer, messages), token_ids[row])
        np.testing.assert_allclose(found[row], exact, atol=1e-4)


def test_what_a_unit_counts(fake, few_prompts, random_policy, store):
    drawn = drawn_by(fake, few_prompts, random_policy)
    read = sum(len(chat.encode(fake.tokenizer, messages)) for messages in few_prompts.messages)
    totals = {name: sum(use.counts[name] for use in store.uses) for name in store.uses[0].counts}
    assert totals["prompt_tokens"] == read  # once, though four samples were drawn
    assert totals["generated_tokens"] == drawn.length.sum()
    assert totals["flops"] == 2 * loading.count_parameters(random_policy) * (read + drawn.length.sum())
    assert totals["retokenized_otherwise"] == 0
    manifest = json.loads(next(store.root.glob("generate/**/manifest.json")).read_text())
    assert "url" not in manifest["settings"]  # a pool is the same wherever it was drawn
