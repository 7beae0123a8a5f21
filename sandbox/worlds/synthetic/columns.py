"""Numpy arrays to Arrow columns without a Python loop per row."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from sandbox.worlds.synthetic.timeline import START_EPOCH_DAY

_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_UUID_DIGITS = np.array([i for i in range(36) if i not in (8, 13, 18, 23)])


def money(cents: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    """Whole cents as numeric(14,2)."""
    return _decimal(cents, pa.decimal128(14, 2), valid)


def rate(millionths: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    """Millionths as numeric(9,6)."""
    return _decimal(millionths, pa.decimal128(9, 6), valid)


def times(microseconds: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    """UTC microseconds as timestamptz."""
    return _plain(microseconds.astype(np.int64), pa.timestamp("us", tz="UTC"), valid)


def dates(days: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    """Days since the start of the world as date."""
    return _plain((days + START_EPOCH_DAY).astype(np.int32), pa.date32(), valid)


def ints(values: np.ndarray, bits: int = 64, valid: np.ndarray | None = None) -> pa.Array:
    """Whole numbers as bigint or, of 32 bits, int."""
    kind = np.dtype(f"int{bits}")
    return _plain(values.astype(kind), pa.int64() if bits == 64 else pa.int32(), valid)


def texts(codes: np.ndarray, vocabulary: Sequence[str]) -> pa.Array:
    """Codes as the texts they stand for; a negative code is null."""
    index = pa.array(codes, mask=codes < 0)
    return pa.array(vocabulary, type=pa.string()).take(index)


def uuids(rng: np.random.Generator, size: int) -> pa.Array:
    """Random uuids (version 4)."""
    raw = np.frombuffer(rng.bytes(16 * size), dtype=np.uint8).reshape(size, 16).copy()
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    digits = np.empty((size, 32), dtype=np.uint8)
    digits[:, 0::2] = _HEX[raw >> 4]
    digits[:, 1::2] = _HEX[raw & 0x0F]
    characters = np.full((size, 36), ord("-"), dtype=np.uint8)
    characters[:, _UUID_DIGITS] = digits
    return fixed_texts(characters)


def fixed_texts(characters: np.ndarray) -> pa.Array:
    """Rows of ASCII codes, all of one width, as texts."""
    size, width = characters.shape
    offsets = np.arange(size + 1, dtype=np.int32) * width
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(characters))]
    return pa.Array.from_buffers(pa.string(), size, buffers)


def _decimal(values: np.ndarray, kind: pa.DataType, valid: np.ndarray | None) -> pa.Array:
    wide = np.empty((len(values), 2), dtype=np.int64)
    wide[:, 0] = values
    wide[:, 1] = wide[:, 0] >> 63
    return _plain(wide, kind, valid)


def _plain(values: np.ndarray, kind: pa.DataType, valid: np.ndarray | None) -> pa.Array:
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [bitmap, pa.py_buffer(np.ascontiguousarray(values))])
