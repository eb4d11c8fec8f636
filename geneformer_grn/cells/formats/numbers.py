"""Numbers out of text, at the speed of a compiled loop and with the line number of whatever is no number.

Counts are whole numbers or short decimals: a mantissa below 2**53 and a power of ten up to 22 give the
nearest double in one operation (Clinger, 1990). Everything longer goes through Python's ``float``, so that
each value is the one that Python would read.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

LOT_BYTES = 1 << 22
_TAB, _NEWLINE, _RETURN, _SPACE, _QUOTE = 9, 10, 13, 32, 34
_POWERS = 10.0 ** np.arange(23)


def is_gzipped(path: Path) -> bool:
    """Return whether a file is gzipped, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def lines_of(path: Path) -> Iterator[IO[bytes]]:
    """Open a text file for reading, gzipped or not.

    Raises
    ------
    ValueError
        It cannot be read to its end.
    """
    with path.open("rb") as plain:
        file = cast("IO[bytes]", gzip.GzipFile(fileobj=plain)) if is_gzipped(path) else plain
        try:
            yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is truncated or damaged: {error}") from error


def lots_of_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of a file in lots of whole lines, each lot ending with a newline."""
    rest = b""
    while lot := file.read(LOT_BYTES):
        end = lot.rfind(b"\n") + 1
        if end:
            yield rest + lot[:end]
            rest = lot[end:]
        else:
            rest += lot
    if rest:
        yield rest + b"\n"


def parse(
    text: bytes, path: Path, *, delimiter: str, named: bool, first_line: int, keep_zeros: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return the numbers in whole lines of text.

    Parameters
    ----------
    text
        Lines, the last one ended too.
    path, first_line
        For messages.
    delimiter
        One character between fields; a space stands for any run of spaces and tabs.
    named
        Whether each line begins with a name, which is skipped; it may be quoted.
    keep_zeros
        Whether zeros are returned too.

    Returns
    -------
    tuple
        Line and field (int32, from 0) and value (float64) of each number, and the number of lines.

    Raises
    ------
    ValueError
        A field is no number.
    """
    capacity = text.count(delimiter.encode()) + text.count(b"\n") + 1
    if delimiter == " ":
        capacity += text.count(b"\t")
    lines, fields = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    values, odd = np.empty(capacity), np.empty((capacity, 2), np.int64)
    count, n_odd, n_lines = _parser()(
        np.frombuffer(text, np.uint8), ord(delimiter), named, keep_zeros, _POWERS, lines, fields, values, odd
    )
    stops = re.compile(rb"[\n \t]" if delimiter == " " else rb"\n|" + re.escape(delimiter.encode()))
    for place, start in odd[:n_odd]:
        stop = next(found.start() for found in stops.finditer(text, start))
        word = text[start:stop].strip(b' \t\r"')
        try:
            values[place] = float(word)
        except ValueError:
            shown = word[:40].decode("utf-8", "replace")
            raise ValueError(
                f"{path}: line {first_line + lines[place]:,}, column {fields[place] + 1 + named:,} holds "
                f"{shown!r}, where a number is needed; keep one column or row of names, and counts"
            ) from None
    return lines[:count], fields[:count], values[:count], n_lines


def number_lots(file: IO[bytes], path: Path, *, first_line: int, n_fields: int) -> Iterator[np.ndarray]:
    """Yield ``(lines, n_fields)`` float64 from lines of exactly `n_fields` numbers; empty lines are skipped.

    Raises
    ------
    ValueError
        A line has more or fewer numbers, or something else.
    """
    for text in lots_of_lines(file):
        lines, _, values, n_lines = parse(
            text, path, delimiter=" ", named=False, first_line=first_line, keep_zeros=True
        )
        per_line = np.bincount(lines, minlength=n_lines)
        wrong = np.flatnonzero((per_line != n_fields) & (per_line > 0))
        if len(wrong):
            raise ValueError(
                f"{path}: line {first_line + wrong[0]:,} has {per_line[wrong[0]]} fields; "
                f"{n_fields} are needed"
            )
        yield values.reshape(-1, n_fields)
        first_line += n_lines


def _parse(text, delimiter, named, keep_zeros, powers, lines, fields, values, odd):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Read numbers; return how many, how many are left to Python's float, and how many lines there were."""
    position, count, n_odd, line = 0, 0, 0, 0
    runs = delimiter == _SPACE
    size = len(text)
    while position < size:
        if named:
            if text[position] == _QUOTE:
                position += 1
                while text[position] != _QUOTE and text[position] != _NEWLINE:
                    position += 1
            while text[position] != delimiter and text[position] != _NEWLINE:
                position += 1
            if text[position] != _NEWLINE:
                position += 1
        field = 0
        while True:
            while (
                text[position] == _SPACE
                or text[position] == _RETURN
                or (text[position] == _TAB and delimiter != _TAB)
            ):
                position += 1
            if text[position] == _NEWLINE and (runs or field == 0):
                break
            start = position
            if text[position] == _QUOTE:
                position += 1
            negative = text[position] == 45
            if negative:
                position += 1
            mantissa, digits, decimals, point = np.int64(0), 0, 0, False
            while True:
                byte = text[position]
                if 48 <= byte <= 57:
                    mantissa = mantissa * 10 + (byte - 48)
                    digits += mantissa > 0
                    decimals += point
                    if digits > 17:
                        break
                elif byte == 46 and not point:
                    point = True
                else:
                    break
                position += 1
            plain = position > start + negative + point and text[position - 1] != _QUOTE
            if text[position] == _QUOTE:
                position += 1
            while (text[position] == _SPACE and not runs) or text[position] == _RETURN:
                position += 1
            byte = text[position]
            ended = byte in (delimiter, _NEWLINE) or (runs and byte == _TAB)
            plain = plain and ended and digits <= 17 and mantissa < (1 << 53) and decimals <= 22
            value = 0.0
            if plain:
                value = mantissa / powers[decimals]
                if negative:
                    value = -value
            else:
                odd[n_odd, 0] = count
                odd[n_odd, 1] = start
                n_odd += 1
                while not (
                    text[position] == delimiter
                    or text[position] == _NEWLINE
                    or (runs and text[position] == _TAB)
                ):
                    position += 1
            if keep_zeros or not plain or value != 0.0:
                lines[count] = line
                fields[count] = field
                values[count] = value
                count += 1
            field += 1
            if text[position] == _NEWLINE:
                break
            position += 1
        line += 1
        position += 1
    return count, n_odd, line


@lru_cache(maxsize=1)
def _parser() -> Callable[..., Any]:
    from geneformer_grn.cells.radix import compiled

    return compiled(_parse)
