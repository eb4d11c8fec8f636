"""Read the plain values in a pickle - dictionaries, lists, tuples, text, numbers - and run nothing.

A pickle is a program: its instructions may import and call anything, write attributes of what they imported,
and ask for memory without end. Python's own unpickler can be told which names to refuse, but still carries
out all the rest. Here the instructions are only taken apart by the standard library (`pickletools`), and the
few that plain data needs are carried out by the functions below, which know no class and call none. The
price is time (half a second for the largest published dictionary), paid once an import.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
_ORDERS = frozenset({"<", ">", "|", "="})
_PLAIN = frozenset({str, int, float, bool, type(None), list, dict, tuple})
_NUMBER_TYPE, _NUMBER, _TEXT_BYTES = ("numpy", "dtype"), ("numpy", "scalar"), ("_codecs", "encode")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")  # NumPy 1 and 2


class NotPlainError(ValueError):
    """A pickle asks for what plain data never needs."""


@dataclass(frozen=True)
class _Name:
    """One of the three names that NumPy's numbers need; only ever compared."""

    of: tuple[str, str]


@dataclass
class _NumberType:
    """A NumPy number type and its byte order."""

    name: str
    order: str = "="


class _Arguments(tuple[Any, ...]):
    """A tuple that holds a number type or bytes: good for making a number of, but no value itself."""

    __slots__ = ()


def read_plain_pickle(content: bytes) -> Any:
    r"""Return the value in a pickle of protocol 0 to 5.

    Parameters
    ----------
    content
        The pickle's bytes; what follows its end is ignored.

    Returns
    -------
    dict, list, tuple, str, int, float, bool or None
        NumPy numbers come as Python's. Dictionary keys are text or whole numbers: others (a tuple of tuples)
        can take for ever to hash.

    Raises
    ------
    NotPlainError
        It asks for anything else, which the message names.
    ValueError, LookupError, TypeError
        It is damaged, or no pickle.

    Examples
    --------
    >>> read_plain_pickle(b"(dVGATA1\nI7\ns.")
    {'GATA1': 7}
    """
    machine = _Machine()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the standard library's, on escapes in damaged names
        for instruction, argument, _ in pickletools.genops(content):
            name = instruction.name
            if name in _VALUES:
                machine.stack.append(_text(argument) if type(argument) is str else argument)
            elif name in _ACTIONS:
                _ACTIONS[name](machine, argument)
            else:
                raise NotPlainError(f"it uses the instruction {name}, which plain data never needs")
    value = machine.stack.pop()
    if type(value) not in _PLAIN:
        raise NotPlainError("it holds no plain value")
    return value


class _Machine:
    """The stack, the stacks below its marks, and the memo of a pickle that is being read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, n: int) -> list[Any]:
        if len(self.stack) < n:
            raise IndexError("its stack is empty")
        items = self.stack[-n:]
        del self.stack[-n:]
        return items

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise NotPlainError(
                f"it changes a {type(value).__name__.strip('_')} as if it were a {kind.__name__}"
            )
        return value


def _kind(value: Any) -> str:
    return type(value).__name__.strip("_")


def _text(value: str) -> str:
    if not value.isascii():
        value.encode()  # UnicodeEncodeError, a ValueError: half a surrogate pair can be written to no file
    return value


def _extend(machine: _Machine, items: list[Any]) -> None:
    target = machine.top(list)
    for item in items:
        _require_plain(item)
    target.extend(items)


def _update(machine: _Machine, items: list[Any]) -> None:
    target = machine.top(dict)
    if len(items) % 2:
        raise ValueError("a dictionary's key has no value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in {str, int}:
            raise NotPlainError(f"it has a {_kind(key)} as a dictionary's key")
        _require_plain(value)
        target[key] = value


def _require_plain(value: Any) -> None:
    if type(value) not in _PLAIN:
        what = "a NumPy value that is not a plain number" if type(value) is not bytes else "bytes"
        raise NotPlainError(f"it holds {what}")


def _tuple(items: list[Any]) -> tuple[Any, ...]:
    return tuple(items) if all(type(item) in _PLAIN for item in items) else _Arguments(items)


def _new_list(machine: _Machine, items: list[Any]) -> None:
    machine.stack.append([])
    _extend(machine, items)


def _new_dict(machine: _Machine, items: list[Any]) -> None:
    machine.stack.append({})
    _update(machine, items)


def _name(module: Any, name: Any) -> _Name:
    """Return one of the known names; nothing is looked up."""
    if type(module) is not str or type(name) is not str:
        raise NotPlainError("it asks for a name that is no text")
    if (module, name) in {_NUMBER_TYPE, _TEXT_BYTES}:
        return _Name((module, name))
    if module in _MULTIARRAY and name == "scalar":
        return _Name(_NUMBER)
    raise NotPlainError(f"it asks for {module}.{name}, which plain data never needs")


def _called(function: Any, arguments: Any) -> Any:
    """Return what NumPy's constructors would for exactly the arguments that NumPy itself writes."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise NotPlainError("it calls what is no function")
    if function.of == _NUMBER_TYPE:
        name = arguments[0]
        if not isinstance(name, str) or name not in _NUMBERS:
            shown = repr(name[:20]) if isinstance(name, str) else _kind(name)
            raise NotPlainError(f"it holds NumPy values of type {shown}; only numbers are read")
        return _NumberType(name)
    if function.of == _TEXT_BYTES:  # how protocols below 3 write bytes
        if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
            raise NotPlainError("it asks for _codecs.encode, which plain data never needs but for latin1")
        return arguments[0].encode("latin-1")
    if [type(argument) for argument in arguments] != [_NumberType, bytes]:
        raise NotPlainError("it holds a NumPy value that is not a plain number")
    kind, data = arguments
    dtype = np.dtype(kind.order + kind.name)
    if len(data) != dtype.itemsize:
        raise NotPlainError(f"it holds a {dtype} of {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype)[0].item()


def _set_order(machine: _Machine) -> None:
    """Give a number type its byte order, out of the state (version, order, None, None, None, ...)."""
    (state,) = machine.pop(1)
    target = machine.top(_NumberType)
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
    if not isinstance(order, str) or order not in _ORDERS or any(part is not None for part in state[2:5]):
        raise NotPlainError("it holds NumPy values of an unknown byte order")
    target.order = order


def _remember(machine: _Machine, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


def _push(make: Callable[[_Machine, Any], Any]) -> Callable[[_Machine, Any], None]:
    """Return the action that puts on the stack what `make` makes."""

    def action(machine: _Machine, argument: Any) -> None:
        value = make(machine, argument)  # first: it may leave another stack behind
        machine.stack.append(value)

    return action


# Their argument is the value. Left out with intent: LONG4 (a number of megabytes), Python 2's byte strings,
# byte arrays, buffers, sets.
_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "STOP": lambda machine, argument: None,
    "NONE": _push(lambda machine, _: None),
    "NEWTRUE": _push(lambda machine, _: True),
    "NEWFALSE": _push(lambda machine, _: False),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop(1) if machine.stack else machine.since_mark(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": _push(lambda machine, _: machine.stack[-1]),
    "PUT": _remember,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": lambda machine, _: _remember(machine, len(machine.memo)),
    "GET": _push(lambda machine, place: machine.memo[place]),
    "BINGET": _push(lambda machine, place: machine.memo[place]),
    "LONG_BINGET": _push(lambda machine, place: machine.memo[place]),
    "EMPTY_LIST": _push(lambda machine, _: []),
    "EMPTY_DICT": _push(lambda machine, _: {}),
    "EMPTY_TUPLE": _push(lambda machine, _: ()),
    "LIST": lambda machine, _: _new_list(machine, machine.since_mark()),
    "DICT": lambda machine, _: _new_dict(machine, machine.since_mark()),
    "TUPLE": _push(lambda machine, _: _tuple(machine.since_mark())),
    "TUPLE1": _push(lambda machine, _: _tuple(machine.pop(1))),
    "TUPLE2": _push(lambda machine, _: _tuple(machine.pop(2))),
    "TUPLE3": _push(lambda machine, _: _tuple(machine.pop(3))),
    "APPEND": lambda machine, _: _extend(machine, machine.pop(1)),
    "APPENDS": lambda machine, _: _extend(machine, machine.since_mark()),
    "SETITEM": lambda machine, _: _update(machine, machine.pop(2)),
    "SETITEMS": lambda machine, _: _update(machine, machine.since_mark()),
    "GLOBAL": _push(lambda machine, argument: _name(*argument.split(" ", 1))),
    "STACK_GLOBAL": _push(lambda machine, _: _name(*machine.pop(2))),
    "REDUCE": _push(lambda machine, _: _called(*machine.pop(2))),
    "BUILD": lambda machine, _: _set_order(machine),
}
