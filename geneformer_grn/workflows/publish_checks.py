"""What must not leave the house with a model: pickled code, paths of a machine, names of people.

Every file is looked into, not told by its name alone. What a donor is called cannot be known from outside, so
three things are looked for: fields that are called after donors, patients or cells and hold names, barcodes,
and the words that the owner of the data says must not be there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_PICKLED = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
_PROTOCOLS = tuple(bytes([0x80, number]) for number in range(2, 6))
_PATHS = (
    re.compile(r"file://\S+"),
    re.compile(r"(?<![\w:])[A-Za-z]:\\+\w[^\s\"',]*"),
    # A path in running text is known by its first folder; in JSON any text that begins like one is.
    re.compile(
        r"(?<![\w.~:/*-])/(?:Users|Volumes|data|gpfs|home|lustre|media|mnt|nfs|opt|private|projects?|root|scratch"
        r"|srv|tmp|usr|var|work|workspace)/[^\s\"'`,)\]]+"
    ),
)
_PATH_IN_JSON = re.compile(r"/[\w.-]+/\S*|~[\w.-]*/\S+")
_PERSON = re.compile(
    r"(donor|patient|individual|subject|participant|sample|cell)(_?(id|name))?s?|barcodes?|obs_names",
    re.IGNORECASE,
)
_PERSON_COLUMN = re.compile(
    r"(donor|patient|individual|subject|participant)([ _]?(id|name))?s?|barcodes?", re.IGNORECASE
)
_BARCODE = re.compile(r"\b[ACGT]{14,}-\d+\b")


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder that holds a pickled file, at any depth: to open one is to run what it says.

    Raises
    ------
    ValueError
        It holds one, by its name or by its first bytes.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix.lower() in _PICKLED or _begins_as_a_pickle(path)):
            raise ValueError(
                f"{path.relative_to(folder)} may hold pickled code, which runs on the machine that opens it; "
                "publish weights as safetensors, and remove the file or name a folder without it"
            )


def refuse_private(path: Path, *, words: Sequence[str] = ()) -> None:
    """Refuse a file that holds a path of a machine, or names of donors or cells.

    Parameters
    ----------
    path
        JSON, any other text, ``.safetensors`` (its metadata and the names of its tensors) or ``.npz`` (its
        texts).
    words
        Must not be in the file either, whole, in either case.

    Raises
    ------
    ValueError
        It holds such a thing, which the message quotes; or it is damaged, or holds pickled objects.
    """
    text = _text_of(path)
    found = next((match.group() for pattern in _PATHS if (match := pattern.search(text))), None)
    if path.suffix == ".json":
        content = _json(path, text)
        inside = (value for value in _texts(content) if _PATH_IN_JSON.fullmatch(value))
        found = found or next(inside, None)
        person = next(_people(content), None)
        if person:
            raise ValueError(f"{path.name} names {person}; take it out before you publish")
    if path.suffix == ".md" and (person := next(_people_in_tables(text), None)):
        raise ValueError(f"{path.name} names {person}; take it out before you publish")
    if found:
        raise ValueError(f"{path.name} holds a path of a machine, {found!r}; write a file name instead")
    if barcode := _BARCODE.search(text):
        raise ValueError(
            f"{path.name} holds a cell barcode, {barcode.group()!r}; take it out before you publish"
        )
    for word in words:
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE):
            raise ValueError(f"{path.name} holds {word!r}, which must not be published")


def _begins_as_a_pickle(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(2) in _PROTOCOLS


def _text_of(path: Path) -> str:
    """Return all that a file says in words."""
    if path.suffix == ".safetensors":
        return _tensor_texts(path)
    if path.suffix == ".npz":
        return _array_texts(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no text: {error}") from error


def _tensor_texts(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return json.dumps([tensors.metadata() or {}, list(tensors.keys())], ensure_ascii=False)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is no safetensors file: {error}") from error


def _array_texts(path: Path) -> str:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            texts = [arrays[name] for name in arrays.files if arrays[name].dtype.kind in "US"]
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is damaged or holds pickled objects: {error}") from error
    return "\n".join(str(value) for array in texts for value in array.ravel())


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error


def _texts(content: Any) -> Iterator[str]:
    """Yield every text of a JSON value; keys too, since names may be keys."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for item in content:
            yield from _texts(item)
    elif isinstance(content, dict):
        for key, item in content.items():
            yield key
            yield from _texts(item)


def _people(content: Any) -> Iterator[str]:
    """Yield the fields that are called after people or cells and hold names, with the first of these.

    A number of donors is no name, nor is a column's name, as in ``{"donor": "donor_id"}``.
    """
    if isinstance(content, list):
        for item in content:
            yield from _people(item)
    elif isinstance(content, dict):
        for key, item in content.items():
            if _PERSON.fullmatch(key):
                names = (text for text in _texts(item) if not _PERSON.fullmatch(text))
                if (name := next(names, None)) is not None:
                    yield f"{key} ({name!r})"
            yield from _people(item)


def _people_in_tables(text: str) -> Iterator[str]:
    """Yield the columns of Markdown tables that are called after people and hold names, with such a name.

    As in JSON, a number is no name.
    """
    header: list[str] | None = None
    for line in text.splitlines():
        cells = [cell.strip(" `*") for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            header = None
        elif header is None:
            header = cells
        else:
            for column, cell in zip(header, cells, strict=False):
                if _PERSON_COLUMN.fullmatch(column) and re.search(r"[^\W\d_]", cell):
                    yield f"{column} ({cell!r})"
