"""Fine-tuning on selected completions: what carries loss, how much, from where, and the same way every time."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import nll

from bench.artifacts import Completions, Policy, Prompts, Selection, content_hash
from bench.errors import BenchError
from bench.models import chat, loading
from bench.store import Store, using
from bench.training.dpo import preference_tune
from bench.training.lora import Lora
from bench.training.sft import check_settings, fine_tune, training_log, training_set

EOS = 2  # of random_policy
FOUR_BIT = Lora(r=2, alpha=2, dropout=0.0, target_modules="all-linear", four_bit=True)
ONE_UPDATE = {"epochs": 1, "batch_size": 32, "scheduler": "constant", "warmup": 0.0}


@pytest.fixture
def pool(few_prompts: Prompts) -> Completions:
    """Three completions of different lengths for each of seven prompts; the third is truncated, the others finished."""
    rng = np.random.default_rng(0)
    shape = (len(few_prompts), 3)
    token_ids, finish_reason = np.empty(shape, object), np.full(shape, "stop", object)
    finish_reason[:, 2] = "length"
    for cell in np.ndindex(shape):
        drawn = rng.integers(3, 250, size=rng.integers(2, 12))
        token_ids[cell] = np.append(drawn, [EOS] if cell[1] < 2 else []).astype(np.int32)
    return Completions(
        text=np.full(shape, "", object),
        token_ids=token_ids,
        finish_reason=finish_reason,
        logprob=np.zeros(shape),
        policy_logprob=np.zeros(shape),
        key=content_hash(token_ids.tolist().__repr__()),
    )


def chosen(cells: list[tuple[int, int]], weight: list[float] | None = None) -> Selection:
    row, column = np.array(cells, int).reshape(-1, 2).T
    return Selection(row, column, np.ones(len(cells)) if weight is None else np.array(weight, float))


EVERY_CELL = [(row, column) for row in range(7) for column in range(3)]


@pytest.fixture
def trained(
    tmp_path: Path, random_policy: Policy, few_prompts: Prompts, pool: Completions
) -> Callable[..., tuple[Policy, dict[str, float]]]:
    """fine_tune in a store of its own, so that nothing is found ready; the policy and the counts."""
    stores = iter(range(100))

    def call(selection: Selection, **settings) -> tuple[Policy, dict[str, float]]:
        with using(Store(tmp_path / f"store{next(stores)}")) as store:
            policy = fine_tune(random_policy, few_prompts, pool, selection, **{"seed": 0, **settings})
        return policy, store.uses[0].counts

    return call


def state(policy: Policy) -> dict[str, torch.Tensor]:
    return loading.load_model(policy).state_dict()


def largest_difference(ours: Policy, theirs: Policy) -> float:
    other = state(theirs)
    return max(float((tensor - other[name]).abs().max()) for name, tensor in state(ours).items())


@pytest.fixture
def collated(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Every batch as TRL's collator made it for the model."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    batches: list[dict] = []
    collate = DataCollatorForLanguageModeling.torch_call

    def spy(self, examples):
        batches.append(collate(self, examples))
        return batches[-1]

    monkeypatch.setattr(DataCollatorForLanguageModeling, "torch_call", spy)
    return batches


def test_loss_falls_on_the_completion_exactly_as_drawn_and_on_nothing_else(
    trained, collated, random_policy, few_prompts, pool
):
    trained(chosen(EVERY_CELL), epochs=1, batch_size=5)
    tokenizer = loading.load_tokenizer(random_policy)
    seen = []
    for batch in collated:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            learnt = labels[labels != -100].tolist()
            real = ids[mask == 1].tolist()
            assert real[len(real) - len(learnt) :] == learnt  # the completion is the end of the row
            assert (labels[mask == 0] == -100).all()
            seen.append((tuple(real[: len(real) - len(learnt)]), tuple(learnt)))
    expected = [
        (tuple(chat.encode(tokenizer, few_prompts.messages[row])), tuple(pool.token_ids[row, column].tolist()))
        for row, column in EVERY_CELL
    ]
    assert sorted(seen) == sorted(expected)
    endings = [(learnt[-1] == EOS, learnt.count(EOS)) for _, learnt in seen]
    assert sorted(endings) == [(False, 0)] * 7 + [(True, 1)] * 14  # truncated: none added; finished: its own, once


def test_a_training_of_one_update_trains(trained, random_policy):
    policy, counts = trained(chosen(EVERY_CELL), epochs=1, batch_size=64, warmup=0.05)
    assert counts["steps"] == 1
    assert largest_difference(policy, random_policy) > 1e-5


def test_a_finished_completion_without_its_eos_is_refused(store, random_policy, few_prompts, pool):
    finish_reason = pool.finish_reason.copy()
    finish_reason[0, 2] = "stop"
    wrong = Completions(pool.text, pool.token_ids, finish_reason, pool.logprob, pool.policy_logprob, "wrong")
    with pytest.raises(ValueError, match="must end in the EOS"):
        fine_tune(random_policy, few_prompts, wrong, chosen([(0, 2)]), seed=0)


def test_weight_two_is_the_row_twice_also_across_micro_batches(trained):
    cells = [(0, 0), (1, 1), (2, 2)]
    weighted, _ = trained(chosen(cells, [2, 1, 1]), **ONE_UPDATE)
    twice, _ = trained(chosen([(0, 0), *cells]), **ONE_UPDATE)
    accumulated, _ = trained(chosen(cells, [2, 1, 1]), micro_batch_size=1, **ONE_UPDATE)
    plain, _ = trained(chosen(cells), **ONE_UPDATE)
    loss = training_log(weighted)[0]["loss"]
    assert [len(training_log(policy)) for policy in (weighted, twice, accumulated)] == [1, 1, 1]
    assert training_log(twice)[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert training_log(accumulated)[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert training_log(plain)[0]["loss"] != pytest.approx(loss, rel=1e-3)
    for other in (twice, accumulated):
        assert training_log(other)[0]["grad_norm"] == pytest.approx(training_log(weighted)[0]["grad_norm"], rel=1e-4)


def test_only_the_proportions_of_weights_matter(trained):
    small, _ = trained(chosen([(0, 0), (1, 1)], [0.1, 0.3]), **ONE_UPDATE)
    large, _ = trained(chosen([(0, 0), (1, 1)], [1, 3]), **ONE_UPDATE)
    assert training_log(small)[0]["loss"] == pytest.approx(training_log(large)[0]["loss"], rel=1e-6)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_updates_are_those_of_a_plain_loop(trained, random_policy, few_prompts, pool, micro_batch_size):
    """Full-batch AdamW with clipping and decay, the weighted loss written out row by row."""
    cells, weight = [(0, 0), (3, 1), (5, 2), (6, 0)], [1.0, 0.5, 3.0, 2.0]
    settings = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.1, "max_grad_norm": 1.0}
    ours, _ = trained(
        chosen(cells, weight), micro_batch_size=micro_batch_size, scheduler="linear", warmup=0.0, **settings
    )

    tokenizer, model = loading.load_tokenizer(random_policy), loading.load_model(random_policy)
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    rest = [p for name, p in model.named_parameters() if "norm" in name]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}])
    losses, norms = [], []
    for step in range(3):
        prompts = [chat.encode(tokenizer, few_prompts.messages[row]) for row, _ in cells]
        completions = [pool.token_ids[cell].tolist() for cell in cells]
        total = sum(
            w * nll(model, prompt, completion)
            for w, prompt, completion in zip(weight, prompts, completions, strict=True)
        )
        loss = total / sum(w * len(completion) for w, completion in zip(weight, completions, strict=True))
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / 3)
        optimizer.step()
        losses.append(loss.item())

    log = training_log(ours)
    assert [entry["loss"] for entry in log] == pytest.approx(losses, rel=1e-4)
    assert [entry["grad_norm"] for entry in log] == pytest.approx(norms, rel=1e-3)
    assert [entry["learning_rate"] for entry in log] == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])
    reference = model.state_dict()
    moved = max(float((tensor - reference[name]).abs().max()) for name, tensor in state(random_policy).items())
    apart = [float((tensor - reference[name]).abs().mean()) for name, tensor in state(ours).items()]
    assert moved > 1e-3
    assert max(apart) < 1e-6


def test_the_same_twice_bit_for_bit_and_global_randomness_untouched(trained, random_policy):
    before = {file.name: file.read_bytes() for file in random_policy.path.iterdir()}
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    expected = random.random(), np.random.random(), float(torch.rand(1))  # noqa: NPY002
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    first, _ = trained(chosen(EVERY_CELL), batch_size=4)
    assert (random.random(), np.random.random(), float(torch.rand(1))) == expected  # noqa: NPY002
    second, _ = trained(chosen(EVERY_CELL), batch_size=4)
    other_order, _ = trained(chosen(EVERY_CELL), batch_size=4, seed=1)
    assert first.fingerprint == second.fingerprint
    assert (first.path / "model.safetensors").read_bytes() == (second.path / "model.safetensors").read_bytes()
    assert training_log(first) == training_log(second)
    assert largest_difference(first, other_order) > 1e-5
    assert {file.name: file.read_bytes() for file in random_policy.path.iterdir()} == before


def test_the_loss_falls_and_the_trained_completions_become_likelier_than_their_siblings(
    trained, random_policy, few_prompts, pool
):
    tuned, _ = trained(chosen([(row, 0) for row in range(7)]), epochs=40, batch_size=7, learning_rate=3e-3)
    log = training_log(tuned)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    tokenizer = loading.load_tokenizer(tuned)
    lead = {}
    for name, policy in {"base": random_policy, "tuned": tuned}.items():
        model = loading.load_model(policy)
        with torch.no_grad():
            per_token = np.array(
                [
                    [
                        float(nll(model, chat.encode(tokenizer, messages), pool.token_ids[row, column].tolist()))
                        / len(pool.token_ids[row, column])
                        for column in (0, 1)
                    ]
                    for row, messages in enumerate(few_prompts.messages)
                ]
            )
        lead[name] = per_token[:, 1] - per_token[:, 0]
    assert (lead["tuned"] > lead["base"] + 1).all()


def test_counts_are_of_every_token_that_went_through_the_model(trained, random_policy, few_prompts, pool):
    _, counts = trained(chosen(EVERY_CELL), epochs=2, batch_size=4)
    tokenizer = loading.load_tokenizer(random_policy)
    an_epoch = sum(
        len(chat.encode(tokenizer, few_prompts.messages[row])) + len(pool.token_ids[row, column])
        for row, column in EVERY_CELL
    )
    parameters = sum(p.numel() for p in loading.load_model(random_policy).parameters())
    assert counts == {"train_tokens": 2 * an_epoch, "train_flops": 12 * parameters * an_epoch, "steps": 12}


def test_the_result_is_an_ordinary_folder_with_the_bases_tokenizer_and_configuration(trained, random_policy):
    tuned, _ = trained(chosen(EVERY_CELL), epochs=1)
    assert (tuned.path / "config.json").read_text() == (random_policy.path / "config.json").read_text()
    assert (tuned.path / "generation_config.json").read_text() == (
        random_policy.path / "generation_config.json"
    ).read_text()
    assert loading.load_tokenizer(tuned).get_vocab() == loading.load_tokenizer(random_policy).get_vocab()
    assert {tensor.dtype for tensor in state(tuned).values()} == {torch.float32}
    assert loading.folder(tuned.path) == tuned
    assert {file.suffix for file in tuned.path.iterdir()} == {".json", ".safetensors"}


def test_a_generation_config_that_transformers_would_not_save_is_kept_as_it_is(
    store, random_policy, few_prompts, pool, tmp_path
):
    shutil.copytree(random_policy.path, tmp_path / "base")
    file = tmp_path / "base" / "generation_config.json"
    file.write_text('{"eos_token_id": [2, 5], "temperature": 0.9, "top_p": 0.6}\n')  # and no do_sample
    base = loading.folder(tmp_path / "base")
    tuned = fine_tune(base, few_prompts, pool, chosen(EVERY_CELL), epochs=1, checkpoint_every=1, seed=0)
    assert (tuned.path / file.name).read_text() == file.read_text()
    assert loading.load_model(tuned).generation_config.eos_token_id == [2, 5]


def test_a_completion_longer_than_the_policy_can_read_is_refused(store, random_policy, few_prompts, pool, tmp_path):
    shutil.copytree(random_policy.path, tmp_path / "short")
    file = tmp_path / "short" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": 16}))
    short = loading.folder(tmp_path / "short")
    with pytest.raises(BenchError, match=r"A completion with its prompt has \d+ tokens, more than the 16 that"):
        fine_tune(short, few_prompts, pool, chosen(EVERY_CELL), epochs=1, seed=0)
    row, column = np.array(EVERY_CELL).T
    pairs = Selection(row[::3], column[::3], np.ones(7), column[::3] + 1)
    with pytest.raises(BenchError, match=r"more than the 16 that .* can read; train on shorter ones"):
        preference_tune(short, few_prompts, pool, pairs, epochs=1, seed=0)


def test_a_tokenizer_without_a_token_to_pad_with(trained, random_policy, few_prompts, pool, tmp_path):
    """Padding is masked: single completions need none of the tokenizer's tokens. TRL's trainings on pairs do."""
    shutil.copytree(random_policy.path, tmp_path / "bare")
    tokenizer = loading.load_tokenizer(random_policy)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "bare")
    bare = loading.folder(tmp_path / "bare")
    assert loading.load_tokenizer(bare).pad_token_id is loading.load_tokenizer(bare).eos_token_id is None
    ours, _ = trained(chosen(EVERY_CELL), epochs=1, batch_size=5)
    with using(Store(tmp_path / "bare_store")):
        tuned = fine_tune(bare, few_prompts, pool, chosen(EVERY_CELL), epochs=1, batch_size=5, seed=0)
        assert largest_difference(tuned, ours) == 0
        with pytest.raises(BenchError, match="neither a padding token nor an EOS token"):
            preference_tune(bare, few_prompts, pool, Selection(*np.array([[0], [0], [1], [1]])), epochs=1, seed=0)


def test_two_selections_of_the_same_rows_share_one_training(store, random_policy, few_prompts, pool):
    """Also from a longer pool, and with further rows of weight 0."""
    longer = Completions(
        *(np.hstack([array, array]) for array in (pool.text, pool.token_ids, pool.finish_reason)),
        np.hstack([pool.logprob] * 2),
        np.hstack([pool.policy_logprob] * 2),
        key="longer",
    )
    first = fine_tune(random_policy, few_prompts, pool, chosen([(0, 0), (1, 1)]), seed=0, epochs=1)
    second = fine_tune(
        random_policy, few_prompts, longer, chosen([(0, 3), (1, 1), (2, 0)], [1, 1, 0]), seed=0, epochs=1
    )
    fine_tune(random_policy, few_prompts, pool, chosen([(0, 0), (1, 1)], [1, 2]), seed=0, epochs=1)
    assert first == second
    assert [use.reused for use in store.uses] == [False, True, False]


def test_every_part_of_the_training_set_is_in_its_key(few_prompts, pool):
    def key(prompts: Prompts = few_prompts, weight: float = 1, column: int = 0, reason: str = "stop") -> str:
        reasons = np.where(np.arange(3) == column, reason, pool.finish_reason)
        completions = Completions(pool.text, pool.token_ids, reasons, pool.logprob, pool.policy_logprob, "")
        return training_set(prompts, completions, chosen([(0, column), (1, column)], [1, weight])).key

    keys = [key(), key(weight=2), key(column=1), key(reason="length"), key(few_prompts[1:])]
    assert len(set(keys)) == 5
    assert key() == key()


def test_an_empty_selection_says_why_it_may_be_empty(store, random_policy, few_prompts, pool):
    for nothing in (chosen([]), chosen([(0, 0)], [0])):
        with pytest.raises(BenchError, match=r"kept no completion to train on.*raise num_completions"):
            fine_tune(random_policy, few_prompts, pool, nothing, seed=0)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused(few_prompts, pool, weight):
    with pytest.raises(ValueError, match=r"selection\.weight"):
        training_set(few_prompts, pool, chosen([(0, 0), (1, 0)], [1, weight]))


def test_a_loss_that_is_no_number_stops_the_training_and_leaves_nothing(store, random_policy, few_prompts, pool):
    with pytest.raises(BenchError, match=r"training\.learning_rate=1e\+30 let the training diverge"):
        fine_tune(random_policy, few_prompts, pool, chosen(EVERY_CELL), seed=0, learning_rate=1e30)
    assert not list(store.root.glob("sft/*"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"scheduler": "cyclic"}, "training.scheduler=cyclic"),
        ({"warmup": 1.0}, "training.warmup=1.0"),
        ({"batch_size": 8, "micro_batch_size": 3}, "training.micro_batch_size=3"),
        ({"processes": 2, "batch_size": 3}, "training.processes=2"),
        ({"fsdp": True}, "training.fsdp=true needs training.processes"),
        ({"fsdp": True, "processes": 2, "lora": FOUR_BIT}, "training.fsdp=true is not allowed with training.lora"),
    ],
)
def test_impossible_settings_are_named(store, random_policy, few_prompts, pool, settings, complaint):
    with pytest.raises(BenchError, match=complaint):
        fine_tune(random_policy, few_prompts, pool, chosen([(0, 0)]), seed=0, **settings)
    as_configured = {name: vars(value) if isinstance(value, Lora) else value for name, value in settings.items()}
    with pytest.raises(BenchError, match=complaint):
        check_settings({"training": as_configured, "seed": 0})


def test_settings_left_out_have_their_defaults():
    check_settings({"training": {}, "seed": 0})
    check_settings({"training": {"lora": None, "processes": 2}, "seed": 0})


def test_it_is_silent_away_from_a_terminal(trained, capfd):
    trained(chosen([(0, 0)]), epochs=1)
    assert capfd.readouterr() == ("", "")


def test_settings_at_their_defaults_leave_old_keys_as_they_were(store, random_policy, few_prompts, pool):
    """What stores hold from before these settings is found again, and they count where they change the result."""
    names = {"epochs", "learning_rate", "batch_size", "scheduler", "warmup", "weight_decay", "max_grad_norm", "seed"}
    cells = chosen([(0, 0)])
    fine_tune(random_policy, few_prompts, pool, cells, seed=0, epochs=1, packing=True, checkpoint_every=1)
    fine_tune(random_policy, few_prompts, pool, cells, seed=0, epochs=1, gradient_checkpointing=True)
    fine_tune(random_policy, few_prompts, pool, cells, seed=0, epochs=1, precision="bfloat16")
    assert set(store.uses[0].settings) == names
    assert [use.reused for use in store.uses] == [False, True, False]
    assert store.uses[2].settings["precision"] == "bfloat16"


def test_bfloat16_is_what_is_computed_in_and_not_what_weights_are(trained, random_policy):
    """The loss is rounded as bfloat16 rounds, and updates far below its steps are kept."""
    cells = chosen(EVERY_CELL)
    narrow, wide = (
        trained(cells, **ONE_UPDATE, precision=precision, learning_rate=1e-6)[0]
        for precision in ("bfloat16", "float32")
    )
    losses = [training_log(policy)[0]["loss"] for policy in (narrow, wide)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    start = state(random_policy)
    for name, weight in state(narrow).items():
        assert weight.dtype == torch.float32
        moved = weight - start[name]
        assert float((moved != 0).float().mean()) > 0.5  # of 1e-6 each, which bfloat16 weights of this size would lose
        assert float(moved.abs().max()) < 1e-5
