"""Data as forms that JSON can hold, for the exchange of a sandbox.

None, bool, int, float and str are their own forms, a list is a list of forms, and anything else is {kind: content}. A
value of a subclass has the form of what is equal to it, such as a Counter or a member of an IntEnum. A Proxy stands for
an object of the other side. It is never equal to data of the tests and never ordered or added up with them: an operator
that the program could answer would be an answer for a value. This file imports only the standard library, because a
bare interpreter runs it.
"""

import builtins
import collections
import sys
from collections.abc import Callable, Iterator
from typing import Any

WIDEST = 1 << 62  # of integers that are written as decimals
MUTABLE = (list, dict, set, collections.deque, bytearray)
SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}
MAPPINGS: dict[str, Any] = {"OrderedDict": collections.OrderedDict, "Counter": collections.Counter, "dict": dict}
TEXTS: dict[str, Any] = {"bytes": bytes, "bytearray": bytearray}
# Classes whose values are written as the arguments that make them anew, or as ISO 8601: module, name, content.
VALUES: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("decimal", "Decimal", lambda value: [str(value)]),
    ("fractions", "Fraction", lambda value: [value.numerator, value.denominator]),
    ("builtins", "complex", lambda value: [value.real, value.imag]),
    ("builtins", "range", lambda value: [value.start, value.stop, value.step]),
    ("builtins", "slice", lambda value: [value.start, value.stop, value.step]),
    ("datetime", "timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    ("datetime", "datetime", lambda value: value.isoformat()),
    ("datetime", "date", lambda value: value.isoformat()),
    ("datetime", "time", lambda value: value.isoformat()),
    ("uuid", "UUID", lambda value: [str(value)]),
    ("pathlib", "Path", lambda value: [str(value)]),
)
BINARY = (
    *("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and_", "or_", "xor"),
)
READABLE = ("__name__", "__qualname__", "__module__", "__dict__", "__annotations__")
line: Any = None  # the bench.sandbox.exchange.Line of this process


def form_of(value: Any, reference: Callable[[Any], Any]) -> Any:
    """Return the form of a value. reference: gives the form of an object that is no data."""
    kind: Any = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        return value if -WIDEST < value < WIDEST else {"int": hex(value)}
    if kind is list:
        return [form_of(item, reference) for item in value]
    if issubclass(kind, int):
        return form_of(int.__index__(value), reference)
    if issubclass(kind, float | str):
        return float.__float__(value) if issubclass(kind, float) else str.__str__(value)
    for name, base in TEXTS.items():
        if issubclass(kind, base):
            return {name: base.decode(value, "latin-1")}
    for name, base in MAPPINGS.items():
        if issubclass(kind, base):
            return {name: [[form_of(key, reference), form_of(item, reference)] for key, item in base.items(value)]}
    for name, base in {"list": list, **SEQUENCES}.items():
        if issubclass(kind, base):
            items = [form_of(item, reference) for item in base.__iter__(value)]
            if base is tuple and (fields := getattr(kind, "_fields", None)):
                return {"named": [str(kind.__name__), form_of(fields, reference), items]}
            return items if base is list else {name: items}
    if kind is type({}.keys()):
        return {"keys": [form_of(key, reference) for key in value]}
    for module, name, content in VALUES:
        if issubclass(kind, getattr(sys.modules.get(module), name, ())):
            return {name: form_of(content(value), reference)}
    if issubclass(kind, type) and vars(builtins).get(name := type.__getattribute__(value, "__name__")) is value:
        return {"builtin": name}
    return reference(value)


def value_of(form: Any, referred: Callable[[str, Any], Any]) -> Any:
    """Return the value of a form. referred: gives the object of a reference. Any exception means that it is no form."""
    if isinstance(form, list):
        return [value_of(item, referred) for item in form]
    if not isinstance(form, dict):
        return form
    ((name, content),) = form.items()
    if name in SEQUENCES:
        return SEQUENCES[name]([value_of(item, referred) for item in content])
    if name in MAPPINGS:
        return MAPPINGS[name]({value_of(key, referred): value_of(item, referred) for key, item in content})
    if name in TEXTS:
        return TEXTS[name](content.encode("latin-1"))
    if name == "int":
        return int(content, 16)
    if name == "keys":
        return dict.fromkeys(value_of(content, referred)).keys()
    if name == "named":
        kind, fields, items = content
        return collections.namedtuple(kind, value_of(fields, referred))(*value_of(items, referred))
    if name == "builtin":
        return {key: value for key, value in vars(builtins).items() if isinstance(value, type)}[content]
    for module, known, _ in VALUES:
        if name == known:
            base, content = getattr(__import__(module), name), value_of(content, referred)
            return base.fromisoformat(content) if isinstance(content, str) else base(*content)
    return referred(name, content)


def restored(old: Any, new: Any) -> Any:
    """Give a collection that was passed to the other side the content that it has there; return it, or what is new."""
    if isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        for mine, theirs in zip(old, new, strict=True):
            restored(mine, theirs)
        return old
    base = next((kind for kind in MUTABLE if isinstance(old, kind) and isinstance(new, kind)), None)
    if base is None:
        return new
    items: Any = new
    if base is dict:
        items = {key: restored(old[key], item) if key in old else item for key, item in new.items()}
    elif base is list:
        items = [*map(restored, old, new), *new[len(old) :]]
    if base is dict or base is set:
        old.clear()
        old.update(items)
    elif base is collections.deque:
        old.clear()
        old.extend(items)
    else:
        old[:] = items
    return old


class Proxy:
    """Stands for an object of the other side."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        if type(number) is not int:
            raise TypeError("an object has a number")
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in READABLE:  # such as x.__eq__(data)
            raise AttributeError(name)
        return line.ask("getattr", self, name)

    def __call__(self, *operands: Any, **named: Any) -> Any:
        return line.ask("call", self, *operands, **named)

    def __eq__(self, other: object) -> bool:
        if type(other).__module__ == "tests":  # its class has the say
            return NotImplemented
        return self is other or (_may_meet(other) and line.ask("eq", self, other) is True)

    def __hash__(self) -> int:
        return int(line.ask("hash", self))

    def __iter__(self) -> Iterator:
        iterator = line.ask("iter", self)
        return iterator if type(iterator) is Proxy else iter(iterator)

    def __instancecheck__(self, value: object) -> bool:
        return type(value) is Proxy and line.ask("isinstance", value, self) is True

    def __subclasscheck__(self, kind: type) -> bool:
        return _may_meet(kind) and line.ask("issubclass", kind, self) is True

    def __exit__(self, kind: Any, *_: object) -> bool:
        return line.ask("exit", self, kind) is True

    def __deepcopy__(self, memo: dict) -> Any:
        return line.ask("deepcopy", self)


def _asking(name: str) -> Callable:
    return lambda proxy, *operands: line.ask(name, proxy, *operands)


def _binary(name: str, is_reflected: bool = False) -> Callable:
    def operated(proxy: Proxy, other: object) -> Any:
        if not _may_meet(other):
            return NotImplemented
        return line.ask(name, *((other, proxy) if is_reflected else (proxy, other)))

    return operated


def _may_meet(other: object) -> bool:
    """Whether a proxy may be compared or added up with another value: data of the tests never leave for that."""
    return type(other) is Proxy or line.fails is None


for _name in (
    *("bool", "str", "repr", "len", "next", "neg", "enter", "copy"),
    *("getitem", "setitem", "delitem", "setattr", "delattr"),
):
    setattr(Proxy, f"__{_name}__", _asking(_name))
for _name in BINARY:
    setattr(Proxy, f"__{_name.rstrip('_')}__", _binary(_name))
    setattr(Proxy, f"__r{_name.rstrip('_')}__", _binary(_name, is_reflected=True))


async def awaited(proxy: Proxy) -> Any:
    return line.ask("await", proxy)
