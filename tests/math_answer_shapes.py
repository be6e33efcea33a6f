"""What language models write as the answer to a problem in competition mathematics, and the verdict that it should get.

Where math-verify gives another verdict on the same text, the row says why.
"""

from answer_shapes import FULLWIDTH, THOUGHT, Shape

INEQUALITY = "math-verify does not compare an interval with an inequality unless it is asked to"
PERCENTAGE = "math-verify does not read a percent sign inside a box as part of a number"
BASES = "math-verify leaves the base out"
SIGNS_OF_BOTH = "math-verify does not read a plus-minus inside an expression"


MATH_SHAPES = tuple(
    Shape(completion, gold, right, math_verify="".join(why))
    for completion, gold, right, *why in (
        (r"\boxed{(-\infty, 3]}", r"(-\infty,3]", True),
        (r"\boxed{x \in (-\infty, 3]}", r"(-\infty,3]", True),
        (r"\boxed{(-\infty, 3)}", r"(-\infty,3]", False),
        (r"\boxed{\left[2, 5\right)}", "[2,5)", True),
        (r"\boxed{2 \le x < 5}", "[2,5)", True, INEQUALITY),
        (r"\boxed{2 < x < 5}", "[2,5)", False),
        (r"\boxed{x \ge 3}", r"[3,\infty)", True, INEQUALITY),
        (r"\boxed{(-\infty,-2)\cup(2,\infty)}", r"(-\infty, -2) \cup (2, \infty)", True),
        (r"\boxed{\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", True),
        (r"\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", False),
        (
            r"\boxed{\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}}",
            r"\begin{pmatrix} -\frac{1}{3} \\ \frac{2}{3} \end{pmatrix}",
            True,
        ),
        (r"\boxed{Evelyn}", r"\text{Evelyn}", True),
        (r"\boxed{\textbf{(E)}}", r"\text{(E)}", True),
        (r"\boxed{D}", r"\text{(E)}", False),
        (r"\boxed{90 \text{ degrees}}", r"90^\circ", True),
        (r"\boxed{3 \tfrac{1}{2}}", r"3\frac{1}{2}", True),
        (r"\boxed{\frac{7}{2}}", r"3\frac{1}{2}", True),
        (r"\boxed{\frac{3}{2}}", r"3\frac{1}{2}", False),
        (r"\boxed{3, -3}", r"\pm 3", True),
        (r"\boxed{x = 3 \text{ or } x = -3}", "3,-3", True),
        (r"\boxed{3}", r"\pm 3", False),
        (r"\boxed{x = \frac{-1 \pm \sqrt{5}}{2}}", r"\frac{-1 \pm \sqrt{5}}{2}", True, SIGNS_OF_BOTH),
        (
            r"\boxed{\frac{-1 - \sqrt{5}}{2}, \frac{-1 + \sqrt{5}}{2}}",
            r"\frac{-1 \pm \sqrt{5}}{2}",
            True,
            SIGNS_OF_BOTH,
        ),
        (r"\boxed{\{1,2,3\}}", r"\{3,2,1\}", True),
        (r"\boxed{(1,2,3)}", "(3,2,1)", False),
        (r"\boxed{(x,y)=(1,2)}", "(1,2)", True),
        (r"\boxed{2,1}", "(1,2)", False),
        (r"\boxed{8, 7}", "7,8", True),
        (r"\boxed{12\text{ square units}}", "12", True),
        (r"\boxed{12}", r"12\text{ cm}", True),
        (r"\boxed{12.5}", r"\$12.50", True),
        (r"\boxed{50}", r"50\%", True, PERCENTAGE),
        (r"\boxed{50\%}", "50", True, PERCENTAGE),
        (r"\boxed{\frac12}", r"50\%", True, PERCENTAGE),
        (r"\boxed{10\%}", "0.1", True, PERCENTAGE),
        (r"\boxed{5\%}", r"50\%", False),
        (r"\boxed{10080}", r"10,\!080", True),
        (r"\boxed{\sqrt{242}}", r"11\sqrt{2}", True),
        (r"\boxed{15.556}", r"11\sqrt{2}", False),
        (r"\boxed{\frac{\sqrt3}3}", r"\frac{1}{\sqrt{3}}", True),
        (r"\boxed{1.2857}", r"\frac{9}{7}", False),
        (r"\boxed{2000}", "2k", False),
        (r"\boxed{2x - y + 3 = 0}", "y=2x+3", True),
        (r"\boxed{f(x) = x^2}", "x^2", True),
        (r"\boxed{q - p}", "p-q", False),
        (r"\boxed{(3, \pi/2)}", r"\left( 3, \frac{\pi}{2} \right)", True),
        (r"\boxed{2i+1}", "1+2i", True),
        (r"\boxed{11_{2}}", "11_2", True),
        (r"\boxed{11_3}", "11_2", False, BASES),
        (r"\boxed{3:4}", "4:3", False),
        (r"\boxed{\text{6:30 PM}}", r"\text{6:30 PM}", True),
        (r"\boxed{(x+2)(x-3)}", "x^2-x-6", True),
        (r"\boxed{\text{no solution}}", r"\text{no solution}", True),
        (r"\boxed{-\infty}", r"\infty", False),
        (r"\boxed{\binom{5}{2}}", "10", True),
        (r"\boxed{.5}", r"\frac{1}{2}", True),
        (r"\boxed{$7$}", "7", True),
        (r"$\boxed7$", "7", True),
        (r"\boxed{−7}", "-7", True),
        ("\\boxed{７}", "7", True, FULLWIDTH),
        (r"\boxed{a = 7, b = 2}", "7", False),
        (r"**Answer:** $7$", "7", True),
        ("Final Answer: The final answer is $7$. I hope it is correct.", "7", True),
        (r"<think>so \boxed{6}</think> The answer is \boxed{7}.", "7", True),
        (r"<think>so \boxed{7}</think>", "7", False, THOUGHT),
        (r"<think>so \boxed{7}, but", "7", False, THOUGHT),
    )
)
