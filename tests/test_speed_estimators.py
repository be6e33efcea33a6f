"""The speed table runs at a small size and compares its numbers with the plain ways on the way."""

import subprocess
import sys

import numpy as np
import pytest

from bench.speed import estimators
from bench.speed.__main__ import main


def test_the_table_has_a_line_for_every_estimator(capsys):
    main(["estimators", "--prompts", "40", "--samples", "16", "--resamples", "200", "--long", "2000"])
    printed = capsys.readouterr().out
    for name in ("best_of_n, distinct", "best_of_n, 0/1", "pass_at_k", "bootstrap_interval", "one prompt of 2,000"):
        assert name in printed
    assert "peak memory" in printed
    assert "ratio" in printed


def test_a_wrong_number_stops_the_table(monkeypatch):
    monkeypatch.setattr(estimators, "best_of_n", lambda proxy, gold, n: np.zeros((len(proxy), len(n))))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        main(["estimators", "--prompts", "40", "--samples", "16"])


def test_an_unknown_part_is_one_sentence():
    result = subprocess.run(
        [sys.executable, "-m", "bench.speed", "nothing"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("python -m bench.speed needs one of ")
    assert "estimators" in result.stderr
