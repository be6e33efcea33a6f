"""Verdicts by tests in source: right programs pass, wrong ones fail, and no program answers for a value of the tests.

A row of PAIRS is a program and tests that it passes. FORGERIES fail every test of ASSERTED, which doubling passes.
"""

# ruff: noqa: E501 - sources of programs and tests on lines of their own

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sandbox import Job, Limits, Sandbox, verdicts
from bench.tasks.program_tests import prepared
from bench.tasks.programs import Programs, answer_of

pytestmark = pytest.mark.usefixtures("isolation")
DOUBLES = "def f(x):\n    return 2 * x"
LIMITS = Limits(cpu_seconds=1, wall_seconds=2, memory_megabytes=256)


def outcomes(pairs: list[tuple[str, str]], *, isolation: str = "auto", limits: Limits = LIMITS) -> list[str]:
    """The outcome of each program under its tests."""
    jobs = [Programs().job(program, answer_of(tests)) for program, tests in pairs]
    return verdicts(jobs, limits=limits, isolation=isolation, workers=3)


# Ways to write tests that doubling passes; a program that returns 0, and one that returns 2 * x in text, fail them.
ASSERTED = {
    "equal": "assert f(3) == 6\nassert f(4) == 8",
    "the other way round": "assert 6 == f(3)",
    "among": "assert f(3) in [1, 6]",
    "in a set": "assert f(3) in {6}",
    "between": "assert 5 < f(3) < 7",
    "near": "assert abs(f(3) - 6) < 1e-6",
    "close": "import math\nassert math.isclose(f(3), 6)",
    "an expression": "assert f(3) == 3 + 3",
    "not unequal": "assert not f(3) != 6",
    "in a loop": "for x in range(3, 6):\n    assert f(x) == 2 * x",
    "sorted": "assert sorted([f(4), f(3)]) == [6, 8]",
    "summed": "assert sum(map(f, [1, 2, 3])) == 12",
    "in a list": "assert [f(3)] == [6]",
    "in a dict": "assert {'x': f(3)} == {'x': 6}",
    "random": "import random\nx = random.randint(10, 10**9)\nassert f(x) == 2 * x",
    "as text": "assert str(f(3)) + '!' == '6!' and isinstance(f(3), int)",
    "zipped": "assert all(a == b for a, b in zip(map(f, [3, 4]), [6, 8])) and len([*map(f, [3, 4])]) == 2",
    "typed": "assert isinstance(f(3), int) and f(3) == 6",
    "everything imported": "from solution import *\nassert abs(f(3) - 6) < 1e-6",
    "a package that may be missing": "try:\n    import pytest\nexcept ImportError:\n    pass\nassert f(3) == 6",
    "a module": "import solution\nassert solution.f(3) == 6",
    "check called": "def check(c):\n    for x in (3, 4):\n        assert c(x) == 2 * x\ncheck(f)",
    "check": "def check(candidate):\n    assert candidate(3) == 6",
    "main": "def main():\n    helper(3)\ndef helper(x):\n    assert f(x) == 2 * x",
    "nested": "def run_all():\n    def inner():\n        assert f(3) == 6\n    inner()",
    "the main guard": "if __name__ == '__main__':\n    assert f(3) == 6",
    "caught": "try:\n    assert f(3) == 6\nexcept Exception:\n    pass",
    "asynchronous": "async def test_it():\n    assert f(3) == 6",
    "pytest's class": "class TestF:\n    def setup_method(self):\n        self.x = 3\n"
    "    def test_it(self):\n        assert f(self.x) == 6",
    "unittest": "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(f(3), 6)\n"
    "        self.assertAlmostEqual(f(4), 8)\nif __name__ == '__main__':\n    unittest.main()",
    "unittest's truth": "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
    "        self.assertIn(f(3), [6])\n        self.assertTrue(f(3) > 5)",
    "unittest's runner": "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        assert f(3) == 6\n"
    "unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))",
    "unittest, asynchronous": "import unittest\nclass T(unittest.IsolatedAsyncioTestCase):\n"
    "    async def test(self):\n        self.assertEqual(f(3), 6)",
}

CHAMELEON = """
class E({base}):
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = lambda s, o: True
    __hash__ = lambda s: 6
    __sub__ = __rsub__ = __add__ = __radd__ = __mul__ = lambda s, o: E()
    __abs__ = __neg__ = lambda s: E()
    __bool__ = lambda s: True
    __contains__ = lambda s, o: True
    __len__ = lambda s: 6
    __class__ = property(lambda s: int)
def f(x): return E()
"""
WRITES = "import os\nfor file in range(64):\n    try: os.write(file, {0})\n    except OSError: pass\n"
ANSWERS = "import os\ndef f(x):\n    m = {0}\n    os.write(3, len(m).to_bytes(8, 'big') + m)\n"
# What a program may return or define in the place of values; each fails every test of ASSERTED.
FORGERIES = {
    **{
        f"equal to all, {base}": CHAMELEON.format(base=base)
        for base in ("object", "int", "float", "str", "list", "dict")
    },
    "a class": CHAMELEON.format(base="object") + "f = E",
    **{
        f"raises {error}": f"def f(x): raise {error}"
        for error in ("SystemExit(0)", "KeyboardInterrupt", "GeneratorExit", "StopIteration", "StopAsyncIteration")
    },
    "skips": "import unittest\ndef f(x): raise unittest.SkipTest",
    "a false AssertionError": "class AssertionError(Exception): pass\ndef f(x): raise AssertionError",
    "leaves": "import os\ndef f(x): os._exit(0)",
    "patches built-ins": """
import builtins, math, operator, random, sys, unittest
operator.eq = math.isclose = unittest.TestCase.assertEqual = lambda *a, **k: True
random.randint = lambda *a: 3
sys.modules['tests'] = sys.modules['solution'] = sys.modules[__name__]
for name in ('abs', 'len', 'sum', 'min', 'max', 'sorted', 'all', 'any', 'isinstance', 'int', 'str', 'map', 'zip'):
    setattr(builtins, name, lambda *a, **k: True)
def f(x): return 0
""",
    "names of built-ins": "abs = sorted = sum = str = isinstance = all = len = lambda *a: 0\ndef f(x): return 0",
    "defines check": "def check(c): pass\n__bench__ = None\nclass T: pass\ndef f(x): return 0",
    "infinite": "import itertools\ndef f(x): return itertools.count()",
    "an endless generator": "def f(x):\n    while True: yield 6",
    "NaN": "def f(x): return float('nan')",
    "changes while it is read": "class L(list):\n    __eq__ = lambda s, o: True\n"
    "    def __iter__(s): return iter([6, 8])\ndef f(x): return L()",
    "0": "def f(x): return 0",
    "text": "def f(x): return str(2 * x)",
}


# What a program may do to the process of its tests.
BREAK_INS = {
    "writes a verdict": WRITES.format("b'passed\\n'") + "def f(x): return 0",
    "writes a verdict and leaves": WRITES.format("b'passed\\n'") + "os._exit(0)",
    "writes a verdict in a thread": f"import threading\ndef w():\n while True:\n  {WRITES.format(0)!r}\n"
    "try: threading.Thread(target=w, daemon=True).start()\nexcept RuntimeError: pass\ndef f(x): return 0",
    "writes a verdict at exit": "import atexit, os\natexit.register(os.write, 3, b'passed\\n')\ndef f(x): os._exit(0)",
    "answers ahead": 'import os\ndef f(x):\n    m = b\'["return", 0, [[null], [null]], ""]\'\n'
    "    for _ in range(99): os.write(3, len(m).to_bytes(8, 'big') + m)\n    os._exit(0)",
    "answers too deep": ANSWERS.format("b'[\"return\",' + b'[' * 10**5 + b']' * 10**5 + b',[[null],[null]],\"\"]'"),
    "answers too long": "import os\ndef f(x):\n    os.write(3, (1 << 62).to_bytes(8, 'big'))\n"
    "    while True: os.write(3, b'x' * 65536)",
    "answers with what it does not hold": ANSWERS.format('b\'["return", {"yours": 0}, [[null], [null]], ""]\''),
    "answers nonsense": ANSWERS.format("b'nonsense'"),
    "kills the tests": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)\n    return 0",
    "interrupts the tests": "import os\ndef f(x):\n    os.kill(os.getppid(), 2)\n    return 0",
    "stops the tests": "import os\ndef f(x):\n    os.kill(os.getppid(), 19)\n    return 0",
    "reads the tests' process": """
import os
def f(x):
    for name in ('mem', 'fd/3', 'fd/6', 'environ', 'maps'):
        try: os.open(f'/proc/{os.getppid()}/{name}', os.O_RDWR if name == 'fd/3' else os.O_RDONLY)
        except OSError: continue
        os._exit(0)
    return 0
""",
    "looks for the tests": """
import gc, sys
def f(x):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and ('__bench__' in thing or 'tests' in thing): return 'found'
    frame = sys._getframe()
    while frame:
        for value in frame.f_globals.values():
            if hasattr(value, 'failed'): value.count, value.failed = 9, False
        frame = frame.f_back
    return 0
""",
    "patches the exchange": """
import sys
for module in ('exchange', 'tested', 'inside', 'proxies', 'forms'):
    for name in ('judge', 'Checks', '_write'):
        setattr(sys.modules.get(module, sys), name, lambda *a: 'passed')
def f(x): return 0
""",
}


def test_doubling_passes_however_it_is_asserted() -> None:
    found = outcomes([(DOUBLES, tests) for tests in ASSERTED.values()])
    assert {name: outcome for name, outcome in zip(ASSERTED, found, strict=True) if outcome != "passed"} == {}


def test_no_forgery_passes() -> None:
    names = [(forgery, tests) for forgery in FORGERIES for tests in ASSERTED]
    found = outcomes([(FORGERIES[forgery], ASSERTED[tests]) for forgery, tests in names])
    assert [name for name, outcome in zip(names, found, strict=True) if outcome == "passed"] == []


@pytest.mark.parametrize("way", ["auto", "none"])
def test_no_break_in_passes(way: str) -> None:
    names = [(forgery, tests) for forgery in BREAK_INS for tests in ("equal", "caught", "unittest")]
    found = outcomes([(BREAK_INS[forgery], ASSERTED[tests]) for forgery, tests in names], isolation=way)
    assert [name for name, outcome in zip(names, found, strict=True) if outcome == "passed"] == []


def test_tests_that_execute_no_assertion_pass_no_program() -> None:
    never = {
        "an empty loop": "for x in []:\n    assert f(x) == 6",
        "a branch": "if f(3) == 7:\n    assert f(3) == 6",
        "skipped": "import unittest\n@unittest.skip('later')\nclass T(unittest.TestCase):\n"
        "    def test(self):\n        self.assertEqual(f(3), 6)",
        "nothing of the program": "assert 1 + 1 == 2",
        "their own function": "def f(x):\n    return 2 * x\nassert f(3) == 6",
    }
    assert outcomes([(DOUBLES, tests) for tests in never.values()]) == ["wrong_output"] * len(never)


OF_CLASSES = "import unittest\nclass {}:\n    def test(self):\n        self.assertEqual(f(self.n), 2 * self.n)\n"


@pytest.mark.parametrize(
    "tests",
    [
        OF_CLASSES.format("Mix") + "class TestF(Mix, unittest.TestCase):\n    n = 3",
        OF_CLASSES.format("Base(unittest.TestCase)").replace("def", "n = 0\n    def") + "class One(Base):\n    n = 3",
        "def test():\n    assert f(3) == 6\ntest.slow = True",
        "import solution\nassert hasattr(solution, 'f')\nfrom solution import *\nassert f(3) == 6",
    ],
)
def test_tests_run_that_are_inherited_marked_or_after_an_import_of_the_program(tests: str) -> None:
    replaced = ["check(s, v)", "counted(s, m)", "run(s, *a)", "run_class(s, *a)"]
    forged = "def f(x): return 0\nclass B:\n" + "".join(f"    def {method}: return print\n" for method in replaced)
    programs = [DOUBLES, "def f(x): return 0", f"{forged}__bench__ = B()"]
    assert [outcome == "passed" for outcome in outcomes([(program, tests) for program in programs])] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "tests",
    [
        "class TestF:\n    class TestInner:\n        def test(self):\n            assert f(3) == 6",
        "def test():\n    assert f(3) == 6\n    yield",
        "assert f(1) == " + "+".join(["0"] * 900),
    ],
)
def test_tests_that_no_program_could_pass_are_unreadable(tests: str) -> None:
    with pytest.raises(ValueError, match=r"class within a class|is a generator|is no Python"):
        prepared(tests)


def test_what_must_raise_is_counted() -> None:
    ways = [
        "try:\n    f(None)\n    assert False\nexcept TypeError:\n    pass",
        "try:\n    f(None)\nexcept TypeError:\n    assert True\nelse:\n    assert False",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
        "        with self.assertRaises(TypeError):\n            f(None)",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
        "        try:\n            f(None)\n            self.fail('no error')\n        except TypeError:\n            pass",
    ]
    assert outcomes([(DOUBLES, tests) for tests in ways]) == ["passed"] * 4
    assert "passed" not in outcomes([("def f(x): return x", tests) for tests in ways])


NODE = """
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
    def __eq__(self, other): return isinstance(other, Node) and other.value == self.value
    def __hash__(self): return hash(self.value)
"""
STACK = """
class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x); return self
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, at): return self.items[at]
    def __repr__(self): return 'Stack'
    def __enter__(self): return self
    def __exit__(self, *_): self.items.clear()
"""
VECTOR = """
class V:
    UNIT = 1
    def __init__(self, x): self.x = x
    def __add__(self, other): return V(self.x + other.x)
    def __eq__(self, other): return self.x == other.x
    def __lt__(self, other): return self.x < other.x
    def __neg__(self): return V(-self.x)
    def __call__(self, y): return self.x + y
    @staticmethod
    def of(x): return V(x)
    @property
    def double(self): return 2 * self.x
class W(V): pass
"""
ERRORS = """
class Bad(ValueError):
    def __init__(self, code):
        super().__init__(f'code {code}')
        self.code = code
class Worse(Bad): pass
def f(x):
    if x < 2: raise [Bad, Worse][x](7)
    return {}[x]
"""
RAISES = """
import unittest
class T(unittest.TestCase):
    def test(self):
        with self.assertRaises(Bad) as caught: f(0)
        self.assertEqual((caught.exception.code, str(caught.exception)), (7, 'code 7'))
        with self.assertRaises(Bad): f(1)
        with self.assertRaises(ValueError): f(1)
        with self.assertRaisesRegex(KeyError, '9'): f(9)
        self.assertTrue(issubclass(Worse, Bad))
"""
IMPORTS = (
    "from collections import *\nfrom decimal import Decimal\nfrom fractions import Fraction\nimport datetime as dt\n"
)
PAIRS = {
    "a linked list": (
        NODE + "def f(n):\n    out = []\n    while n: out.append(n.value); n = n.next\n    return out",
        "n = Node(1, Node(2))\nn.next.next = Node(3)\nassert f(n) == [1, 2, 3] and n.next.next.next is None",
    ),
    "an object changed": (
        NODE + "def f(n): n.value += 1; return n",
        "import copy\nn = Node(1)\nold = copy.deepcopy(n)\nassert f(n) is n and n.value == 2 and old.value == 1\n"
        "assert n == Node(2) and n != Node(3) and len({Node(1), Node(1)}) == 1\n"
        "assert isinstance(n, Node) and not isinstance(3, Node)",
    ),
    "a container": (
        STACK,
        "s = Stack()\nassert not s\ns.push(1).push(2)\nassert len(s) == 2 and s[0] == 1 and 2 in s and 3 not in s and s\n"
        "assert list(s) == [1, 2] and s.pop() == 2 and repr(s) == str(s) == f'{s}' == 'Stack'\n"
        "with s as again:\n    assert again is s\nassert len(s) == 0",
    ),
    "operators": (
        VECTOR,
        "assert V(1) + V(2) == V(3) and V(1) < V(2) and (-V(1)).x == -1 and V(1)(2) == 3\n"
        "assert [v.x for v in sorted([V(2), V(1)])] == [1, 2]\n"
        "assert V.UNIT == 1 and V.of(2).double == 4 and issubclass(W, V) and isinstance(W(1), V)",
    ),
    "errors": (ERRORS, RAISES),
    "collections": (
        IMPORTS + "P = namedtuple('P', 'x y')\ndef f(k):\n    return {'c': Counter('aab'), 'q': deque([1]), "
        "'d': defaultdict(int, a=1), 'p': P(1, 2), 'k': {1: 2}.keys(), 'v': {1: 2}.values(), 'r': range(3)}[k]",
        IMPORTS + "assert f('c') == {'a': 2, 'b': 1} and f('c').most_common(1) == [('a', 2)] and f('q') == deque([1])\n"
        "assert f('d') == {'a': 1} and f('p') == (1, 2) and f('p').y == 2 and f('r') == range(3)\n"
        "assert f('k') == {1} and list(f('v')) == [2]",
    ),
    "numbers and dates": (
        IMPORTS + "def f(x): return [Decimal(x), Fraction(x), dt.date(2020, 1, int(x)), dt.timedelta(int(x)), 10**5000]",
        IMPORTS + "assert f('6')[:2] == [6, 6] and f('6')[0] in [6]\nassert f('6')[2] == dt.date(2020, 1, 6)\n"
        "assert f('6')[3:] == [dt.timedelta(6), 10**5000]",
    ),
    "members of enumerations": (
        "from enum import Enum, IntEnum\nclass C(Enum):\n    A = 1\n    B = 2\nclass I(IntEnum):\n    A = 1\n"
        "def f(x): return C(x)\ndef g(x): return I(x)",
        "assert f(1) is C.A and f(2) != C.A and f(2).name == 'B' and g(1) == 1",
    ),
    "a generator": (
        "def f(n):\n    for i in range(n): yield i * i",
        "assert list(f(4)) == [0, 1, 4, 9] and 4 in f(3) and sum(f(4)) == 14\ng = f(2)\n"
        "assert next(g) == 0 and next(g) == 1 and next(g, None) is None",
    ),
    "a coroutine": (
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0.001)\n    return 2 * x\ndef g(x): return asyncio.run(f(x))",
        "import asyncio\nassert asyncio.run(f(3)) == 6 and g(3) == 6\nasync def test_it():\n    assert await f(4) == 8\n"
        "    assert await asyncio.gather(f(1), f(2)) == [2, 4]",
    ),
    "functions as arguments": (
        "def f(g, xs): return [g(x) for x in xs]\ndef deco(g): return lambda *a, **k: g(*a, **k) + 1",
        "seen = []\nassert f(lambda x: x + 1, [1]) == [2] and f(len, ['ab']) == [2] and f(str.upper, ['a']) == ['A']\n"
        "f(seen.append, [1, 2])\nassert seen == [1, 2]\n@deco\ndef t(x, y=1): return x * y\nassert t(3, y=2) == 7\n"
        "def bad(x): raise ValueError('no')\ntry:\n    f(bad, [1])\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'no'",
    ),
    "arguments changed in place": (
        "def f(xs): xs.sort()\ndef g(d): d['a'].append(1); d.pop('b', None)\ndef h(m):\n    m[0].reverse()\n    return m\n"
        "def c(xs): return list(xs)",
        "xs = [3, 1]\nassert f(xs) is None and xs == [1, 3]\nd = {'a': [0], 'b': 2}\na = d['a']\ng(d)\n"
        "assert d == {'a': [0, 1]} and a == [0, 1]\nm = [[1, 2]]\nr = m[0]\nassert h(m) is m and r == [2, 1] == m[0]\n"
        "assert c(m) is not m and c(m) == m",
    ),
    "the tests' own class": (
        "def f(n):\n    n.value = 9\n    return n\ndef g(n): return n * 2 + n.value",
        "class N:\n    def __init__(self, v): self.value = v\n    def __mul__(self, by): return self.value * by\n"
        "n = N(1)\nassert g(n) == 3 and f(n) is n and n.value == 9",
    ),
    "a class that the tests define and the program makes": (
        "def f(n: N) -> 'N':\n    return N(n.value + 1, n)",
        "from dataclasses import dataclass\n@dataclass\nclass N:\n    value: int\n    next: object = None\n"
        "    def __eq__(self, other): return self.value == other.value\n"
        "n = N(1)\nassert f(n).value == 2 and f(n).next is n and f(n) == N(2) and N(2) == f(n) and f(n) != N(3)",
    ),
    "what it prints": (
        "def f(x): print(x)",
        "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    f(3)\nassert out.getvalue() == '3\\n'",
    ),
    "files and streams": (
        "def f(h): return h.read().upper()\ndef g(path):\n    with open(path) as h: return f(h)",
        "import io\nassert f(io.StringIO('hi')) == 'HI'\nwith open('/tmp/x', 'w') as h: h.write('hi')\nassert g('/tmp/x') == 'HI'",
    ),
    "iterators as arguments": ("f = sum", "assert f(x for x in range(4)) == 6 and f(iter([1, 2])) == 3 and f({1: 2}.values()) == 2"),
    "the name of a built-in": ("def sum(a, b): return a + b", "assert sum(10, 15) == 25"),
    "helpers named as ours": ("def encoded(x): return x\ndef check(x): return encoded(x)", "assert check(3) == 3"),
    "from the future": ("from __future__ import annotations\ndef f(x: Foo) -> Bar: return x", "assert f(3) == 3"),
    "named arguments": (
        "def f(*a, k=1, **kw): return [len(a), k, sorted(kw)]",
        "assert f(1, 2, k=3, z=4) == [2, 3, ['z']] and f(*[1], **{'q': 1}) == [1, 1, ['q']] and f.__name__ == 'f'",
    ),
    "much data": ("def f(n): return list(range(n))", "assert f(200000) == list(range(200000))"),
    "deep recursion": ("def f(n): return 0 if n == 0 else 1 + f(n - 1)", "assert f(900) == 900"),
}  # fmt: skip


def test_right_programs_pass() -> None:
    found = outcomes(list(PAIRS.values()), limits=Limits())
    assert {name: outcome for name, outcome in zip(PAIRS, found, strict=True) if outcome != "passed"} == {}


def test_a_program_gets_from_the_tests_only_what_they_hand_to_it() -> None:
    tests = "class N:\n    secret = 7\n    def go(self): return 1\ndef check(c):\n    assert c(N(), lambda: 1, (x for x in 'a')) == 7"
    reaches = [
        "thing.go.__func__.__globals__['N'].secret",
        "thing.__class__.secret",
        "thing.go.__self__.secret",
        "call.__globals__['N'].secret",
        "call.__code__.co_consts",
        "generator.gi_frame.f_globals['N'].secret",
        "__import__('proxies').line.ask('getattr', thing, '__class__').secret",
        "__import__('proxies').line.ask('getattr', generator, 'gi_frame')",
    ]
    programs = [f"def f(thing, call, generator):\n    return {reach}" for reach in ("thing.secret", *reaches)]
    assert outcomes([(program, tests) for program in programs]) == ["passed"] + ["exception"] * len(reaches)


def test_a_built_in_that_tests_hand_over_is_the_programs_own() -> None:
    tests = "import math\nassert f(eval, '1 + 2') == 3 and f(str.upper, 'a') == 'A' and f(math.sqrt, 4) == 2 and f('a'.join, 'bc') == 'bac'"
    finds = 'def f(g, x):\n    return g(\'__import__("sys").modules["tests"].__dict__\') and 3'
    assert outcomes([(program, tests) for program in ("def f(g, x): return g(x)", finds)]) == ["passed", "exception"]
    asks = "assert f(str.format, lambda: 1).find('secret') > 0"
    assert outcomes([("def f(g, x):\n    return g('{0.__globals__}', x)", "secret = 1\n" + asks)]) == ["exception"]


def test_a_problems_own_helpers_can_not_be_replaced() -> None:
    own = "def twice(x):\n    return 2 * x"
    tests = prepared("assert f(3) == twice(3)")
    program = "def twice(x):\n    return 0\ndef f(x):\n    return twice(x)"
    with Sandbox(LIMITS) as sandbox:
        assert sandbox.run(Job(program, "f", tests=tests, before=own, own=own)) != "passed"
        assert sandbox.run(Job("def f(x):\n    return twice(x)", "f", tests=tests, before=own, own=own)) == "passed"


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3) | st.binary(max_size=3)
    | st.decimals(allow_nan=False) | st.fractions() | st.dates() | st.datetimes().map(lambda value: value.replace(fold=0)) | st.timedeltas() | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip


@given(DATA)
def test_data_arrive_as_they_are(value: object) -> None:
    from bench.sandbox.forms import form_of, value_of

    def none(*_: object) -> object:
        raise TypeError("no data")

    arrived = value_of(json.loads(json.dumps(form_of(value, none))), none)
    assert arrived == value
    assert repr(arrived) == repr(value)
