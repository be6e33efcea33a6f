"""The language of every text: standard English, the words of the field, and numbers with a leading zero.

Read from the sources: Markdown, docstrings, comments, messages, YAML comments and the report's page.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).name
COUNTED = (
    "answers|batches|bytes|candidates|cells|completions|CPUs|decisions|demonstrations|draws|engines|epochs|evaluations|"
    "examples|failures|files|flips|folders|generations|GPUs|hours|iterations|judgements|labels|lines|means|megabytes|"
    "minutes|nats|numbers|pairs|paths|policies|pools|problems|processes|programs|prompts|queries|requests|resamples|"
    "rewards|rollouts|rounds|rows|runs|samples|scores|seconds|seeds|selections|sequences|shards|solutions|stages|steps|"
    "subsets|tests|texts|threads|times|tokens|trials|units|updates|values|verdicts|votes|weights|words"
)
UNITS = (
    "answer|batch|block|cell|chunk|completion|day|epoch|example|file|generation|GPU|group|hour|layer|line|machine|"
    "method|minute|model|node|policy|pool|problem|process|prompt|question|request|round|row|run|sample|score|second|"
    "seed|sequence|shard|stage|step|task|text|token|trial|unit|update|worker"
)
REFUSED = {  # pattern -> what to write
    rf"\b(?:{COUNTED}) an? (?:held-out |single |stored |test |training |validation )?(?:{UNITS})\b(?! of )": "N per prompt",
    r"\bone an? (?:{0})\b".format("cell|prompt|problem|round|run|seed|task"): "one per prompt",
    r"\btwins?\b": "control, or counterpart",
    r"\bhow hot\b": "temperature",
    r"\bby the clock\b": "wall-clock time",
    r"\b(?:an|its|of|the|their|these|two) asks\b": "request, or workload",
    r"\bby whom\b": "name the one who does it",
    r"(?<![\w.\])\\/*:\"'-])\.\d+\b(?![\w.])": "a leading zero: 0.45",
    r"\bwhat .{0,30} (?:came|comes) to\b": "result",
    r"\bhow far apart are they\b": "difference",
    r"\bto be had\b": "available",
    r"\bput(?:s)? (?:it|them) off\b": "say what changes",
    r"\bparticulars\b": "details",
    r"\bwhence\b|\bwherefrom\b|\bthereof\b|\bwhereof\b|\btherein\b|\bwherein\b|\blikewise for\b": "plain words",
}


def of_python(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of docstrings, messages and comments; expressions inside f-strings are left out."""
    source = path.read_text()
    specs = {id(part) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FormattedValue) for part in [node]}
    tree = ast.parse(source)
    formats = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None
        for inner in ast.walk(node.format_spec)
    }
    del specs
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in formats:
            for number, line in enumerate(re.sub(r"^ *>>>.*\n.*$", "", node.value, flags=re.MULTILINE).split("\n")):
                if " " in line.strip():
                    yield node.lineno + number, line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def of_markdown(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) without code."""
    text = re.sub(r"^```.*?^```", lambda found: "\n" * found[0].count("\n"), path.read_text(), flags=re.S | re.M)
    for number, line in enumerate(text.split("\n"), 1):
        yield number, re.sub(r"`[^`]*`|\]\([^)]*\)|\$[^$]*\$", " ", "" if line.startswith("    ") else line)


def of_comments(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text().split("\n"), 1):
        if found := re.search(r"(?:^|\s)#\s(.*)", line):
            yield number, found[1]


@cache
def texts() -> list[tuple[str, str]]:
    """(place, line) of the whole repository."""
    kinds = {"*.py": of_python, "*.md": of_markdown, "*.yaml": of_comments, "*.toml": of_comments, "run": of_comments}
    folders = ("bench", "conf", "sweeps", "reports", "tests", ".ci")
    files = [(file, read) for glob, read in kinds.items() for folder in folders for file in (ROOT / folder).rglob(glob)]
    files += [(ROOT / "README.md", of_markdown), (ROOT / "Makefile", of_comments), (ROOT / "pyproject.toml", of_comments)]
    return [
        (f"{file.relative_to(ROOT)}:{number}", line)
        for file, read in files
        if file.is_file() and file.name != HERE
        for number, line in read(file)
    ]


@pytest.mark.parametrize(("pattern", "instead"), REFUSED.items(), ids=range(len(REFUSED)))
def test_no_text_has(pattern: str, instead: str):
    found = [f"{place}: {line.strip()}" for place, line in texts() if re.search(pattern, line)]
    if found:
        pytest.fail(f"write {instead}: {len(found)} lines\n" + "\n".join(found), pytrace=False)


if __name__ == "__main__":
    for pattern in REFUSED:
        print("==", pattern[:60])
        for place, line in texts():
            if re.search(pattern, line):
                print("  ", place, line.strip()[:140])
