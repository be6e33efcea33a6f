"""The page on public pools: its values are those of the published files to all printed digits, or said to differ."""

import csv
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "reports" / "public_pools"
DIFFER = {("qwen_math", "majority@8")}  # ties: the first answer there, shared here


def rows() -> list[dict[str, str]]:
    with (FOLDER / "values.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_published_values_are_met_to_all_printed_digits():
    compared = 0
    for row in rows():
        if row["published"] and (row["pool"], row["what"]) not in DIFFER:
            printed = row["published"].removesuffix(" %")
            digits = len(printed.partition(".")[2])
            assert f"{100 * float(row['value']):.{digits}f}" == printed, row
            compared += 1
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    assert compared == 6


def test_the_page_states_the_values():
    page = (FOLDER / "README.md").read_text()
    for row in rows():
        value = f"{float(row['value']):.3f}"
        if row["pool"] not in ("gsm8k_6b_finetuning", "gsm8k_175b_verification"):
            assert value in page or f"{float(row['value']):.4f}" in page, row
