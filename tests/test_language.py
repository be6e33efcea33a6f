"""The language of every text: standard English, the words of the field, and numbers with a leading zero.

Read from the sources: Markdown, docstrings, comments, messages, YAML comments and the report's page.
"""

import ast
import io
import itertools
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).name
PAGES = [ROOT / f"{folder}README.md" for folder in ("", "bench/", "conf/", "sweeps/", "reports/")]
PAGES += [ROOT / "bench" / "rewards_matrix.md", *sorted(ROOT.glob("reports/*/README.md"))]
COUNTED = (
    "batches|bytes|candidates|cells|completions|CPUs|decisions|demonstrations|engines|epochs|evaluations|examples|failures|"
    "flips|GPUs|hours|iterations|judgements|labels|megabytes|minutes|nats|numbers|pairs|policies|pools|problems|programs|"
    "prompts|queries|requests|resamples|rewards|rollouts|rounds|samples|seconds|seeds|sequences|shards|solutions|subsets|"
    "texts|threads|tokens|trials|units|updates|values|verdicts|votes|weights|words|accuracy"
)
UNITS = (
    "batch|block|cell|chunk|completion|core|day|epoch|example|generation|GPU|group|hour|layer|machine|minute|nat|node|"
    "problem|prompt|query|question|request|round|row|sample|second|seed|sequence|shard|step|task|token|trial|unit|update|worker"
)
IN_BETWEEN = "held-out |single |stored |test |training |validation |scored "
REFUSED = {  # pattern -> what to write
    rf"\b(?:{COUNTED}) an? (?:{IN_BETWEEN})?(?:{UNITS})\b(?! (?:of|and|in|holds|has|is|gives|may)\b)": "N per prompt",
    rf"\d (?:{COUNTED}) an? (?:{IN_BETWEEN})?(?:{UNITS})\b": "N per prompt",
    rf"\b(?:one|two|\d+) an? (?:{UNITS}|cell|run)\b": "one per prompt",
    rf"\b(?:FLOPs|one (?:completion|fit|model|pool|process|sample)) an? (?:\w+ )?(?:{UNITS}|cell|run)\b": "per prompt",
    r"\btwins?\b": "control, or counterpart",
    r"\bhow hot\b|\b(?:hot|hotter|colder) (?:sampl|polic|temperature)": "at a high temperature",
    r"\bby the clock\b": "wall-clock time",
    r"\b(?:an|its|of|the|their|these|two) asks\b": "request, or workload",
    r"\bby whom\b": "name the one who does it",
    r"\bwhat .{0,30} (?:came|comes) to\b": "result",
    r"\b(?:how far apart are they|to be had|thereof|whereof|therein|whence)\b|\blikewise for\b": "plain words",
}
ZERO = r"(?<![\w.\])\\/*:\"'-])[-−+]?\.\d+\b(?![\w.])"  # of a number below 1
MOST_WORDS = 25  # in a sentence of a README


def of_python(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of docstrings, messages and comments; expressions inside f-strings are left out."""
    source = path.read_text()
    tree = ast.parse(source)
    formats = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None
        for inner in ast.walk(node.format_spec)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in formats:
            for number, line in enumerate(re.sub(r"^ *>>>.*\n.*$", "", node.value, flags=re.MULTILINE).split("\n")):
                if " " in line.strip():
                    yield node.lineno + number, re.sub(r"`[^`]*`", " ", line)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def of_markdown(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) without code."""
    text = re.sub(r"^```.*?^```", lambda found: "\n" * found[0].count("\n"), path.read_text(), flags=re.S | re.M)
    lines = [re.sub(r"`[^`]*`|\]\([^)]*\)", " ", "" if line.startswith("    ") else line) for line in text.split("\n")]
    for number, (line, following) in enumerate(itertools.pairwise([*lines, ""]), 1):
        yield number, f"{line} {following[:40]}"  # a phrase may go on in the next line


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
    files += [
        (ROOT / "README.md", of_markdown),
        (ROOT / "Makefile", of_comments),
        (ROOT / "pyproject.toml", of_comments),
    ]
    return [
        (f"{file.relative_to(ROOT)}:{number}", line)
        for file, read in files
        if file.is_file() and file.name != HERE
        for number, line in read(file)
    ]


@pytest.mark.parametrize(("pattern", "instead"), REFUSED.items(), ids=range(len(REFUSED)))
def test_no_text_has(pattern: str, instead: str):
    found = [f"{place}: {line.strip()}" for place, line in texts() if re.search(pattern, line, re.IGNORECASE)]
    if found:
        pytest.fail(f"write {instead}: {len(found)} lines\n" + "\n".join(found), pytrace=False)


def test_numbers_have_a_leading_zero():
    found = [f"{place}: {line.strip()}" for place, line in texts() if not place.startswith("tests/")]
    if bad := [line for line in found if re.search(ZERO, line)]:
        pytest.fail("\n".join(bad), pytrace=False)


@pytest.mark.parametrize(
    "bad",
    [
        "16 completions a prompt",
        "on 15 samples a prompt and with more",
        "8 samples a test prompt",
        "1.2 nats a sequence",
        "One sample a query",
        "How hot?",
    ],
)
def test_the_words_for_per_are_found(bad: str):
    assert any(re.search(pattern, bad, re.IGNORECASE) for pattern in REFUSED)


@pytest.mark.parametrize("number", ["is .45 here", "(.45)", "-.45", "[.4, .5]", "<.001"])
def test_a_missing_zero_is_found(number: str):
    assert re.search(ZERO, number)
    assert not re.search(ZERO, number.replace(".", "0."))


def sentences(page: Path) -> Iterator[str]:
    """Of paragraphs, list items and cells of tables; code counts as one word, and so does what stands in brackets."""
    text = re.sub(r"^```.*?^```", "\n", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*$|^#.*$|^!\[.*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "Code", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\[[^\]]*\]|\([^()]*\)", "", text)
    blocks = re.split(r"\n\s*\n|\n(?=- )|\|", text)
    for block in blocks:
        yield from re.split(r"(?<=[.!?])[*\"]*\s+|; |: (?=[A-Z*\d])", " ".join(block.split()))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_sentences_of_a_readme_are_short(page: Path):
    long = {sentence: words for sentence in sentences(page) if (words := len(sentence.split())) > MOST_WORDS}
    if long:
        pytest.fail("\n".join(f"{words} words: {sentence}" for sentence, words in long.items()), pytrace=False)


if __name__ == "__main__":
    for pattern in [*REFUSED, ZERO]:
        print("==", pattern[:60])
        for place, line in texts():
            if re.search(pattern, line, re.IGNORECASE) and not (pattern is ZERO and place.startswith("tests/")):
                print("  ", place, line.strip()[:160])
    for page in PAGES:
        for sentence in sentences(page):
            if len(sentence.split()) > MOST_WORDS:
                print(page.relative_to(ROOT), len(sentence.split()), sentence)
