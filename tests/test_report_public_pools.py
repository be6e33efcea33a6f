"""The page on public pools: its values are those of the published files to all printed digits, or said to differ."""

import csv
import math
from pathlib import Path

from bench.reporting import published

FOLDER = Path(__file__).parent.parent / "reports" / "public_pools"
DIFFER = {("qwen_math", "majority@8"), ("humaneval_function", "pass@10"), ("humaneval_function", "pass@100")}
# majority@8: ties go to the first answer there, and are shared here; humaneval_function: the suite's own reading
CUT = "humaneval_as_is"  # printed without rounding


def rows() -> list[dict[str, str]]:
    with (FOLDER / "values.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_published_values_are_met_to_all_printed_digits():
    compared = 0
    for row in rows():
        if row["published"] and (row["pool"], row["what"]) not in DIFFER:
            printed = row["published"].removesuffix(" %")
            digits = len(printed.partition(".")[2])
            value = 100 * float(row["value"])
            shown = math.floor(value * 10**digits) / 10**digits if row["pool"] == CUT else value
            assert f"{shown:.{digits}f}" == printed, row
            compared += 1
        assert float(row["value_low"]) <= float(row["value"]) <= float(row["value_high"])
    assert compared == 8


def test_the_page_states_the_values():
    assert published.check(FOLDER) == []
