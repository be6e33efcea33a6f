"""The benchmark of fine-tuning: every way trains on the same loss, and a row says what it takes."""

import csv
from pathlib import Path

import pytest

from bench.artifacts import Policy
from bench.records.environment import read_noted
from bench.speed import sft
from bench.speed.__main__ import main


@pytest.mark.parametrize("median", [None, 6])
def test_all_ways_have_the_same_loss(random_policy: Policy, tmp_path: Path, median):
    examples = sft._examples(random_policy, 6, median)
    ways = sft._ways(random_policy, examples, 6, tmp_path)  # each update reads all six
    losses = {name: way(1, 0)[0] for name, way in ways.items()}
    assert list(losses) == list(sft.WAYS)
    assert losses["packed"] == pytest.approx(losses["padded"], rel=1e-5)
    assert losses["loop"] == pytest.approx(losses["padded"], rel=1e-5)
    if median is None:
        assert losses["published"] == pytest.approx(losses["padded"], rel=0.1)  # a mean of pairs' means, in bfloat16


def test_the_table_and_its_rows_with_their_environment(tmp_path: Path, capsys):
    record = tmp_path / "sft.csv"
    sizes = ["--examples", "4", "--batch", "2", "--updates", "2", "--repeats", "1", "--layers", "1", "--hidden", "32"]
    main(["sft", *sizes, "--ways", "packed", "loop", "--csv", str(record)])
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[2:]] == ["packed", "loop"]
    with record.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["way"] for row in rows] == ["packed", "loop"]
    assert float(rows[0]["first_is_faster_by"]) == 1
    assert list(read_noted(tmp_path)) == ["sft.csv"]
