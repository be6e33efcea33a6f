"""Where a task's rows come from, how they are split, and which near-duplicates are left out."""

import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import fixtures_tasks as made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharing import composed

from bench.config import checks
from bench.errors import BenchError
from bench.sweeps.cells import prompts_in
from bench.tasks.files import UnreadableError
from bench.tasks.gsm8k import Gsm8k
from bench.tasks.humaneval import HumanEval
from bench.tasks.ifeval import IfEval
from bench.tasks.jsonl import Jsonl
from bench.tasks.math500 import Math500
from bench.tasks.mbpp import Mbpp
from bench.tasks.rows import _loaded, from_hub, from_path
from bench.tasks.splits import Example, divided, fraction, near, words
from bench.tasks.ultrafeedback import UltraFeedback

BOTH = {"train": "train", "test": "test"}


def example(name: str, text: str) -> Example:
    return Example(name, text, ({"role": "user", "content": text},), "1")


def jaccard(one: str, other: str) -> float:
    """Of word 8-grams, as sets of tuples."""
    sets = []
    for text in (one, other):
        found = words(text) or ["?"]
        width = min(8, len(found))
        sets.append({tuple(found[start : start + width]) for start in range(len(found) - width + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


TEXTS = st.lists(st.text("abc +,", max_size=40), max_size=8)


@given(TEXTS, TEXTS, st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_near_duplicates_are_those_of_brute_force(texts: list[str], others: list[str], similarity: float) -> None:
    expected = [any(jaccard(text, other) >= similarity - 1e-9 for other in others) for text in texts]
    assert near(texts, others, similarity=similarity).tolist() == expected


def test_near_duplicates_among_long_texts_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    base = [[str(rng.choice(made.THINGS)) for _ in range(40)] for _ in range(30)]
    others = [" ".join(text) for text in base[:15]]
    texts = []
    for text in base:
        changed = list(text)
        for place in rng.choice(40, size=int(rng.integers(0, 6)), replace=False):
            changed[place] = str(rng.integers(100))
        texts.append(" ".join(changed).upper() + "!")
    expected = [any(jaccard(text, other) >= 0.5 for other in others) for text in texts]
    assert near(texts, others, similarity=0.5).tolist() == expected
    assert 3 < sum(expected) < 15
    assert not near(texts, others, similarity=2.0).any()


def test_layout_and_punctuation_do_not_make_a_prompt_another_one_but_numbers_and_signs_do() -> None:
    assert words("What's  2 + 3?") == words("whats 2 + 3") or words("What's  2 + 3?")[-3:] == ["2", "+", "3"]
    assert words("A, b;\n(c)") == words("a b (c).")
    assert near(["Add 2 + 3"], ["add 2 - 3"], similarity=0.5).tolist() == [False]
    assert near(["Add 2.5 and 3"], ["add 25 and 3"], similarity=0.5).tolist() == [False]
    assert near(["ADD  2 and 3!"], ["add 2 and 3"], similarity=1.0).tolist() == [True]


def parted(examples: dict[str, list[Example]], **settings_: Any) -> Any:
    return divided(
        examples, **{"validation_share": 0.25, "test_share": 0.25, "seed": 0, "near_duplicate": 2.0} | settings_
    )


def test_splits_that_the_data_lacks_are_taken_by_the_hash_of_each_prompt() -> None:
    members = [example(f"r{i}", f"prompt number {i}") for i in range(400)]
    found = parted({"all": members}).prompts
    for split, prompts in found.items():
        for name, messages in zip(prompts.id, prompts.messages, strict=True):
            place = fraction(messages[0]["content"], 0, "split")
            assert split == ("test" if place < 0.25 else "validation" if place < 0.5 else "train"), name
    assert sum(map(len, found.values())) == 400
    assert 70 < len(found["test"]) < 130
    assert 70 < len(found["validation"]) < 130
    fewer = parted({"all": members[:100]}).prompts
    assert all(set(fewer[split].id) <= set(found[split].id) for split in found)  # no prompt's split depends on others
    assert set(parted({"all": members}, seed=1).prompts["test"].id) != set(found["test"].id)


PROMPTS = st.lists(st.text("ab c+1.,A!\n", max_size=24), max_size=25)  # often equal but for layout, sometimes empty
SHARES = st.tuples(st.sampled_from([0.0, 0.2, 0.45]), st.sampled_from([0.0, 0.2, 0.45]))
SIMILARITY = st.sampled_from([0.3, 0.5, 1.0, 2.0])


def named(texts: list[str], prefix: str = "r") -> list[Example]:
    """Ids that belong to the text, and not to its place; the same text twice gets two."""
    return [example(f"{prefix}{text!r}{texts[:i].count(text)}", text) for i, text in enumerate(texts)]


def members(found: Any) -> dict[str, list[str]]:
    return {split: sorted(prompts.id) for split, prompts in found.prompts.items()}


@given(PROMPTS, SHARES, SIMILARITY, st.integers(0, 3), st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_the_order_of_rows(
    texts: list[str], shares: tuple[float, float], similarity: float, seed: int, shuffling: Any
) -> None:
    asked = {"validation_share": shares[0], "test_share": shares[1], "near_duplicate": similarity, "seed": seed}
    rows = named(texts)
    shuffled = shuffling.sample(rows, len(rows))
    found, again = parted({"all": rows}, **asked), parted({"all": shuffled}, **asked)
    assert {split: prompts.id.tolist() for split, prompts in found.prompts.items()} == {
        split: prompts.id.tolist() for split, prompts in again.prompts.items()
    }
    assert found.near_duplicates == again.near_duplicates


@given(PROMPTS, PROMPTS, SHARES, SIMILARITY)
def test_rows_that_are_added_move_no_other_row_from_one_split_to_another(
    texts: list[str], more: list[str], shares: tuple[float, float], similarity: float
) -> None:
    asked = {"validation_share": shares[0], "test_share": shares[1], "near_duplicate": similarity}
    few, many = (members(parted({"all": named(rows)}, **asked)) for rows in (texts, texts + more))
    place = {name: split for split, names in many.items() for name in names}
    for split, names in few.items():  # a new test prompt may put out a training prompt that is near it
        assert {place.get(name, split) for name in names} <= {split}
    assert set(few["test"]) <= set(many["test"])


@given(PROMPTS, PROMPTS, PROMPTS, SHARES, SIMILARITY, st.booleans())
def test_no_prompt_is_in_two_splits_and_all_are_counted(
    train: list[str],
    test: list[str],
    validation: list[str],
    shares: tuple[float, float],
    similarity: float,
    whole: bool,
) -> None:
    asked = {"validation_share": shares[0], "test_share": shares[1], "near_duplicate": similarity}
    rows = {"train": named(train), "test": named(test, "t"), "validation": named(validation, "v")}
    if whole:
        rows = {"all": rows["train"]}
    found = parted(rows, **asked)
    texts = {
        split: {tuple(words(messages[0]["content"])) for messages in prompts.messages}
        for split, prompts in found.prompts.items()
    }
    if whole or similarity <= 1:  # null keeps prompts that the data itself has in two splits
        assert sum(map(len, texts.values())) == len(set().union(*texts.values()))
    held = sum(map(len, found.prompts.values()))
    assert held + sum(found.near_duplicates.values()) == sum(map(len, rows.values()))
    assert found.near_duplicates["test"] == 0
    if not whole:
        assert set(found.prompts["test"].id) == {one.id for one in rows["test"]}


def test_given_splits_stay_and_only_missing_ones_are_taken() -> None:
    train, test = ([example(f"{split}{i}", f"{split} prompt {i}") for i in range(50)] for split in BOTH)
    found = parted({"train": train, "test": test}).prompts
    assert set(found["test"].id) == {one.id for one in test}
    assert {*found["train"].id, *found["validation"].id} == {one.id for one in train}
    assert len(found["validation"]) > 3
    assert len(parted({"train": train, "test": test}, validation_share=0.0).prompts["validation"]) == 0


def test_test_prompts_win_and_what_is_left_out_is_counted() -> None:
    texts = {name: " ".join(f"{name}{i}" for i in range(20)) for name in "abcde"}
    given_ = {
        "test": [example("t1", texts["a"])],
        "validation": [example("v1", texts["a"] + " once more"), example("v2", texts["b"])],
        "train": [example(f"x{name}", text.upper()) for name, text in texts.items()],
    }
    found = parted(given_, near_duplicate=0.5)
    assert found.near_duplicates == {"test": 0, "validation": 1, "train": 2}
    assert set(found.prompts["train"].id) == {"xc", "xd", "xe"}
    assert found.prompts["validation"].id.tolist() == ["v2"]


def test_rows_that_share_an_id_are_refused() -> None:
    with pytest.raises(BenchError, match="'same' stands for several"):
        parted({"train": [example("same", "one"), example("same", "two")], "test": [], "validation": []})


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = made.gsm8k(5)
    made.write(tmp_path / "jsonl", train=rows)
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "train.json").write_text(json.dumps(rows))
    (tmp_path / "hub" / "main").mkdir(parents=True)
    (tmp_path / "hub" / "socratic").mkdir()
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.slice(0, 3), tmp_path / "hub" / "main" / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(3), tmp_path / "hub" / "main" / "train-00001-of-00002.parquet")
    pq.write_table(table, tmp_path / "hub" / "socratic" / "train-00000-of-00001.parquet")
    (tmp_path / "csv").mkdir()
    quoted = "".join(f'"{row["question"]}","{row["answer"]}"\n' for row in rows)
    (tmp_path / "csv" / "train.csv").write_text("question,answer\n" + quoted)
    for kind in ("jsonl", "json", "hub", "csv"):
        assert from_path(str(tmp_path / kind), splits=BOTH, folder="main") == {"train": rows}, kind
    assert from_path(str(tmp_path / "jsonl" / "train.jsonl"), splits=BOTH) == {"all": rows}


UTF_16 = '{"prompt": "1 + 1?", "answer": "2"}\n'
PARQUET = (b"PAR1", b"PAR1" + b"x" * 40 + b"PAR1", b"no Parquet at all")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.jsonl", '{"a": 1}\n{"a": \n', r"train\.jsonl, line 2 is not JSON"),
        ("train.jsonl", "[1]\n", r"line 1 must be a JSON object, and is a list"),
        ("train.jsonl", '{"a": 1}\n{"a": 1, "a": 2}', r"train\.jsonl, line 2 has the field 'a' twice"),
        ("train.jsonl", '{"a": 1}\n' + "[" * 100_000, r"train\.jsonl, line 2 is nested too deeply"),
        ("train.jsonl", '{"a": ' + '{"a": [' * 60_000, r"train\.jsonl, line 1 is nested too deeply"),
        ("train.jsonl", '{"a": ' + "1" * 5_000 + "}", r"train\.jsonl, line 1 is not JSON: Exceeds the limit"),
        ("train.jsonl", "", r"train\.jsonl has no rows"),
        ("train.jsonl", "\n \n", r"train\.jsonl has no rows"),
        ("train.jsonl", UTF_16.encode("utf-16"), r"train\.jsonl, line 1 is not UTF-8"),
        ("train.jsonl", UTF_16.encode("utf-16-le"), r"train\.jsonl, line 1 has a null character"),
        ("train.jsonl", UTF_16.encode("utf-32"), r"train\.jsonl, line 1 is not UTF-8"),
        ("train.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}', r"train\.jsonl, line 2 is not UTF-8"),
        ("train.json", '{"a": 1}', r"must be a JSON list of objects"),
        ("train.json", '[{"a": 1}, "b"]', r"train\.json must be a JSON list of objects, and its row 2 is a str"),
        ("train.json", "[", r"train\.json is not JSON"),
        ("train.json", "[" * 100_000, r"train\.json is nested too deeply"),
        ("train.json", "[]", r"train\.json has no rows"),
        ("train.csv", "", r"train\.csv has no rows"),
        ("train.csv", "prompt,answer\n", r"train\.csv has no rows"),
        ("train.csv", "prompt,answer,prompt\n1,2,3", r"train\.csv has the field 'prompt' twice"),
        ("train.csv", 'prompt,answer\n"1\n2",2\n3\n', r"row that ends in line 4 has 1 fields, and the header has 2"),
        ("train.csv", "prompt,answer\n1,2,3\n", r"train\.csv: the row that ends in line 2 has 3 fields"),
        ("train.csv", 'prompt,answer\n1,2\n"3,4\n5,6\n', r"train\.csv, line 4 is not CSV: unexpected end of data"),
        ("train.csv", "prompt,answer\ncaf\xe9,1".encode("latin-1"), r"train\.csv, line 2 is not UTF-8"),
        ("train.csv", "prompt,answer\na\0b,1", r"train\.csv, line 2 has a null character"),
        ("train.parquet", b"", r"train\.parquet has no rows"),
        *(("train.parquet", content, r"train\.parquet is not a whole Parquet file: Parquet") for content in PARQUET),
        (
            "train.jsonl.gz",
            gzip.compress(UTF_16.encode(), mtime=0)[:-9],
            r"train\.jsonl\.gz can't be read: Compressed file ended",
        ),
        ("train.csv.gz", b"prompt,answer", r"train\.csv\.gz can't be read: Not a gzipped file"),
        ("train.jsonl", gzip.compress(UTF_16.encode(), mtime=0), r"train\.jsonl, line 1 is not UTF-8"),
        ("other.jsonl", "{}", r"needs files such as train.jsonl or test.jsonl"),
    ],
)
def test_files_that_can_not_be_read_are_refused_in_a_sentence(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for path in (tmp_path, tmp_path / name) if name.startswith("train") else (tmp_path,):
        with pytest.raises(BenchError, match=says) as caught:
            from_path(str(path), splits=BOTH)
        assert "\n" not in str(caught.value)


def test_parquet_files_that_are_damaged_inside_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sound = tmp_path / "train.parquet"
    pq.write_table(pa.table({"a": ["b"] * 100}), sound)
    content = sound.read_bytes()
    not_text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    cases: tuple[Any, ...] = (content[:-20], content[:4] + b"\xff" * 30 + content[34:], pa.table({"a": not_text}))
    for damaged in cases:
        if isinstance(damaged, bytes):
            sound.write_bytes(damaged)
        else:
            pq.write_table(damaged, sound)
        with pytest.raises(BenchError, match=r"train\.parquet is not a whole Parquet file"):
            from_path(str(sound), splits=BOTH)
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), sound)
    with pytest.raises(BenchError, match=r"train\.parquet has the field 'a' twice"):
        from_path(str(sound), splits=BOTH)


def test_folders_and_pipes_in_the_place_of_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(BenchError, match=r"train\.jsonl is no file"):
        from_path(str(tmp_path), splits=BOTH)
    os.mkfifo(tmp_path / "test.jsonl")
    with pytest.raises(BenchError, match=r"test\.jsonl is neither a file nor a folder"):
        from_path(str(tmp_path / "test.jsonl"), splits=BOTH)


SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"  # at which str.splitlines ends a line


@pytest.mark.parametrize("text", ["a" + "b".join(SEPARATORS), "one\r\ntwo\rthree\nfour", 'say ""hi""', "x" * 200_000])
@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz", "train.jsonl", "train.json", "train.parquet"])
def test_a_text_is_read_as_it_was_written(tmp_path: Path, name: str, text: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": text, "answer": "1"}, {"prompt": f"{text} again", "answer": "2"}]
    file = tmp_path / name
    before = csv.field_size_limit()
    if ".csv" in name:
        written = io.StringIO(newline="")
        writer = csv.DictWriter(written, ["prompt", "answer"])
        writer.writeheader()
        writer.writerows(rows)
        content = b"\xef\xbb\xbf" + written.getvalue().encode()
        file.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    elif name == "train.parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        content = f"[{','.join(lines)}]" if name == "train.json" else "\r\n".join(lines)
        file.write_bytes(content.encode("utf-8-sig"))
    assert from_path(str(tmp_path), splits=BOTH) == {"train": rows}
    assert csv.field_size_limit() == before


ASKED = {"role": "user", "content": "2 + 2?"}
TURNS = [
    {"role": "system", "content": "Hi."},
    {"role": "user", "content": "1?"},
    {"role": "assistant", "content": "1."},
]


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ([ASKED], [ASKED]),  # as in TRL and verl
        ([*TURNS, ASKED], [*TURNS, ASKED]),
        ([{"from": "human", "value": "2 + 2?"}], [ASKED]),
        (
            [{"from": "system", "value": "Hi."}, {"from": "gpt", "value": "1."}, {"from": "human", "value": "2 + 2?"}],
            None,
        ),
        ({"messages": [ASKED]}, [ASKED]),
        ({"conversations": [{"from": "human", "value": "2 + 2?"}]}, [ASKED]),
        (ASKED, [ASKED]),
        ([ASKED | {"content": [{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 2?"}]}], [ASKED]),
        ([ASKED | {"name": None, "tool_calls": None}], [ASKED]),
        ([{"role": "developer", "content": "Hi."}, ASKED], [TURNS[0], ASKED]),
        (json.dumps([TURNS[0], ASKED]), [TURNS[0], ASKED]),  # in a CSV field
        ("2 + 2?", [ASKED]),
        ("[1, 2] has how many items?", [{"role": "user", "content": "[1, 2] has how many items?"}]),
        ('{"a": 1}', [{"role": "user", "content": '{"a": 1}'}]),
    ],
)
def test_a_prompt_that_is_a_chat_is_read_as_one(tmp_path: Path, prompt: object, messages: list | None) -> None:
    rows = [{"prompt": prompt, "answer": "4"}, {"prompt": "another one", "answer": "4"}]
    found = Jsonl(path=made.write(tmp_path, test=rows), near_duplicate=None).prompts("test")
    (read,) = (chat for chat in found.messages if chat[-1]["content"] != "another one")
    assert [dict(turn) for turn in read] == messages or (
        messages is None and [turn["role"] for turn in read] == ["system", "assistant", "user"]
    )


NO_TEXTS: list[object] = [
    None,
    float("nan"),
    5,
    2.5,
    True,
    "",
    " \n\t",
    "\u200b\ufeff",
    "\u2028\x1c",
    "\ud800 half",
    [],
    {},
]
NO_TEXTS += [
    ["a", "b"],
    {"text": "a"},
    [{"role": "user"}],
    [{"role": "user", "content": None}],
    [{"role": "tool", "content": "a"}],
]
NO_TEXTS += [
    [{"role": "user", "content": " "}],
    [*TURNS],
    [ASKED | {"content": [{"type": "image"}]}],
    [ASKED, None],
    [[]],
]


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
def test_a_prompt_that_is_no_text_is_unreadable_and_counted(tmp_path: Path, value: object) -> None:
    sound = made.preferences(3)
    rows = [{"prompt": row["prompt"], "answer": "1", "chosen": row["chosen"]} for row in sound]
    path = made.write(
        tmp_path, test=[*rows, rows[0] | {"prompt": value}], test_prefs=[*rows, rows[0] | {"prompt": value}]
    )
    for task in (Jsonl(path=path), UltraFeedback(path=path, gold_model="anywhere")):
        assert len(_loaded(task)[0].prompts["test"]) == 3
        assert task.counts()["rows_unreadable"] == 1
    alone = Jsonl(path=made.write(tmp_path / "alone", test=[{"prompt": value, "answer": "1"}]))
    with pytest.raises(
        BenchError, match=r"^None of the 1 rows of jsonl can be read; row test-00000 makes no prompt: it"
    ):
        alone.prompts("test")


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
def test_a_question_of_published_data_that_is_no_text_is_unreadable_and_counted(tmp_path: Path, value: object) -> None:
    tasks: dict[Any, tuple[list, str]] = {
        Gsm8k: (made.gsm8k(3), "question"),
        Math500: (made.math_train(3), "problem"),
        HumanEval: (made.humaneval(3), "prompt"),
        Mbpp: (made.mbpp(3), "text"),
        IfEval: (made.ifeval(3), "prompt"),
    }
    for kind, (rows, field) in tasks.items():
        task = kind(path="anywhere")
        assert task.example(rows[0], "sound") is not None
        with pytest.raises(UnreadableError, match=field):
            task.example(rows[0] | {field: value}, "lost")


@pytest.mark.parametrize("value", [None, float("nan"), "", " ", [], {}, ["Paris"], {"ground_truth": "Paris"}, "\ud800"])
def test_an_answer_that_is_no_text_is_unreadable_and_counted(tmp_path: Path, value: object) -> None:
    rows = [{"prompt": "The capital of France?", "answer": "Paris"}, {"prompt": "And of Italy?", "answer": value}]
    task = Jsonl(path=made.write(tmp_path, test=rows))
    assert len(task.prompts("test")) == 1
    assert task.counts()["rows_unreadable"] == 1


def test_a_missing_place_and_an_unknown_kind_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"task\.path=nowhere does not exist"):
        Gsm8k(path="nowhere").prompts("train")
    (tmp_path / "data.xlsx").write_text("")
    with pytest.raises(BenchError, match=r"data\.xlsx is of a kind"):
        Gsm8k(path=str(tmp_path / "data.xlsx")).prompts("train")


def test_the_hub_is_asked_for_the_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(repo: str, config: str, *, split: str, revision: str) -> list[dict]:
        asked.append((repo, config, split, revision))
        return made.gsm8k(12, seed=1 + (split == "test"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = Gsm8k(seed=11)  # settings of its own: what was read is kept for equal tasks
    assert len(task.prompts("test")) == 12
    revision = "740312add88f781978c0658806c59bc2815b9866"
    assert asked == [("openai/gsm8k", "main", split, revision) for split in ("train", "test")]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"),
            "go online once, or give its files",
        ),
        (FileNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."), "accept its terms on its page and log in"),
        (FileNotFoundError("Dataset 'a/b' doesn't exist on the Hub."), r"doesn't exist on the Hub\. Check task\.repo"),
        (ValueError("Unknown split"), r"Unknown split\. Check task\.repo and task\.revision, or give its files"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(BenchError, match=says) as caught:
        from_hub("a/b", config=None, revision="main", splits=BOTH)
    assert "\n" not in str(caught.value)


def test_without_a_network_the_hub_itself_says_so() -> None:
    with pytest.raises(BenchError, match=r"openai/gsm8k .* hub can't be reached.*task\.path=PATH"):
        Gsm8k(seed=12).prompts("train")  # tests/conftest.py sets HF_HUB_OFFLINE


def test_gsm8k_from_a_folder(tmp_path: Path) -> None:
    train, test = made.gsm8k(30), made.gsm8k(10, seed=1)
    train += [test[0] | {"question": test[0]["question"].upper()}, {"question": "No answer?", "answer": "None."}]
    task = Gsm8k(path=made.write(tmp_path, train=train, test=test), system="Be brief.")
    prompts = {split: task.prompts(split) for split in ("train", "validation", "test")}
    assert len(prompts["test"]) == 10
    assert len(prompts["train"]) + len(prompts["validation"]) == 30
    assert task.counts() == {"near_duplicates_removed": 1, "rows_unreadable": 1}
    one = {row["question"]: row for row in test}
    for messages, answer in zip(prompts["test"].messages, prompts["test"].answer, strict=True):
        assert messages[0] == {"role": "system", "content": "Be brief."}
        question, instruction = messages[1]["content"].split("\n\n")
        assert instruction == task.instruction
        solution = one[question]["answer"]
        assert task.is_correct(solution, answer)
        assert task.steps_are_true(solution)
        assert not task.is_correct(solution + "1", answer)
        assert len((task.path(solution) or "").split("; ")) == 2


def test_more_prompts_than_the_data_has_and_empty_splits_are_refused(tmp_path: Path) -> None:
    folder = made.write(tmp_path, train=made.gsm8k(30), test=made.gsm8k(10, seed=1))
    with pytest.raises(BenchError, match=r"task\.test_prompts=11 is more than .* has: 10 prompts"):
        Gsm8k(path=folder, test_prompts=11).prompts("test")
    with pytest.raises(BenchError, match="The validation split of gsm8k is empty"):
        Gsm8k(path=folder, validation_share=0.0).prompts("validation")


def test_a_row_without_the_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="has no field 'question'; its fields are prompt, answer"):
        Gsm8k(path=made.write(tmp_path, train=[{"prompt": "?", "answer": "#### 1"}])).prompts("train")


def test_own_prompts_under_other_names_say_which_setting_names_them(tmp_path: Path) -> None:
    path = made.write(tmp_path, train=[{"question": "?", "gold": "1"}])
    for named, setting in (({}, "prompt_field"), ({"prompt_field": "question"}, "answer_field")):
        with pytest.raises(BenchError, match=rf"its fields are question, gold: .*task\.{setting}=NAME"):
            Jsonl(path=path, **named).prompts("train")
    with pytest.raises(BenchError, match=r"task\.compare=tests or reward_model"):
        Jsonl(path=path, prompt_field="question").prompts("train")
    with pytest.raises(BenchError, match=r"no field 'tests'; .*: name the right one with task\.tests_field=NAME\."):
        Jsonl(path=path, prompt_field="question", compare="tests").prompts("train")


def test_own_prompts_from_one_file(tmp_path: Path) -> None:
    folder = made.write(tmp_path, prompts=made.prompts(60))
    task = Jsonl(path=f"{folder}/prompts.jsonl", compare="number", id_field="id")
    found = {split: task.prompts(split) for split in ("train", "validation", "test")}
    assert sorted(name for prompts in found.values() for name in prompts.id) == sorted(f"own-{i}" for i in range(60))
    rows = [*made.prompts(60), {"id": "new", "prompt": "What is 1 + 1?", "answer": "2"}]
    made.write(tmp_path, turned=rows[::-1])
    turned = Jsonl(path=f"{folder}/turned.jsonl", compare="number", id_field="id")
    for split, prompts in found.items():
        assert [name for name in turned.prompts(split).id if name != "new"] == prompts.id.tolist()
    assert min(map(len, found.values())) >= 2
    assert task.is_correct("It is #### 1,200", "1200")


def test_own_prompts_with_splits_of_their_own(tmp_path: Path) -> None:
    rows = [row | {"part": ("train", "validation", "test")[i % 3]} for i, row in enumerate(made.prompts(30))]
    folder = made.write(tmp_path, prompts=rows)
    task = Jsonl(path=f"{folder}/prompts.jsonl", split_field="part", id_field="id")
    assert set(task.prompts("test").id) == {row["id"] for row in rows if row["part"] == "test"}
    for seed, part in enumerate(("dev", None), start=1):
        made.write(tmp_path, prompts=[rows[0] | {"part": part}])
        with pytest.raises(BenchError, match=f"part={part}, which is none of train, validation, test"):
            Jsonl(path=f"{folder}/prompts.jsonl", split_field="part", seed=seed).prompts("test")


def test_own_chats_are_kept_as_they_are(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Hi."}, {"role": "user", "content": "2 + 2?"}]
    rows = [{"chat": [*chat[:1], {"role": "user", "content": f"{i} + 2?"}], "gold": i + 2} for i in range(4)]
    task = Jsonl(
        path=made.write(tmp_path, train=rows[:2], test=rows[2:]),
        messages_field="chat",
        answer_field="gold",
        instruction="Not used.",
        validation_share=0.0,
    )
    assert {messages[1]["content"] for messages in task.prompts("test").messages} == {"2 + 2?", "3 + 2?"}
    bad = made.write(tmp_path / "bad", train=[{"chat": [*chat, {"role": "assistant", "content": "4"}], "gold": 4}])
    with pytest.raises(BenchError, match="does not end with the assistant"):
        Jsonl(path=bad, messages_field="chat", answer_field="gold").prompts("train")


@pytest.mark.parametrize(
    ("given_", "completion", "gold", "right"),
    [
        ({"compare": "text"}, " Paris. ", "paris", True),
        ({"compare": "text"}, "Paris, I think", "Paris", False),
        ({"compare": "text"}, "", "Paris", False),
        ({"compare": "text", "answer_regex": r"Answer: (\w+)"}, "Well. Answer: PARIS!", "Paris", True),
        ({"compare": "text", "answer_regex": r"Answer: (\w+)"}, "Paris", "Paris", False),
        ({"compare": "number", "answer_regex": r"<(.*?)>"}, "so <$1,200.0> it is", "1200", True),
        ({"compare": "number", "answer_regex": r"<(.*?)>"}, "so 1200", "1200", False),
        ({"compare": "number"}, "so 1200", "1200", True),
        ({"compare": "text"}, "<think>Rome? No.</think>\n\nParis", "Paris", True),
        ({"compare": "text"}, "<think>Paris", "Paris", False),
        ({"compare": "text", "answer_regex": r"A: (\w+)"}, "<think>A: Paris</think>A: Rome", "Paris", False),
    ],
)
def test_own_answers_are_compared_as_asked(given_: dict, completion: str, gold: str, right: bool) -> None:
    assert Jsonl(path="anywhere", **given_).is_correct(completion, gold) == right


def test_what_decides_own_verdicts_is_part_of_their_key() -> None:
    tasks = [Jsonl(path="x"), Jsonl(path="x", compare="number"), Jsonl(path="x", answer_regex="(a)")]
    assert len({task.judged_by for task in tasks}) == 3
    assert Jsonl(path="x", max_new_tokens=7).judged_by == tasks[0].judged_by


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task=jsonl"], r"task\.path has no value"),
        (["task=jsonl", "task.path=x", "task.compare=vibes"], r"task\.compare=vibes .* number, math, text"),
        (["task=jsonl", "task.path=x", "task.answer_regex='(a'"], "a regular expression with a group"),
        (["task=gsm8k", "task.near_duplicate=0"], r"task\.near_duplicate=0 is not allowed"),
        (["task=gsm8k", "task.path=''"], r"task\.path= is not allowed: it must be the path"),
        (["task=gsm8k", "task.test_prompts=1"], r"task\.test_prompts=1 is not allowed"),
        (["task=gsm8k", "task.validation_share=1"], r"task\.validation_share=1 is not allowed"),
        (["task=gsm8k", "task.repo=gsm8k"], "OWNER/NAME"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(overrides: list[str], says: str) -> None:
    with pytest.raises(BenchError, match=says):
        checks.check(composed(*overrides))


def test_a_plan_counts_all_prompts_where_no_number_is_given(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    folder = made.write(tmp_path, train=made.gsm8k(30), test=made.gsm8k(10, seed=1))
    task: Any = OmegaConf.to_container(composed("task=gsm8k", f"task.path={folder}").task, resolve=True)
    assert prompts_in(task, "test") == 10
    assert prompts_in(task | {"test_prompts": 4}, "test") == 4
    assert prompts_in({"_target_": "anything"}, "test") is None  # of the hub, perhaps


def test_a_policy_that_is_pretrained_on_its_task_says_so_where_there_is_no_corpus() -> None:
    from bench.policies import tiny

    with pytest.raises(BenchError, match="task=gsm8k has none"):
        tiny(Gsm8k(path="anywhere"), seed=0)  # type: ignore[arg-type]


def test_a_system_prompt_that_all_chats_share_makes_no_two_of_them_near_duplicates(tmp_path: Path) -> None:
    system = {"role": "system", "content": " ".join(f"Rule {number}: do this." for number in range(60))}
    rows = [
        {"chat": [system, {"role": "user", "content": f"What is {n} times {n + 7}?"}], "answer": str(n * (n + 7))}
        for n in range(40)
    ]
    task = Jsonl(
        path=made.write(tmp_path, train=rows[:20], test=rows[20:]), messages_field="chat", validation_share=0.2
    )
    assert task.counts() == {"near_duplicates_removed": 0, "rows_unreadable": 0}
    assert len(task.prompts("train")) + len(task.prompts("validation")) == 20
    assert task.prompts("test").messages[0][0] == system
