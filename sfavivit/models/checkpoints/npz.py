"""Reader of NumPy archives (.npz) that never unpickles and reads only the arrays asked for.

Headers alone are read first. An entry's values are unpacked when they are converted, by which time the caller
has compared the shape with the model's, so an archive that unpacks to terabytes fills no memory.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

MAX_ENTRIES = 100_000
# Exceptions of zipfile for a damaged or an encrypted archive.
DAMAGE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)


class NpzFormatError(ValueError):
    """The file is no archive of plain arrays. The message is one line."""


@dataclass(frozen=True)
class NpzArray:
    """An array in an archive, of any dtype but objects."""

    path: Path
    entry: str
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    def to_float32(self) -> npt.NDArray[np.float32]:
        """Return a fp32 copy of the values.

        Raises:
            NpzFormatError: values that are not floating-point, or fewer than the shape says.
            DAMAGE: the archive is damaged.
        """
        bfloat16 = self.dtype == np.dtype("V2")  # NumPy has no bfloat16 and writes two bytes without a type
        if self.dtype.kind != "f" and not bfloat16:
            raise NpzFormatError(f"weight {self.entry}: expected floating-point values, found {self.dtype}")
        size = math.prod(self.shape) * self.dtype.itemsize
        with zipfile.ZipFile(self.path) as archive, archive.open(self.entry) as file:
            _header(file, self.entry)
            data = file.read(size + 1)
        if len(data) != size:
            raise NpzFormatError(f"weight {self.entry}: expected {size:,} bytes for shape {list(self.shape)}")
        with np.errstate(over="ignore"):  # a float64 beyond fp32 becomes inf, which the caller refuses
            if bfloat16:  # the upper half of an fp32
                values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(data, self.dtype).astype(np.float32)
        return values.reshape(self.shape, order="F" if self.fortran_order else "C")


def read_npz(path: Path) -> dict[str, NpzArray]:
    """Read the headers of an archive's arrays, by their names without ``.npy``.

    Raises:
        NpzFormatError: entries that are no arrays, arrays of objects, too many entries.
        DAMAGE: the archive is damaged.
    """
    arrays: dict[str, NpzArray] = {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise NpzFormatError(f"{len(entries):,} arrays, more than {MAX_ENTRIES:,}")
        for info in entries:
            entry = info.filename
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NpzFormatError(f"{entry} is compressed in a way that NumPy does not write")
            with archive.open(info) as file:
                shape, fortran_order, dtype = _header(file, entry)
            arrays[entry.removesuffix(".npy")] = NpzArray(path, entry, shape, fortran_order, dtype)
    return arrays


def _header(file: IO[bytes], entry: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except DAMAGE:
        raise
    except Exception as error:  # NumPy parses the header as Python text, which can raise anything
        raise NpzFormatError(f"{entry} is no NumPy array") from error
    if dtype.hasobject:
        raise NpzFormatError(f"{entry} holds pickled objects, which are not read")
    if not all(0 <= extent <= 1 << 40 for extent in shape):
        raise NpzFormatError(f"{entry}: bad array shape {list(shape)!r:.80}")
    return shape, fortran_order, dtype
