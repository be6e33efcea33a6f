"""The number that a solution ends with, as language models write it, and the equations on the way.

An answer is marked by ####, by \\boxed{}, or by words such as "the answer is". Values are exact fractions.
"""

import re
import unicodedata
from fractions import Fraction

from bench.tasks.thinking import after_thinking

NEXT_PROBLEM = re.compile(r"\n\s*(?:\*\*)?(?:Question|Problem|Q)\b[^\n:]{0,12}:")  # base models go on with another one
PHRASE = re.compile(
    r"\banswer\b[\"']?(?:\s+(?:to|for)\b[^.\n:=]{0,80}?)?(?:\s*\*\*)?"
    r"\s*(?:\bis\b(?!\s+not\b)|\bequals\b|\bcomes\s+to\b|:|=)(?:\s*(?:\*\*|:))*",
    re.IGNORECASE,
)
DIGITS = r"(?:\d+(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(
    rf"(?<![A-Za-z\d.])(?<!\d:)(?P<sign>(?<![\w)\]])-)?(?:(?P<whole>\d+)\s+(?P<over>\d+)/(?P<under>\d+)(?![\d.])"
    rf"|\(?(?P<top>{DIGITS})\)?\s*/\s*\(?(?P<bottom>{DIGITS})\)?|(?P<value>{DIGITS}))"
    r"(?:\s*[*x]\s*10\s*\^\s*\{?(?P<power>-?\d{1,3})\}?|e(?P<exponent>[-+]?\d{1,3})(?![\w.]))?"
    r"(?:(?P<scale>k\b|\s*(?:hundred|thousand|million|billion)\b))?",
    re.IGNORECASE,
)
BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?P<bare>[-+−]?\.?\d[^\s{}$\\]*))")
LONGEST = 100  # characters
SCALES = {"k": 10**3, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
SMALLER = "minutes?|mins?|seconds?|secs?|inch(?:es)?|ounces?|cents?"
GOES_ON = re.compile(  # an expression, a range, a list, a time, or hours and minutes: no number
    r"\s*(?:[-+*/^±]\s*[(\d.]|(?:,\s*-?\d+)*,?\s*(?:or|to)\s+-?\d|(?:,\s*-?[\d.]+)+\W*$)|:\d"
    rf"|\s*[a-z]+,?\s+(?:and\s+)?\d+\s*(?:{SMALLER})\b",
    re.IGNORECASE,
)
PARTS = re.compile(r"\W*\d{1,3}(?: \d{3})+(?:\.\d+)?\W*")  # 12 345 678
MINUS = re.compile(r"(\W*?)(?:minus\s+|negative\s+|-\s+)(?=[\d.])", re.IGNORECASE)
VULGAR = re.compile("[¼-¾⅐-⅞]")  # ½
LATEX = (
    (re.compile(r"\\[cdt]frac"), r"\\frac"),
    (re.compile(r"(?<=\d)\s*\\frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))"), r" \1\2/\3\4"),
    (re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"(\1)/(\2)"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\1/\2"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°"), ""),
    (re.compile(r"\\(?:text|textbf|mathbf|mathrm|mbox|bold|boldsymbol)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])|×|·"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷"), "/"),
    (re.compile(r"\\(?:left|right|quad|qquad)(?![A-Za-z])|\\[()\[\]]"), " "),
    (re.compile(r"(?<=\d)(?:\{,\}|\\[,!;: ]|[~'’_\u202f\u00a0\u2009])(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\pm(?![A-Za-z])"), "±"),
    (re.compile(r"(?<![\d.,])(\d{1,3})\.(\d{3}),(\d{2})(?![\d,.])"), r"\1\2.\3"),
    (re.compile(r"(?<=[$£€])\s*(\d[\d.,]*)\s?M\b"), r"\1 million"),
    (re.compile(r"\\[,!;: ]|~|\u00a0|\u2009|\u202f"), " "),
    (re.compile(r"\\?[$£€¥₹%]"), ""),
    (re.compile(r"\*\*|__|`"), ""),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
)


def written(value: Fraction) -> str:
    """A value as digits: 18, -5, 2.5 where decimals end, else 1/3."""
    if value.denominator == 1:
        return str(value.numerator)
    places = 0
    for factor in (2, 5):
        power, rest = 0, value.denominator
        while rest % factor == 0:
            power, rest = power + 1, rest // factor
        places = max(places, power)
    if 10**places % value.denominator:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def plain(text: str) -> str:
    """The text without LaTeX, currency, percent and markdown signs, and without marks between groups of digits."""
    text = VULGAR.sub(lambda found: f" {unicodedata.normalize('NFKC', found[0]).replace('⁄', '/')}", text)
    for pattern, replacement in LATEX:
        text = pattern.sub(replacement, text)
    return text


def read_number(text: str) -> Fraction | None:
    """The first number of a short text ("$1,234.50 in all"), of the last side of an equation in it.

    None where there is none, or where it is part of something else ("3 + 4", "5 or 6", "3:30", "±3", "1 h 5 minutes").
    """
    for side in reversed(plain(text).split("=")):
        side = MINUS.sub(r"\1-", side, count=1) if MINUS.match(side) else side
        side = side.replace(" ", "") if PARTS.fullmatch(side) else side
        found = NUMBER.search(side)
        if found is not None:
            no_number = GOES_ON.match(side, found.end()) or side[: found.start()].rstrip().endswith("±")
            return None if no_number else _value(found)
    return None


def final_number(completion: str, *, unmarked: str = "last_number") -> str | None:
    """The answer in a completion, as digits; None where there is none.

    The last #### with a number counts, else the last \\boxed{}, else the last <answer> tag, else the last "answer is".
    Where nothing is marked, unmarked="last_number" takes the last number of the text, "none" nothing. A marked answer
    that is no number is None. What a model thinks in <think> tags is not read.
    """
    text = NEXT_PROBLEM.split(after_thinking(completion))[0]
    for marked in (_after_hashes(text), boxed(text), tagged(text), after_phrase(text)):
        if marked is not None:
            value = read_number(marked)
            return None if value is None else written(value)
    if unmarked == "none":
        return None
    values = map(_value, reversed([*NUMBER.finditer(plain(text))]))
    last = next((value for value in values if value is not None), None)
    return None if last is None else written(last)


def boxed(text: str) -> str | None:
    """What the last \\boxed{} or \\fbox{} holds, braces inside balanced, or what follows \\boxed without braces.

    Nothing where it was cut; None without one.
    """
    found = [*BOX.finditer(text)]
    if found and found[-1]["bare"]:
        return found[-1]["bare"]
    starts = [one.end() for one in found]
    for start in starts[-1:]:
        depth = 1
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            if depth == 0:
                return text[start:end]
    return "" if starts else None


def tagged(text: str) -> str | None:
    """What the last <answer> tag holds; None without one."""
    held, start = None, None
    for tag in re.finditer(r"<(/?)answer>", text, re.IGNORECASE):
        if tag[1] and start is not None:
            held = text[start : tag.start()]
        start = None if tag[1] else tag.end()
    return held


def _after_hashes(text: str) -> str | None:
    """The last line after #### that begins with a number; a heading of markdown ("#### Step 1") is none."""
    for line in reversed(re.findall(r"####([^\n#]*)", text)):
        start = re.sub(r"^\W*(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\b\W*?)?", "", plain(line), flags=re.IGNORECASE)
        if re.match(r"(?:(?:minus|negative)\s+)?[\d.]", start, re.IGNORECASE) and not re.match(
            r"\d+[.)]\s+[A-Za-z]", start
        ):
            return line
    return None


def after_phrase(text: str) -> str | None:
    """The rest of the sentence after the last "answer is" or "Answer:" with something to read in it, else None."""
    for found in reversed([*PHRASE.finditer(text)]):
        sentence = re.match(r"(?:[^\n.]|\.(?=\d))*", text[found.end() :].lstrip())
        if sentence is not None and re.search(r"[\w\\]", sentence[0]):
            return sentence[0]
    return None


def _value(found: re.Match) -> Fraction | None:
    """None where it divides by 0, or is longer than any number that is meant."""
    parts = found.groupdict()
    if len(found[0]) > LONGEST:
        return None
    if parts["whole"] is not None:
        top, bottom = Fraction(parts["over"]), Fraction(parts["under"])
        value = Fraction(parts["whole"]) + top / bottom if bottom else None
    elif parts["top"] is not None:
        top, bottom = Fraction(parts["top"]), Fraction(parts["bottom"])
        value = top / bottom if bottom else None
    else:
        value = Fraction(parts["value"])
    if value is None:
        return None
    power = int(parts["power"] or parts["exponent"] or 0)
    value *= Fraction(10) ** power * SCALES.get((parts["scale"] or "").strip().lower(), 1)
    return -value if parts["sign"] else value
