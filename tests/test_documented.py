"""Every command and snippet that a README, a --help text, a docstring or a comment shows is tried.

A command is parsed by its own parser, its settings are composed, and those of an experiment pass all checks.
"""

import contextlib
import importlib
import io
import json
import math
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from sharing import CONF, composed

from bench import __main__ as command
from bench import report, search, size
from bench.config import checks
from bench.config.compose import choices, defaults, opened, understood
from bench.errors import CommandLine
from bench.pools import __main__ as pools
from bench.reporting import figure_settings
from bench.speed import __main__ as speed
from bench.sweeps.cells import cells
from bench.tracking import __main__ as tracking

ROOT = CONF.parent
READMES = [ROOT / f"{folder}README.md" for folder in ("", "bench/", "conf/", "sweeps/", "reports/")]
PAGES = [*READMES, ROOT / "bench" / "rewards_matrix.md", *sorted(ROOT.glob("reports/*/*.md"))]
PYTHON = r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?python -m "
COMMAND = re.compile(rf"(?:^[ #]*(?:\"\"\")?|`){PYTHON}(bench(?:\.\w+)?)(?![\w.])( [^`\n]*)?", re.MULTILINE)
SHELL = re.compile(r"^    (?=(?:[A-Z_]+=\S+ )*(?:\S*/)?(?:python|make|wandb|pip|hf|git|vllm|\. )\b)(.*)$", re.MULTILINE)
PLACEHOLDERS = {"sweep=NAME": "sweep=rounds", "NAME=NAME": "selection=rso", "<key>": "key", "...": ""}
ELSEWHERE = {  # what other commands are tried by, and a word of it
    "make run": (".ci/run", "make run ARGS="),
    "make test": (".ci/run", "make test"),
    "wandb ": ("tests/test_wandb_sweeps.py", "wandb_grid"),
    ". .venv/bin/activate": ("tests/test_wandb_sweeps.py", "agent"),
    ".venv/bin/python -m pytest": ("tests/test_records_fuzz.py", "BENCH_FUZZ"),
    ".venv/bin/python -m vllm": ("tests/test_vllm_server.py", "vllm.entrypoints.openai.api_server"),
}
COMMANDS = sorted(
    ["bench", *(f"bench.{path.stem}" for path in ROOT.glob("bench/*.py") if "\nif __name__" in path.read_text())]
    + [f"bench.{path.parent.name}" for path in ROOT.glob("bench/*/__main__.py")]
)
COMMANDS.remove("bench.__main__")


def texts() -> Iterator[str]:
    yield from (page.read_text() for page in PAGES)
    for path in [*CONF.rglob("*.yaml"), *ROOT.glob("sweeps/*.yaml"), *ROOT.glob("bench/**/*.py")]:
        yield path.read_text()
    yield (ROOT / "reports/paper_figures.yaml").read_text()


def shown() -> set[tuple[str, str]]:
    """(command, its arguments) as a shell reads them: without comments, which stand after two spaces."""
    found = set()
    joined = (re.sub(r" \\\n[ #]*", " ", text) for text in texts())
    for module, arguments in (match for text in joined for match in COMMAND.findall(text)):
        words = arguments.partition("  ")[0].strip()
        for placeholder, value in PLACEHOLDERS.items():
            words = words.replace(placeholder, value)
        found.add((module, words))
    return found


SHOWN = sorted(shown())


class ParsedError(Exception):
    """A command line is right."""


def run(module: str) -> None:
    """Run `python -m module` in this process, which may have imported it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        runpy.run_module(f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module, {}, "__main__")


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that parses a command line by the command's own parser and returns its settings and folders."""
    parsed: list[Any] = []

    def stop(parser: CommandLine, *given: Any) -> Any:
        parsed.append(CommandLine.parse_known_args(parser, *given)[0])
        raise ParsedError

    def parse(module: str, arguments: list[str]) -> list[str]:
        if module == "bench":
            arguments = [word for word in arguments if word != "plan=true"]
            return [] if command._parse(arguments).hydra_help else command._parse(arguments).overrides
        for name in ("parse_args", "parse_intermixed_args"):
            monkeypatch.setattr(CommandLine, name, stop)
        if module == "bench.speed" and arguments:
            with pytest.raises(ParsedError):
                importlib.import_module(f"bench.speed.{arguments[0]}").main(arguments[1:])
            return []
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(ParsedError):
            run(module)
        return getattr(parsed[-1], "words", [])

    return parse


@pytest.mark.parametrize(("module", "arguments"), SHOWN, ids=[" ".join(each) for each in SHOWN])
def test_a_command_that_is_shown_is_right(module, arguments, words, monkeypatch):
    assert module in COMMANDS
    monkeypatch.chdir(ROOT)  # a command may name a folder beside the README
    monkeypatch.setattr("bench.errors.expanded", lambda pattern: [pattern])  # runs that are not there
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "own"))
    given = shlex.split(arguments.replace("mine/conf", "tests/own/conf"))
    if "--help" in given or "-h" in given:
        given = [word for word in given if word not in ("--help", "-h")]
    settings = words(module, given)
    if module == "bench.size":
        own = {word[len("size.") :].partition("=")[0] for word in settings if word.startswith("size.")}
        assert own <= {"gpu", *size.NUMBERS}
        settings = [word for word in settings if not word.startswith("size.")]
    if module == "bench.report":
        figure_settings.read([word for word in settings if report.FIGURES.match(word)])
        _, settings = report._options([word for word in settings if not report.FIGURES.match(word)])
        settings = [word for word in settings if "=" in word]
    if module == "bench.status":
        settings = [word for word in settings if "=" in word]  # else folders of runs
    if module == "bench.tracking":
        settings = [word for word in settings if "=" in word]
        assert not settings or tracking._composed(settings)
        settings = []
    if not settings or module == "bench.pools":
        return
    swept = any("," in word.partition("=")[2] or "(" in word or word.startswith("hydra/sweeper") for word in settings)
    if swept:
        assert cells(settings, str(CONF)) or search.read(settings, str(CONF))
        return
    with understood(settings):
        cfg = composed(*settings)
    assert cfg.name
    if not any(word.startswith("sweep=") for word in settings):  # other tests expand sweeps
        checks.check(cfg)
        assert checks.build_parts(cfg)


def test_there_are_commands_of_every_kind():
    assert len(SHOWN) > 100
    assert {module for module, _ in SHOWN} == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_line_that_is_a_command_is_tried(page):
    """By the test above, or by the file that ELSEWHERE names."""
    for line in SHELL.findall(page.read_text()):
        plain = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", line)
        if COMMAND.match(plain):
            continue
        if script := re.match(r"(?:\S*/)?python (\S+\.py)", plain):
            runpy.run_path(str(ROOT / script[1]))  # its imports; what it does stands under __main__
            continue
        (file, word), *_ = [where for start, where in ELSEWHERE.items() if plain.startswith(start)] or [("", "")]
        assert file, f"no test tries {line!r}"
        assert word in (ROOT / file).read_text()
        if settings := re.match(r"make run ARGS=(?:\"([^\"]*)\"|(\S+))", plain):
            assert composed(*(settings[1] or settings[2]).split())


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
    for shown_line in POOLS:
        monkeypatch.setattr(sys, "argv", ["bench.pools", *shlex.split(shown_line.partition("  #")[0])])
        pools.main()
    assert {path.name for path in tmp_path.glob("outputs/imported/*")} == {"mine", "renamed", "judged"}
    assert (tmp_path / "pool.eval").is_file()
    assert (tmp_path / "outputs/compared/mine_vs_renamed/crossover.csv").is_file()
    assert (tmp_path / "outputs/audits/judged/sheet.csv").is_file()
    assert len(POOLS) == 6


@pytest.mark.parametrize("module", COMMANDS)
def test_help_has_a_purpose_the_options_and_examples(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with contextlib.suppress(SystemExit):
        run(module)
    told = capsys.readouterr().out
    assert "\nexamples:\n" in told
    assert len(re.findall(rf"^  (?:\w+=\w+ )?python -m {re.escape(module)}\b", told, re.MULTILINE)) >= 1 + (
        module != "bench.policies"
    )
    assert "--help" in told
    assert max(map(len, told.splitlines())) <= 132


@pytest.mark.parametrize("name", speed.BENCHMARKS)
def test_help_of_a_benchmark_has_examples(name, capsys):
    with pytest.raises(SystemExit):
        speed.main([name, "--help"])
    told = capsys.readouterr().out
    assert f"\n  python -m bench.speed {name}" in told or f"FOLDER python -m bench.speed {name}" in told


def test_help_names_every_command_and_describes_every_choice():
    told = command.overview([])
    assert all(f"python -m {module}  " in told for module in COMMANDS if module != "bench")
    for group, names in choices([]).items():
        assert re.search(rf"^{group}: \w.*", told, re.MULTILINE)
        for name, description in names.items():
            assert re.search(rf"^  {name} +{re.escape(description)}$", told, re.MULTILINE)
    assert "selection: the completions that are trained on (default: top_per_prompt)" in told


def test_help_describes_choices_of_ones_own():
    told = command.overview([f"hydra.searchpath=[file://{ROOT}/tests/own/conf]"])
    assert re.search(r"^  longest_correct +The longest correct completion per prompt\.$", told, re.MULTILINE)
    assert "\nmetric: a group of your own\n" in told


def test_a_folder_of_ones_own_is_planned_and_not_run(monkeypatch, capsys):
    words = ["--config-dir", str(ROOT / "tests/own/conf"), "experiment=quick", "selection=longest_correct"]
    monkeypatch.setattr("sys.argv", ["bench", *words, "tracking.directory=/proc/x", "plan=true"])
    monkeypatch.syspath_prepend(str(ROOT / "tests/own"))
    command.main()
    assert "1 cell: 1 missing" in capsys.readouterr().out


def test_the_table_of_groups_has_the_defaults_of_the_configuration():
    rows = re.findall(r"^\| (`.*`) \| .* \| (.*) \|$", (CONF / "README.md").read_text().split("\n## ")[0], re.MULTILINE)
    stated = {name: words for names, words in rows for name in re.findall(r"`(\w+)`", names)}
    for group, (choice, _) in defaults().items():
        if not group.startswith("hydra/"):
            assert (f"`{choice}`" in stated[group]) == (choice != "null"), group


def test_a_sweep_of_ones_own_may_lie_in_another_folder(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(
        "# @package _global_\nname: mine\nhydra:\n  sweeper:\n    params:\n      seed: 0,1\n"
    )
    found = cells(["sweep=mine", f"hydra.searchpath=[file://{tmp_path}]"], str(CONF))
    assert [cell.label for cell in found] == ["seed=0", "seed=1"]


FILES = sorted({*CONF.rglob("*.yaml"), *ROOT.glob("sweeps/*.yaml")} - {CONF / "config.yaml"})


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_choice_begins_with_one_line_that_describes_it(path):
    first, second = path.read_text().splitlines()[:2]
    line = second if first.startswith("# @package") else first
    assert re.fullmatch(r"# [A-Zk1\w].{8,100}[.?)]", line), line
    assert "python -m" not in line


def test_every_group_says_what_it_decides():
    listed = re.findall(r"^  - (\w+): ", (CONF / "config.yaml").read_text(), re.MULTILINE)
    assert set(defaults()) == set(listed)


BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = {page: BLOCK.findall(page.read_text()) for page in PAGES}
OWN = "# mine/"  # the first line of a file that a reader is to write
SNIPPETS = [
    (page, text)
    for page, blocks in BLOCKS.items()
    for language, text in blocks
    if language == "python" and not text.startswith(OWN) and page.name == "README.md"
]


@pytest.mark.parametrize(("page", "text"), SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_runs(page, text, tmp_path, monkeypatch, finished_run, random_policy, stopping_policy):
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
    exec(text, {})
    pyplot.close("all")


def test_the_page_on_a_rewards_matrix_prints_what_it_says(tmp_path, monkeypatch):
    """Its blocks run from top to bottom, and each text is what the code above it prints."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed, compared = "", 0
    for language, text in BLOCKS[ROOT / "bench" / "rewards_matrix.md"]:
        if language == "python":
            assert printed == "", "the page does not show what was printed"
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(text, names)
            printed = out.getvalue()
        else:
            assert text == printed
            printed, compared = "", compared + 1
    assert compared == 4
    assert (tmp_path / "best_of_n.png").stat().st_size > 10_000
    pyplot.close("all")


def test_the_files_of_the_how_to_work_as_they_stand(tmp_path, monkeypatch):
    readme = ROOT / "bench" / "README.md"
    files = {text.partition("\n")[0][2:]: text for _, text in BLOCKS[readme] if text.startswith(OWN)}
    assert list(files) == ["mine/my_parts.py", "mine/test_my_parts.py"]
    (files["mine/conf/selection/longest_correct.yaml"],) = (text for kind, text in BLOCKS[readme] if kind == "yaml")
    assert all(f"`{name}`" in readme.read_text() or f"# {name}" in readme.read_text() for name in files)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    (cell,) = cells(["experiment=quick", "selection=longest_correct", "hydra.searchpath=[file://mine/conf]"], str(CONF))
    chosen = cell.parts["selection"](np.eye(3), np.random.default_rng(0), length=np.ones((3, 3)))
    assert list(chosen.column) == [0, 1, 2]
    runpy.run_path("mine/test_my_parts.py")["test_the_longest_correct_completion_is_kept"]()


def test_the_sweep_of_ones_own_has_the_cells_that_its_axes_say():
    (text,) = (text for kind, text in BLOCKS[ROOT / "sweeps" / "README.md"] if kind == "yaml")
    written = yaml.safe_load(text)
    assert text.startswith("# @package _global_\n")
    axes = [f"{name}={values}" for name, values in written["hydra"]["sweeper"]["params"].items()]
    listed = cells([*axes, f"name={written['name']}"], str(CONF))
    assert listed is not None
    assert len(listed) == 12


def test_every_block_is_tried():
    kinds = {(page.name, language) for page, blocks in BLOCKS.items() for language, _ in blocks}
    assert kinds <= {
        ("README.md", "python"),
        ("README.md", "yaml"),
        ("rewards_matrix.md", "python"),
        ("rewards_matrix.md", "text"),
    }
    assert sum(language == "yaml" for blocks in BLOCKS.values() for language, _ in blocks) == 2  # the how-to's, a sweep
    assert len(SNIPPETS) >= 3


def test_the_table_of_sweeps_has_the_cells_of_each():
    """By their axes. A sweep without seeds has its cells per seed."""
    table = (ROOT / "sweeps" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (\d+)( per seed)? \|$", table, re.MULTILINE)
    unlisted = {path.stem for path in ROOT.glob("sweeps/*.yaml")} - {name for name, *_ in rows}
    assert all(name.startswith(("paper_", "search_", "wandb_")) for name in unlisted)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for name, count, per_seed in rows:
            axes = compose("config", opened([f"sweep={name}"]), return_hydra_config=True).hydra.sweeper.params
            parsed = parser.parse_overrides([f"{key}={values}" for key, values in axes.items()])
            sizes = [len(list(axis.sweep_string_iterator())) for axis in parsed if axis.is_sweep_override()]
            assert (math.prod(sizes), "seed" not in axes) == (int(count), bool(per_seed)), name
