"""Every experiment and sweep that a README shows composes and passes the checks of its settings."""

import json
import re
import shlex
import sys

import pytest
from sharing import CONF, composed

from bench.pools import __main__ as pools
from bench.sweeps.cells import cells

ROOT = CONF.parent
READMES = ["README.md", "conf/README.md", "sweeps/README.md", "bench/README.md"]
COMMAND = re.compile(r"^    (?:\w+=\S+ )*\.venv/bin/python -m bench (.*)$", re.MULTILINE)


def shown() -> list[str]:
    """The settings of each command, as a shell reads them."""
    texts = [(ROOT / readme).read_text() for readme in READMES]
    return [settings.partition("  #")[0].strip() for text in texts for settings in COMMAND.findall(text)]


@pytest.mark.parametrize("settings", sorted({command for command in shown() if not command.startswith("--")}))
def test_a_command_of_a_readme_composes(settings, monkeypatch):
    monkeypatch.chdir(ROOT)  # a command may name a folder beside the README
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "own"))
    overrides = [word for word in shlex.split(settings) if word not in ("-m", "plan=true")]
    if any(word.startswith("sweep=") for word in overrides):  # which other tests expand
        assert composed(*overrides).name
    else:
        assert cells(overrides, str(CONF))


def test_there_are_commands():
    assert len(shown()) > 20


POOLS = re.findall(
    r"^    \.venv/bin/python -m bench\.pools (.*)$", (ROOT / "conf" / "README.md").read_text(), re.MULTILINE
)


def test_the_commands_on_pools_run_one_after_the_other(tmp_path, monkeypatch):
    rows = [
        {"id": prompt, "prompt": f"case {prompt}", "question": f"case {prompt}", "answer": "7"}
        | dict.fromkeys(("completion", "output"), f"#### {7 + (prompt + sample) % 2}")
        | dict.fromkeys(("correct", "is_correct"), (prompt + sample) % 2 == 0)
        | {"score": 0.5 * sample}
        for prompt in range(4)
        for sample in range(2)
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in POOLS:
        monkeypatch.setattr(sys, "argv", ["bench.pools", *shlex.split(command.partition("  #")[0])])
        pools.main()
    assert {path.name for path in tmp_path.glob("outputs/imported/*")} == {"mine", "renamed", "judged"}
    assert (tmp_path / "pool.eval").is_file()
    assert (tmp_path / "outputs/compared/mine_vs_renamed/crossover.csv").is_file()
    assert (tmp_path / "outputs/audits/judged/sheet.csv").is_file()
    assert len(POOLS) == 6


SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "bench" / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(number, tmp_path, monkeypatch, finished_run, random_policy, stopping_policy):
    """In a folder with a finished run and two models."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("agg")
    (tmp_path / "outputs" / "quick").mkdir(parents=True)
    run = finished_run("control=none").folder
    for name, place in {
        f"outputs/quick/{run.name}": run,
        "tuned": random_policy.path,
        "base": stopping_policy.path,
    }.items():
        (tmp_path / name).symlink_to(place)
    monkeypatch.chdir(tmp_path)
    exec(SNIPPETS[number], {})
    pyplot.close("all")


def test_there_are_snippets():
    assert len(SNIPPETS) == 3
