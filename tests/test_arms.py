"""Policies that were trained elsewhere: judged exactly as the suite's own, or refused before any work."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sharing import CONF, SMALL, Finished, Shared, composed, given_by, places, scaled
from test_completions import PROCEDURES

from bench.artifacts import Policy
from bench.config import arms, checks
from bench.config.keys import id_of_settings, run_folder
from bench.errors import BenchError
from bench.launching.runner import refuse_early, run_experiment
from bench.models import adapters, loading
from bench.procedures import elsewhere
from bench.records.read import read_run
from bench.reporting.console import main_table, runs_table
from bench.reporting.exhibits import figures, of_one_run, sentences, tables
from bench.reporting.methods import methods
from bench.store import Store, using
from bench.sweeps.cells import Cell, cells, changed_folder, changed_input, is_done, state
from bench.sweeps.plan import record_of
from bench.tasks.jsonl import Jsonl
from bench.tasks.ultrafeedback import UltraFeedback
from bench.tasks.word_problems import WordProblems

ALONG = ("prompt_filter=all", "training.epochs=2", "training.keep_every=3", "task.validation_prompts=10")
FEW = ("prompt_filter=all", "task.train_prompts=12", "task.test_prompts=6", "control=none")


def folders(run: Finished | Path) -> dict[str, Path]:
    """The folder of each policy of a run."""
    links = json.loads(((run if isinstance(run, Path) else run.folder) / "chain.json").read_text())
    return {link["role"]: Path(next(iter(link["files"].values()))).parent for link in links if link["type"] == "policy"}


def adapter(base: Path, into: Path) -> Path:
    """A LoRA adapter of a base, made by PEFT, whose weights are far from 0."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.05)
    model.save_pretrained(into)
    AutoTokenizer.from_pretrained(base).save_pretrained(into)
    return into


def foreign_name(folder: Path) -> Path:
    """The adapter as PEFT leaves it after a training of a model of the hub: without a tokenizer."""
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "some/model"}))
    for file in folder.glob("*token*"):
        file.unlink()
    return folder


@pytest.fixture(scope="module")
def own(finished_run: Callable[..., Finished]) -> Finished:
    """A run without policies from elsewhere, which keeps policies along its training."""
    return finished_run(*ALONG)


@pytest.fixture(scope="module")
def judged(shared: Shared, own: Finished, tiny_policy: Policy, random_policy: Policy) -> Finished:
    """The same run beside copies of its tuned policy, of one that it kept, and two others."""

    def make(root: Path) -> None:
        tuned = folders(own)["tuned"]
        shutil.copytree(tuned, root / "mine", ignore=shutil.ignore_patterns("after-*", "manifest.json"))
        for kept in tuned.glob("after-*"):
            shutil.copytree(kept, root / f"step_{kept.name.split('-')[1]}")
        foreign_name(adapter(tiny_policy.path, root / "adapter"))

    root = shared.once("arms", make)
    steps = sorted(root.glob("step_*"), key=lambda path: int(path.name.partition("_")[2]))
    assert len(steps) == 1
    path = ",".join(map(str, [*steps, root / "mine"]))
    given = [f"arms.mine={root}/mine", f"arms.path=[{path}]", f"arms.low_rank={root}/adapter"]
    return shared.run(tiny_policy, *ALONG, *given, f"arms.foreign={random_policy.path}")


def metrics(run: Finished) -> dict:
    return json.loads((run.folder / "metrics.json").read_text())


def of(name: str, found: dict) -> dict:
    """The metrics of one policy; those of its path on validation prompts are those of another one."""
    chosen = {key.partition("/")[2]: value for key, value in found.items() if key.startswith(f"{name}/")}
    return {key: value for key, value in chosen.items() if not key.startswith("validation")}


def test_the_tuned_policy_from_elsewhere_has_the_tuned_policys_numbers(own: Finished, judged: Finished) -> None:
    mine, tuned = of("mine", metrics(judged)), of("tuned", metrics(own))
    assert {key: mine[key] for key in tuned} == tuned
    assert mine["kl"] > 0
    assert mine.keys() - tuned.keys() == {"artifact", "parameters", "token_ids", "training_cost"}
    assert mine["training_cost"] == "unknown"
    run = read_run(judged.folder)
    run.verify()
    for method, metric, n in {key[1:] for key in run.curves if key[0] == "mine"}:
        assert run.per_prompt("mine", method, metric, n) == pytest.approx(
            run.per_prompt("tuned", method, metric, n), nan_ok=True
        )


def test_a_runs_own_numbers_do_not_depend_on_them(own: Finished, judged: Finished) -> None:
    """Except for the adjustment of p-values for the number of comparisons, and what the evaluation cost."""
    before, after = metrics(own), metrics(judged)
    free = re.compile(r"cost/(flops|seconds|generated_tokens)|saved/.*|.*/(p_adjusted|verdict)|code")
    kept = [key for key in before if not free.fullmatch(key)]
    numbers = [key for key in kept if isinstance(before[key], float)]
    assert [after[key] for key in numbers] == pytest.approx([before[key] for key in numbers], rel=1e-9)
    assert all(after[key] == before[key] for key in kept if key not in numbers)
    assert not [key for key in after if key.startswith("break_even/") and key not in before]


def test_checkpoints_of_one_training_are_a_curve(own: Finished, judged: Finished) -> None:
    """On validation prompts it equals that of the training which kept them."""
    found, kept = metrics(judged), metrics(own)
    steps = [key for key in kept if re.fullmatch(r"tuned/validation@\d+/accuracy", key)]
    assert len(steps) == 3
    run = read_run(judged.folder)
    tuned, path = (list(run.series(arm, "validation", "accuracy").values()) for arm in ("tuned", "path"))
    assert path == tuned
    assert list(run.series("path", "validation", "kl").values()) == list(
        run.series("tuned", "validation", "kl").values()
    )
    assert of("path_2", found)["pass@1"] == found["tuned/pass@1"]
    (frontier,) = [figure for figure in of_one_run(run) if figure.name == "frontier"]
    rows = [row for row in frontier.rows if row["method"] == "path"]
    assert [row["kl"] for row in rows] == [found["path_1/kl"], found["path_2/kl"]]
    assert [row["label"] for row in rows] == ["path_1", "path_2"] or rows[0]["label"].startswith("step_")
    (training,) = [figure for figure in of_one_run(run) if figure.name == "training"]
    assert [row["accuracy"] for row in training.rows if row["arm"] == "path"] == [point.value for point in path]


def test_an_adapter_of_the_base_is_judged(judged: Finished, tiny_policy: Policy) -> None:
    found = metrics(judged)
    assert found["low_rank/kl"] > 0.01
    assert found["low_rank/parameters"] > loading.count_parameters(tiny_policy)
    assert judged.err.count("the adapter names some/model as its base model") == 1
    assert changed_input(judged.folder) is None


def test_another_tokenizer_is_judged_without_a_kl_and_that_is_said_once(judged: Finished) -> None:
    found, run = metrics(judged), read_run(judged.folder)
    assert found["foreign/token_ids"] == "another vocabulary"
    assert "foreign/pass@1" in found
    assert "foreign/kl" not in found
    assert judged.err.count("foreign: its vocabulary differs from the base's, so it is judged without a KL") == 1
    (line,) = [line for line in sentences([run]) if ", foreign," in line]
    assert "it has no KL: its vocabulary differs from the base's" in line
    (frontier,) = [figure for figure in of_one_run(run) if figure.name == "frontier"]
    assert {"mine", "low_rank", "path", "tuned"} < {row["method"] for row in frontier.rows}
    assert "foreign" not in {row["method"] for row in frontier.rows}


def test_every_table_figure_and_text_names_them(own: Finished, judged: Finished) -> None:
    run, others = read_run(judged.folder), ("mine", "path_1", "path_2", "low_rank", "foreign")
    made = {table.name: table for table in tables([run])}
    for name in ("main", "coverage"):
        assert [row["arm"] for row in made[name].rows if row["arm"] in others] == list(others)
    compared = {row["comparison"] for row in made["contrasts"].rows}
    assert {f"{name} - base" for name in others} | {f"tuned - {name}" for name in others} < compared
    assert all(f"| {name} " in main_table(run) for name in others)
    assert "mine pass@1" in runs_table([run, read_run(own.folder)])
    assert "mine (mine), path_1 (step_3), path_2 (mine), low_rank (adapter)" in methods([run])
    (even,) = [figure for figure in figures([run]) if figure.name == "break_even"]
    assert {"mine", "foreign"} < {row["what"] for row in even.rows}
    assert "unknown" in even.caption
    drawn = [row for row in even.rows if row["what"] == "mine"]
    assert [(row["flops"], row["accuracy"]) for row in drawn] == [
        (run.metrics["cost/tuned_query_flops"], run.metrics["tuned/pass@1"])
    ]
    links = {link["role"] for link in json.loads((judged.folder / "chain.json").read_text())}
    assert {"foreign", "low_rank", "path_1"} <= links  # mine and path_2 are the tuned policy itself


def test_without_any_the_run_id_is_that_of_before() -> None:
    cfg = composed("experiment=quick", "prompt_filter=all")
    settings = Cell("", cfg, ()).config
    assert settings["arms"] == {}
    bare = {name: value for name, value in settings.items() if name != "arms"}
    assert id_of_settings(settings) == id_of_settings(bare) == "0a1bf1cda4"
    assert id_of_settings({**bare, "arms": {"mine": "a"}}) != id_of_settings({**bare, "arms": {"mine": "b"}})
    assert not [stage for stage in record_of(Cell("", cfg, ())).stages if "mine" in stage.name]


def test_no_name_is_one_that_the_records_use(own: Finished, finished_run: Callable[..., Finished]) -> None:
    """Whatever begins the name of a metric, of any procedure."""
    runs = [own, *(finished_run(*PROCEDURES[name]) for name in ("rounds", "hybrid"))]
    owners = {name.partition("/")[0] for run in runs for name in metrics(run)}
    assert len(owners) > 20
    for owner in owners:
        with pytest.raises(BenchError, match="is not allowed"):
            arms.check({owner: "anywhere"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tuned": "a"}, r"arms\.tuned is not allowed: the records use tuned already"),
        ({"best_of_n": "a"}, "the records use best_of_n already"),
        ({"round_1": "a"}, "the records use round_1 already"),
        ({"my-own": "a"}, r"arms\.my-own is not allowed: a name has letters, digits and _"),
        ({"x": 3}, r"arms\.x=3 is not allowed: it must be a folder or an id of the Hub, or a list"),
        ({"x": []}, "it must be a folder or an id of the Hub, or a list"),
        ({"x": ["a", 3]}, r"arms\.x=3 is not allowed: .* as text"),
        ({"x": ["a", "a"]}, "it has one checkpoint twice"),
        ({"x_1": "a", "x": ["b", "c"]}, r"arms\.x_1 is not allowed: a checkpoint of arms\.x has this name"),
    ],
)
def test_a_name_or_a_place_that_is_not_allowed_is_refused(given: dict, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        arms.check(given)


def test_the_updates_of_checkpoints_are_read_from_their_names() -> None:
    def updates(*given: str) -> list[int | None]:
        return [found.updates for found in arms.policies({"x": list(given)}).values()]

    assert updates("a/step_50", "a/step_100") == [50, 100]
    assert updates("a/checkpoint-8", "b/checkpoint-30") == [8, 30]
    assert updates("a/step_100", "a/step_50") == updates("a", "b") == updates("a/step_0", "b") == [1, 2]
    assert arms.policies({"x": "a"}) == {"x": arms.ArmPolicy("x", "a", None)}


@pytest.fixture
def checked(tiny_policy: Policy, tmp_path: Path) -> Callable[..., None]:
    """Check an experiment as before its first artifact."""

    def check(*given: str) -> None:
        cfg = composed(*given_by(tiny_policy), *SMALL, *places(tmp_path), *given)
        checks.check(cfg)
        refuse_early(cfg, checks.build_parts(cfg))
        assert not [path for path in (tmp_path / "store").glob("*") if path.name != ".locks"]

    return check


def test_a_broken_policy_is_refused_before_any_work(
    checked, tiny_policy: Policy, random_policy: Policy, tmp_path
) -> None:
    checked(f"arms.mine={tiny_policy.path}")
    for name, spoil, message in (
        ("gone", lambda folder: shutil.rmtree(folder), "there is no such folder"),
        ("bare", lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        ("weightless", lambda folder: next(folder.glob("*.safetensors")).unlink(), "holds no weights"),
        ("cut", lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"cut"), "is no safetensors file"),
    ):
        shutil.copytree(tiny_policy.path, tmp_path / name)
        spoil(tmp_path / name)
        for given in (f"arms.mine={tmp_path / name}", f"arms.mine=[{tiny_policy.path},{tmp_path / name}]"):
            with pytest.raises(BenchError, match=rf"arms\.mine={tmp_path / name}.*{message}"):
                checked(given)
    with pytest.raises(BenchError, match=r"arms\.mine=some/model at revision main is not in the local cache"):
        checked("arms.mine=some/model")
    adapter(random_policy.path, tmp_path / "adapter")
    with pytest.raises(BenchError, match=r"mine=.* is an adapter of the model in .* but the run's base is the one in"):
        checked(f"arms.mine={tmp_path / 'adapter'}")
    checked(f"arms.mine={foreign_name(adapter(tiny_policy.path, tmp_path / 'fits'))}")
    with pytest.raises(
        BenchError, match=r"arms\.mine=.*wide doesn't fit the run's base in .* needs \[\d+\] in place of"
    ):
        checked(f"arms.mine={foreign_name(wider(adapter(tiny_policy.path, tmp_path / 'wide')))}")
    with pytest.raises(BenchError, match="arms with several checkpoints is not allowed with task"):
        checked(f"arms.mine=[{tiny_policy.path}]", "task.validation_prompts=1")


def wider(folder: Path) -> Path:
    """The adapter with one more input of each module."""
    import torch
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: torch.nn.functional.pad(each, (0, "lora_A" in name)) for name, each in weights.items()}, file)
    return folder


def test_an_adapter_is_put_on_the_base_whatever_it_names(random_policy: Policy, tmp_path: Path, store, capfd) -> None:
    from torch.testing import assert_close

    other = loading.folder(scaled(random_policy.path, 0.5, tmp_path / "other"))
    known = adapter(random_policy.path, tmp_path / "known")
    capfd.readouterr()
    as_it_is = adapters.on_base(known, random_policy, setting="arms.mine")
    assert (as_it_is.path, store.uses, capfd.readouterr().err) == (known, [], "")
    foreign = foreign_name(shutil.copytree(known, tmp_path / "foreign"))
    put = adapters.on_base(foreign, random_policy, setting="arms.mine")
    assert adapters.on_base(foreign, random_policy, setting="arms.mine") == put
    assert [use.reused for use in store.uses] == [False, True]
    assert capfd.readouterr().err.count("arms.mine: the adapter names some/model as its base model, and is put on") == 2
    assert loading.base_of(put).fingerprint == random_policy.fingerprint
    assert put.fingerprint != adapters.on_base(foreign, other, setting="arms.mine").fingerprint
    assert loading.load_tokenizer(put).get_vocab() == loading.load_tokenizer(random_policy).get_vocab()
    whole = [dict(loading.load_model(policy).named_parameters()) for policy in (as_it_is, put, random_policy)]
    for name, weights in whole[0].items():
        assert_close(weights, whole[1][name], rtol=0, atol=0)
    assert any("lora_B" in name and weights.abs().sum() > 0 for name, weights in whole[1].items())
    assert len(whole[1]) > len(whole[2])


def test_an_adapter_that_does_not_fit_is_refused(random_policy: Policy, tmp_path: Path, store) -> None:
    """Also before a training, where the base was not yet made when the settings were checked."""
    other = loading.folder(scaled(random_policy.path, 0.5, tmp_path / "other"))
    own = adapter(random_policy.path, tmp_path / "own")
    adapters.on_base(own, random_policy, setting="arms.mine")
    with pytest.raises(BenchError, match="is an adapter of the model in"):
        adapters.on_base(own, other, setting="arms.mine")
    weights, config = own / "adapter_model.safetensors", own / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "some/model"}))
    weights.write_bytes(weights.read_bytes().replace(b"q_proj", b"p_proj"))
    with pytest.raises(BenchError, match=r"own doesn't fit .*, which has no model\.layers\.0\.self_attn\.p_proj"):
        adapters.on_base(own, random_policy, setting="arms.mine")
    assert not store.uses


def reward_model(policy: Policy, into: Path, seed: int) -> Path:
    """A reward model of a policy's shape with random weights."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForSequenceClassification(LlamaConfig.from_pretrained(policy.path, num_labels=1)).save_pretrained(into)
    AutoTokenizer.from_pretrained(policy.path).save_pretrained(into)
    return into


def test_a_run_is_done_until_its_rows_its_policy_or_its_scorer_change(tiny_policy: Policy, tmp_path: Path) -> None:
    mine, file = scaled(tiny_policy.path, 1.0, tmp_path / "mine"), tmp_path / "prompts.jsonl"
    scorer = reward_model(tiny_policy, tmp_path / "scorer", seed=0)
    prompts = WordProblems().prompts("train")[:150]
    rows = [
        json.dumps({"prompt": messages[-1]["content"], "answer": str(answer)})
        for messages, answer in zip(prompts.messages, prompts.answer, strict=True)
    ]
    file.write_text("\n".join(rows))
    own = ("task=jsonl", f"task.path={file}", "task.compare=number", "task.near_duplicate=null", *FEW)
    own += ("scoring=reward_model", f"scoring.model={scorer}", "task.max_new_tokens=48")
    cfg = composed("policy=folder", f"policy.path={mine}", *SMALL, *places(tmp_path), *own)
    folder, cell = run_experiment(cfg, quiet=True), Cell("", cfg, ())
    assert is_done(folder)
    file.write_text("\n".join(rows).replace('"answer": "', '"answer": "1'))
    assert not is_done(folder)
    assert state(cell).detail == f"task.path={file} has other rows now"
    file.unlink()
    assert is_done(folder)
    reward_model(tiny_policy, scorer, seed=1)
    assert not is_done(folder)
    assert state(cell).detail == f"the model in {scorer} changed"
    shutil.rmtree(scorer)
    assert is_done(folder)
    scaled(tiny_policy.path, 0.9, mine)
    assert not is_done(folder)
    assert state(cell).detail == f"the policy in {mine} changed"
    shutil.rmtree(mine)
    assert is_done(folder)


def test_another_gold_model_or_other_rows_of_a_transfer_are_a_change(tiny_policy: Policy, tmp_path: Path) -> None:
    gold, file = scaled(tiny_policy.path, 1.0, tmp_path / "gold"), tmp_path / "other.jsonl"
    row = {"prompt": "Say {}.", "answer": "{}"}
    file.write_text("\n".join(json.dumps(row).replace("{}", name) for name in "abcdefghijklmnopqrstuvwxyz"))
    other = {"_target_": "bench.tasks.jsonl.Jsonl", "path": str(file)}
    config = {
        "task": {"_target_": "bench.tasks.ultrafeedback.UltraFeedback", "gold_model": str(gold), "system": "Hello."},
        "evaluation": {"transfer": {"letters": other}},
    }
    by = UltraFeedback(path=str(file), gold_model=str(gold)).judged_by
    lineage = [
        {"stage": "gold_reward", "settings": {"task": by}, "parents": {}},
        {
            "stage": "lm_eval_exact_match",
            "settings": {},
            "parents": {"prompts": Jsonl(path=str(file)).prompts("test").key},
        },
    ]
    assert changed_folder(config, lambda: lineage) is None
    scaled(tiny_policy.path, 0.9, gold)
    assert changed_folder(config, lambda: lineage) == f"the model in {gold} changed"
    shutil.rmtree(gold)
    assert changed_folder(config, lambda: lineage) is None
    lineage[1]["parents"] = {"prompts": "of other rows"}
    assert changed_folder(config, lambda: lineage) == f"evaluation.transfer.letters.path={file} has other rows now"
    file.unlink()
    assert changed_folder(config, lambda: lineage) is None


def test_a_folder_that_changed_is_judged_anew(tiny_policy: Policy, tmp_path: Path) -> None:
    mine = scaled(tiny_policy.path, 1.0, tmp_path / "mine")
    cfg = composed(*given_by(tiny_policy), *SMALL, *places(tmp_path), *FEW, f"arms.mine={mine}")
    folder, cell = run_experiment(cfg, quiet=True), Cell("", cfg, ())
    before = json.loads((folder / "metrics.json").read_text())
    assert before["mine/kl"] == pytest.approx(0, abs=1e-6)
    assert is_done(folder)
    scaled(tiny_policy.path, 0.9, mine)
    assert not is_done(folder)
    assert state(cell).detail == "the policy in arms.mine changed"
    assert run_experiment(cfg, quiet=True) == folder == run_folder(cfg)
    after = json.loads((folder / "metrics.json").read_text())
    assert after["mine/kl"] > 0.01
    assert after["tuned/pass@1"] == before["tuned/pass@1"]
    assert is_done(folder)
    (mine / "config.json").unlink()
    assert not is_done(folder)
    shutil.rmtree(mine)
    assert is_done(folder)  # there is nothing to judge anew


def test_a_sweep_over_them_has_a_cell_for_each(tiny_policy: Policy, tmp_path: Path) -> None:
    found = cells([*given_by(tiny_policy), *SMALL, *places(tmp_path), "arms.mine=a,b", "arms.path=[c,d]"], str(CONF))
    assert found is not None
    assert [cell.label for cell in found] == ["arms.mine=a", "arms.mine=b"]
    assert [cell.config["arms"] for cell in found] == [{"mine": each, "path": ["c", "d"]} for each in ("a", "b")]
    assert "arms.path" in found[0].fixed
    stages = [stage.name for stage in record_of(found[0]).stages if "mine" in stage.name or "path" in stage.name]
    assert stages == [
        *("policy (mine)", "policy (path_1)", "policy (path_2)"),
        *(f"evaluate ({name}, test)" for name in ("mine", "path_1", "path_2")),
        *(f"evaluate (path after {number}, validation)" for number in (1, 2)),
    ]


def test_their_base_and_settings_are_those_of_the_run(tiny_policy: Policy, tmp_path: Path) -> None:
    """The base's system prompt holds for them: all policies get the same prompts."""
    cfg = composed(*given_by(tiny_policy), "policy.trust_remote_code=true", f"arms.mine={tiny_policy.path}")
    parts = refuse_early(cfg, checks.build_parts(cfg))
    with using(Store(tmp_path / "store")):
        (found,) = (parts.made(partial(policy, base=parts.base)) for policy in elsewhere.configured(parts).values())
        assert found == parts.base
