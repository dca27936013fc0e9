"""The tensors that a pickle of PyTorch describes, by *reading* its opcodes: nothing is imported, called or unpickled.

A pickle is a program for a stack machine. This one runs only what a table of tensors needs: constants, containers, the
memo, and the names in `_NAMES`, which stand for themselves. Everything else ends the reading with its name. Each opcode
adds at most one small object, so the memory is bounded by `MAX_OPCODES`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from provenance.crawler.formats.safetensors import DTYPE_BITS

MAX_PICKLE_BYTES = 16 * 1024 * 1024
MAX_OPCODES = 2_000_000
"""A tensor takes about 30."""

_MAX_NAME = 80
_MAX_COUNT = 2**63 - 1
_MAX_DIMENSIONS = 64
_NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Where a training checkpoint keeps the weights."""


class OffListError(Exception):
    """The pickle does something that no table of tensors needs; the message says what, in words."""


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as a view of a storage: all lengths in elements.

    Attributes:
        dtype: as a safetensors header names it.
        storage: key of the storage, which is the last part of the name of a member of the archive.
        capacity: elements of the storage.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage: str
    offset: int
    capacity: int


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str | None  # null for bytes, whose dtype the tensor gives
    key: str
    length: int


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: str | None


@dataclass(frozen=True, slots=True)
class _Dtype:
    name: str


class _Function(Enum):
    """Names that the pickle may call. Each is imitated in `_Machine.reduce`; none is imported."""

    TENSOR = "torch._utils._rebuild_tensor_v2"
    TENSOR_WITH_DTYPE = "torch._utils._rebuild_tensor_v3"
    PARAMETER = "torch._utils._rebuild_parameter"
    ORDERED_DICT = "collections.OrderedDict"


def tensors_of(data: bytes) -> dict[str, View]:
    """The tensors of a state dict, or of the one inside a training checkpoint, by name.

    Args:
        data: a pickle that `torch.save` wrote into a zip archive (`data.pkl`).

    Raises:
        ValueError: it is no valid pickle.
        OffListError: it holds something that is not on the list.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise ValueError(f"its pickle has {len(data):,} bytes; at most {MAX_PICKLE_BYTES:,} are read")
    try:
        found = _Machine().run(data)
    except (IndexError, KeyError, OverflowError) as error:
        raise ValueError("its pickle uses what it never made") from error
    for _ in _NESTED:
        inner = [found[key] for key in _NESTED if isinstance(found, dict) and _holds_tensors(found.get(key))]
        found = inner[0] if inner else found
    tensors = found.items() if isinstance(found, dict) else ()
    return {name: view for name, view in tensors if isinstance(view, View)}


def _holds_tensors(value: object) -> bool:
    """Whether a value is a state dict, or holds one as a training checkpoint does."""
    return isinstance(value, dict) and any(isinstance(inner, View | dict) for inner in value.values())


class _Machine:
    """The stack machine: a stack, a memo, and what each opcode does to them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> object:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES:
                raise ValueError(f"its pickle has over {MAX_OPCODES:,} opcodes")
            name = opcode.name
            if name in _CONSTANTS:
                self.stack.append(argument)
            elif name == "STOP":
                break
            elif (step := _STEPS.get(name)) is not None:
                step(self, argument)
            else:
                raise OffListError(f"uses the opcode {name}")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Take what lies above the topmost mark, and the mark."""
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise ValueError("its pickle closes a container that it never opened")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def top(self, length: int) -> list[Any]:
        """Take the topmost values."""
        if len(self.stack) < length:
            raise IndexError(length)
        items = self.stack[len(self.stack) - length :]
        del self.stack[len(self.stack) - length :]
        return items

    def append(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target += items

    def store(self, items: list[Any]) -> None:
        """Put keys and values into the dict on the stack. Only texts are kept as keys: other hashes can be endless."""
        if isinstance(target := self.stack[-1], dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in pairs if type(key) is str)

    def name(self, module: object, name: object) -> None:
        known = _NAMES.get(f"{module}.{name}") if isinstance(module, str) and isinstance(name, str) else None
        if known is None:
            shown = ".".join(str(part)[:_MAX_NAME] if isinstance(part, str) else "?" for part in (module, name))
            raise OffListError(f"names {shown.encode('unicode_escape').decode()}")
        self.stack.append(known)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        match function, arguments:
            case (_Function.ORDERED_DICT, ()):
                self.stack.append({})
            case (_Function.PARAMETER, (View() as data, *_)):
                self.stack.append(data)
            case (_Function.TENSOR, (_Storage() as storage, offset, shape, stride, *_)):
                self.stack.append(_view(storage, storage.dtype, offset, shape, stride))
            case (
                _Function.TENSOR_WITH_DTYPE,
                (_Storage() as storage, offset, shape, stride, _, _, _Dtype(name=dtype), *_),
            ):
                self.stack.append(_view(storage, dtype, offset, shape, stride))
            case _:
                shown = function.value if isinstance(function, _Function) else "something that is no function"
                raise OffListError(f"calls {shown} with arguments that PyTorch does not give it")

    def persistent(self) -> None:
        match self.stack.pop():
            case ("storage", _StorageType(dtype=dtype), str() as key, _, length):
                self.stack.append(_Storage(dtype, key, _count(length)))
            case _:
                raise OffListError("refers to something outside that is no storage")


def _view(storage: _Storage, dtype: str | None, offset: object, shape: object, stride: object) -> View:
    if dtype is None:
        raise ValueError("its pickle makes a tensor without a dtype")
    lengths, strides = _counts(shape), _counts(stride)
    if len(lengths) != len(strides):
        raise ValueError("its pickle gives a tensor a shape and strides of different lengths")
    held = storage.length * (1 if storage.dtype is None else DTYPE_BITS[storage.dtype] // 8)
    return View(dtype, lengths, strides, storage.key, _count(offset), held // (DTYPE_BITS[dtype] // 8))


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise ValueError("its pickle gives a tensor a length, stride or offset that is none")
    return value


def _counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > _MAX_DIMENSIONS:
        raise ValueError("its pickle gives a tensor a shape that is none")
    return tuple(_count(value) for value in values)


_MARK = object()
"""The beginning of the items of a container, on the stack."""

_STORAGES = {
    "Bool": "BOOL",
    "Byte": "U8",
    "Char": "I8",
    "Short": "I16",
    "Int": "I32",
    "Long": "I64",
    "Half": "F16",
    "BFloat16": "BF16",
    "Float": "F32",
    "Double": "F64",
    "ComplexFloat": "C64",
}
_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
_NAMES: dict[str, object] = {
    **{function.value: function for function in _Function},
    **{f"torch.{name}Storage": _StorageType(dtype) for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": _StorageType(None),
    **{f"torch.{name}": _Dtype(dtype) for name, dtype in _DTYPES.items()},
}
"""The list: everything that a pickle may name."""

_CONSTANTS = frozenset(
    ("NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
     "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE",
     "SHORT_BINUNICODE", "BINUNICODE8")
)  # fmt: skip
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_SET": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.top(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.top(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.top(3))),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "APPEND": lambda machine, _: machine.append(machine.top(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.store(machine.top(2)),
    "SETITEMS": lambda machine, _: machine.store(machine.since_mark()),
    "PUT": lambda machine, key: machine.remember(key),
    "BINPUT": lambda machine, key: machine.remember(key),
    "LONG_BINPUT": lambda machine, key: machine.remember(key),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GET": lambda machine, key: machine.stack.append(machine.memo[key]),
    "BINGET": lambda machine, key: machine.stack.append(machine.memo[key]),
    "LONG_BINGET": lambda machine, key: machine.stack.append(machine.memo[key]),
    "GLOBAL": lambda machine, name: machine.name(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.top(2)),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.stack.pop(),  # attributes of a container, such as the versions of modules
    "BINPERSID": lambda machine, _: machine.persistent(),
}
"""What an opcode does; one that is in neither table ends the reading."""
