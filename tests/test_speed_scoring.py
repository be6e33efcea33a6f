"""The table of scoring speed runs at a small size, and compares every way's scores on the way."""

import numpy as np
import pytest

from bench.models.reward_models import RewardModel
from bench.speed.__main__ import main
from bench.speed.scoring import long_tailed, of_prompts

SMALL = ["scoring", "--texts", "24", "--median", "20", "--longest", "60", "--hidden", "32", "--layers", "1"]


def test_the_tables_have_a_line_for_every_way(capsys):
    main([*SMALL, "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "24 texts of" in printed
    assert "6 prompts x 16 completions" in printed
    for way in ("batches of 8", "batches of 2", "batches of 1"):
        assert printed.count(way) == 2
    assert printed.count("1.0x") >= 4  # ours, against which both tables are
    assert "sorted, 2,048 tokens a batch" in printed or "sorted, 16,384" in printed


def test_a_wrong_score_stops_the_table(monkeypatch):
    score = RewardModel.score
    monkeypatch.setattr(RewardModel, "score", lambda *given: (score(*given)[0][::-1].copy(), {}))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        main([*SMALL, "--rounds", "1"])


def test_texts_are_distinct_and_a_pools_repeats_are_of_one_prompt():
    prompts, completions = long_tailed(200, 30, 1.0, 100)
    assert len({message["content"] for (message,) in prompts}) == 200
    lengths = np.array([len(text.split()) for text in completions])
    assert (lengths.min() >= 1, lengths.max() <= 100, 22 < np.median(lengths) < 40) == (True, True, True)
    messages, texts = of_prompts(60, 60, 1.0, 200, repeated=0.34)
    rows = np.array(texts, object).reshape(60, 16)
    assert len({message["content"] for (message,) in messages}) == 60
    assert all(messages[i] is messages[i - i % 16] for i in range(960))
    assert 0.6 < np.mean([len(set(row)) / 16 for row in rows]) < 0.72
    assert len(set(texts)) == sum(len(set(row)) for row in rows)
