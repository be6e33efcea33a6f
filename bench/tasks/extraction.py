"""Find the answer that a completion marks, and read the number in it as language models write numbers.

An answer is marked by ####, by \\boxed{}, by an <answer> tag, or by words such as "the answer is". Values are exact.
"""

import re
import unicodedata
from fractions import Fraction

THINKING = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
NEXT_PROBLEM = re.compile(
    r"\n\s*(?:\*\*)?(?:Question|Problem|Q)\b[^\n:]{0,12}:"
)  # base models continue with a problem of their own
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
GOES_ON = re.compile(  # what follows in an expression, a range, a list, a time, or hours and minutes: not a number
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


def after_thinking(completion: str) -> str:
    """Return what follows the last </think>; without tags, the whole completion.

    The opening tag may be missing, because the prompt may hold it. A reasoning that does not end gives "": what it
    names is not an answer yet.
    """
    tags = [*THINKING.finditer(completion)]
    if not tags:
        return completion
    return completion[tags[-1].end() :] if tags[-1][1] else ""


def written(value: Fraction) -> str:
    """Return a value as digits: 18, -5, 2.5; a fraction where the decimals do not end: 1/3."""
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
    """Return the text without LaTeX, signs of currency, percent and Markdown, and marks between groups of digits."""
    text = VULGAR.sub(lambda found: f" {unicodedata.normalize('NFKC', found[0]).replace('⁄', '/')}", text)
    for pattern, replacement in LATEX:
        text = pattern.sub(replacement, text)
    return text


def read_number(text: str) -> Fraction | None:
    """Return the first number of a short text such as "$1,234.50 in all"; of an equation, the number on its last side.

    None where there is no number, or where it is a part of something else ("3 + 4", "5 or 6", "3:30", "±3",
    "1 h 5 minutes").
    """
    for side in reversed(plain(text).split("=")):
        side = MINUS.sub(r"\1-", side, count=1) if MINUS.match(side) else side
        side = side.replace(" ", "") if PARTS.fullmatch(side) else side
        found = NUMBER.search(side)
        if found is not None:
            is_part = GOES_ON.match(side, found.end()) or side[: found.start()].rstrip().endswith("±")
            return None if is_part else _value(found)
    return None


def final_number(completion: str, *, unmarked: str = "last_number") -> str | None:
    """Return the answer in a completion as digits; None where there is none, or where the marked answer is no number.

    The last #### with a number counts, else the last \\boxed{}, else the last <answer> tag, else the last "answer is".
    Without a mark, unmarked="last_number" takes the last number of the text, and "none" takes nothing.
    """
    text = NEXT_PROBLEM.split(completion)[0]
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
    """Return the content of the last \\boxed{} or \\fbox{} with its inner braces, or the number after a bare \\boxed.

    "" for a box that was cut; None without a box.
    """
    found = [*BOX.finditer(text)]
    if found and found[-1]["bare"]:
        return found[-1]["bare"]
    if not found:
        return None
    start, depth = found[-1].end(), 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
        if depth == 0:
            return text[start:end]
    return ""


def tagged(text: str) -> str | None:
    """Return the content of the last <answer> tag; None without one."""
    held, start = None, None
    for tag in re.finditer(r"<(/?)answer>", text, re.IGNORECASE):
        if tag[1] and start is not None:
            held = text[start : tag.start()]
        start = None if tag[1] else tag.end()
    return held


def _after_hashes(text: str) -> str | None:
    """The last text after #### that begins with a number; a Markdown heading ("#### Step 1") does not count."""
    for line in reversed(re.findall(r"####([^\n#]*)", text)):
        start = re.sub(r"^\W*(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\b\W*?)?", "", plain(line), flags=re.IGNORECASE)
        if re.match(r"(?:(?:minus|negative)\s+)?[\d.]", start, re.IGNORECASE) and not re.match(
            r"\d+[.)]\s+[A-Za-z]", start
        ):
            return line
    return None


def after_phrase(text: str) -> str | None:
    """Return the rest of the sentence after the last "answer is" or "Answer:" that has content; None without one."""
    for found in reversed([*PHRASE.finditer(text)]):
        sentence = re.match(r"(?:[^\n.]|\.(?=\d))*", text[found.end() :].lstrip())
        if sentence is not None and re.search(r"[\w\\]", sentence[0]):
            return sentence[0]
    return None


def _value(found: re.Match) -> Fraction | None:
    """The value of a match of NUMBER; None where it divides by 0, or is too long to be meant as a number."""
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
