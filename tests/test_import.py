"""Pools that were drawn elsewhere: every format by its own writer, columns, what can't be read, and the way back."""

import csv
import gzip
import json
import zipfile
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import fixtures_tasks as made
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bench
from bench import estimators, status
from bench.errors import BenchError
from bench.pools import importing, records
from bench.pools.export import export
from bench.records.completions import completions
from bench.records.read import COMPLETIONS, Run, missing_records, read_run
from bench.records.write import seal
from bench.reporting.exhibits.by_n import accuracy_by_n
from bench.reporting.exhibits.imported import imported_sentences
from bench.reporting.groups import grouped
from bench.reporting.methods import methods
from bench.reporting.page.samples import sample_columns
from bench.reporting.sources import from_folders

M, N = 6, 4
RNG = np.random.default_rng(0)
CORRECT = RNG.random((M, N)) < 0.5
CORRECT[0], CORRECT[1] = True, False
REWARD = np.round(CORRECT + RNG.normal(0, 1, (M, N)), 2)
REWARD[2, :2] = REWARD[2, 2]  # a tie
ANSWER = np.where(CORRECT, "7", np.where(RNG.random((M, N)) < 0.5, "8", "9"))
ROWS = [
    {
        "id": f"q{row}",
        "prompt": f"How many coins has Leo, case {row}?",
        "answer": "7",
        "completion": f"He has {ANSWER[row, column]} coins, try {column}.",
        "correct": bool(CORRECT[row, column]),
        "prediction": str(ANSWER[row, column]),
        "reward": float(REWARD[row, column]),
        "tokens": 5 + column,
    }
    for row in range(M)
    for column in range(N)
]
WHOLE = [
    {name: ROWS[row * N][name] for name in ("id", "prompt", "answer")}
    | {
        name: [one[name] for one in ROWS[row * N : row * N + N]]
        for name in ROWS[0]
        if name not in ("id", "prompt", "answer")
    }
    for row in range(M)
]

Import = Callable[..., Run]


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    def run(file: Path, name: str = "mine", **settings: Any) -> Run:
        places = {"outputs": tmp_path / "outputs", "store": tmp_path / "store"}
        return bench.import_pool(file, name=name, **places, **settings)[0]

    return run


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def to_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def packed(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def to_parquet(path: Path, rows: list[Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def to_json(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def data_set(path: Path, rows: list[Any]) -> Path:
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(str(path))
    return path


WRITERS: dict[str, tuple[Callable[[Path, list[Any]], Path], list[Any]]] = {
    "a.jsonl": (lines, ROWS),
    "whole.jsonl": (lines, WHOLE),
    "a.jsonl.gz": (packed, ROWS),
    "a.json": (to_json, WHOLE),
    "a.csv": (to_csv, ROWS),
    "a.parquet": (to_parquet, ROWS),
    "whole.parquet": (to_parquet, WHOLE),
    "folder": (data_set, ROWS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_estimators_own_values(name: str, tmp_path: Path, imported: Import):
    write, rows = WRITERS[name]
    run = imported(write(tmp_path / name, rows))
    assert missing_records(run.folder) == []
    run.verify()
    metrics, sizes = run.metrics, [1, 2, 4]
    best = estimators.best_of_n(REWARD, sizes, gold=CORRECT).mean(axis=0)
    votes = estimators.majority_at_k(ANSWER, CORRECT, sizes).mean(axis=0)
    weighted = estimators.weighted_majority_at_k(ANSWER, REWARD, CORRECT, sizes).mean(axis=0)
    kl, oracle = (estimators.best_of_n_kl(values, sizes).mean(axis=0) for values in (REWARD, CORRECT.astype(float)))
    for at, n in enumerate(sizes):
        assert metrics[f"best_of_{n}/accuracy"] == pytest.approx(best[at])
        assert metrics[f"best_of_{n}/kl"] == pytest.approx(kl[at])
        assert metrics[f"best_of_{n}@correct/kl"] == pytest.approx(oracle[at])
        assert metrics[f"sampler/pass@{n}"] == pytest.approx(estimators.pass_at_k(CORRECT, n).mean())
        assert metrics[f"sampler/majority@{n}"] == pytest.approx(votes[at])
        assert metrics[f"sampler/weighted_majority@{n}"] == pytest.approx(weighted[at])
    assert metrics["scorer/auc"] == pytest.approx(np.nanmean(estimators.within_prompt_auc(REWARD, CORRECT)))
    assert run.prompt_ids == tuple(f"q{row}" for row in range(M))
    table = completions(run, "test")
    assert table["text"].tolist() == [row["completion"] for row in ROWS]
    assert table["length"].tolist() == [row["tokens"] for row in ROWS]


def test_fields_are_named_and_reached_inside_others(tmp_path: Path, imported: Import):
    rows = [
        {
            "idx": number,
            "ys": row["completion"],
            "infos": [{"r": int(c)} for c in row["correct"]],
            "s": [[r] for r in row["reward"]],
        }
        for number, row in enumerate(WHOLE)
    ]
    run = imported(
        lines(tmp_path / "a.jsonl", rows),
        columns={"id": "idx", "completion": "ys", "correct": "infos.r", "reward.rm": "s"},
    )
    assert run.metrics["best_of_4/accuracy"] == pytest.approx(estimators.best_of_n(REWARD, 4, gold=CORRECT).mean())


def test_of_several_rewards_the_first_chooses_and_all_are_measured(tmp_path: Path, imported: Import):
    rows = [row | {"a": row["reward"], "b": -row["reward"]} for row in ROWS]
    run = imported(lines(tmp_path / "a.jsonl", rows), columns={"reward.a": "a", "reward.b": "b"})
    for name, values in (("best_of_4", REWARD), ("best_of_4@b", -REWARD)):
        assert run.metrics[f"{name}/accuracy"] == pytest.approx(estimators.best_of_n(values, 4, gold=CORRECT).mean())
    assert "sampler/weighted_majority@4@b" in run.metrics


def test_log_probabilities_move_the_kl_to_the_policy(tmp_path: Path, imported: Import):
    ratio = RNG.normal(0.3, 0.1, (M, N))
    rows = [
        row | {"logprob": -9.0 + r, "policy_logprob": [-4.0, -5.0]} for row, r in zip(ROWS, ratio.ravel(), strict=True)
    ]
    run = imported(lines(tmp_path / "a.jsonl", rows))
    expected = estimators.best_of_n_kl_from_reference(REWARD, ratio, 2).mean()
    assert run.metrics["best_of_2/kl"] == pytest.approx(expected)
    assert run.metrics["best_of_n/kl_reference"] == "base at temperature 1, top-p 1"


def test_ragged_pools_stop_at_the_samples_that_all_prompts_have(tmp_path: Path, imported: Import, capsys: Any):
    rows = [dict(row) for row in WHOLE]
    for name in ("completion", "correct", "prediction", "reward", "tokens"):
        rows[3][name] = [rows[3][name][0], None, *rows[3][name][2:]]
    run = imported(lines(tmp_path / "a.jsonl", rows))
    assert "n goes to 3" in capsys.readouterr().err
    gold, reward = CORRECT.astype(float), REWARD.copy()
    gold[3, 1] = reward[3, 1] = np.nan
    assert run.metrics["best_of_3/accuracy"] == pytest.approx(estimators.best_of_n(reward, 3, gold=gold).mean())
    on = imported(tmp_path / "a.jsonl", "on", largest_n=np.int64(4), temperature=np.float32(0.5))  # as loops give them
    assert on.metrics["sampler/pass@4"] == pytest.approx(np.nanmean(estimators.pass_at_k(gold, 4)))


def test_pass_at_k_rises_where_largest_n_leaves_out_prompts(tmp_path: Path, imported: Import):
    """Easy prompts have 8 samples, and fewer hard ones 32, on which alone the curve is."""
    rows = [{"id": row, "n": 8 if row < 6 else 32, "c": 7 if row < 6 else 1} for row in range(10)]
    run = imported(lines(tmp_path / "a.jsonl", rows), largest_n=32)
    curve = run.series("sampler", "pass", "accuracy")
    assert [point.value for point in curve.values()] == pytest.approx([n / 32 for n in (1, 2, 4, 8, 16, 32)])
    for n in curve:
        assert np.isfinite(run.per_prompt("sampler", "pass", "accuracy", n)).tolist() == [False] * 6 + [True] * 4
    run.verify()
    assert "(4 of 10 prompts): " in imported_sentences(grouped([run]))[0]


def test_counts_give_pass_at_k_and_the_kl_of_the_oracle(tmp_path: Path, imported: Import):
    rows = [{"id": row, "n": N, "c": int(CORRECT[row].sum())} for row in range(M)]
    run = imported(lines(tmp_path / "a.jsonl", rows))
    assert run.metrics["sampler/pass@2"] == pytest.approx(estimators.pass_at_k(CORRECT, 2).mean())
    assert run.metrics["best_of_2/kl"] == pytest.approx(estimators.best_of_n_kl(CORRECT.astype(float), 2).mean())


def test_a_reward_alone_gives_the_kl_and_no_accuracy(tmp_path: Path, imported: Import):
    rows = [{name: row[name] for name in ("id", "reward")} for row in ROWS]
    run = imported(lines(tmp_path / "a.jsonl", rows))
    assert run.metrics["best_of_4/kl"] == pytest.approx(estimators.best_of_n_kl(REWARD, 4).mean())
    assert not any("accuracy" in name or "pass@" in name for name in run.metrics)


# --- logs of other tools -----------------------------------------------------------------------------------------


def test_samples_that_lm_eval_logged(tmp_path: Path, imported: Import):
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Answers(LM):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [f"#### {'7' if index % 2 else '8'}" for index, _ in enumerate(requests)]

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return [(-1.0, False) for _ in requests]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            return [-1.0 for _ in requests]

    data = lines(tmp_path / "data.jsonl", [{"q": f"case {row}", "a": "7"} for row in range(M)])
    task = {
        "task": "coins",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n"]},
        "filter_list": [
            {
                "name": "strict",
                "filter": [{"function": "regex", "regex_pattern": "#### (\\d+)"}, {"function": "take_first"}],
            },
            {"name": "loose", "filter": [{"function": "take_first"}]},
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    manager = TaskManager(include_defaults=False)
    results = simple_evaluate(Answers(), tasks=[task], task_manager=manager, log_samples=True, bootstrap_iters=0)
    tracker = EvaluationTracker(output_path=str(tmp_path / "logged"))
    tracker.general_config_tracker.model_name_sanitized = "fixed"
    tracker.date_id = "now"
    tracker.save_results_samples("coins", results["samples"]["coins"])
    (log,) = (tmp_path / "logged").rglob("samples_coins_*.jsonl")
    with pytest.raises(BenchError, match="filter, loose, strict: say filter=NAME"):
        imported(log)
    run = imported(log, filter="strict")
    assert run.metrics["sampler/pass@1"] == results["results"]["coins"]["exact_match,strict"] == 0.5
    assert run.metrics["import/rows_left_out"] == 0
    samples = run.rows("samples.parquet")
    assert (samples[0]["prompt"], samples[0]["answer"], samples[0]["completion"]) == ("case 0", "7", "#### 8")
    assert completions(run, "test")["prediction"].tolist()[:2] == ["8", "7"]


@pytest.mark.parametrize("name", ["log.json", "log.eval"])
def test_logs_that_inspect_wrote(name: str, tmp_path: Path, imported: Import):
    logs = pytest.importorskip("inspect_ai.log")
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

    samples = [
        logs.EvalSample(
            id=row["id"],
            epoch=1 + number % N,
            input=row["prompt"],
            target=row["answer"],
            output=ModelOutput.from_content("some/model", row["completion"]),
            scores={
                "match": Score(value="C" if row["correct"] else "I", answer=row["prediction"]),
                "judge": Score(value=row["reward"]),
            },
        )
        for number, row in enumerate(ROWS)
    ]
    spec = {
        "task": "coins",
        "dataset": logs.EvalDataset(),
        "model": "some/model",
        "config": logs.EvalConfig(),
        "created": "2026-01-01T00:00:00+00:00",
    }
    log = logs.EvalLog(eval=logs.EvalSpec(**spec), samples=samples, status="success")
    logs.write_eval_log(log, str(tmp_path / name))
    with pytest.raises(BenchError, match=r"2 scores of each sample, match, judge: say correct=scores\.NAME"):
        imported(tmp_path / name)
    run = imported(tmp_path / name, columns={"correct": "scores.match", "reward.judge": "scores.judge"})
    assert run.metrics["best_of_4/accuracy"] == pytest.approx(estimators.best_of_n(REWARD, 4, gold=CORRECT).mean())
    assert run.metrics["sampler/majority@4"] == pytest.approx(estimators.majority_at_k(ANSWER, CORRECT, 4).mean())
    exported = tmp_path / f"back{Path(name).suffix}"
    export(run.folder, exported)
    read = logs.read_eval_log(str(exported))
    texts = [sample.output.completion for sample in sorted(read.samples, key=lambda one: (one.id, one.epoch))]
    assert texts == [row["completion"] for row in ROWS]


# --- the way back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["back.jsonl", "back.json", "back.eval", "back"])
def test_export_and_import_give_the_same_numbers(name: str, tmp_path: Path, imported: Import):
    run = imported(lines(tmp_path / "a.jsonl", ROWS))
    assert export(run.folder, tmp_path / name) == M * N
    back = imported(tmp_path / name, "back")
    assert dict(back.metrics) == dict(run.metrics)
    assert (
        completions(back, "test").drop(columns=["correct"]).equals(completions(run, "test").drop(columns=["correct"]))
    )
    with pytest.raises(BenchError, match="is there already"):
        export(run.folder, tmp_path / name)


def test_a_run_that_drew_its_pool_is_exported_and_imported(
    finished_run: Callable[..., Any], shared: Any, tmp_path: Path, imported: Import
):
    run = read_run(finished_run().folder)
    export(run.folder, tmp_path / "pool.jsonl")
    back = imported(tmp_path / "pool.jsonl", columns={"reward.verifier": "reward"})
    sizes = [n for n in run.series("base", "best_of_n", "kl") if f"best_of_{n}/kl" in back.metrics]
    assert len(sizes) > 2
    for n in sizes:
        assert back.metrics[f"best_of_{n}/accuracy"] == pytest.approx(run.metrics[f"best_of_{n}/accuracy"])
        assert back.metrics[f"best_of_{n}/kl"] == pytest.approx(run.metrics[f"best_of_{n}/kl"])


# --- what can't be read ------------------------------------------------------------------------------------------

GOOD = [json.dumps(row) for row in ROWS]
BAD_LINES = {
    "truncated": '{"id": "q9", "completion": "a',
    "no object": "[1, 2]",
    "deeply nested": '{"id": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "a wrong type": '{"id": "q9", "completion": 3, "correct": true}',
    "a label that is none": '{"id": "q9", "completion": "a", "correct": 0.5}',
    "a reward that is none": '{"id": "q9", "completion": "a", "correct": true, "reward": "high"}',
    "a huge number": '{"id": "q9", "completion": "a", "correct": true, "reward": 1' + "0" * 400 + "}",
    "infinity": '{"id": "q9", "completion": "a", "correct": true, "reward": Infinity}',
    "neither id nor prompt": '{"completion": "a", "correct": true}',
    "another prompt": '{"id": "q0", "prompt": "Another?", "completion": "a", "correct": true}',
    "half a character": '{"id": "q9", "completion": "\\ud800", "correct": true}',
    "tokens that are none": '{"id": "q9", "completion": "a", "correct": true, "tokens": -3}',
    "a number beyond any square": '{"id": "q9", "completion": "a", "correct": true, "reward": 1e308}',
    "a probability above 1": '{"id": "q9", "completion": "a", "correct": true, "logprob": 3.5}',
    "token ids that are none": '{"id": "q9", "completion": "a", "correct": true, "tokens": [true]}',
    "an id that is NaN": '{"id": NaN, "completion": "a", "correct": true}',
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_rows_that_cant_be_read_are_counted_by_line(what: str, tmp_path: Path, imported: Import, capsys: Any):
    (tmp_path / "a.jsonl").write_text("\n".join([*GOOD[:3], BAD_LINES[what], *GOOD[3:]]) + "\n")
    run = imported(tmp_path / "a.jsonl")
    assert run.metrics["import/rows_left_out"] == 1
    assert run.metrics["best_of_4/accuracy"] == pytest.approx(estimators.best_of_n(REWARD, 4, gold=CORRECT).mean())
    (row,) = run.rows("left_out.parquet")
    assert row["place"] == "line 4"
    assert f"1 of {M * N + 1} rows left out: line 4 {row['reason']}" in capsys.readouterr().err


def test_rewards_that_are_nan_are_counted_and_never_chosen(tmp_path: Path, imported: Import, capsys: Any):
    rows = [row | {"reward": float("nan")} if number == 5 else row for number, row in enumerate(ROWS)]
    run = imported(lines(tmp_path / "a.jsonl", rows))
    assert run.metrics["pool/unscored"] == 1
    assert "missing or NaN in 1 completions" in capsys.readouterr().err


def test_answers_that_are_missing_or_of_two_number_types_vote_once_each(tmp_path: Path, imported: Import):
    nan = float("nan")
    rows = [
        {"id": name, "correct": [True, True, True, False, False, False, False], "prediction": votes}
        for name, votes in (("a", ["7", "7", 7, nan, nan, None, nan]), ("b", [5, 5.0, [5.0], 6, 6, nan, None]))
    ]
    assert imported(lines(tmp_path / "a.jsonl", rows)).metrics["sampler/majority@7"] == 1


@pytest.mark.parametrize("word", ["seed=²", f"seed={'9' * 5000}", f"completion={'x' * 300}", "match=order"])
def test_words_that_are_no_options_are_refused(word: str, tmp_path: Path):
    places = [f"outputs={tmp_path}/outputs", f"store={tmp_path}/store"]
    with pytest.raises(BenchError, match=f"^{word[:20]}.* (not allowed|no row has that field|needs task=NAME)"):
        importing.main([str(lines(tmp_path / "a.jsonl", ROWS)), "name=mine", word, *places])


def zipped(content: Mapping[str, bytes]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, text in content.items():
                file.writestr(name, text)

    return write


def encrypted(path: Path) -> None:
    zipped({"samples/a.json": b"{}"})(path)
    content = bytearray(path.read_bytes())
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # in the file's header, and in the zip's directory
        content[content.index(start) + flags] |= 1
    path.write_bytes(content)


def damaged_lzma(path: Path) -> None:
    text = bytes(np.random.default_rng(0).integers(0, 256, 500, np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("samples/a.json", text)
    content = bytearray(path.read_bytes())
    content[60:400] = b"\xff" * 340
    path.write_bytes(content)


def data_set_in_latin_1(path: Path) -> None:
    path.mkdir()
    (path / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    ids = pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xe9"))
    table = pa.table({"id": ids})
    with pa.OSFile(str(path / "a.arrow"), "wb") as opened, pa.ipc.new_stream(opened, table.schema) as stream:
        stream.write_table(table)


def text_of(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


ALL = "\n".join(GOOD)
GARBAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("a.jsonl", text_of(""), "has no rows"),
    "blank": ("a.jsonl", text_of("\n \n"), "has no rows"),
    "binary": ("a.jsonl", text_of(bytes(range(256)) * 4), "no row that can be read"),
    "UTF-16": ("a.jsonl", text_of(ALL.encode("utf-16")), "no row that can be read"),
    "a text": ("a.jsonl", text_of("Dear all,\nplease find attached"), "line 1 is not JSON"),
    "truncated gzip": ("a.jsonl.gz", text_of(gzip.compress(ALL.encode())[:-20]), "can't be read"),
    "JSON that is no list": ("a.json", text_of("3"), "is a number"),
    "truncated JSON": ("a.json", text_of("[" + GOOD[0]), "is not JSON"),
    "deep JSON": ("a.json", text_of("[" * 100_000), "nested too deeply|is not JSON"),
    "CSV with a header twice": ("a.csv", text_of("id,correct,id\n1,1,1\n"), "field 'id' twice"),
    "CSV in UTF-16": ("a.csv", text_of("id,correct\na,1\n".encode("utf-16")), "not UTF-8"),
    "CSV without rows": ("a.csv", text_of("id,correct\n"), "has no rows"),
    "CSV with a null": ("a.csv", text_of("id,correct\na\0,1\n"), "null character"),
    "CSV with other rows": ("a.csv", text_of("id,correct\na,1,3\nb\n"), "line 2 has 3 cells where the header has 2"),
    "CSV with an open quote": (
        "a.csv",
        text_of('id,correct\na,1\n\nb,"1\nc,0\nd,1\n'),
        "line 4: the row opens a quote",
    ),
    "CSV with an early quote": (
        "a.csv",
        text_of('id,correct\na,"1\nb,0\nc,"1"\n'),
        "line 4 is not CSV: .*the row began at line 2",
    ),
    "no Parquet": ("a.parquet", text_of(ALL), "not a whole Parquet file"),
    "truncated Parquet": (
        "a.parquet",
        lambda path: path.write_bytes(to_parquet(path, ROWS).read_bytes()[:-50]),
        "not a whole",
    ),
    "log-probabilities beyond any sum": (
        "a.jsonl",
        text_of('{"id": 1, "correct": 1, "logprob": -1e99, "policy_logprob": [-1e99, -1e99]}\n'),
        "line 1 logprob is -1e.99, which is beyond",
    ),
    "a data set in Latin-1": ("folder", data_set_in_latin_1, "a.arrow is damaged: 'utf-8' codec"),
    "an encrypted zip": ("a.eval", encrypted, "is encrypted"),
    "a zip with damaged LZMA": ("a.eval", damaged_lzma, "damaged Inspect log"),
    "no zip": ("a.eval", text_of("x" * 100), "no Inspect log"),
    "damaged zip": ("a.eval", text_of(b"PK\3\4" + b"x" * 100), "damaged Inspect log"),
    "a zip of other files": ("a.eval", zipped({"a.txt": b"x"}), "has no samples"),
    "a zip bomb": ("a.eval", zipped({"samples/a.json": b" " * 2**28}), "would unpack to 268,435,456 bytes"),
    "a zip of broken samples": ("a.eval", zipped({"samples/a.json": b"{"}), "damaged Inspect log"),
    "a zip of other samples": ("a.eval", zipped({"samples/a.json": b"{}"}), "without id, epoch, input and target"),
    "unknown columns": ("a.jsonl", text_of('{"x": 1}\n' * 3), "No column is known.*the fields are x"),
    "no labels": (
        "a.jsonl",
        text_of('{"id": "a", "completion": "b"}\n{"id": "b", "completion": "b"}\n'),
        "neither a label",
    ),
    "one prompt": ("a.jsonl", text_of(GOOD[0]), "intervals need 2"),
    "one prompt beside lines that are none": (
        "a.jsonl",
        text_of(f"{GOOD[0]}\nx\n"),
        "Only 1 prompt has .* intervals need 2 .1 of 2 rows left out: line 2 is not JSON",
    ),
    "counts that are none": ("a.jsonl", text_of('{"id": 1, "n": 2, "c": 3}\n'), "0 <= c <= n"),
    "counts beyond any memory": (
        "a.jsonl",
        text_of('{"id": 1, "n": 1e12, "c": 3}\n{"id": 2, "n": 2, "c": 1}\n'),
        "cells",
    ),
    "rewards that are NaN": (
        "a.jsonl",
        text_of('{"id": 1, "reward": NaN, "completion": "a"}\n' * 2),
        "missing in every row",
    ),
    "an id twice": ("a.jsonl", text_of("\n".join(json.dumps(WHOLE[0]) for _ in range(2))), "intervals need 2"),
    "no known suffix": ("a.txt", text_of(ALL), "no known format"),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_refused_in_one_sentence_and_leaves_nothing(what: str, tmp_path: Path, imported: Import):
    name, write, sentence = GARBAGE[what]
    write(tmp_path / name)
    with pytest.raises(BenchError, match=sentence) as refused:
        imported(tmp_path / name)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
    assert not list((tmp_path / "outputs").rglob("*")) or not list((tmp_path / "outputs" / "imported").iterdir())


def test_decimals_of_parquet_are_numbers(tmp_path: Path, imported: Import):
    rows = [{"id": str(n), "correct": n, "reward": Decimal(n) / 2} for n in (0, 1)]
    run = imported(to_parquet(tmp_path / "a.parquet", rows))
    assert [row["reward"] for row in run.rows(COMPLETIONS)] == [0, 0.5]


@pytest.mark.parametrize("how", ["BOM", "CRLF", "gzip without its name"])
def test_texts_of_other_systems_are_read(how: str, tmp_path: Path, imported: Import):
    content = {
        "BOM": b"\xef\xbb\xbf" + ALL.encode(),
        "CRLF": ALL.replace("\n", "\r\n").encode(),
        "gzip without its name": gzip.compress(ALL.encode()),
    }[how]
    (tmp_path / "a.jsonl").write_bytes(content)
    assert imported(tmp_path / "a.jsonl").metrics["import/rows_left_out"] == 0


@pytest.mark.parametrize("name", ["report", "0123456789", "../up", ""])
def test_names_that_would_hide_or_leave_the_folder_are_refused(name: str, tmp_path: Path, imported: Import):
    with pytest.raises(BenchError, match="name="):
        imported(lines(tmp_path / "a.jsonl", ROWS), name)


def test_a_column_that_no_row_has_is_named_beside_those_that_are_there(tmp_path: Path, imported: Import):
    with pytest.raises(BenchError, match="correct=is_right: no row has that field; the fields are id, prompt"):
        imported(lines(tmp_path / "a.jsonl", ROWS), columns={"correct": "is_right"})
    with pytest.raises(BenchError, match="corect=correct is neither a column nor an option"):
        imported(tmp_path / "a.jsonl", columns={"corect": "correct"})


def test_the_same_import_is_found_done_and_another_is_refused(tmp_path: Path, imported: Import, capsys: Any):
    file = lines(tmp_path / "a.jsonl", ROWS)
    first = imported(file)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    imported(file)
    assert "has this import already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before
    with pytest.raises(BenchError, match="holds another import"):
        imported(lines(file, ROWS[:-N]))
    with pytest.raises(BenchError, match="holds another import"):
        imported(lines(file, ROWS), seed=1)
    (first.folder / "metrics.json").write_text("{}")
    assert imported(file).metrics["test/prompts"] == M  # a damaged one is made anew
    seal(first.folder)


# --- judged again ------------------------------------------------------------------------------------------------


@pytest.fixture
def task(tmp_path: Path) -> tuple[str, ...]:
    rows = [{"question": f"How many coins has Leo, case {row}?", "answer": "So many. #### 7"} for row in range(M)]
    data = lines(tmp_path / "gsm8k.jsonl", rows)
    return ("task=gsm8k", f"task.path={data}", "task.near_duplicate=null", "task.test_share=0.5")


@pytest.mark.parametrize("columns", [("prompt",), ("id", "answer"), ("prompt", "correct")], ids=" ".join)
def test_a_task_judges_by_its_answers_or_those_of_the_file(
    columns: tuple[str, ...], task: tuple[str, ...], tmp_path: Path, imported: Import
):
    rows = [
        {name: row[name] for name in columns} | {"completion": f"Hence {answer}. #### {answer}"}
        for row, answer in zip(ROWS, ANSWER.ravel(), strict=True)
    ]
    labelled = "correct" in columns
    run = imported(
        lines(tmp_path / "a.jsonl", [row | {"correct": True} if labelled else row for row in rows]), task=task
    )
    judged = "judged_pass" if labelled else "pass"
    assert run.metrics[f"sampler/{judged}@2"] == pytest.approx(estimators.pass_at_k(CORRECT, 2).mean())
    if labelled:  # labels that came along are used as they are
        assert run.metrics["sampler/pass@2"] == pytest.approx(1)
        assert run.metrics["import/judged_agreement"] == pytest.approx(CORRECT.mean())
    else:
        votes = estimators.majority_at_k(ANSWER, CORRECT, 4).mean()
        assert run.metrics["sampler/majority@4"] == pytest.approx(votes)


def test_prompts_that_the_task_lacks_are_counted(task: tuple[str, ...], tmp_path: Path, imported: Import):
    stranger = {"prompt": "Who are you?", "completion": "#### 7"}
    file = lines(tmp_path / "a.jsonl", [{"prompt": row["prompt"], "completion": "#### 7"} for row in ROWS] + [stranger])
    run = imported(file, task=task)
    assert (run.metrics["test/prompts"], run.metrics["import/rows_left_out"]) == (M, 1)
    with pytest.raises(BenchError, match="None of the 1 prompts can be judged"):
        imported(lines(file, [stranger]), "other", task=task)


def test_nothing_of_a_report_needs_a_trained_policy(tmp_path: Path, imported: Import):
    from bench.reporting.build import build, check

    run = imported(lines(tmp_path / "a.jsonl", ROWS))
    build([run], tmp_path / "report", title="imported")
    assert check(tmp_path / "report") == []
    assert "pass@4" in (tmp_path / "report" / "verdicts.md").read_text()
    assert "drawn elsewhere" in (tmp_path / "report" / "methods.md").read_text()
    assert records.LABELS == "correct"


def test_prompts_are_matched_by_their_order_where_the_user_says_so(tmp_path: Path, imported: Import):
    problems = [{"question": f"case {row}?", "answer": f"#### {row}"} for row in range(12)]
    data = lines(tmp_path / "gsm8k.jsonl", problems)
    task = ("task=gsm8k", f"task.path={data}", "task.near_duplicate=null", "task.test_share=0.5")
    rows = [{"prompt": f"another text {row}", "samples": [f"#### {row}", "#### 99"]} for row in range(12)]
    file, columns = lines(tmp_path / "a.jsonl", rows), {"completion": "samples"}
    assert imported(file, columns=columns, task=task, match="order").metrics["sampler/pass@1"] == pytest.approx(0.5)
    with pytest.raises(BenchError, match="the file has 11 prompts and gsm8k has 12"):
        imported(lines(file, rows[1:]), "other", columns=columns, task=task, match="order")


def test_an_order_that_the_texts_contradict_is_refused(tmp_path: Path, imported: Import):
    """By the function that is to be written, by the words, and where a text is that of another prompt."""
    problems = made.humaneval(12)
    task = ("task=humaneval", f"task.path={lines(tmp_path / 'programs.jsonl', problems)}", "task.near_duplicate=null")
    rows = [{"prompt": problem["prompt"], "samples": ["    pass\n"]} for problem in problems]
    rows[3], rows[7] = rows[7], rows[3]
    file, columns = lines(tmp_path / "a.jsonl", rows), {"completion": "samples"}
    with pytest.raises(BenchError, match=r"2 of 12 prompts are not .*'work_8' where Made/4 is 'work_4'.*match=prompts"):
        imported(file, columns=columns, task=task, match="order")
    coins = [{"question": f"Leo has {row} coins. How many has he?", "answer": f"#### {row}"} for row in range(12)]
    coins[5]["question"] = "A train runs 5 miles an hour. Where is it after one?"
    task = ("task=gsm8k", f"task.path={lines(tmp_path / 'coins.jsonl', coins)}", "task.near_duplicate=null")
    rows = [{"prompt": f"Q: {coin['question']}\nA:", "samples": ["#### 1"]} for coin in coins]
    imported(lines(file, rows), "right", columns=columns, task=task, match="order")
    with pytest.raises(BenchError, match=r"2 of 12 prompts are not those of gsm8k at their places"):
        imported(lines(file, [*rows[1:6], rows[0], *rows[6:]]), columns=columns, task=task, match="order")
    rows = [{"prompt": coin["question"], "samples": ["#### 1"]} for coin in (coins[1], coins[0], *coins[2:])]
    with pytest.raises(BenchError, match=r"2 of 12 prompts .* e.g. 'Leo has 1 coins"):
        imported(lines(file, rows), columns=columns, task=task, match="order")


def test_programs_are_found_by_the_function_that_their_prompt_defines_last(
    tmp_path: Path, imported: Import, capsys: pytest.CaptureFixture[str]
):
    """Without its examples a prompt has another text; of two prompts with one function, the nearer one counts."""
    problems = made.humaneval(8)
    double = problems[3] | {
        "task_id": "Made/double",
        "prompt": problems[3]["prompt"].replace("Add 4", "Put 9 more to it, not 4,"),
    }
    task = (
        "task=humaneval",
        f"task.path={lines(tmp_path / 'd.jsonl', [*problems, double])}",
        "task.near_duplicate=null",
    )
    rows = [
        {"prompt": problem["prompt"].partition("    >>>")[0] + ' """' * (">>>" in problem["prompt"])}
        | {"samples": [problem["canonical_solution"], "    return\n"]}
        for problem in problems[::-1]
    ]
    unrelated = {"prompt": "def work_5(of, an, other, book):\n    'Sort all names, and count what is there.'"}
    rows[3] = {**rows[3], **unrelated}
    run = imported(lines(tmp_path / "a.jsonl", rows), columns={"completion": "samples"}, task=task)
    assert "(4 by text, 3 by function name)" in capsys.readouterr().err
    assert (run.metrics["sampler/pass@1"], run.metrics["test/prompts"]) == (0.5, 7)
    assert run.metrics["import/rows_left_out"] == 1


BARE = [{name: row[name] for name in ("id", "prompt", "completion", "correct", "reward")} for row in ROWS]


@pytest.mark.parametrize("name", ["back.jsonl", "back.eval", "back"])
def test_tokens_and_finish_reasons_that_a_file_lacks_are_missing_everywhere(
    name: str, tmp_path: Path, imported: Import
):
    run = imported(lines(tmp_path / "bare.jsonl", BARE))
    table = completions(run, "test")
    assert table["length"].isna().all()
    assert set(table["finish_reason"]) == {"unknown"}
    assert {(row["length"], row["finish_reason"]) for row in run.rows("samples.parquet")} == {(None, "unknown")}
    undefined = ("pool/mean_length", "pool/truncated", "scorer/length_correlation")
    assert [run.metrics[metric] for metric in undefined] == [None] * 3
    assert not [name for use in run.lineage for name in use["counts"] if "tokens" in name]  # no cost is claimed
    assert not [metric for metric in run.metrics if metric.startswith("cost/")]
    export(run.folder, tmp_path / name)
    if name == "back.jsonl":
        written = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert not {"tokens", "finish_reason"} & {key for row in written for key in row}
    again = completions(imported(tmp_path / name, "again"), "test")
    assert again["length"].isna().all()
    assert set(again["finish_reason"]) == {"unknown"}
    page = sample_columns([run])
    assert set(page["length"]) == {None}


def test_tokens_and_finish_reasons_that_some_rows_have_stay(tmp_path: Path, imported: Import):
    rows = [dict(row) for row in BARE]
    rows[1] |= {"tokens": 7, "finish_reason": "max_tokens"}
    rows[2] |= {"finish_reason": "content_filter"}
    rows[3] |= {"tokens": 3, "finish_reason": "stop"}
    run = imported(lines(tmp_path / "some.jsonl", rows))
    table = completions(run, "test")
    assert table["length"][1] == 7
    assert table["length"].notna().sum() == 2
    assert table["finish_reason"][:4].tolist() == ["unknown", "length", "unknown", "stop"]
    assert run.metrics["pool/mean_length"] == 5
    assert run.metrics["pool/truncated"] == 1
    export(run.folder, tmp_path / "folder")  # a column that the first row lacks is not lost
    again = completions(imported(tmp_path / "folder", "again"), "test")
    assert again["length"].equals(table["length"])
    assert again["finish_reason"].tolist() == table["finish_reason"].tolist()


def test_status_and_figures_know_imports(tmp_path: Path, imported: Import, capsys: pytest.CaptureFixture[str]):
    run = imported(lines(tmp_path / "a.jsonl", ROWS))
    (run.folder.parent / "report_mine").mkdir()
    print(status.of_folders(sorted(run.folder.parent.iterdir())))
    assert capsys.readouterr().out == "mine: done\n1 run: 1 done\n"
    drawn = accuracy_by_n(grouped([run]))
    curves = {row["name"]: row["accuracy"] for row in drawn.rows if row["n"] == N}
    assert curves == {
        "Best-of-n by reward": pytest.approx(estimators.best_of_n(REWARD, N, gold=CORRECT).mean()),
        "pass@n": pytest.approx(estimators.pass_at_k(CORRECT, N).mean()),
        "pass^n": pytest.approx(CORRECT.all(axis=1).mean()),
        "majority": pytest.approx(estimators.majority_at_k(ANSWER, CORRECT, N).mean()),
        "majority weighted by reward": pytest.approx(
            estimators.weighted_majority_at_k(ANSWER, REWARD, CORRECT, N).mean()
        ),
    }
    other = imported(lines(tmp_path / "b.jsonl", BARE), "other")
    assert [from_folders([one.folder]).folder.name for one in (run, other)] == ["report_mine", "report_other"]
    assert from_folders([run.folder, other.folder]).folder.name == "report"


def test_the_sampler_of_an_import_is_recorded(tmp_path: Path, imported: Import):
    run = imported(lines(tmp_path / "a.jsonl", ROWS), temperature=0.7, top_p=0.95)
    assert run.metrics["best_of_n/kl_reference"].endswith("that drew the pool at temperature 0.7 and top-p 0.95")
    assert "were drawn elsewhere (at temperature 0.7 and top-p 0.95) and imported" in methods([run]).replace("\n", " ")
    with pytest.raises(BenchError, match="temperature=warm is not allowed"):
        importing.main([str(tmp_path / "a.jsonl"), "name=warm", "temperature=warm"])
    with pytest.raises(BenchError, match=r"top_p=2.* is not allowed"):
        importing.main([str(tmp_path / "a.jsonl"), "name=much", "top_p=2"])


def problems(path: Path, answers: list[Any]) -> tuple[str, ...]:
    """The settings of gsm8k with these answers to `case 0?`, `case 1?` and so on."""
    rows = [{"question": f"case {row}?", "answer": f"#### {answer}"} for row, answer in enumerate(answers)]
    return ("task=gsm8k", f"task.path={lines(path, rows)}", "task.near_duplicate=null", "task.test_share=0.5")


FORMS = ["1,234", 1234.0, "1234.0", "$1234", "−1234", "2 * 617 = 1234 eggs. #### 1234", "Of 2, the answer is 1234."]


@pytest.mark.parametrize("answer", FORMS)
def test_an_answer_of_the_file_is_read_as_that_of_a_completion(answer: Any, tmp_path: Path, imported: Import):
    said = "-1234" if answer == "−1234" else "1234"
    rows = [{"id": row, "answer": answer, "completion": [f"#### {said}", "#### 7"]} for row in range(3)]
    run = imported(lines(tmp_path / "a.jsonl", rows), task=problems(tmp_path / "gsm8k.jsonl", [1] * 12))
    assert run.metrics["sampler/pass@1"] == 0.5
    if isinstance(answer, float):
        text = ("task=jsonl", f"task.path={lines(tmp_path / 'b.jsonl', [{'prompt': 'a', 'answer': 'b'}])}")
        rows = [row | {"completion": ["1234", "7"]} for row in rows]
        assert imported(lines(tmp_path / "a.jsonl", rows), "text", task=text).metrics["sampler/pass@1"] == 0.5


def test_empty_answers_are_none(tmp_path: Path, imported: Import, capsys: pytest.CaptureFixture[str]):
    task = problems(tmp_path / "gsm8k.jsonl", [7] * 12)
    rows = [{"prompt": f"case {row}?", "answer": "", "completion": ["#### 7", "#### 8"]} for row in range(3)]
    run = imported(lines(tmp_path / "a.jsonl", rows), task=task)
    assert (run.metrics["sampler/pass@1"], run.metrics["import/rows_left_out"]) == (0.5, 0)
    rows = [row | {"answer": answer} for row, answer in zip(rows, ("7", 7, "many"), strict=True)]
    run = imported(lines(tmp_path / "a.jsonl", rows), "some", task=task)
    assert (run.metrics["sampler/pass@1"], run.metrics["import/rows_left_out"]) == (0.5, 1)
    assert "prompt '00002' has no answer" in capsys.readouterr().err


def test_answers_of_programs_are_never_compared_as_texts(tmp_path: Path, imported: Import):
    """lm-eval logs a target for every task; for programs it may be the solution."""
    made_ones = made.humaneval(6)
    task = ("task=humaneval", f"task.path={lines(tmp_path / 'programs.jsonl', made_ones)}", "task.near_duplicate=null")
    rows = [
        {"prompt": one["prompt"], "answer": one["canonical_solution"], "completion": [one["canonical_solution"], "x"]}
        for one in made_ones
    ]
    file = lines(tmp_path / "a.jsonl", rows)
    assert imported(file, task=task).metrics["sampler/pass@1"] == 0.5
    with pytest.raises(BenchError, match=r"match=answers is not allowed with task=humaneval.*prompts or order\.$"):
        imported(file, "other", task=task, match="answers")


def test_answers_of_ifeval_are_never_compared_as_texts(tmp_path: Path, imported: Import):
    made_ones = made.ifeval(6)
    task = ("task=ifeval", f"task.path={lines(tmp_path / 'ifeval.jsonl', made_ones)}", "task.near_duplicate=null")
    rows = [{"prompt": one["prompt"], "answer": 0, "completion": ["It is 7. Done.", "It, no."]} for one in made_ones]
    assert imported(lines(tmp_path / "a.jsonl", rows), task=task).metrics["sampler/pass@1"] == 0.5
    with pytest.raises(BenchError, match="match=answers is not allowed with task=ifeval"):
        imported(tmp_path / "a.jsonl", "other", task=task, match="answers")


@pytest.mark.parametrize(
    ("task", "setting"), [("jsonl", "path"), ("reasoning_gym", "generator"), ("ultrafeedback", "gold_model")]
)
def test_a_task_that_lacks_a_setting_names_it(task: str, setting: str, tmp_path: Path, imported: Import):
    with pytest.raises(BenchError, match=rf"^task\.{setting} has no value; give one: task\.{setting}=VALUE\.$"):
        imported(lines(tmp_path / "a.jsonl", ROWS), task=task)


def test_a_task_whose_data_is_not_there_says_so(tmp_path: Path, imported: Import):
    with pytest.raises(BenchError, match=r"task\.path=/nowhere does not exist"):
        imported(lines(tmp_path / "a.jsonl", ROWS), task=("task=gsm8k", "task.path=/nowhere"), match="prompts")


def test_an_id_whose_text_is_that_of_another_prompt_is_passed_over(
    tmp_path: Path, imported: Import, capsys: pytest.CaptureFixture[str]
):
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    asked = [f"Question {word} asks for the value of {word} plus {row}" for row, word in enumerate(words)]
    rows = [{"idx": row, "prompt": text, "answer": str(100 + row)} for row, text in enumerate(asked)]
    task = ("task=jsonl", f"task.path={lines(tmp_path / 'b.jsonl', rows)}", "task.id_field=idx")
    task = (*task, "task.near_duplicate=null")
    rows = [{"id": 5 - row, "prompt": text, "completion": [f"{100 + row}", "x"]} for row, text in enumerate(asked)]
    assert imported(lines(tmp_path / "a.jsonl", rows), task=task).metrics["sampler/pass@1"] == 0.5
    assert "(6 by text)" in capsys.readouterr().err
    rows = [{"id": row, "prompt": f"Q: {text}", "completion": [f"{100 + row}", "x"]} for row, text in enumerate(asked)]
    assert imported(lines(tmp_path / "a.jsonl", rows), "same", task=task).metrics["sampler/pass@1"] == 0.5
    assert "(6 by id)" in capsys.readouterr().err
    rows[0]["prompt"] = "Who wrote the book about a whale?"
    run = imported(lines(tmp_path / "a.jsonl", rows), "strange", task=task)
    assert (run.metrics["test/prompts"], run.metrics["import/rows_left_out"]) == (5, 1)


def test_prompts_that_differ_in_signs_alone_keep_their_answers(tmp_path: Path, imported: Import):
    asked = {
        "Compute 5! + 2 please": "122",
        "Compute 5 + 2 please": "7",
        "Compute f'(3) now": "6",
        "Compute f(3) now": "9",
    }
    rows = [{"prompt": text, "answer": answer} for text, answer in {**asked, "Another one": "1"}.items()]
    task = ("task=jsonl", f"task.path={lines(tmp_path / 'b.jsonl', rows)}", "task.near_duplicate=null")
    rows = [{"prompt": text, "completion": [answer, "x"]} for text, answer in asked.items()]
    assert imported(lines(tmp_path / "a.jsonl", rows), task=task).metrics["sampler/pass@1"] == 0.5
    rows += [
        {"prompt": "Another one.", "completion": ["1", "x"]},
        {"prompt": "Compute 5 + 2, please!", "completion": ["7"]},
    ]
    run = imported(lines(tmp_path / "a.jsonl", rows), "more", task=task)
    assert (run.metrics["test/prompts"], run.metrics["import/rows_left_out"]) == (5, 1)  # either of two is a guess


# --- rows that are less, more or elsewhere than they look ----------------------------------------------------------


def test_the_caches_beside_a_data_set_are_none_of_its_rows(tmp_path: Path, imported: Import):
    from datasets import load_from_disk

    folder = data_set(tmp_path / "folder", ROWS)
    first = imported(folder)
    load_from_disk(str(folder)).map(lambda row: {"long": len(row["completion"])})
    load_from_disk(str(folder)).filter(lambda row: row["correct"])
    assert len(list(folder.glob("*.arrow"))) > 1
    again = imported(folder)
    assert (again.metrics, again.metrics["pool/completions"]) == (first.metrics, M * N)
    (folder / "state.json").write_text("{}")
    with pytest.raises(BenchError, match=r"its state\.json must name its files"):
        imported(folder, "other")


def test_empty_completions_count_as_wrong_and_missing_ones_are_counted(tmp_path: Path, imported: Import):
    task = problems(tmp_path / "gsm8k.jsonl", [18] * 12)
    rows = [
        {"prompt": f"case {row}?", "completion": text} for row in range(3) for text in ("#### 18", "", "#### 18", None)
    ]
    expected = {"a.csv": (0, 12, 0.5), "a.jsonl": (3, 9, 2 / 3)}  # CSV has no null
    for name, write in (("a.csv", to_csv), ("a.jsonl", lines)):
        run = imported(write(tmp_path / name, rows), name[2:], task=task)
        counts = run.metrics["import/rows_left_out"], run.metrics["pool/completions"], run.metrics["sampler/pass@1"]
        assert counts == pytest.approx(expected[name])
    assert {row["reason"] for row in run.rows("left_out.parquet")} == {"has no completion, label or reward"}


@pytest.mark.parametrize("failed", [0, 5])
def test_samples_that_failed_are_counted_wherever_they_stand(failed: int, tmp_path: Path, imported: Import):
    samples = [
        {"id": number // 2, "epoch": number % 2 + 1, "input": f"q{number // 2}", "target": "18"}
        | {"output": {"choices": [{"stop_reason": "stop"}], "completion": "#### 18"}}
        | {"scores": {"match": {"value": "I" if number % 2 else "C"}}}
        for number in range(6)
    ]
    samples[failed] |= {"output": {"choices": [], "completion": ""}, "scores": None, "error": {"message": "timeout"}}
    (tmp_path / "log.json").write_text(json.dumps({"eval": {}, "samples": samples}))
    run = imported(tmp_path / "log.json")
    assert (run.metrics["import/rows_left_out"], run.metrics["pool/completions"]) == (1, 5)
    assert run.metrics["sampler/pass@1"] == pytest.approx((0.5 + 0.5 + (failed > 0)) / 3)


CHATS: dict[str, Callable[[str], Any]] = {
    "ShareGPT": lambda text: [{"from": "system", "value": "Be brief."}, {"from": "human", "value": text}],
    "a list of one text": lambda text: [text],
    "parts that are texts": lambda text: [{"role": "user", "content": [text]}],
    "parts with a picture": lambda text: [
        {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image", "image": "a.png"}]}
    ],
}


@pytest.mark.parametrize("how", CHATS)
def test_prompts_in_lists_stay_apart(how: str, tmp_path: Path, imported: Import):
    rows = [{"prompt": CHATS[how](f"case {row}?"), "completion": "a", "correct": row % 2} for row in range(4)]
    run = imported(lines(tmp_path / "a.jsonl", rows))
    shown = [row["prompt"] for row in run.rows("prompts.parquet")]
    assert [text.removeprefix("Be brief.\n\n") for text in shown] == [f"case {row}?" for row in range(4)]


@pytest.mark.parametrize("prompt", [[1, 2, 3], ["a", "b"], [{"role": "user"}], [{"content": [3]}]])
def test_lists_that_are_no_chat_are_counted(prompt: list[Any], tmp_path: Path, imported: Import):
    run = imported(lines(tmp_path / "a.jsonl", [*ROWS, ROWS[0] | {"id": "q9", "prompt": prompt}]))
    (row,) = run.rows("left_out.parquet")
    assert row["reason"] == "prompt is a list that is no chat"


def test_whole_rows_without_prompts_have_the_numbers_of_their_places(tmp_path: Path, imported: Import):
    rows = [json.dumps({"correct": [row % 2, 1]}) for row in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(["broken", *rows[1:]]))
    assert imported(tmp_path / "a.jsonl").prompt_ids == ("00001", "00002", "00003")
    files = [tmp_path / name / "a.jsonl" for name in ("x", "y")]
    for file in files:
        file.parent.mkdir()
        file.write_text("\n".join([*rows[:-1], "broken"]))
    run = bench.import_pool(files, name="both", outputs=tmp_path / "outputs", store=tmp_path / "store")[0]
    assert run.prompt_ids == ("00000", "00001", "00002", "00004", "00005", "00006")
    assert [row["place"] for row in run.rows("left_out.parquet")] == [f"{file}, line 4" for file in files]


@pytest.mark.parametrize("about", [{"prompt": "q{}"}, {"id": "q{}"}], ids=["prompt", "id"])
def test_whole_rows_of_one_prompt_are_one(about: dict[str, str], tmp_path: Path, imported: Import):
    rows = [
        {name: text.format(row) for name, text in about.items()} | {"completion": ["a"], "correct": [part == row]}
        for part in range(3)
        for row in range(3)
    ]
    run = imported(lines(tmp_path / "a.jsonl", rows))
    assert (run.metrics["import/rows_left_out"], run.metrics["test/prompts"], run.metrics["pool/completions"]) == (
        0,
        3,
        9,
    )
    assert run.metrics["sampler/pass@1"] == pytest.approx(1 / 3)


def test_counts_of_one_prompt_are_given_once(tmp_path: Path, imported: Import):
    rows = [{"id": row, "n": N, "c": row} for row in (0, 1, 2, 1.0)]  # pandas makes such ids
    run = imported(lines(tmp_path / "a.jsonl", rows))
    assert (run.metrics["import/rows_left_out"], run.metrics["test/prompts"]) == (1, 3)
    assert run.rows("left_out.parquet")[0]["reason"] == "has the id '1' of an earlier row"


def test_two_columns_of_one_reward_are_refused(tmp_path: Path, imported: Import):
    file = lines(tmp_path / "a.jsonl", [row | {"a": 1.0} for row in ROWS])
    with pytest.raises(BenchError, match=r"reward and reward\.reward are one name"):
        imported(file, columns={"reward": "reward", "reward.reward": "a"})


@pytest.mark.parametrize("word", ["tasks=gsm8k", "task_path=foo", "+task=gsm8k"])
def test_words_that_look_like_a_task_are_refused(word: str, tmp_path: Path):
    with pytest.raises(BenchError, match="is neither a column nor an option"):
        importing.main([str(lines(tmp_path / "a.jsonl", ROWS)), "name=mine", f"outputs={tmp_path}", word])
