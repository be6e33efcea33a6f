"""The coverage page: its true values against the exact estimators, one small run, and what its data may claim."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from bench.estimators.kl import exact_best_of_n_kl

FOLDER = Path(__file__).parent.parent / "reports" / "estimators"


@pytest.fixture(scope="module")
def simulate():
    spec = importlib.util.spec_from_file_location("simulate", FOLDER / "simulate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_true_values_are_those_of_the_population(simulate):
    """The KL by the exact estimator; the gold accuracy by drawing 200,000 Best-of-4."""
    truth = simulate.true_values(simulate.IF_WRONG)
    for column, n in enumerate(simulate.SIZES):
        masses = [(1 - r) * simulate.IF_WRONG + r * simulate.IF_RIGHT for r in simulate.RATES]
        expected = simulate.SHARES @ [exact_best_of_n_kl(mass, simulate.SCORES, n) for mass in masses]
        assert truth["score kl"][column] == pytest.approx(expected, abs=1e-9)
        expected = simulate.SHARES @ [exact_best_of_n_kl([1 - r, r], [0, 1], n) for r in simulate.RATES]
        assert truth["verifier kl"][column] == pytest.approx(expected, abs=1e-9)
    rng = np.random.default_rng(0)
    rates = rng.choice(simulate.RATES, 12_500, p=simulate.SHARES)
    score, correct = simulate.draw_pool(rates, simulate.IF_WRONG, rng)
    score, correct = score.reshape(-1, 4), correct.reshape(-1, 4)  # 16 draws of four from each prompt
    chosen = (score + 1e-3 * rng.random(score.shape)).argmax(axis=1)
    assert correct[np.arange(len(correct)), chosen].mean() == pytest.approx(truth["gold"][2], abs=0.01)


def test_a_repetition_fills_every_row_of_the_data(simulate):
    truth, honest = simulate.true_values(simulate.IF_WRONG), simulate.true_values(simulate.HONEST_WRONG)
    tally = simulate.Tally()
    for repetition in range(2):
        for part in simulate.PARTS.values():
            part(tally, repetition, truth, honest)
    with (FOLDER / "data.csv").open(newline="") as file:
        saved = {(row["quantity"], row["method"], row["n"], row["prompts"]): row for row in csv.DictReader(file)}
    made = {(row["quantity"], row["method"], str(row["n"]), str(row["prompts"])): row for row in tally.rows()}
    assert made.keys() == saved.keys()
    assert all(float(made[key]["truth"]) == float(saved[key]["truth"]) for key in made)


def test_the_data_support_the_claim():
    """93 to 97 % at 200 prompts: Best-of-N, KL up to N/4 and paired differences."""
    headline = {"Best-of-N": "all n-subsets", "pass@k": "all n-subsets", "KL (verifier)": "jackknife"}
    headline |= {"KL (reward model)": "jackknife"}
    checked = 0
    with (FOLDER / "data.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            kl = row["quantity"].startswith("KL")
            ours = headline.get(row["quantity"]) == row["method"] or row["method"] == "paired"
            if not ours or (kl and not 2 <= int(row["n"]) <= 16):
                continue
            assert 0.93 <= float(row["coverage"]) <= 0.97, row
            assert int(row["repetitions"]) >= 2000
            checked += 1
    assert checked == 7 + 7 + 4 + 4 + 3


def test_the_data_support_what_is_said_of_bands_audits_and_stopped_counts():
    with (FOLDER / "data.csv").open(newline="") as file:
        rows = {(row["quantity"], row["method"], row["n"], row["prompts"]): row for row in csv.DictReader(file)}
    coverage = {key: float(row["coverage"]) for key, row in rows.items()}
    crossing = {key[1:]: share for key, share in coverage.items() if key[0] == "crossing curves"}
    for prompts in ("20", "50", "200"):
        assert crossing["crossover", "0", prompts] >= 0.95 > crossing["simultaneous band, plain SE", "0", prompts]
        assert crossing["leads in the wrong direction", "0", prompts] == 1
    ours = [share for key, share in coverage.items() if key[1] == "audited, all uncertainties"]
    assert len(ours) == 2
    assert min(ours) >= 0.95
    stopped = {key[1:3]: share for key, share in coverage.items() if key[0] == "pass@k of stopped counts"}
    assert all(0.94 <= stopped["stopped=first_success", k] <= 0.97 for k in ("1", "8", "32", "64"))
    assert stopped["as if N were fixed", "8"] < 0.5


def test_the_tables_beside_the_simulation_are_what_they_claim(simulate):
    """The exact bias of single prompts, and the differences from other projects' code: rounding."""
    with (FOLDER / "one_prompt.csv").open(newline="") as file:
        assert [dict(row, n=int(row["n"]), pass_rate=float(row["pass_rate"])) for row in csv.DictReader(file)] == (
            simulate.one_prompt()
        )
    with (FOLDER / "agreement.csv").open(newline="") as file:
        rows = {row["quantity"]: float(row["value"]) for row in csv.DictReader(file)}
    largest = {name: value for name, value in rows.items() if name.endswith(", largest difference")}
    assert len(largest) == 7
    assert all(value < (1e-6 if "float32" in name else 1e-14) for name, value in largest.items())
