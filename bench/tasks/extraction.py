"""Find the answer that a completion marks, and read the number in it as language models write numbers.

An answer is marked by ####, by \\boxed{}, by an <answer> tag, or by words such as "the answer is". Values are exact.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from fractions import Fraction

THINKING = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
NEXT_PROBLEM = re.compile(  # base models continue with a problem of their own; "Problem breakdown:" is none
    r"\n[^\S\n]*(?P<heading>(?:#+\s*)?(?:\*\*)?)(?:(?:Next|New|Another)\s+)?(?:Question|Problem|Q)"
    r"(?:\s*(?:No\.|#)?\s*\d+)?(?:\s*\([^()\n]{1,12}\))?\s*(?:\*\*)?(?::|(?<=\d)\s*\n)"
)
PHRASE = re.compile(
    r"\banswer\b[\"']?(?:\s+(?:to|for)\b[^.\n:=]{0,80}?)?(?:\s*\*\*)?"
    r"\s*(?:\bis\b(?!\s+not\b)|\bequals\b|\bcomes\s+to\b|:|=)(?:\s*(?:\*\*|:))*",
    re.IGNORECASE,
)
DISPLAY = r"\\\[|\$\$|\\begin\{[a-z]+\*?\}|```[a-z]*(?=\n)"  # what opens a formula on lines of its own
GAP = re.compile(rf"(?:\s|{DISPLAY}|(?<=\n)[-*•>](?=\s))*")  # from "answer is" to the answer
SENTENCE = re.compile(r"(?:[^\n.]|\.(?=\d)){0,2000}")  # no longer, so that no text takes quadratic time
FORMULA = re.compile(r"(?:(?!\\\]|\$\$|\\end\{|```).){0,2000}", re.DOTALL)
DIGITS = r"(?:\d+(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(
    rf"(?<![A-Za-z\d.])(?<!\d:)(?P<sign>(?<![\w)\]])-)?(?:(?P<whole>\d+)\s+(?:and\s+)?(?P<over>\d+)/(?P<under>\d+)(?!\.?\d)"
    rf"|\(?(?P<top>{DIGITS})\)?\s*/\s*\(?(?P<bottom>{DIGITS})\)?|(?P<value>{DIGITS}))"
    r"(?:\s*[*x]\s*10\s*\^\s*\{?(?P<power>-?\d{1,3})\}?|e(?P<exponent>[-+]?\d{1,3})(?![\w.]))?"
    r"(?:(?P<scale>k\b|\s*(?:hundred|thousand|million|billion|trillion|lakh|crore)\b))?",
    re.IGNORECASE,
)
HYPHENS = "−–‐‑﹣－"  # signs that stand for a minus; an em dash is punctuation
BOX = re.compile(rf"\\(?:boxed|fbox)\s*(?:\{{|(?P<bare>[-+{HYPHENS}]?\.?\d[^\s{{}}$\\]*))")
LONGEST = 100  # characters
SCALES = {"k": 10**3, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES |= {"lakh": 10**5, "crore": 10**7}
SMALLER = "minutes?|mins?|seconds?|secs?|inch(?:es)?|ounces?|cents?"
GOES_ON = re.compile(  # what follows in an expression, a range, a list, a time, or hours and minutes: not a number
    r"\s*(?:[-+*/±]\s*[(\d.]|\^\s*[({]?\s*-?[\d.]|(?:,\s*-?\d+)*,?\s*(?:or|to)\s+-?\d|\\?√|\\sqrt|\\pi\b"
    r"|(?:\s*(?:[,;&]|and\b)\s*-?[\d.]+)+\W*$)|:\d|[⁰¹²³⁴-⁹]|\s*([a-z]+)\s*(?:[,;&]|and\b|or\b)\s*-?[\d.]+\s*\1\b"
    rf"|\s*[a-z]+,?\s+(?:and\s+)?\d+\s*(?:{SMALLER})\b",
    re.IGNORECASE,
)
NEXT_UNKNOWN = re.compile(r"\d\W*(?:[,;]|\b(?:or|and)\b)\s*[A-Za-z]\w?\s*$")  # x = 5, y = 100
PART = re.compile(r"(?:±|\\sqrt\s*\{?|√\(?)\s*$")  # what comes before a number that is a part
SPACED = re.compile(r"\A\W*\d{1,3}(?: \d{3})+(?![\d/]| \d)")  # 12 345 678 apples
LAKHS = re.compile(
    r"(?<![\d.,])\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|(?<!\d)\d{1,3}(?: \d{3}){0,6} 0\d\d(?!\d)"
)  # 1,50,000; 1 000
ASIDE = re.compile(  # an equation that explains an answer: 18 (n = 9); 18, since 1 week = 7 days
    r"\s\((?=[^()=]*=[^()]*\))|,?\s+(?:since|because|when|where|if|as)\b(?=[^=]*=)", re.IGNORECASE
)
MINUS = re.compile(r"(\W*?)(?:minus\s+|negative\s+|-\s+)(?=[\d.])", re.IGNORECASE)
VULGAR = re.compile("[¼-¾⅐-⅞]")  # ½
LATEX: tuple[tuple[re.Pattern, str | Callable[[re.Match], str]], ...] = (  # groups of digits first: "5°,100°" is a list
    (re.compile(r"(?<=\d)(?:\s*(?:,\s*\\!|\\[,!;: ])\s*|\{,\}|[,~'’_\u202f\u00a0\u2009])(?=\d{3}(?!\d))"), ""),
    (
        re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+),(\d{2})(?![\d,.])"),
        lambda found: found[1].replace(".", "") + "." + found[2],
    ),
    (re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?!\.?\d)"), lambda found: found[0].replace(".", "")),
    (re.compile(r"[⁄∕]"), "/"),
    (re.compile(r"(?<=\d)\s+and\s+a\s+half\b"), " 1/2"),
    (re.compile(r"\\[cdt]frac"), r"\\frac"),
    (re.compile(r"(?<=\d)(?:\s|\\[,!;: ]|~)*\\frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))"), r" \1\2/\3\4"),
    (re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"(\1)/(\2)"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\1/\2"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°"), ""),
    (re.compile(r"\\(?:text|textbf|mathbf|mathrm|mbox|bold|boldsymbol)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])|×|·"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷"), "/"),
    (re.compile(r"\\(?:left|right|quad|qquad)(?![A-Za-z])|\\[()\[\]]"), " "),
    (re.compile(r"\\pm(?![A-Za-z])"), "±"),
    (re.compile(r"(?<=[$£€])\s*(\d[\d.,]*)\s?M\b"), r"\1 million"),
    (re.compile(r"\\[,!;: ]|~|\u00a0|\u2009|\u202f"), " "),
    (re.compile(r"\\?[$£€¥₹%]|\bRs\.?(?=\s*\d)"), ""),
    (re.compile(r"\*\*|__|`"), ""),
    (re.compile(f"[{HYPHENS}]"), "-"),
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
    places = next((n for n in range(value.denominator.bit_length()) if 10**n % value.denominator == 0), None)
    if places is None:
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
    text = _grouped(text)
    aside = next((found.start() for found in ASIDE.finditer(text) if NUMBER.search(text, 0, found.start())), None)
    sides = text[:aside].split("=")
    if any(NEXT_UNKNOWN.search(side) for side in sides[1:-1]):
        return None
    for side in reversed(sides):
        side = MINUS.sub(r"\1-", side, count=1) if MINUS.match(side) else side
        side = joined(side)
        found = NUMBER.search(side)
        if found is not None:
            if GOES_ON.match(side, found.end()) or PART.search(side, 0, found.start()):
                continue  # in 7 = 3 + 4, what it equals
            return _value(found)
    return None


def joined(text: str) -> str:
    """Return the text; without the spaces in a number such as 12 345 678 at its beginning."""
    return SPACED.sub(lambda found: found[0].replace(" ", ""), text)


def _grouped(text: str) -> str:
    """The text as `plain` has it, and without the marks in 1,50,000 and 1 000, which mathematics takes for lists."""
    return plain(LAKHS.sub(lambda found: re.sub(r"[, ]", "", found[0]), text))


def final_number(completion: str, *, unmarked: str = "last_number") -> str | None:
    """Return the answer in a completion as digits; None where there is none, or where the marked answer is no number.

    The last #### with a number counts, else the last \\boxed{}, else the last <answer> tag, else the last "answer is".
    Words behind the number of a #### make it a heading where another answer is marked later. Without a mark,
    unmarked="last_number" takes the last number of the text, and "none" takes nothing.
    """
    text = before_next_problem(completion)
    hashed = [*_hashed(text)][-1:]
    if hashed and re.search(r"\d\s+[A-Za-z]", plain(hashed[0][0])):
        later = marked(text[hashed[0][1] :])
        if later is not None and _begins_with_number(later):
            return number_in(later)
    answer = hashed[0][0] if hashed else marked(text)
    if answer is not None and not re.search(r"\d", answer) and boxed(text) is tagged(text) is None:
        said = [*_after_phrases(text, PHRASE.finditer(text))]
        answer = next((found[0] for found in reversed(said) if re.search(r"\d", found[0])), answer)
    if answer is not None or unmarked == "none":
        return None if answer is None else number_in(answer)
    other = next((found for found in NEXT_PROBLEM.finditer(text) if not found["heading"]), None)
    before = text[: other.start()] if other else text
    values = map(_value, reversed([*NUMBER.finditer(_grouped(before if NUMBER.search(before) else text))]))
    last = next((value for value in values if value is not None), None)
    return None if last is None else written(last)


def number_in(text: str) -> str | None:
    """Return the number in a short text as digits; None where there is none."""
    value = read_number(text)
    return None if value is None else written(value)


def marked(text: str) -> str | None:
    """Return the last box, else the last <answer> tag, else what follows the last "answer is"; None without any."""
    said = next(_after_phrases(text, reversed([*PHRASE.finditer(text)])), None)
    answers = (boxed(text), tagged(text), None if said is None else said[0])
    return next((answer for answer in answers if answer is not None), None)


def before_next_problem(text: str) -> str:
    """Return the text up to a heading such as "Question:" that follows a marked answer.

    Before an answer is given, such a heading belongs to the solution.
    """
    if NEXT_PROBLEM.search(text) is None:
        return text
    phrases = _after_phrases(text, PHRASE.finditer(text))
    answers = (
        (found.end() for found in re.finditer(rf"{BOX.pattern}|</answer>", text, re.IGNORECASE)),
        (end for _, end in _hashed(text)),
        (found.end() for found in phrases if re.search(r"[$\\]", found[0]) or read_number(found[0]) is not None),
    )
    first = min(next(ends, len(text)) for ends in answers)
    heading = NEXT_PROBLEM.search(text, first)
    return text[: heading.start()] if heading else text


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


def _hashed(text: str) -> Iterator[tuple[str, int]]:
    """Each text after #### that begins with a number, and where it ends; "#### Step 1" is a heading."""
    for found in re.finditer(r"####([^\n#]*)", text):
        if _begins_with_number(found[1]):
            yield found[1], found.end()


def _begins_with_number(text: str) -> bool:
    start = re.sub(r"^\W*(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\b\W*?)?", "", plain(text), flags=re.IGNORECASE)
    is_item = re.match(r"\d+[.)]\s+[A-Za-z]", start)
    return not is_item and re.match(r"(?:(?:minus|negative)\s+)?[\d.]", start, re.IGNORECASE) is not None


def _after_phrases(text: str, phrases: Iterator[re.Match]) -> Iterator[re.Match]:
    """What follows each of the phrases and has content: a sentence, or a formula on lines of its own."""
    for found in phrases:
        gap = GAP.match(text, found.end())
        start = found.end() if gap is None else gap.end()
        content = (FORMULA if gap and re.search(DISPLAY, gap[0]) else SENTENCE).match(text, start)
        if content is not None and re.search(r"[\w∞∅]", content[0]):
            yield content


def _value(found: re.Match) -> Fraction | None:
    """The value of a match of NUMBER; None where it divides by 0, or is too long to be meant as a number."""
    parts = found.groupdict()
    if len(found[0]) > LONGEST:
        return None
    try:
        if parts["whole"] is not None:
            value = Fraction(parts["whole"]) + Fraction(parts["over"]) / Fraction(parts["under"])
        elif parts["top"] is not None:
            value = Fraction(parts["top"]) / Fraction(parts["bottom"])
        else:
            value = Fraction(parts["value"])
    except ZeroDivisionError:
        return None
    power = int(parts["power"] or parts["exponent"] or 0)
    value *= Fraction(10) ** power * SCALES.get((parts["scale"] or "").strip().lower(), 1)
    return -value if parts["sign"] else value
