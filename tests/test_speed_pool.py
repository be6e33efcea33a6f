"""The pool table runs at a small size, and a completion that comes back changed stops it."""

import numpy as np
import pytest

from bench.artifacts import Completions
from bench.speed import pool
from bench.speed.__main__ import main

SMALL = ["pool", "--prompts", "30", "--completions", "6", "--shard-size", "8"]


def test_the_table_has_a_line_for_every_step(capsys):
    main(SMALL)
    printed = capsys.readouterr().out
    for step in ("write", "score", "top_per_prompt", "distinct_correct", "read back", "in 8 units", "0 changed"):
        assert step in printed
    assert printed.count("GiB") == 10


def test_a_changed_completion_stops_the_table(monkeypatch):
    class Forgetful(pool.MadeUp):
        def sample(self, *args, **settings) -> tuple[Completions, dict[str, float]]:
            drawn, counts = super().sample(*args, **settings)
            drawn.token_ids[0, 0] = np.arange(3, dtype=np.int32)
            return drawn, counts

    monkeypatch.setattr(pool, "MadeUp", Forgetful)
    with pytest.raises(AssertionError, match="came back changed"):
        main(SMALL)
