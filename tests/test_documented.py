"""Every experiment and sweep that a README shows composes and passes the checks of its settings."""

import re
import shlex

import pytest
from sharing import CONF, composed

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
