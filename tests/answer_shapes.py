"""What language models write as the answer to a word problem, the verdict that it should get, and who else gives it.

Each row is a completion, the gold answer and whether it is right. Where lm-eval's gsm8k filters or math-verify give
another verdict on the same text, the row says why.
"""

from dataclasses import dataclass

HASHES = "strict-match reads '#### ', with its space, and the digits right after it"
FIRST = "strict-match takes the first ####, whatever comes later"
DIGITS = "lm-eval compares digits as text: 18.00 is not 18, .5 is not 0.5"
LAST = "flexible-extract takes the last number of all, and another follows the answer"
SIGNS = "flexible-extract takes two signs such as '$.' for a number"
FORMS = "flexible-extract knows no fractions, LaTeX, scales or typographic minus"
CUT = "the completion was cut inside its box: whether more digits would have followed, nobody knows"
HEDGED = "several numbers are named as the answer, and the peer takes one of them"
GLUED = "math-verify wants a space before the number"
MINUS = "math-verify does not read a typographic minus"
NEXT = "math-verify reads on into the next problem that a base model makes up"
EXPRESSION = "math-verify works the sum out; an unfinished sum is no final number here"
SCALE = "math-verify does not read million"
WORDS = "math-verify takes the box for text"
SPACE = "math-verify splits the number at a thin space"
PERCENT = "math-verify takes percent for hundredths; gsm8k's answers leave the sign out"
SEVERAL = "math-verify takes the boxes for a set"
BOXED = "math-verify prefers the box; here the line that was asked for counts"
MIXED = "math-verify reads no mixed numbers in plain text"

THOUGHT = "the peer reads what a model thinks, or what it has not finished thinking"
FIRST_NAMED = "math-verify takes the number that is named first after the words, or the box before it"
CLOCK = "strict-match reads the hours of a time, math-verify a ratio"
GROUPS = "the peer knows the comma alone between groups of digits"
COMMAS = "lm-eval drops every comma, wherever it stands"
FULLWIDTH = "lm-eval knows ASCII digits alone, and math-verify reads no fullwidth ones"
POWER = "the peer reads no powers of ten in words, letters or exponents"
UNITS = "math-verify does not read the number beside such a unit or sign"
WORDED = "the peer reads no sign in words, or apart from its number"
BOTH = "the peer takes the number and leaves the sign of both values"
FRAMED = "math-verify knows \\boxed alone"
TAGGED = "math-verify does not read a number next to a tag"
OUTSIDE = "flexible-extract takes the last number of all, and another follows in brackets or after the answer"
PARTLY = "strict-match takes the first number of several"
NAMELESS = "math-verify reads the words and finds no number"
APPLES = "the peer takes the last number, or both"
ASIDE = "the peer takes the number of the equation that explains the answer"
UNMARKED = "math-verify takes the last number of all, which the next problem has"


@dataclass(frozen=True)
class Shape:
    """A completion; a peer's field says why it disagrees, and is empty where it agrees."""

    completion: str
    gold: str
    right: bool
    strict: str = ""
    flexible: str = ""
    math_verify: str = ""


SHAPES = (
    Shape("She has 9 + 9 = 18 left.\n#### 18", "18", True),
    Shape("#### 18", "17", False),
    Shape("####18", "18", True, strict=HASHES, math_verify=GLUED),
    Shape("#### $18", "18", True, strict=HASHES),
    Shape("#### 18 dollars", "18", True),
    Shape("#### 18.", "18", True),
    Shape("#### 18.00", "18", True, strict=DIGITS, flexible=DIGITS),
    Shape("#### -5", "-5", True),
    Shape("#### −5", "-5", True, strict=HASHES, flexible=FORMS, math_verify=MINUS),
    Shape("#### 1,234", "1234", True),
    Shape("#### $1,234,567.50", "1234567.5", True, strict=HASHES, flexible=DIGITS),
    Shape("#### **18**", "18", True, strict=HASHES),
    Shape("#### The answer is 18", "18", True, strict=HASHES),
    Shape("#### Answer: 18", "18", True, strict=HASHES),
    Shape("#### 50%", "50", True),
    Shape("#### 0.5", "1/2", True, strict=DIGITS, flexible=DIGITS),
    Shape("#### 3/4", "0.75", True, strict=DIGITS, flexible=FORMS),
    Shape("#### 18\n\nQuestion: Tom has 3 pens. How many?\nAnswer: He has 3. #### 3", "18", True, math_verify=NEXT),
    Shape("#### 17\nWait, I forgot one.\n#### 18", "18", True, strict=FIRST),
    Shape("#### Step 1: count\n9 eggs.\n#### Step 2: add\nThe answer is 18.", "18", True, strict=HASHES),
    Shape("#### 1. Count the eggs\nThere are 9.\n#### 2. Add\n#### 18", "18", True, strict=FIRST),
    Shape("#### 9 + 9 = 18", "18", True, strict=DIGITS),
    Shape("#### 9 + 9", "18", False, math_verify=EXPRESSION),
    Shape("#### 17 or 18", "18", False, flexible=HEDGED, math_verify=HEDGED),
    Shape("####", "18", False),
    Shape("#### eighteen", "18", False),
    Shape("#### 1.5 million", "1500000", True, strict=DIGITS, flexible=FORMS, math_verify=SCALE),
    Shape("The answer is 18.", "18", True, strict=HASHES),
    Shape("The answer is $18.", "18", True, strict=HASHES),
    Shape("The answer is: 18", "18", True, strict=HASHES),
    Shape("So the final answer is **18**.", "18", True, strict=HASHES),
    Shape("**Answer:** 18", "18", True, strict=HASHES),
    Shape("**Answer**: 18 eggs", "18", True, strict=HASHES),
    Shape("Answer: 18\n\nI hope this helps with all 3 parts!", "18", True, strict=HASHES, flexible=LAST),
    Shape("Answer:\n\n18", "18", True, strict=HASHES),
    Shape("The answer to the question is 18 eggs, sold over 3 days.", "18", True, strict=HASHES, flexible=LAST),
    Shape("The final answer is 18 eggs. (That is 2 more than 16.)", "18", True, strict=HASHES, flexible=LAST),
    Shape("The answer is 9 * 2 = 18 dollars.", "18", True, strict=HASHES),
    Shape("The answer is 18 dollars per 2 days.", "18", True, strict=HASHES, flexible=LAST),
    Shape("The answer is -18.", "18", False),
    Shape("\\[ \\text{Answer: } 18 \\]", "18", True, strict=HASHES),
    Shape("The answer is between 17 and 19.", "18", False),
    Shape("First guess: the answer is 17. Checking, the answer is 18.", "18", True, strict=HASHES),
    Shape("The answer is $\\boxed{18}$.", "18", True, strict=HASHES, flexible=SIGNS),
    Shape("$\\boxed{18}$", "18", True, strict=HASHES),
    Shape("\\[ \\boxed{18} \\]", "18", True, strict=HASHES),
    Shape("\\boxed{\\$18.50}", "18.5", True, strict=HASHES, flexible=DIGITS),
    Shape("\\boxed{18\\text{ dollars}}", "18", True, strict=HASHES),
    Shape("\\boxed{\\text{18 eggs}}", "18", True, strict=HASHES, math_verify=WORDS),
    Shape("\\boxed{1{,}234}", "1234", True, strict=HASHES, flexible=FORMS),
    Shape("\\boxed{1,234}", "1234", True, strict=HASHES),
    Shape("\\boxed{1\\,234}", "1234", True, strict=HASHES, flexible=FORMS, math_verify=SPACE),
    Shape("\\boxed{50\\%}", "50", True, strict=HASHES, math_verify=PERCENT),
    Shape("\\boxed{\\frac{3}{4}}", "0.75", True, strict=HASHES, flexible=FORMS),
    Shape("\\boxed{\\dfrac34}", "3/4", True, strict=HASHES, flexible=FORMS),
    Shape("\\boxed{-\\frac{1}{2}}", "-0.5", True, strict=HASHES, flexible=FORMS),
    Shape("\\boxed{90^\\circ}", "90", True, strict=HASHES),
    Shape("\\boxed{x = 18}", "18", True, strict=HASHES),
    Shape("\\boxed{\\textbf{18}}", "18", True, strict=HASHES),
    Shape("\\boxed{\\boxed{18}}", "18", True, strict=HASHES),
    Shape("First \\boxed{17}, corrected \\boxed{18}.", "18", True, strict=HASHES, math_verify=SEVERAL),
    Shape("It is \\boxed{18}, which is 2 less than 20.", "18", True, strict=HASHES, flexible=LAST),
    Shape("It is \\boxed{18", "18", False, flexible=CUT),
    Shape("\\boxed{}", "18", False),
    Shape("\\boxed{17}\n#### 18", "18", True, math_verify=BOXED),
    Shape("\\boxed{1.8 \\times 10^1}", "18", True, strict=HASHES, flexible=FORMS),
    Shape("So she makes 18 dollars.", "18", True, strict=HASHES),
    Shape("So she makes 18 dollars in 2 days.", "18", False),
    Shape("9 + 9 = **18**", "18", True, strict=HASHES),
    Shape("She has 1 1/2 cups.", "1.5", True, strict=HASHES, flexible=FORMS, math_verify=MIXED),
    Shape("Total: $1,234.50", "1234.5", True, strict=HASHES, flexible=DIGITS),
    Shape("That makes .5 of it.", "0.5", True, strict=HASHES, flexible=DIGITS),
    Shape("It takes her 3 hours and then", "18", False),
    Shape("I can't tell.", "18", False),
    Shape("", "18", False),
    Shape("She sold eighteen eggs.", "18", False),
    Shape("The first 17 were sold; 18", "18", True, strict=HASHES),
    Shape("She has 18-", "18", True, strict=HASHES),
    Shape("The ratio is 3:4, so the answer is 18.", "18", True, strict=HASHES),
    Shape("Answer = 18", "18", True, strict=HASHES),
    Shape("The answer is 18,000.", "18000", True, strict=HASHES),
    Shape("The answer is 18, 19, or 20.", "18", False, math_verify=HEDGED),
    Shape("#### 0018", "18", True, strict=DIGITS, flexible=DIGITS),
    Shape("#### 18e0", "18", True, flexible=FORMS),
    Shape("The answer is x.", "18", False),
    # what models write beside those
    Shape("The total is $18.00.", "18", True, strict=HASHES, flexible=DIGITS),
    Shape("**Final Answer:** $18", "18", True, strict=HASHES),
    Shape("The answer is **$18**.", "18", True, strict=HASHES),
    Shape("Final answer: \\(18\\)", "18", True, strict=HASHES),
    Shape("\\boxed{18\\ \\text{km/h}}", "18", True, strict=HASHES),
    Shape("\\boxed{18~\\mathrm{cm}}", "18", True, strict=HASHES, math_verify=UNITS),
    Shape("\\boxed{18 \\text{ cm}^2}", "18", True, strict=HASHES, flexible=LAST),
    Shape("\\boxed{USD 18}", "18", True, strict=HASHES, math_verify=UNITS),
    Shape("\\boxed{18\\text{USD}}", "18", True, strict=HASHES),
    Shape("\\boxed{18\\degree}", "18", True, strict=HASHES, math_verify=UNITS),
    Shape("\\boxed{-5^{\\circ}\\text{C}}", "-5", True, strict=HASHES),
    Shape("\\boxed{1\\;234}", "1234", True, strict=HASHES, flexible=GROUPS, math_verify=GROUPS),
    Shape("\\boxed{12 345 678}", "12345678", True, strict=HASHES, flexible=GROUPS, math_verify=GROUPS),
    Shape("\\boxed{1.234,50}", "1234.5", True, strict=HASHES, flexible=GROUPS, math_verify=GROUPS),
    Shape("#### 1'234", "1234", True, strict=GROUPS, flexible=GROUPS, math_verify=GROUPS),
    Shape("#### 1_234", "1234", True, strict=GROUPS, flexible=GROUPS, math_verify=GROUPS),
    Shape("#### 12,34", "1234", False, strict=COMMAS, flexible=COMMAS),
    Shape("\\boxed{18, 19}", "18", False),
    Shape("#### １８", "18", True, strict=FULLWIDTH, flexible=FULLWIDTH, math_verify=FULLWIDTH),
    Shape("#### 2 1/2", "2.5", True, strict=DIGITS, flexible=FORMS, math_verify=MIXED),
    Shape("#### 2½", "2.5", True, strict=DIGITS, flexible=FORMS, math_verify=MIXED),
    Shape("\\boxed{2\\frac{1}{2}}", "2.5", True, strict=HASHES, flexible=FORMS),
    Shape("\\boxed{2\\tfrac12}", "2.5", True, strict=HASHES, flexible=FORMS),
    Shape("\\boxed{-2\\frac{1}{2}}", "-2.5", True, strict=HASHES, flexible=FORMS),
    Shape("\\boxed{\\frac{-1}{2}}", "-0.5", True, strict=HASHES, flexible=FORMS),
    Shape("\\boxed{\\cfrac{1}{2}}", "0.5", True, strict=HASHES, flexible=FORMS),
    Shape("\\boxed{\\pm 18}", "18", False, flexible=BOTH),
    Shape("#### ±18", "18", False, flexible=BOTH),
    Shape("\\boxed{x = 18 \\text{ or } x = -2}", "18", False),
    Shape("The answer is 3:30 PM.", "3", False, math_verify=CLOCK),
    Shape("#### 3:30", "3", False, strict=CLOCK, math_verify=CLOCK),
    Shape("#### 2 hours 30 minutes", "2", False, strict=PARTLY),
    Shape("#### 1.8e1", "18", True, strict=POWER, flexible=POWER, math_verify=POWER),
    Shape("#### 1.8 x 10^1", "18", True, strict=POWER, flexible=POWER, math_verify=POWER),
    Shape("#### 18k", "18000", True, strict=POWER, flexible=POWER, math_verify=POWER),
    Shape("#### $1.5M", "1500000", True, strict=HASHES, flexible=POWER, math_verify=POWER),
    Shape("#### 2 hundred", "200", True, strict=POWER, flexible=POWER, math_verify=POWER),
    Shape("#### ~18", "18", True, strict=HASHES, math_verify=GLUED),
    Shape("#### approximately 18.0", "18", True, strict=HASHES, flexible=DIGITS),
    Shape("\\boxed{\\approx 18}", "18", True, strict=HASHES),
    Shape("#### - 5", "-5", True, strict=WORDED, flexible=WORDED, math_verify=WORDED),
    Shape("#### minus 5", "-5", True, strict=WORDED, flexible=WORDED, math_verify=WORDED),
    Shape("#### -$5", "-5", True, strict=HASHES, math_verify=UNITS),
    Shape("\\boxed 18", "18", True, strict=HASHES),
    Shape("\\fbox{18}", "18", True, strict=HASHES, math_verify=FRAMED),
    Shape("\\boxed{\\boxed{18} eggs}", "18", True, strict=HASHES),
    Shape("\\boxed{17} or rather \\boxed{18", "18", False, flexible=CUT),
    Shape("Put it in \\boxed format: the answer is 18.", "18", True, strict=HASHES),
    Shape("#### $\\boxed{18}$", "18", True, strict=HASHES),
    Shape("####\n18", "18", True, strict=HASHES),
    Shape("#### 0.18 (18%)", "0.18", True, flexible=OUTSIDE),
    Shape("#### 18 apples and 3 pears", "18", True, flexible=APPLES, math_verify=APPLES),
    Shape("Answer: 18/20", "18", False),
    Shape("The answer is eighteen (18).", "18", True, strict=HASHES, math_verify=NAMELESS),
    Shape("The answer is: \n\n$$18$$", "18", True, strict=HASHES),
    Shape("The answer is not 17, it's 18.", "18", True, strict=HASHES, math_verify=FIRST_NAMED),
    Shape("The answer is 18 (not 17).", "18", True, strict=HASHES, flexible=OUTSIDE),
    Shape("The answer is 18.\n\nTherefore, Janet sells 18 eggs in 2 days.", "18", True, strict=HASHES, flexible=LAST),
    Shape("<answer>18</answer>", "18", True, strict=HASHES, math_verify=TAGGED),
    Shape("<think>9 + 9</think><answer>18</answer>", "18", True, strict=HASHES, math_verify=TAGGED),
    Shape('{"answer": 18, "days": 2}', "18", True, strict=HASHES, flexible=LAST),
    Shape("#### 18<|endoftext|>", "18", True),
    Shape("<think>Perhaps \\boxed{17}?</think>\nThe answer is 18.", "18", True, strict=HASHES, math_verify=THOUGHT),
    Shape("Perhaps 17.</think>\n\nThe answer is 18.", "18", True, strict=HASHES),
    Shape("<think>\n\n</think>\n\n#### 18", "18", True),
    Shape("<think>It is \\boxed{18}, let me check", "18", False, flexible=THOUGHT, math_verify=THOUGHT),
    Shape("<think>9 + 9 = 18\n#### 18\nBut wait", "18", False, strict=THOUGHT, flexible=THOUGHT, math_verify=THOUGHT),
    Shape("<think>So \\boxed{18}.</think>", "18", False, flexible=THOUGHT, math_verify=THOUGHT),
    # neighbours of shapes that were once misread
    Shape("Let me see.\n\n**Problem breakdown:** 3 + 4\n\n#### 7", "7", True),
    Shape("Sure.\n\n**Question restated:** how many?\n\n#### 7", "7", True),
    Shape("Sure.\n\n**Problem:** 3 and 4 pens.\n\n**Solution:** 7", "7", True, strict=HASHES),
    Shape("Question 1: no.\n\nQuestion 2: yes.\n\nThe sum is \\boxed{7}.", "7", True, strict=HASHES),
    Shape("The answer is 17.\n\nProblem with this: one is missing.\n#### 18", "18", True, math_verify=FIRST_NAMED),
    Shape("#### 18\n\n## Problem 2\nTom has 3 pens.\n#### 3", "18", True, flexible=LAST, math_verify=NEXT),
    Shape(
        "The answer is 18.\n\nQ2: Tom has 3 pens. How many?\nAnswer: 3",
        "18",
        True,
        strict=HASHES,
        flexible=LAST,
        math_verify=NEXT,
    ),
    Shape("She makes 18.\n\nQuestion: Tom has 3 pens. How many?", "18", True, strict=HASHES, math_verify=UNMARKED),
    Shape("The answer is:\n\n\\[\n18\n\\]", "18", True, strict=HASHES),
    Shape("The answer is:\n\n$$\n9 + 9 = 18\n$$\n\nThat was step 3.", "18", True, strict=HASHES, flexible=LAST),
    Shape("The answer is:\n\\[\n\\begin{aligned}\n18\n\\end{aligned}\n\\]", "18", True, strict=HASHES),
    Shape("The answer is:\n\n- 18 eggs", "18", True, strict=HASHES),
    Shape("Answer:\n```\n18\n```", "18", True, strict=HASHES),
    Shape("#### 2 1/2.", "2.5", True, strict=DIGITS, flexible=FORMS, math_verify=MIXED),
    Shape("\\boxed{1\\frac{4}{5}.}", "1.8", True, strict=HASHES, flexible=FORMS, math_verify=MIXED),
    Shape("\\boxed{1\\,\\frac{4}{5}}", "1.8", True, strict=HASHES, flexible=FORMS),
    Shape("#### 2 and a half hours", "2.5", True, strict=DIGITS, flexible=FORMS, math_verify=MIXED),
    Shape("#### 2 1/2, or so", "2.5", True, strict=DIGITS, flexible=FORMS, math_verify=MIXED),
    Shape("\\boxed{30^\\circ,150^\\circ}", "30150", False),
    Shape("#### $5,$100", "5100", False, flexible=COMMAS),
    Shape("\\boxed{10\\%,200\\%}", "10200", False),
    Shape("\\boxed{30\\text{ cm},150\\text{ cm}}", "30", False, math_verify=UNITS),
    Shape("#### 18 and 19", "18", False, strict=PARTLY),
    Shape("#### 18; 19", "18", False, strict=PARTLY),
    Shape("#### 1,50,000 rupees", "150000", True, math_verify=GROUPS),
    Shape("She pays 1,50,000 rupees.", "150000", True, strict=HASHES, math_verify=GROUPS),
    Shape("#### 1 000 apples", "1000", True, strict=GROUPS, flexible=GROUPS),
    Shape("She has 1 000 apples.", "1000", True, strict=HASHES, flexible=GROUPS),
    Shape("#### 1.234.567", "1234567", True, strict=GROUPS, flexible=GROUPS, math_verify=GROUPS),
    Shape("\\boxed{11,\\! 111,\\! 111}", "11111111", True, strict=HASHES, flexible=GROUPS),
    Shape("#### 1 lakh", "100000", True, strict=POWER, flexible=POWER, math_verify=POWER),
    Shape("#### 3 apples per child\nThere are 6 children. The answer is 18.", "18", True, strict=FIRST),
    Shape("#### 3 apples per child\nSo it is \\boxed{18}.", "18", True, strict=FIRST),
    Shape("#### 18 dollars\nThe answer is rounded to 2 digits.", "18", True, flexible=LAST, math_verify=APPLES),
    Shape("\\boxed{2^{10}}", "2", False),
    Shape("\\boxed{3\\sqrt{2}}", "3", False),
    Shape("\\boxed{\\sqrt{16}}", "16", False, flexible=FORMS),
    Shape("The answer is \\boxed{18", "18", False, flexible=CUT),
    Shape("\\boxed{x=5,y=100}", "100", False, flexible=LAST),
    Shape("#### Rs. 1,50,000", "150000", True, strict=HASHES, math_verify=GROUPS),
    Shape("\\boxed{2\\,1/2.}", "2.5", True, strict=HASHES, flexible=FORMS, math_verify=MIXED),
    Shape("#### 21 = 3 * 7", "21", True, flexible=LAST),
    Shape("The answer is 18.\n\nDouble-check: the answer is positive.", "18", True, strict=HASHES),
    Shape("To find the answer: first count 3 + 4.\n\n**Problem:** how many?\n\n#### 7", "7", True),
    Shape("#### ‑5", "-5", True, strict=HASHES, flexible=FORMS, math_verify=MINUS),  # a hyphen that breaks no line
    Shape("#### －5", "5", False, flexible=FORMS),  # a fullwidth minus
    Shape("The answer is ‐18.", "-18", True, strict=HASHES, flexible=FORMS, math_verify=MINUS),
    Shape("#### 18 (n = 9)", "18", True, flexible=LAST, math_verify=ASIDE),
    Shape("The answer is $18, since 1 week = 7 days.", "18", True, strict=HASHES, flexible=LAST, math_verify=ASIDE),
    Shape("The answer is 18 dollars (1 dozen = 12 eggs).", "18", True, strict=HASHES, flexible=LAST, math_verify=ASIDE),
    Shape("The answer is 18 when n = 3.", "3", False, flexible=LAST, math_verify=ASIDE),
    Shape("#### 2 (3 + 4) = 14", "14", True, strict=PARTLY),
)
