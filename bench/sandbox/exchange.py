"""The line between a program and its tests, which are two processes of a sandbox: a call goes there, data comes back.

Data are copied: None, numbers, texts, dates, collections of them, and what is equal to such (a Counter, an IntEnum, a
named tuple). Any other object stays where it is, and the other side gets a Proxy, whose attributes, calls and items are
asked for over the line. A proxy is never equal to data and never ordered or added up with data, so that no object of a
program answers for a value. It imports only the standard library, because a bare interpreter runs it.
"""

import builtins
import copy
import inspect
import io
import json
import operator
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import forms
from forms import BINARY, Proxy, awaited

MOST = 1 << 25  # bytes of one message
MOST_PRINTED = 1 << 20  # bytes
OPERATIONS: dict[str, Callable] = {
    **{name: getattr(operator, name) for name in ("eq", "neg", "getitem", "setitem", "delitem", *BINARY)},
    **{
        kind.__name__: kind
        for kind in (bool, str, repr, len, hash, iter, next, isinstance, issubclass, getattr, setattr, delattr)
    },
    "call": lambda function, *operands, **named: function(*operands, **named),
    "await": lambda coroutine: forms.line.run(coroutine),
    "enter": lambda manager: type(manager).__enter__(manager),
    "exit": lambda manager, kind: bool(type(manager).__exit__(manager, kind, None, None)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
FUNCTIONS = (type(len), type(str.join))
ERRORS = {
    name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}


class Line:
    """One end. fails: ends this process, where the other side breaks the rules; None on the program's side."""

    def __init__(self, file: int, fails: Callable[[], NoReturn] | None = None) -> None:
        forms.line = self
        self.file = file
        self.fails = fails
        self.asked = 0  # questions to the other side
        self.held: dict[int, Any] = {}  # objects that the other side knows by number, here kept alive
        self.numbers: dict[int, int] = {}  # id of an object -> its number
        self.loop: Any = None  # of asyncio
        self.proxies: dict[int, Any] = {}  # number on the other side -> proxy, or class of exceptions, or coroutine

    def ask(self, operation: str, *operands: Any, **named: Any) -> Any:
        """Return the result of an operation on the other side, or raise its exception."""
        self.asked += 1
        given = [*operands, *named.values()]
        self._send(["ask", operation, [self.packed(value) for value in given], list(named)])
        while (answer := self.receive())["kind"] == "ask":
            self.serve(answer)
        kind, value = answer["kind"], answer["value"]
        try:
            for old, (new,) in zip(given, answer["changes"], strict=True):
                forms.restored(old, new)
            result = {"return": lambda: value, "same": lambda: given[value], "raise": lambda: None}[kind]()
        except BaseException:
            self._ended()
        if kind != "raise":
            return result
        if isinstance(value, StopIteration | StopAsyncIteration) and operation != "next":
            value = RuntimeError("the program raised StopIteration")  # it would end a loop of the tests early
        raise value from None

    def serve(self, question: dict[str, Any]) -> None:
        """Answer one question of the other side."""
        operands, names = question["operands"], question["names"]
        before = [self.packed(value) if isinstance(value, (*forms.MUTABLE, tuple)) else None for value in operands]
        kind, value, operation = "return", None, question["operation"]
        try:
            if self.fails is not None:
                self._permit(operation, operands)
            split = len(operands) - len(names)
            value = OPERATIONS[operation](*operands[:split], **dict(zip(names, operands[split:], strict=True)))
            same = [at for at, given in enumerate(operands) if given is value and isinstance(value, forms.MUTABLE)]
            kind, form = ("same", same[0]) if same else ("return", self.packed(value))
        except BaseException as error:
            kind, form = "raise", self._described(error)
        after = [None if was is None else self.packed(given) for was, given in zip(before, operands, strict=True)]
        changes = [[None if now == was else now] for was, now in zip(before, after, strict=True)]
        self._send([kind, form, changes, self._printed()])

    def run(self, coroutine: Any) -> Any:
        import asyncio

        self.loop = self.loop or asyncio.new_event_loop()
        return self.loop.run_until_complete(coroutine)

    def _printed(self) -> str:
        """What the program printed since it was last asked, for tests that capture it."""
        buffer = getattr(sys.stdout, "buffer", None)
        if self.fails is not None or not isinstance(buffer, io.BytesIO):
            return ""
        text = buffer.getvalue()[:MOST_PRINTED].decode(errors="replace")
        buffer.seek(0)
        buffer.truncate()
        return text

    def _permit(self, operation: str, operands: list) -> None:
        """Raise TypeError where a program asks for more than tests hand to it.

        A function's or a frame's attributes lead to all that the tests hold.
        """
        target = operands[0]
        if operation.endswith("attr"):
            name = operands[1]
            is_open = type(target).__module__ in ("tests", "_io") and isinstance(name, str) and name[:1] != "_"
            is_open = is_open and not hasattr(target, "assertEqual")  # a test case's methods decide
        else:
            is_open = any(id(operand) in self.numbers for operand in operands)
        if not is_open:
            raise TypeError(f"a program can't ask for {operation} of a {type(target).__name__} of the tests")

    def packed(self, value: Any) -> Any:
        """Return the form of a value, which is a reference where the value is no data."""
        return forms.form_of(value, self._reference)

    def unpacked(self, form: Any) -> Any:
        return forms.value_of(form, self._referred)

    def _reference(self, value: Any) -> dict[str, Any]:
        if type(value) is Proxy:
            return {"yours": object.__getattribute__(value, "_number")}
        for number, known in self.proxies.items() if isinstance(value, type) else ():
            if known is value:
                return {"yours": number}
        if self.fails is not None and _is_built_in(value):  # so that eval runs in the program's process
            return {"function": value.__qualname__}
        return {"mine": self._held(value)}

    def _referred(self, name: str, content: Any) -> Any:
        """The object here, or what stands for an object there: a proxy, a coroutine or a class of exceptions."""
        if name == "yours":
            return self.held[content]
        if name == "function" and self.fails is None:
            return operator.attrgetter(content)(builtins)
        number, kind = {"mine": content}[name]
        if isinstance(kind, list):
            return self._error_class(kind)
        if kind == "coroutine":
            return awaited(Proxy(number))
        return self.proxies.setdefault(number, Proxy(number))

    def _held(self, value: Any) -> list:
        """The number of an object that stays here, and what the other side must know of its kind."""
        number = self.numbers.setdefault(id(value), len(self.numbers))
        self.held[number] = value
        if isinstance(value, type) and issubclass(value, BaseException):
            return [number, self._lineage(value)]
        return [number, "coroutine" if inspect.iscoroutine(value) else None]

    def _lineage(self, kind: type) -> list:
        """[number, name] of a class of exceptions and its bases, up to the first that is built in."""
        found: list = []
        for base in kind.__mro__:
            if ERRORS.get(base.__name__) is base:
                return [*found, [None, base.__name__]]
            if issubclass(base, BaseException):
                self.numbers.setdefault(id(base), len(self.numbers))
                self.held[self.numbers[id(base)]] = base
                found.append([self.numbers[id(base)], base.__name__])
        raise TypeError("no exception")

    def _described(self, error: BaseException) -> list:
        """An exception as its lineage, arguments, text and attributes."""
        attributes = {name: self.packed(value) for name, value in vars(error).items() if not name.startswith("__")}
        return [self._lineage(type(error)), self.packed(list(error.args)), str(error), attributes]

    def _error_class(self, lineage: list) -> Any:
        (number, name), *rest = lineage
        if number is None:
            return ERRORS[name]
        if number not in self.proxies:
            self.proxies[number] = type(name, (self._error_class(rest),), {"__str__": lambda error: error._text})
            self.proxies[number]._text = ""
        return self.proxies[number]

    def _raised(self, form: list) -> BaseException:
        """The exception of the other side: of the built-in class of its name, or of a class of its own under one."""
        lineage, arguments, text, attributes = form
        kind, given = self._error_class(lineage), self.unpacked(arguments)
        try:
            error = kind(*given)
        except Exception:  # it is made from other arguments
            error = BaseException.__new__(kind)
            error.args = (str(text),)
        vars(error).update({name: self.unpacked(value) for name, value in attributes.items()})
        if lineage[0][0] is not None:
            error._text = str(text)
        return error

    def _send(self, message: list) -> None:
        text = json.dumps(message).encode()
        data = memoryview(len(text).to_bytes(8, "big") + text)
        try:
            while data:
                data = data[os.write(self.file, data) :]
        except OSError:
            self._ended()

    def receive(self) -> dict[str, Any]:
        """The next message. What is no message of the other side's ends this process."""
        try:
            length = int.from_bytes(self._read(8), "big")
            kind, *content = json.loads(self._read(length))
            if kind == "ask":
                operation, operands, names = content
                operands = [self.unpacked(operand) for operand in operands]
                if not all(isinstance(name, str) for name in (operation, *names)) or len(names) > len(operands):
                    raise ValueError("no question")
                return {"kind": kind, "operation": operation, "operands": operands, "names": names}
            value, changes, printed = content
            unpacked = self._raised if kind == "raise" else self.unpacked
            changed = [[self.unpacked(form)] for (form,) in changes]
            sys.stdout.write(printed)
            return {"kind": kind, "value": unpacked(value), "changes": changed}
        except BaseException:
            self._ended()

    def _read(self, length: int) -> bytes:
        if length > MOST:
            raise ValueError("too long")
        received = bytearray()
        while len(received) < length:
            part = os.read(self.file, min(1 << 16, length - len(received)))
            if not part:
                raise EOFError
            received += part
        return bytes(received)

    def _ended(self) -> NoReturn:
        if self.fails is not None:
            self.fails()
        os._exit(0)


def _is_built_in(value: Any) -> bool:
    """Whether a function or method belongs to the built-ins."""
    try:
        return isinstance(value, FUNCTIONS) and operator.attrgetter(value.__qualname__)(builtins) is value
    except AttributeError:
        return False
