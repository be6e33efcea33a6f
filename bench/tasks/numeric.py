"""The number that a solution ends with, as language models write it, and the equations on the way.

An answer is marked by ####, by \\boxed{}, or by words such as "the answer is". Values are exact fractions.
"""

import re
from fractions import Fraction

NEXT_PROBLEM = re.compile(r"\n\s*(?:\*\*)?(?:Question|Problem|Q)\b[^\n:]{0,12}:")  # base models go on with another one
PHRASE = re.compile(
    r"\banswer\b(?:\s+(?:to|for)\b[^.\n:=]{0,80}?)?(?:\s*\*\*)?\s*(?:\bis\b|\bequals\b|:|=)(?:\s*(?:\*\*|:))*",
    re.IGNORECASE,
)
DIGITS = r"(?:\d+(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(
    rf"(?<![A-Za-z\d.])(?P<sign>(?<![\w)\]])-)?(?:(?P<whole>\d+)\s+(?P<over>\d+)/(?P<under>\d+)(?![\d.])"
    rf"|\(?(?P<top>{DIGITS})\)?\s*/\s*\(?(?P<bottom>{DIGITS})\)?|(?P<value>{DIGITS}))"
    r"(?:\s*\*\s*10\s*\^\s*\{?(?P<power>-?\d{1,3})\}?)?(?:\s*(?P<scale>thousand|million|billion)\b)?",
    re.IGNORECASE,
)
LONGEST = 100  # characters
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
GOES_ON = re.compile(
    r"\s*(?:[-+*/^]\s*[(\d.]|(?:,\s*-?\d+)*,?\s*(?:or|to)\s+-?\d)", re.IGNORECASE
)  # an expression or a range, no number
LATEX = (
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"(\1)/(\2)"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\1/\2"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°"), ""),
    (re.compile(r"\\(?:text|textbf|mathbf|mathrm|mbox|bold|boldsymbol)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])|×|·"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷"), "/"),
    (re.compile(r"\\(?:left|right|quad|qquad)(?![A-Za-z])|\\[()\[\]]"), " "),
    (re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|\u202f|\u00a0|\u2009)(?=\d{3})"), ""),
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
    """The text without LaTeX, currency, percent and markdown signs, and without commas inside numbers."""
    for pattern, replacement in LATEX:
        text = pattern.sub(replacement, text)
    return text


def read_number(text: str) -> Fraction | None:
    """The first number of a short text ("$1,234.50 in all"), of the last side of an equation in it.

    None where there is none, or where it is part of an expression or a range ("3 + 4", "5 or 6").
    """
    for side in reversed(plain(text).split("=")):
        found = NUMBER.search(side)
        if found is not None:
            return None if GOES_ON.match(side, found.end()) else _value(found)
    return None


def final_number(completion: str, *, unmarked: str = "last_number") -> str | None:
    """The answer in a completion, as digits; None where there is none.

    The last #### with a number counts, else the last \\boxed{}, else the last "answer is". Where nothing is marked,
    unmarked="last_number" takes the last number of the text, "none" nothing. A marked answer that is no number is None.
    """
    text = NEXT_PROBLEM.split(completion)[0]
    for marked in (_after_hashes(text), boxed(text), after_phrase(text)):
        if marked is not None:
            value = read_number(marked)
            return None if value is None else written(value)
    if unmarked == "none":
        return None
    values = map(_value, reversed([*NUMBER.finditer(plain(text))]))
    last = next((value for value in values if value is not None), None)
    return None if last is None else written(last)


def boxed(text: str) -> str | None:
    """What the last \\boxed{} or \\fbox{} holds, braces inside balanced; nothing where it was cut; None without one."""
    starts = [found.end() for found in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]
    for start in starts[-1:]:
        depth = 1
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            if depth == 0:
                return text[start:end]
    return "" if starts else None


def _after_hashes(text: str) -> str | None:
    """The last line after #### that begins with a number; a heading of markdown ("#### Step 1") is none."""
    for line in reversed(re.findall(r"####([^\n#]*)", text)):
        start = re.sub(r"^\W*(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\b\W*?)?", "", plain(line), flags=re.IGNORECASE)
        if re.match(r"[\d.]", start) and not re.match(r"\d+[.)]\s+[A-Za-z]", start):
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
    value *= Fraction(10) ** int(parts["power"] or 0) * SCALES.get((parts["scale"] or "").lower(), 1)
    return -value if parts["sign"] else value
