"""Read the equations in a solution in their order, and judge whether they are true."""

import ast
import operator
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from bench.tasks.extraction import DIGITS, plain

ANNOTATION = re.compile(r"<<([^<>\n]*)>>")  # gsm8k's own calculator marks, e.g. <<9-1=8>>
TOKEN = re.compile(rf"{DIGITS}|[A-Za-z]+|\n|\S")
SIGNS = ("+", "-", "*", "/")
UNIT_WORDS = 3  # of a number: "60 meters an hour * 2 = 120"
LONGEST = 60  # tokens of one side
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@lru_cache(maxsize=2**16)  # the runs of a sweep read the same pools
def equations(completion: str) -> tuple[str, ...]:
    """Return e.g. ("9-1=8", "9+8=17"): numbers and signs without units. Only annotations count where there are any."""
    text = plain("\n".join(ANNOTATION.findall(completion)) or completion)
    tokens = [(found[0], found.end()) for found in TOKEN.finditer(text)]
    found = []
    for place in (index for index, (token, _) in enumerate(tokens) if token == "="):
        left = _left_side(text, tokens[max(0, place - LONGEST) : place])
        right = _right_side([token for token, _ in tokens[place + 1 : place + 5]])
        if left is not None and right is not None:
            found.append(f"{left}={right}")
    return tuple(found)


def _left_side(text: str, tokens: Sequence[tuple[str, int]]) -> str | None:
    """The calculation that ends these tokens, read backwards; None where there is none."""
    side: list[str] = []  # from right to left
    wants_term, words = True, 0
    for place in range(len(tokens) - 1, -1, -1):
        token, end = tokens[place]
        times = token == "x" and not wants_term
        if _is_number(token) and wants_term:
            side.append(token)
            wants_term, words = False, 0
        elif (token == ")" and wants_term) or (token == "(" and not wants_term):
            side.append(token)
        elif (token in SIGNS and not wants_term) or times:
            before = tokens[place - 1][0] if place else ""
            if token == "-" and not (_is_number(before) or before == ")" or before.isalpha()):
                if not text[end : end + 1].isspace():  # the sign of the number; with a space behind it, a bullet
                    side.append("-")
                break
            side.append("*" if times else token)
            wants_term = True
        elif token.isalpha() and wants_term and words < UNIT_WORDS:
            words += 1
        else:
            break
    while side and (side[-1] in ("+", "*", "/") or (side[-1] == "(" and side.count("(") > side.count(")"))):
        side.pop()
    if wants_term and side and side[-1] == "-":
        side.pop()
    balanced = side.count("(") == side.count(")")
    signs = sum(token in SIGNS for token in side[:-1])
    return "".join(reversed(side)) if balanced and signs else None


def _right_side(tokens: Sequence[str]) -> str | None:
    """The number after an equals sign; None where a calculation follows instead."""
    sign = "-" if tokens[:1] == ["-"] else ""
    rest = [*tokens[len(sign) :], "", "", ""]
    goes_on = rest[1] in SIGNS and (_is_number(rest[2]) or rest[2] == "(")
    return f"{sign}{rest[0]}" if _is_number(rest[0]) and not goes_on else None


def _is_number(token: str) -> bool:
    return token[:1].isdigit() or (token[:1] == "." and len(token) > 1)


def path(completion: str) -> str | None:
    """Return the equations in their order (Yuan et al. 2023, RFT); None where there is none."""
    return "; ".join(equations(completion)) or None


def steps_are_true(completion: str) -> bool:
    """Return whether there is an equation, and every one is true."""
    found = equations(completion)
    return bool(found) and all(map(is_true, found))


def is_true(equation: str) -> bool:
    """Return whether both sides are equal, or the right side is the left side rounded to the decimals shown."""
    left, _, right = equation.partition("=")
    try:
        value, shown = _evaluated(ast.parse(left, mode="eval").body), Fraction(right)
    except (SyntaxError, ZeroDivisionError, ValueError):
        return False
    places = len(right.partition(".")[2])
    rounded = places > 0 and (value * 10**places).denominator != 1
    return abs(value - shown) * 2 * 10**places <= int(rounded)


def _evaluated(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluated(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](_evaluated(node.left), _evaluated(node.right))
    raise ValueError(f"{ast.dump(node)[:40]} is no arithmetic")
