"""Reader of Flax's msgpack serialisation, without jax, flax or a copy of the file.

Flax writes a tree of string-keyed maps. An array is an extension of type 1 (a NumPy scalar: type 3) whose
payload is again msgpack: [shape, dtype name, row-major little-endian bytes]. An array above 1 GiB is a map
``{"__msgpack_chunked_array__": True, "shape": {"0": ...}, "chunks": {"0": array, ...}}`` of flat pieces.
(flax/serialization.py; https://github.com/msgpack/msgpack/blob/master/spec.md)

The file is mapped, and an array stays a view of it until its values are converted: a train state also holds
the optimizer's moments, twice the size of the weights, which are never read.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_DEPTH = 32
MAX_OBJECTS = 1_000_000  # ViViT-g with Adam has about 3,000 arrays
MAX_AXES = 8
_CHUNKED = "__msgpack_chunked_array__"
_NDARRAY, _NUMPY_SCALAR = 1, 3
_FLOAT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}


class FlaxFormatError(ValueError):
    """The bytes are not Flax msgpack. The message is one line, with the position."""


@dataclass(frozen=True)
class FlaxArray:
    """An array in the file. ``pieces`` of a floating-point array hold exactly the bytes of ``shape``."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[memoryview, ...]

    def to_float32(self) -> npt.NDArray[np.float32]:
        """Return a writable fp32 copy of the values.

        Raises:
            FlaxFormatError: the values are not floating-point.
        """
        if self.dtype not in _FLOAT_BYTES:
            raise FlaxFormatError(f"expected floating-point values, found {self.dtype}")
        out = np.empty(math.prod(self.shape), np.float32)
        start = 0
        with np.errstate(over="ignore"):  # a float64 beyond fp32 becomes inf, which the caller refuses
            for piece in self.pieces:
                values = _decode(piece, self.dtype)
                out[start : start + len(values)] = values
                start += len(values)
        return out.reshape(self.shape)


def _decode(piece: memoryview, dtype: str) -> npt.NDArray[Any]:
    if dtype == "bfloat16":  # the upper half of an fp32
        return (np.frombuffer(piece, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(piece, np.dtype(dtype).newbyteorder("<"))


def read_flax(path: Path) -> Any:
    """Read the tree in a file: dicts, lists, scalars, and ``FlaxArray`` leaves.

    Raises:
        FlaxFormatError: not msgpack, truncated, nested too deep, too many objects, or arrays whose bytes do
            not fit their shape.
        OSError: the file cannot be mapped.
    """
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    reader = _Reader(data)
    tree = reader.value()
    if reader.position != len(data):
        raise FlaxFormatError(f"{len(data) - reader.position:,} bytes follow the end at {reader.position:,}")
    return tree


class _Reader:
    """Msgpack parser over one buffer, which checks every length against the bytes that are left."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0
        self.objects = 0
        self.depth = 0

    def value(self) -> Any:
        self.objects += 1
        self.depth += 1
        if self.objects > MAX_OBJECTS or self.depth > MAX_DEPTH:
            raise self.error(f"more than {MAX_OBJECTS:,} objects or {MAX_DEPTH} levels")
        value = self.tagged(self.unsigned(1))
        self.depth -= 1
        return value

    def tagged(self, tag: int) -> Any:
        if tag <= 0x7F:
            return tag
        if tag >= 0xE0:
            return tag - 0x100
        if tag <= 0x8F:
            return self.map(tag & 0x0F)
        if tag <= 0x9F:
            return self.array(tag & 0x0F)
        if tag <= 0xBF:
            return self.text(tag & 0x1F)
        if tag not in _TAGGED:
            raise self.error(f"no msgpack type has the tag 0x{tag:02x}")
        return _TAGGED[tag](self)

    def error(self, what: str) -> FlaxFormatError:
        return FlaxFormatError(f"{what} at byte {self.position:,}")

    def take(self, length: int) -> memoryview:
        rest = len(self.data) - self.position
        if length > rest:
            raise self.error(f"{length:,} bytes announced, {rest:,} present")
        self.position += length
        return self.data[self.position - length : self.position]

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def text(self, length: int) -> str:
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise self.error("text that is not UTF-8") from error

    def array(self, length: int) -> list[Any]:
        return [self.value() for _ in range(length)]

    def map(self, length: int) -> Any:
        out: dict[str, Any] = {}
        for _ in range(length):
            key = self.value()
            if not isinstance(key, str) or key in out:
                raise self.error(f"expected a new text key, found {key!r:.80}")
            out[key] = self.value()
        return self.joined(out) if _CHUNKED in out else out

    def extension(self, length: int) -> FlaxArray:
        code, end = self.number("b"), self.position + length
        if code not in (_NDARRAY, _NUMPY_SCALAR):
            raise self.error(f"expected an array, found msgpack extension type {code}")
        match self.value():
            case [list(shape), str(dtype), memoryview() as values] if self.position == end:
                return self.checked(shape, dtype, (values,))
        raise self.error("expected [shape, dtype, bytes] in an array")

    def joined(self, chunked: dict[str, Any]) -> FlaxArray:
        """Join an array whose flat pieces are in a map."""
        try:
            shape = [chunked["shape"][str(i)] for i in range(len(chunked["shape"]))]
            chunks = [chunked["chunks"][str(i)] for i in range(len(chunked["chunks"]))]
        except (KeyError, TypeError) as error:
            raise self.error("expected numbered 'shape' and 'chunks' in a chunked array") from error
        if not all(isinstance(chunk, FlaxArray) for chunk in chunks) or len({c.dtype for c in chunks}) != 1:
            raise self.error("expected arrays of one dtype as the pieces of a chunked array")
        return self.checked(shape, chunks[0].dtype, tuple(piece for c in chunks for piece in c.pieces))

    def checked(self, shape: list[Any], dtype: str, pieces: tuple[memoryview, ...]) -> FlaxArray:
        if len(shape) > MAX_AXES or not all(type(extent) is int and extent >= 0 for extent in shape):
            raise self.error(f"bad array shape {shape!r:.80}")
        present = sum(len(piece) for piece in pieces)
        if dtype in _FLOAT_BYTES and math.prod(shape) * _FLOAT_BYTES[dtype] != present:
            raise self.error(f"{dtype} array of shape {shape!r:.80} has {present:,} bytes")
        return FlaxArray(tuple(shape), dtype, pieces)


_TAGGED: dict[int, Callable[[_Reader], Any]] = {
    0xC0: lambda r: None,
    0xC2: lambda r: False,
    0xC3: lambda r: True,
    0xC4: lambda r: r.take(r.unsigned(1)),
    0xC5: lambda r: r.take(r.unsigned(2)),
    0xC6: lambda r: r.take(r.unsigned(4)),
    0xC7: lambda r: r.extension(r.unsigned(1)),
    0xC8: lambda r: r.extension(r.unsigned(2)),
    0xC9: lambda r: r.extension(r.unsigned(4)),
    0xCA: lambda r: r.number(">f"),
    0xCB: lambda r: r.number(">d"),
    0xCC: lambda r: r.unsigned(1),
    0xCD: lambda r: r.unsigned(2),
    0xCE: lambda r: r.unsigned(4),
    0xCF: lambda r: r.unsigned(8),
    0xD0: lambda r: r.number(">b"),
    0xD1: lambda r: r.number(">h"),
    0xD2: lambda r: r.number(">i"),
    0xD3: lambda r: r.number(">q"),
    0xD4: lambda r: r.extension(1),
    0xD5: lambda r: r.extension(2),
    0xD6: lambda r: r.extension(4),
    0xD7: lambda r: r.extension(8),
    0xD8: lambda r: r.extension(16),
    0xD9: lambda r: r.text(r.unsigned(1)),
    0xDA: lambda r: r.text(r.unsigned(2)),
    0xDB: lambda r: r.text(r.unsigned(4)),
    0xDC: lambda r: r.array(r.unsigned(2)),
    0xDD: lambda r: r.array(r.unsigned(4)),
    0xDE: lambda r: r.map(r.unsigned(2)),
    0xDF: lambda r: r.map(r.unsigned(4)),
}
