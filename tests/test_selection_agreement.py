"""Votes and similarity: self-consistency and mbr by hand, and the similarities that mbr is given."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from selecting import UNSCORED, R, cells, fits, rng
from texts import row_by_row

from bench import selection
from bench.artifacts import Completions, Policy
from bench.errors import BenchError
from bench.models import loading
from bench.selection import similarity
from bench.selection.evidence import evidence_for
from bench.store import Store
from bench.tasks.word_problems import WordProblems

TASK = WordProblems()
TEXTS = [
    [" 2 + 3 = 5. #### 5", " 3 + 2 = 5. #### 5", " 2 + 3 = 5. #### 5", " #### 5"],
    [" 2 * 3 = 7. #### 7", "", " nothing", " 1 + 1 = 2. 2 + 2 = 4. #### 4"],
    [" 4 - 1 = 3. #### 3"] * 4,
]


def pool(texts: list[list[str]], tokenizer=None, key: str = "a pool") -> Completions:
    """Completions in memory, with tokens that are characters, or a tokenizer's; a token's log-probability is -1."""
    shape = (len(texts), len(texts[0]))
    token_ids = np.empty(shape, object)
    for cell in np.ndindex(shape):
        text = texts[cell[0]][cell[1]]
        token_ids[cell] = np.array(tokenizer.encode(text) if tokenizer else [ord(c) for c in text], np.int32)
    logprob = -np.vectorize(len, otypes=[float])(token_ids)
    return Completions(np.array(texts, object), token_ids, np.full(shape, "stop"), logprob - 1, logprob, key)


NOBODY = Policy(Path("nowhere"), "nobody")


def test_self_consistency_by_hand():
    answers = np.array(
        [["1", "2", "1", "3"], [None, "2", None, None], ["1", "2", "2", "1"], [None] * 4, ["5", "5", "5", "5"]], object
    )
    tied = []
    for seed in range(800):
        chosen = cells(selection.self_consistency(R, rng(seed), answers=answers))
        assert [row for row, _ in chosen] == [0, 1, 2, 4]
        assert chosen[0] in {(0, 0), (0, 2)}
        assert chosen[1] == (1, 1)  # None casts no vote, however often
        tied.append([column for _, column in chosen])
    first, _, third, last = np.transpose(tied)
    assert fits(np.bincount(first, minlength=4), np.array([1, 0, 1, 0]) / 2)
    assert fits(np.bincount(third), np.full(4, 1 / 4))  # a random one of two answers, then of its two givers
    assert fits(np.bincount(last), np.full(4, 1 / 4))


def test_self_consistency_ties_are_between_answers_and_ignores_the_reward():
    answers = np.array([["1", "2", "1", "2", "3"]] * 4000, object)
    columns = selection.self_consistency(np.tile(np.arange(5.0), (4000, 1)), rng(), answers=answers).column
    assert fits(np.bincount(columns, minlength=5), np.array([1, 1, 1, 1, 0]) / 4)


def test_the_unscored_neither_vote_nor_are_chosen():
    answers = np.array([["1", "1", "2"], ["1", "1", "1"], ["1", "2", "2"]], object)
    assert cells(selection.self_consistency(UNSCORED, rng(), answers=answers)) == [(0, 1), (2, 0)]
    with pytest.raises(BenchError, match="answers has shape"):
        selection.self_consistency(UNSCORED, rng(), answers=answers[:1])


SIMILAR = np.array([[1, 0.5, 0.25], [0.5, 1, 0.75], [0.25, 0.75, 1]])  # means to the others: .375 .625 .5


def test_mbr_by_hand():
    rewards = np.array([[1.0, 0.5, 0.0]])
    for beta, best in {0: 0, 1.9: 0, 2.1: 1, 100: 1}.items():  # 1 + .375 beta against .5 + .625 beta: equal at 2
        assert cells(selection.mbr(rewards, rng(), similarity=SIMILAR[None], beta=beta)) == [(0, best)]
    assert cells(selection.mbr(np.array([[0, 0, 0.2]]), rng(), similarity=SIMILAR[None], beta=1.0)) == [(0, 2)]


def test_mbr_without_beta_asks_no_reward_but_which_are_scored():
    pairs = np.kron(np.eye(2), np.ones((2, 2)))  # two equally common paths, of which the reward prefers the second
    for rewards in ([0.0, 0, 1, 1], [1.0, 1, 0, 0]):
        columns = selection.mbr(np.tile(rewards, (4000, 1)), rng(), similarity=[pairs] * 4000, beta=None).column
        assert fits(np.bincount(columns, minlength=4), np.ones(4) / 4)
    unscored = np.array([[np.nan, 0.0, 0.0, 1.0]])
    assert cells(selection.mbr(unscored, rng(), similarity=pairs[None], beta=None))[0][1] in (2, 3)


def test_mbr_asks_the_others_not_the_completion_itself():
    self_liking = SIMILAR - np.diag([0, 1, 0.5])
    assert cells(selection.mbr(np.zeros((1, 3)), rng(), similarity=self_liking[None], beta=1.0)) == [(0, 1)]


def test_mbr_means_over_the_scored():
    """0 + 1.1 x .9 beats .4 + 1.1 x .5, each a mean over one other; over three, 1.1 x .3 would not."""
    similar = np.eye(4)
    similar[0, 1], similar[1, 0] = 0.9, 0.5
    rewards = np.array([[0.0, 0.4, np.nan, np.nan]])
    assert cells(selection.mbr(rewards, rng(), similarity=similar[None], beta=1.1)) == [(0, 0)]


def test_mbr_takes_matrices_in_turn_and_leaves_out_the_unscored():
    rewards = np.array([[np.nan, 0.0, 0.0], [0.0, 0.0, 0.0], [np.nan] * 3, [0.0, np.nan, np.nan]])
    odd = np.array([[1, 0, 0.9], [0, 1, 0], [0.9, 0, 1]])
    matrices = [odd, SIMILAR, odd, odd]
    whole = [cells(selection.mbr(rewards, rng(s), similarity=np.stack(matrices), beta=1.0)) for s in range(40)]
    lazily = [cells(selection.mbr(rewards, rng(s), similarity=iter(matrices), beta=1.0)) for s in range(40)]
    assert whole == lazily
    assert all(c[1:] == [(1, 1), (3, 0)] for c in whole)
    assert {c[0] for c in whole} == {(0, 1), (0, 2)}  # of two, each is as like the other


def test_mbr_breaks_ties_uniformly():
    one = np.array([[1, 1, 0.3, 0.1], [1, 1, 0.3, 0.1], [0.3, 0.3, 1, 0.7], [0.1, 0.1, 0.7, 1]])
    columns = selection.mbr(np.ones((4000, 4)), rng(), similarity=np.broadcast_to(one, (4000, 4, 4)), beta=1.0).column
    assert fits(np.bincount(columns, minlength=4), np.array([1, 1, 0, 0]) / 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.ones((4, 4, 4)), "5 matrices .* at prompt 4 it gives none"),
        (np.ones((6, 4, 4)), r"at prompt 5 it gives \[4, 4\]"),
        (np.ones((5, 4, 3)), r"at prompt 0 it gives \[4, 3\]"),
        (np.full((5, 4, 4), np.nan), "not finite .* of prompt 0"),
    ],
)
def test_mbr_refuses_other_similarities(given, words):
    with pytest.raises(ValueError, match=words):
        selection.mbr(R, rng(), similarity=given, beta=1.0)


def check_matrices(matrices: np.ndarray, texts: list[list[str]]) -> None:
    assert matrices.shape == (len(texts), len(texts[0]), len(texts[0]))
    np.testing.assert_allclose(matrices, matrices.transpose(0, 2, 1), atol=1e-6)
    assert np.abs(matrices).max() <= 1
    for row, several in enumerate(texts):
        for i, j in np.ndindex(len(several), len(several)):
            if several[i] == several[j]:
                assert matrices[row, i, j] == 1 or TASK.path(several[i]) is None


@pytest.mark.parametrize("completions", [pool(TEXTS), row_by_row(pool(TEXTS))], ids=["in memory", "sharded"])
def test_same_path_by_hand(completions):
    found = np.stack(list(similarity.same_path(completions, TASK, NOBODY)))
    check_matrices(found, TEXTS)
    assert found[0].tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert (found[1] == np.eye(4)).all()  # two without a path are not alike
    assert (found[2] == 1).all()


@pytest.mark.parametrize("completions", [pool(TEXTS), row_by_row(pool(TEXTS))], ids=["in memory", "sharded"])
def test_token_overlap_is_the_f1_of_tokens(completions):
    found = np.stack(list(similarity.token_overlap(completions, TASK, NOBODY)))
    check_matrices(found, TEXTS)
    assert found[0, 0, 1] == 1  # the same tokens in another order
    assert found[0, 0, 3] == pytest.approx(2 * 7 / (18 + 7))  # all 7 of " #### 5" are among the 18
    assert found[1, 1, 1] == 1
    assert found[1, 1, 0] == 0


def test_token_overlap_counts_repeats():
    (found,) = similarity.token_overlap(pool([["aab", "abb", "c"]]), TASK, NOBODY)
    np.testing.assert_allclose(found, [[1, 2 / 3, 0], [2 / 3, 1, 0], [0, 0, 1]])


def test_embedding_cosine_is_that_of_each_text_alone(store: Store, random_policy: Policy):
    import torch

    tokenizer = loading.load_tokenizer(random_policy)
    model = loading.load_model(random_policy).model
    completions = pool(TEXTS, tokenizer)
    found = np.stack(list(similarity.embedding_cosine(completions, TASK, random_policy)))
    check_matrices(found, TEXTS)
    vectors = []
    for text in TEXTS[0]:
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([tokenizer.encode(text)])).last_hidden_state[0]
        vectors.append(states.double().mean(dim=0).numpy())
    unit = np.stack([v / np.linalg.norm(v) for v in vectors])
    np.testing.assert_allclose(found[0], unit @ unit.T, atol=1e-5)
    assert found[0, 0, 1] < 0.999
    (made,) = store.uses
    assert (made.reused, made.counts["texts"], made.counts["truncated_texts"]) == (False, 8, 0)
    elsewhere = similarity.embedding_cosine(completions, TASK, NOBODY, model=str(random_policy.path), batch_tokens=40)
    again = np.stack(list(elsewhere))
    np.testing.assert_array_equal(found, again)  # the same model by its folder, in other batches: from the store
    assert store.uses[-1].reused


def test_embeddings_of_texts_without_tokens_and_beyond_the_context(store: Store, random_policy: Policy, tmp_path: Path):
    """A tokenizer without BOS leaves nothing of an empty text, which is then like its equals alone."""
    from tokenizers import processors

    tokenizer = loading.load_tokenizer(random_policy)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.save_pretrained(tmp_path)
    loading.load_model(random_policy).save_pretrained(tmp_path)
    texts = [["", "", "a b", "a b " * 300]]
    (found,) = similarity.embedding_cosine(pool(texts), TASK, loading.folder(tmp_path))
    assert found[0, :2].tolist() == [1, 1]
    assert found[0, 2:].tolist() == [0, 0]
    assert store.uses[0].counts["truncated_texts"] == 1


def test_evidence_is_what_the_method_asks_for():
    for completions in (pool(TEXTS), row_by_row(pool(TEXTS))):

        def asking(rewards, rng, *, paths, answers, steps_true, texts, length, logprob, k):
            pass

        found = evidence_for(asking, completions, TASK, NOBODY)
        assert set(found) == {"paths", "answers", "steps_true", "texts", "length", "logprob"}
        assert found["paths"].tolist() == [[TASK.path(text) for text in row] for row in TEXTS]
        assert found["paths"][1, 1] is None
        assert found["answers"][:, 0].tolist() == ["5", "7", "3"]
        assert found["answers"][1, 2] is None
        assert found["steps_true"].dtype == bool
        assert found["steps_true"].tolist() == [[True] * 3 + [False], [False, False, False, True], [True] * 4]
        assert found["texts"] is completions.text
        assert found["length"][0].tolist() == [18, 18, 18, 7]
        assert found["logprob"] is completions.policy_logprob
        assert evidence_for(selection.top_per_prompt, completions, TASK, NOBODY) == {}


def test_evidence_of_mbr_is_what_its_setting_makes_of_the_pool():
    method = partial(selection.mbr, similarity=similarity.same_path, beta=1.0)
    evidence = evidence_for(method, row_by_row(pool(TEXTS)), TASK, NOBODY)
    assert set(evidence) == {"similarity"}
    columns = [
        method(np.zeros((3, 4)), rng(s), **evidence_for(method, row_by_row(pool(TEXTS)), TASK, NOBODY)).column
        for s in range(30)
    ]
    assert {column[0] for column in columns} == {0, 2}  # the commonest path of the first prompt
    assert evidence_for(partial(selection.mbr, beta=1.0), pool(TEXTS), TASK, NOBODY) == {}
