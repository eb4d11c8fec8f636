"""Work on count files that many machines share: which state of a file it belongs to, and whose share it is.

A stamp is read without reading the file, so every call can compare it; a hash tells content, at the price of
reading all of it.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from geneformer_grn._runtime import sha256_file


def sha256_of(path: Path, *, stop: threading.Event | None = None) -> str:
    """Return the sha256 of a file, or of the names and hashes of a folder's files."""
    if not path.is_dir():
        return sha256_file(path, stop=stop)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{sha256_file(file, stop=stop)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def stamp_of(path: Path) -> list[int]:
    """Return the size in bytes and the time of the last change in ns of a file, or a folder's files."""
    found = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return [sum(state.st_size for state in found), max((state.st_mtime_ns for state in found), default=0)]


def parse_share(text: str, option: str) -> tuple[int, int]:
    """Return index and count of a share such as ``3/100``.

    Parameters
    ----------
    text
        What was given.
    option
        Where, such as ``--share``; for the message.

    Raises
    ------
    ValueError
        It is not written so, or there is no such share.

    Examples
    --------
    >>> parse_share("3/100", "--share")
    (3, 100)
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(count)):
        raise ValueError(f"{option} {text!r} is not I/N, such as 3/100: the share numbered 3 of 100, from 0")
    check_share(int(index), int(count))
    return int(index), int(count)


def check_share(index: int, count: int) -> None:
    """Raise the ValueError about a share that does not exist."""
    if not 0 <= index < count:
        raise ValueError(
            f"share {index} of {count} does not exist; shares are numbered from 0 to {count - 1}"
        )
