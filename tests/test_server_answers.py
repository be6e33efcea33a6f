"""The reader of servers' answers: every answer is a completion that could have been drawn, or one sentence.

BENCH_FUZZ=10000 pytest tests/test_server_answers.py      more examples of broken answers
"""

import copy
import json
import os

import pytest
from fake_server import EOS, MODEL, FakeServer
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.generation.model_server import CompletionRequest, parse
from bench.generation.server_answers import Tokens, read
from bench.models import loading, tokens
from bench.models.sampler import RAW

MAX_TOKENS = 16
PROMPT = [1, 50, 60, 70]
HUGE = 10**400
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def policy_tokens(random_policy):
    tokenizer = loading.load_tokenizer(random_policy)
    eos_ids, _, vocabulary = tokens.configured(random_policy, tokenizer)
    assert eos_ids == {EOS}
    return Tokens(tokenizer, eos_ids, vocabulary)


@pytest.fixture(scope="module")
def fake(random_policy):
    return FakeServer(random_policy)


def answer_of(fake, ids, *, chat=False, reason=None, gives_ids=True):
    """The right answer for these drawn ids."""
    fake.gives_ids, drawing = gives_ids, fake.draw
    fake.draw = lambda prompt, body: ids
    body = {"logprobs": 1} | ({"messages": [{"content": ""}]} if chat else {"prompt": PROMPT})
    _, answer = fake(f"/v1/{'chat/' if chat else ''}completions", body)
    fake.draw = drawing
    answer["choices"][0]["finish_reason"] = reason or answer["choices"][0]["finish_reason"]
    return answer


def drawn(answer, policy_tokens, *, chat=False, max_tokens=MAX_TOKENS):
    """What becomes of an answer: the ids that enter the pool, and whether they are those that were drawn."""
    prompt = policy_tokens.tokenizer.encode("") if chat else PROMPT
    request = CompletionRequest("p0", prompt, (), RAW, max_tokens, 0, logprobs=True)
    found = parse(answer, request, model=MODEL, endpoint="chat" if chat else "completions")
    return policy_tokens.drawn(found, request.answer, max_tokens=max_tokens, chat=chat)


ENDED, CUT = [50, 60, 70, EOS], list(range(30, 30 + MAX_TOKENS))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("ids", [ENDED, CUT, [EOS], [*CUT[:-1], EOS]], ids=["ended", "cut", "empty", "just ended"])
def test_a_right_answer_is_what_was_drawn(fake, policy_tokens, ids, chat):
    for gives_ids in (True, False):
        answer = answer_of(fake, ids, chat=chat, gives_ids=gives_ids)
        assert drawn(answer, policy_tokens, chat=chat) == (ids, True)
        answer["choices"][0] |= {"index": None, "logprobs": None, "stop_reason": None}
        del answer["choices"][0]["index"]
        answer["model"] = None
        assert drawn(answer, policy_tokens, chat=chat) == (ids, True)
    answer = answer_of(fake, [*CUT[:-1], EOS], chat=chat, reason="length")  # some servers look at the limit first
    assert drawn(answer, policy_tokens, chat=chat)[0][-1] == EOS


def of_choice(**fields):
    return lambda answer: answer["choices"][0].update(fields)


def of_answer(**fields):
    return lambda answer: answer.update(fields)


def of_usage(**fields):
    return lambda answer: answer["usage"].update(fields)


def with_logprobs(*values):
    return of_choice(logprobs={"token_logprobs": list(values)})


LENGTHS = [
    (of_choice(token_ids=[30] * 5000, finish_reason="length", text=None), "has 5,000 tokens, more than the 16"),
    (of_choice(token_ids=[30] * 17, finish_reason="length", text=None), "has 17 tokens, more than the 16"),
    (of_choice(token_ids=[30] * 17, text=None), "has 18 tokens, more than"),
    (of_choice(token_ids=[30] * 16, text=None), "has 17 tokens, more than"),  # no room for the EOS
    (of_choice(token_ids=[30] * 16 + [EOS], text=None), "has 17 tokens, more than"),
    (of_choice(token_ids=[30] * 15, finish_reason="length", text=None), "counts 4 tokens, but holds 15"),
    (of_choice(token_ids=[30] * 4, finish_reason="length", text=None), "was cut after 4 of 16"),
    (of_choice(token_ids=[], finish_reason="length", text=None), "counts 4 tokens, but holds 0"),
    (of_choice(token_ids=[30, EOS, 31, EOS], text=None), "goes on after the token 2"),
    (of_choice(token_ids=[EOS, EOS], text=None), "goes on after the token 2"),
    (of_choice(token_ids=[EOS, 30, 31, 32], text=None), "goes on after the token 2"),
    (of_choice(token_ids=[EOS] * 4, text=None), "goes on after the token 2"),
    (of_choice(stop_reason=7), "has stop_reason=7, but doesn't end there"),
    (of_choice(token_ids=[50, 60, 70], stop_reason=7), "stopped at the token 7, which doesn't end"),
    (of_choice(finish_reason="length", stop_reason=EOS), "has stop_reason=2, but doesn't end there"),
    (of_choice(text="other"), "has a text that its token ids don't spell"),
    (of_choice(text=""), None),  # three characters at the end may be held back
    (with_logprobs(-1.0), "has 1 log-probabilities for 4 tokens"),
    (with_logprobs(*[-1.0] * 5), "has 5 log-probabilities for 4 tokens"),
    (with_logprobs(*[-1.0] * 3), None),  # without the EOS
]
WITHOUT_IDS = [
    (of_usage(completion_tokens=17), "has 17 tokens, more than the 16"),
    (of_usage(completion_tokens=5000), "has 5,000 tokens, more than the 16"),
    (of_choice(text="x " * 2500), "letters, more than 16 tokens can spell|has 5,001 tokens, more than"),
    (of_choice(text="x" * 100_000), "has 100,000 letters, more than 16 tokens can spell"),
    (of_choice(text="xyzxyzxyzxyzxyzxyzxyz", finish_reason="length"), "tokens, more than the 16"),
    (of_choice(finish_reason="length"), "was cut after 4 of 16"),
    (lambda answer: (answer.pop("usage"), answer["choices"][0].update(finish_reason="length")), "after how many"),
    (of_usage(completion_tokens=0), None),
]
WHOLE = [True, -1, 1.0, "4", [4], {}, NAN, HUGE, 2**31]
TEXTS = ["\ud800", "a\udfff", 7, True, ["a"], {}]
SHAPES = [
    *((of_usage(completion_tokens=value), "usage.completion_tokens=.* is not a whole number") for value in WHOLE),
    *((of_usage(prompt_tokens=value), "usage.prompt_tokens=.* is not a whole number") for value in WHOLE),
    *((of_choice(stop_reason=value), "stop_reason=.* is not a whole number") for value in [*WHOLE, "</s>"]),
    *((of_choice(token_ids=value), "token_ids=.* is not a list of token ids") for value in (5, "5", {}, True)),
    *((of_choice(token_ids=[9, value]), "token_ids=.* is not a list of token ids") for value in [*WHOLE, None]),
    *((of_choice(prompt_token_ids=value), "prompt_token_ids=.* is not a list") for value in (5, "5", {}, [True], [-1])),
    *(
        (of_answer(prompt_token_ids=value), "prompt_token_ids=.* is not a list")
        for value in (5, "5", {}, [1.0], [HUGE])
    ),
    *((of_choice(index=value), "index=.* is not 0") for value in (1, -1, False, 0.0, "0", [0])),
    *((of_choice(text=value), "text=.* is not a text in Unicode") for value in TEXTS),
    *((of_choice(finish_reason=value), "finish_reason=.* is not a text") for value in TEXTS),
    *((of_answer(model=value), "model=.* is not a text") for value in TEXTS),
    *(
        (with_logprobs(-1.0, value, -1.0, -1.0), "finite log-prob")
        for value in (NAN, INF, -INF, None, "0", True, HUGE, 3)
    ),
    *((of_choice(logprobs=value), "logprobs=.* is not an object") for value in (5, "5", [-1.0])),
    (of_choice(logprobs={"token_logprobs": 5}), "finite log-probabilities"),
    *((of_answer(usage=value), "usage=.* is not an object") for value in (5, "5", [5])),
    *((of_answer(choices=value), "has no list of choices") for value in (None, 5, {"0": {}}, "x")),
    *((of_answer(choices=value), f"has {len(value)} choices where n=1") for value in ([], [None], [5], [{}, {}])),
    (lambda answer: answer["choices"].append(answer["choices"][0] | {"index": 1}), "has 2 choices"),
    (of_answer(model="served\x1b[31m"), r"is from the model served\\x1b.31m, not from"),
    (of_choice(finish_reason="content_filter"), "ended for the reason content_filter"),
    (of_answer(prompt_token_ids=[]), "prompt of 0 tokens that is not the suite's of 4"),
    (of_answer(prompt_token_ids=PROMPT[::-1]), "prompt of 4 tokens that is not the suite's of 4"),
    (of_usage(prompt_tokens=5), "is not the suite's of 4"),
]


@pytest.mark.parametrize(("change", "match"), LENGTHS + SHAPES + [(change, match) for change, match in WITHOUT_IDS])
def test_what_was_never_drawn_is_one_sentence(fake, policy_tokens, change, match):
    answer = answer_of(fake, ENDED, gives_ids=(change, match) not in WITHOUT_IDS)
    change(answer)
    if match is None:
        assert drawn(answer, policy_tokens)[0] == ENDED
        return
    with pytest.raises(BenchError, match=match) as caught:
        drawn(answer, policy_tokens)
    assert str(caught.value).startswith("The server's answer for prompt p0")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("message", [None, 5, "text", [], ["content"]])
def test_a_chat_without_a_message_is_one_sentence(fake, policy_tokens, message):
    answer = answer_of(fake, ENDED, chat=True)
    answer["choices"][0]["message"] = message
    with pytest.raises(BenchError, match=r"has no choices\[0\].message"):
        drawn(answer, policy_tokens, chat=True)
    answer["choices"][0]["message"] = {"content": "elsewhere"}
    with pytest.raises(BenchError, match="don't spell"):
        drawn(answer, policy_tokens, chat=True)
    answer["choices"][0]["message"] = {"content": None}  # as where all of it was reasoning
    assert drawn(answer, policy_tokens, chat=True)[0] == ENDED


def test_text_that_tokenizes_to_more_is_cut_and_text_that_reads_like_an_end_is_text(fake, policy_tokens):
    answer = answer_of(fake, CUT, gives_ids=False)
    for text in ("abcdefghijklmnopqr", "abcdefghijklm\N{REPLACEMENT CHARACTER}n\N{REPLACEMENT CHARACTER}"):
        answer["choices"][0]["text"] = text
        ids, exact = drawn(answer, policy_tokens)
        assert (len(ids), exact) == (16, False)
    answer = answer_of(fake, ENDED, gives_ids=False)
    answer["choices"][0]["text"] = "a</s>b"
    ids, exact = drawn(answer, policy_tokens)
    assert ids.index(EOS) == len(ids) - 1
    assert policy_tokens.tokenizer.decode(ids[:-1]) == "a</s>b"
    assert not exact


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, -1, 2, 15, 16, 17, 289, 5000, 2**31, 2**63, HUGE, NAN, INF, -INF, 1.0, -0.5, "\ud800", "", "</s>"]
    ),
    st.sampled_from(["stop", "length", "a", MODEL, "\x1b[2J"]),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(st.integers(-1, 300), max_size=20),
    st.lists(SCALARS, max_size=4),
    st.dictionaries(st.sampled_from(["content", "token_logprobs", "logprob", "text"]), SCALARS, max_size=3),
)


def places(value, path=()):
    """The path of every part of a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from places(part, (*path, key))


@st.composite
def changes(draw, answer):
    """The answer after one to three changes: a part replaced, removed, repeated, or put elsewhere."""
    answer = copy.deepcopy(answer)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(answer))))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(VALUES)
            continue
        parent = answer
        for key in path[:-1]:
            parent = parent[key]
        how, key = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "reverse"])), path[-1]
        if how == "replace":
            parent[key] = draw(VALUES)
        elif how == "remove":
            del parent[key]
        elif how == "repeat":
            parent[key] = [parent[key]] * 2 if not isinstance(parent[key], list) else parent[key] * 2
        elif isinstance(parent[key], list):
            parent[key] = parent[key][::-1]
    return answer


@settings(max_examples=int(os.environ.get("BENCH_FUZZ", "300")))
@given(data=st.data())
def test_a_broken_answer_is_a_completion_that_could_have_been_drawn_or_one_sentence(fake, policy_tokens, data):
    chat, gives_ids = data.draw(st.booleans()), data.draw(st.booleans())
    ids = data.draw(st.sampled_from([ENDED, CUT, [EOS], [*CUT[:-1], EOS]]))
    answer = data.draw(changes(answer_of(fake, ids, chat=chat, gives_ids=gives_ids)))
    answer = json.loads(json.dumps(answer)) if data.draw(st.booleans()) else answer
    for action in (lambda: drawn(answer, policy_tokens, chat=chat), lambda: read(answer, "The answer", chat=True)):
        found, sentence = outcome(action)
        assert sentence.isprintable()
        assert len(sentence) < 600
        if isinstance(found, tuple):
            completion, _ = found
            assert 1 <= len(completion) <= MAX_TOKENS
            assert all(type(token) is int and 0 <= token < policy_tokens.vocabulary for token in completion)
            assert EOS not in completion[:-1]
            cut = answer["choices"][0]["finish_reason"] == "length"
            assert completion[-1] == EOS or cut or len(completion) == MAX_TOKENS


def outcome(action):
    """What an action returns, and its sentence where it refuses."""
    try:
        return action(), ""
    except BenchError as error:
        return None, str(error)
