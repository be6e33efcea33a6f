"""Imported completions in the place of drawn ones (generation=imported): numbers, token ids, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sharing import SMALL, Shared, composed, given_by, places, replaced

import bench
from bench.config import checks
from bench.config.keys import run_folder, run_id
from bench.errors import BenchError
from bench.launching.runner import refuse_early, run_experiment
from bench.pools.export import export
from bench.records.read import COMPLETIONS, Run, read_run
from bench.reporting.console import main_table
from bench.reporting.exhibits import of_one_run, sentences
from bench.reporting.files import write_figure
from bench.reporting.methods import methods
from bench.sweeps.cells import Cell, state_of
from bench.sweeps.plan import record_of

Run_ = Callable[..., Run]
SPLITS = ("train", "test")


@pytest.fixture
def drawn(finished_run: Callable[..., Any]) -> Run:
    """The run that drew the pools."""
    return read_run(finished_run().folder)


@pytest.fixture
def files(drawn: Run, shared: Shared, tmp_path: Path) -> dict[str, Path]:
    """Its pools as files, token ids included."""

    def write(folder: Path) -> None:
        for split in SPLITS:
            export(drawn.folder, folder / f"{split}.jsonl", split=split, tokens="ids")

    folder = shared.once("exported", write)
    return {split: Path(shutil.copy(folder / f"{split}.jsonl", tmp_path)) for split in SPLITS}


@pytest.fixture
def run(tiny_policy: Any, tmp_path: Path) -> Run_:
    """Import files under the names of their splits, and run an experiment on them; `like` changes every row first."""

    def start(files: dict[str, Path], *settings: str, like: Callable[[dict[str, Any]], Any] = lambda row: row) -> Run:
        for split, file in files.items():
            rows = [like(json.loads(line)) for line in file.read_text().splitlines()]
            changed = file.with_name(f"{split}_changed.jsonl")
            changed.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))
            at = {"outputs": tmp_path / "outputs", "store": tmp_path / "store"}
            bench.import_pool(changed, name=split, columns={"reward.mine": "reward"}, temperature=1.0, **at)
        taken = [f"generation.{split}={split}" for split in files]
        cfg = composed(
            *replaced([*SMALL, *places(tmp_path), *given_by(tiny_policy), "generation=imported", *taken], *settings)
        )
        run_experiment(cfg, quiet=True)
        return read_run(run_folder(cfg))

    return start


def test_imported_pools_give_the_numbers_of_the_run_that_drew_them(drawn: Run, files: dict[str, Path], run: Run_):
    ours = run(files)
    selected = [
        [
            (row["prompt_id"], row["sample"], row["selected_for"], row["completion"])
            for row in one.rows("samples.parquet")
        ]
        for one in (drawn, ours)
    ]
    assert selected[0] == selected[1]
    # the end of an interval may rest on which of two bootstrap means, equal but for rounding, is the smaller
    slack = {name: 1e-4 if name.endswith(("_low", "_high")) else 1e-5 for name in drawn.metrics}
    differ = {
        name
        for name, value in drawn.metrics.items()
        if isinstance(value, float | int) and ours.metrics[name] != pytest.approx(value, rel=1e-4, abs=slack[name])
    }
    assert not {
        (name, drawn.metrics[name], ours.metrics[name]) for name in differ if not name.startswith(("cost/", "saved/"))
    }
    assert [row for row in ours.lineage if row["settings"].get("engine") == "from_import"]
    assert ours.metrics["cost/generated_tokens"] < drawn.metrics["cost/generated_tokens"]
    back, there = (bench.load(one.folder).completions("train") for one in (ours, drawn))
    assert back["text"].tolist() == there["text"].tolist()
    assert back["policy_logprob"].to_numpy() == pytest.approx(there["policy_logprob"].to_numpy(), abs=1e-3)


def test_texts_alone_are_encoded_anew_and_what_is_not_known_stays_undefined(
    drawn: Run, files: dict[str, Path], run: Run_, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ours = run(
        files,
        "control=none",
        like=lambda row: {name: row[name] for name in ("prompt", "completion", "finish_reason", "reward")},
    )
    said = capsys.readouterr().err
    assert "generation.train=train: the token ids of 160 completions were made from their texts" in said
    assert "generation.test=test: log-probabilities are not known, so KLs that need them are undefined" in said
    for name in ("best_of_4/accuracy", "pool/mean_reward", "selection/kept", "base/accuracy"):
        assert ours.metrics.get(name) == pytest.approx(drawn.metrics.get(name))
    assert ours.metrics["best_of_4/kl"] is None
    assert ours.metrics["tuned/kl"] > 0  # exact steps of the trained policy need no log-probability of the import
    ours.verify()
    assert [path for figure in of_one_run(ours) for path in write_figure(figure, tmp_path)]  # bars without ends too
    assert main_table(ours)
    assert sentences([ours])
    assert "drawn elsewhere, at temperature 1" in methods([ours])


def test_a_training_prompt_may_have_fewer_completions(files: dict[str, Path], run: Run_):
    rows = [json.loads(line) for line in files["train"].read_text().splitlines()]
    none, few = (rows[number]["id"] for number in (0, -1))
    keep = {(row["id"], row["sample"]) for row in rows if row["id"] != none and (row["id"] != few or row["sample"] > 1)}
    ours = run(
        {"train": files["train"]},
        "selection=random_per_prompt",
        "prompt_filter=all",
        "control=none",
        like=lambda row: row if (row["id"], row["sample"]) in keep else None,
    )
    assert ours.metrics["pool/completions"] == len(keep) == 4 * 40 - 6
    assert ours.metrics["selection/prompts_unscored"] == 1
    assert ours.metrics["selection/prompts_covered"] == 39
    back = bench.load(ours.folder).completions("train")
    assert {(name, text) for name, text in zip(back["prompt_id"], back["text"], strict=True)} == {
        (row["id"], row["completion"]) for row in rows if (row["id"], row["sample"]) in keep
    }


def test_prompts_that_are_there_twice_or_are_none_of_the_runs(
    files: dict[str, Path], run: Run_, capsys: pytest.CaptureFixture[str]
):
    """Of two equal prompts the one with the run's own id is taken, wherever it stands; all others are counted."""
    rows = [json.loads(line) for line in files["train"].read_text().splitlines()]
    again = [row | {"id": f"{row['id']} again", "completion": "none"} for row in rows]
    files["train"].write_text("".join(json.dumps(row) + "\n" for row in [*rows, *again]))
    back = bench.load(run({"train": files["train"]}, "control=none").folder).completions("train")
    assert sorted(back["text"]) == sorted(row["completion"] for row in rows)
    assert "=train: 40 of 80 imported prompts are none of this run's train prompts" in capsys.readouterr().err


def test_a_completion_that_is_too_long_names_its_import_and_the_setting(files: dict[str, Path], run: Run_):
    with pytest.raises(
        BenchError, match=r"generation\.train: train-.* of [\d,]+ tokens, above max_new_tokens=\d+: raise"
    ):
        run({"train": files["train"]}, like=lambda row: row | {"completion": "3 " * 500, "tokens": None})


def test_a_sweep_checks_its_imports_before_a_store_is_open(files: dict[str, Path], tmp_path: Path, tiny_policy: Any):
    bench.import_pool(files["train"], name="train", outputs=tmp_path / "outputs", store=tmp_path / "store")
    taken = ["generation=imported", "generation.train=train", "num_completions=16"]
    cfg = composed(*replaced([*SMALL, *places(tmp_path), *given_by(tiny_policy)], *taken))
    with pytest.raises(BenchError, match="=train has 4 completions of a prompt, and 16 are asked for"):
        refuse_early(cfg, checks.build_parts(cfg))


def renamed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"id": f"other {row['id']}", "prompt": f"{row['prompt']} Or so?"}


REFUSED: dict[str, tuple[list[str], Callable[[dict[str, Any]], Any], str]] = {
    "no such import": (["generation.train=trian"], dict, "trian is no import: .*did you mean train"),
    "more than there are": (["num_completions=8"], dict, "=train has 4 completions of a prompt, and 8 are asked for"),
    "more for Best-of-N": (["baseline_completions=64"], dict, "=test has 8 completions of every prompt, and 64 are"),
    "other prompts": ([], renamed, "=train has no completion, by text or id, of 40 of 40 train prompts"),
    "no text": ([], lambda row: {name: row[name] for name in ("id", "reward")}, "=train has no texts: say at import"),
    "log-probabilities": (["selection=kl_regularised"], dict, "selection=kl_regularised needs log-probabilities"),
    "another procedure": (["procedure=rounds"], dict, "goes together with procedure=single alone"),
    "another split": (["split=validation"], dict, "has no validation prompts: leave generation.test out"),
    "no name": (["generation.train=null", "generation.test=null"], dict, "needs an import: generation.train=NAME"),
    "another temperature": (["temperature=0.5"], dict, "=train was sampled with temperature=1, as its import states"),
    "a sampler": (["+generation.top_k=3"], dict, "has no sampler of its own"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_an_import_lacks_is_said_before_any_work(
    what: str, files: dict[str, Path], run: Run_, monkeypatch: pytest.MonkeyPatch
):
    settings, like, said = REFUSED[what]
    monkeypatch.setattr("bench.experiment.run", lambda parts: pytest.fail("work began"))
    with pytest.raises(BenchError, match=said):
        run(files, *settings, like=like)


@pytest.mark.parametrize("which", ["completions.parquet", "store"])
def test_a_damaged_import_is_refused(which: str, files: dict[str, Path], run: Run_, tmp_path: Path, tiny_policy: Any):
    with pytest.raises(BenchError, match="16 are asked for"):
        run(files, "num_completions=16")
    if which == "store":
        (unit,) = {path.parent for path in (tmp_path / "store").glob("generate/*/*/completions.parquet")} & {
            tmp_path / "store" / row["unit"] for row in read_run(tmp_path / "outputs/imported/train").rows(COMPLETIONS)
        }
        unit.joinpath("completions.parquet").write_bytes(b"no table")
    else:
        (tmp_path / "outputs/imported/train" / which).write_bytes(b"no table")
    cfg = composed(*SMALL, *places(tmp_path), *given_by(tiny_policy), "generation=imported", "generation.train=train")
    with pytest.raises(BenchError, match=r"generation\.train=train: .* import"):
        run_experiment(cfg, quiet=True)


def test_a_plan_draws_no_imported_completion_and_needs_no_import():
    taken = ["generation=imported", "generation.train=nowhere", "generation.test=nowhere"]
    work = {
        name: record_of(Cell("", composed(*SMALL, *settings), ())) for name, settings in {"": [], "i": taken}.items()
    }
    counts = {
        name: sum(prompts * samples for prompts, samples in record.draws.values()) for name, record in work.items()
    }
    assert counts[""] - counts["i"] == 40 * 4 + 20 * 8 - 20 * 4  # those that the base is judged on are still drawn
    assert [stage.name for stage in work[""].stages] == [stage.name for stage in work["i"].stages]


def test_the_place_of_the_outputs_is_no_part_of_the_run_id():
    cfgs = [composed("generation=imported", "generation.train=a", f"outputs={place}") for place in ("here", "there")]
    assert run_id(cfgs[0]) == run_id(cfgs[1])
    assert run_id(cfgs[0]) != run_id(composed("generation=imported", "generation.train=b"))


def test_two_columns_of_one_file_are_two_pools(tmp_path: Path):
    rows = [{"id": f"q{n}", "a": f"first {n}", "b": f"second {n}", "correct": n % 2} for n in range(4)]
    file = tmp_path / "two.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    at = {"outputs": tmp_path / "outputs", "store": tmp_path / "store"}
    texts = [
        bench.import_pool(file, name=name, columns={"completion": name}, **at).completions("test")["text"].tolist()
        for name in ("a", "b")
    ]
    assert texts == [[row[name] for row in rows] for name in ("a", "b")]


def test_a_finished_run_is_outdated_once_its_import_has_other_completions(
    files: dict[str, Path], run: Run_, tmp_path: Path
):
    ours = run({"train": files["train"]}, "control=none")
    assert state_of(ours.folder).kind == "done"
    shutil.rmtree(tmp_path / "outputs/imported/train")
    assert state_of(ours.folder).kind == "outdated"
    rows = [json.loads(line) | {"completion": "7"} for line in files["train"].read_text().splitlines()]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench.import_pool(other, name="train", outputs=tmp_path / "outputs", store=tmp_path / "store")
    state = state_of(ours.folder)
    assert (state.kind, state.detail) == ("outdated", "generation.train=train has other completions now")
