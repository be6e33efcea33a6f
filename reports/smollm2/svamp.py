"""SVAMP (Patel et al. 2021, arXiv 2103.07191) as rows for task=jsonl: prompt, answer and worked solution.

python reports/smollm2/svamp.py SVAMP.json svamp.jsonl      # SVAMP as one JSON list, or with one problem per line

A solution has one line per operation of the problem's equation, then the answer: "290 / 2 = 145", "#### 145". Problems
whose equation is not the answer, or is one number, are left out, and counted.
"""

import ast
import json
import sys
from fractions import Fraction
from pathlib import Path

SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def solved(node: ast.AST, lines: list[str]) -> Fraction:
    """The value of an equation; each of its operations is added to `lines`, inner ones first."""
    if isinstance(node, ast.Expression):
        return solved(node.body, lines)
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    if not isinstance(node, ast.BinOp):
        raise ValueError(f"{ast.unparse(node)} is neither a number nor one of + - * /.")
    left, right, sign = solved(node.left, lines), solved(node.right, lines), SIGNS[type(node.op)]
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else Fraction(0)}[sign]
    lines.append(f"{shown(left)} {sign} {shown(right)} = {shown(value)}")
    return value


def shown(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.4g}"


def main(source: Path, out: Path) -> None:
    text = source.read_text()
    problems = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    rows, left_out = [], 0
    for problem in problems:
        lines: list[str] = []
        value = solved(ast.parse(problem["Equation"].strip(), mode="eval"), lines)
        if not lines or value != Fraction(str(problem["Answer"])):
            left_out += 1
            continue
        body = problem["Body"].strip()
        prompt = f"{body}{'' if body.endswith(('.', '?')) else '.'} {problem['Question'].strip()}"
        rows.append({"prompt": prompt, "answer": shown(value), "solution": "\n".join([*lines, f"#### {shown(value)}"])})
    out.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    print(
        f"{out}: {len(rows):,} problems; {left_out} left out, whose equation does not give the answer or is one number"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
