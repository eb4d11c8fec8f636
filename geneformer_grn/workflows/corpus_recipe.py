"""What a pretraining corpus is made of: a frozen, typed recipe read from TOML, and the files that it names.

A recipe names files by patterns below one data folder, so that it can be shared while the data lie anywhere.
Which file is trained on, held out or kept apart is settled here, before anything is read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from geneformer_grn.training.toml_config import read_toml_config

Role = Literal["train", "held out", "kept apart"]

_PATTERN = re.compile(r"[*?\[]")
_STATES_NONE = re.compile(r"\b(no|without)( stated)? licen[cs]e|not stated|^unknown$|^none$|^n/?a$", re.I)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AboutFile(_Section):
    """What a recipe says of one file, over what the file and the manifest say."""

    file: str = Field(description="path below the data folder")
    source: str | None = None
    licence: str | None = None
    licence_ok: bool | None = Field(
        default=None, description="whether weights trained on it may be shipped; None: if a licence is stated"
    )
    reads: Literal["umi", "full-length"] = Field(
        default="umi", description="whether counts are of molecules or of reads"
    )
    study: str | None = Field(
        default=None, description="donors of one name in files of different studies are different people"
    )


class FilesSection(_Section):
    """Which files, and how they are read."""

    cells: tuple[str, ...] = Field(min_length=1, description="paths or patterns below the data folder")
    manifest: str | None = Field(default=None, description="JSON with source and licence of each file")
    columns: tuple[str, ...] = Field(default=(), description="obs columns that the corpora carry")
    layer: str | None = Field(default=None, description="layer with the raw counts of every file")
    gene_column: str | None = Field(default=None, description="var column with the gene identifiers")
    about: tuple[AboutFile, ...] = ()


class HeldOutSection(_Section):
    """What the held-out loss is measured on."""

    files: tuple[str, ...] = Field(default=(), description="whole files, paths or patterns")
    column: str = Field(default="donor", description="obs column of the donors")
    donors: tuple[str, ...] = Field(default=(), description="donors of files that are trained on otherwise")


class KeepApartSection(_Section):
    """Files to judge on: in no corpus, and their cells in no other file's part."""

    files: tuple[str, ...] = ()
    whole_donors: bool = Field(
        default=True, description="leave out all cells of a donor of whom a copy is kept apart or held out"
    )


class Rules(_Section):
    """Thresholds that a cell must meet; None: not asked."""

    min_genes: int = Field(default=1, ge=1, description="genes with a count")
    max_mitochondrial: float | None = Field(default=None, gt=0, le=1, description="share of the counts")
    max_one_gene: float | None = Field(default=None, gt=0, le=1, description="share of the counts")


class UmiRules(Rules):
    """Thresholds of files that count molecules."""

    min_counts: float = Field(default=0.0, ge=0)


class FullLengthRules(Rules):
    """Thresholds of files that count reads, whose totals say nothing of the cell."""

    @model_validator(mode="before")
    @classmethod
    def _no_counts(cls, content: Any) -> Any:
        if isinstance(content, dict) and "min_counts" in content:
            raise ValueError("read counts grow with sequencing, so min_counts is for [quality.umi] only")
        return content


class QualitySection(_Section):
    """Which cells are good enough, by what the file counts."""

    umi: UmiRules = UmiRules()
    full_length: FullLengthRules = FullLengthRules()

    def of(self, reads: str) -> Rules:
        """Return the rules of a file."""
        return self.umi if reads == "umi" else self.full_length


class VocabularySection(_Section):
    """The genes: a vocabulary built from the training cells alone, or one that is there."""

    use: str | None = Field(default=None, description="a vocabulary's folder, or `human`; nothing is built")
    setting: Literal["default", "v1", "v2"] = "default"
    min_cells: int = Field(default=10, ge=1)
    max_genes: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=None, ge=4)
    biotypes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_of_two(self) -> VocabularySection:
        if self.use is not None and (built := sorted(self.model_fields_set - {"use"})):
            raise ValueError(f"{built[0]} is for building a vocabulary, and use takes one as it is; drop one")
        return self


class CorpusRecipe(_Section):
    """A pretraining corpus."""

    files: FilesSection
    held_out: HeldOutSection = HeldOutSection()
    keep_apart: KeepApartSection = KeepApartSection()
    quality: QualitySection = QualitySection()
    vocabulary: VocabularySection = VocabularySection()


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """A file of a recipe.

    Parameters
    ----------
    path
        Where it is.
    place
        Its path below the data folder, as recipes write it.
    role
        What becomes of its cells.
    about
        What the recipe says of it.
    stated
        ``license`` and ``source`` by the recipe's manifest, where it names the file.
    """

    path: Path
    place: str
    role: Role
    about: AboutFile
    stated: dict[str, str]

    @property
    def name(self) -> str:
        """File name, by which records call it."""
        return self.path.name

    def licence(self, in_file: dict[str, str]) -> str:
        """Return the licence: the recipe's, else the file's own, else the manifest's, else empty."""
        return self._first(self.about.licence, in_file.get("license"), self.stated.get("license"))

    def source(self, in_file: dict[str, str]) -> str:
        """Return the source, looked for as the licence is."""
        return self._first(self.about.source, in_file.get("source"), self.stated.get("source"))

    def may_be_shipped(self, in_file: dict[str, str]) -> bool:
        """Return whether weights trained on the file may be given away."""
        if self.about.licence_ok is not None:
            return self.about.licence_ok
        licence = self.licence(in_file)
        return bool(licence) and _STATES_NONE.search(licence) is None

    @staticmethod
    def _first(*found: str | None) -> str:
        return next((text for text in found if text and text != "not stated"), "")


def read_recipe(path: Path | str) -> CorpusRecipe:
    """Read a recipe.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no TOML, a key is unknown, or a value does not fit.

    Examples
    --------
    >>> read_recipe("pretrain/corpora/mini.toml").held_out.column  # doctest: +SKIP
    'donor'
    """
    return read_toml_config(path, CorpusRecipe)


def recipe_files(recipe: CorpusRecipe, data: Path | str) -> list[CorpusFile]:
    """Return the files that a recipe names, those to train on first, each group in order of its names.

    A pattern of ``[files] cells`` passes over what is held out or kept apart; a file that is named there
    outright and is one of these, too, is refused.

    Parameters
    ----------
    recipe
        What is asked.
    data
        The folder that its paths are taken from.

    Raises
    ------
    FileNotFoundError
        There is no such folder or file, or a pattern fits nothing.
    ValueError
        A file has two roles, two files have one name, or nothing is said of what is there.
    """
    data = Path(data)
    if not data.is_dir():
        raise FileNotFoundError(
            f"{data}: no such folder; --data names the one that the recipe's paths are in"
        )
    apart = _found(recipe.keep_apart.files, data, "[keep_apart] files")
    held_out = _found(recipe.held_out.files, data, "[held_out] files")
    train = _found(recipe.files.cells, data, "[files] cells")
    if both := sorted(held_out.keys() & apart.keys()):
        raise ValueError(f"{both[0]} is both in [held_out] and in [keep_apart]; take it out of one of them")
    named = set(recipe.files.cells)
    for role, others in (("held out", held_out), ("kept apart", apart)):
        if both := sorted(named & others.keys()):
            raise ValueError(
                f"{both[0]} is named in [files] cells to be trained on, and {role}, too; take it out of one"
            )
    train = {place: path for place, path in train.items() if place not in held_out and place not in apart}
    about = _about(recipe, {**train, **held_out, **apart})
    stated = _stated(recipe, data)
    files = [
        CorpusFile(
            path=path, place=place, role=role, about=about.get(place, AboutFile(file=place)),
            stated=stated.get(place) or stated.get(path.name) or {},
        )
        for role, found in _roles(train, held_out, apart)
        for place, path in found.items()
    ]  # fmt: skip
    _require_names_apart(files)
    return files


def _roles(
    train: dict[str, Path], held_out: dict[str, Path], apart: dict[str, Path]
) -> tuple[tuple[Role, dict[str, Path]], ...]:
    return ("train", train), ("held out", held_out), ("kept apart", apart)


def _found(patterns: tuple[str, ...], data: Path, where: str) -> dict[str, Path]:
    """Return path below the data folder -> path, of all files that fit."""
    found: dict[str, Path] = {}
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ValueError(f"{where}: {pattern!r} leaves the data folder; write paths below --data")
        some = sorted(data.glob(pattern)) if _PATTERN.search(pattern) else [data / pattern]
        some = [path for path in some if path.exists() and not path.name.startswith(".")]
        if not some:
            raise FileNotFoundError(f"{where}: nothing in the data folder is, or fits, {pattern!r}")
        found |= {path.relative_to(data).as_posix(): path for path in some}
    return found


def _about(recipe: CorpusRecipe, files: dict[str, Path]) -> dict[str, AboutFile]:
    about: dict[str, AboutFile] = {}
    for entry in recipe.files.about:
        if entry.file not in files:
            raise ValueError(f"[[files.about]] speaks of {entry.file!r}, which is none of the recipe's files")
        if entry.file in about:
            raise ValueError(f"[[files.about]] speaks of {entry.file!r} twice; write one entry")
        about[entry.file] = entry
    return about


def _stated(recipe: CorpusRecipe, data: Path) -> dict[str, dict[str, str]]:
    """Return what the manifest says: path or name of a file -> ``license`` and ``source``."""
    if recipe.files.manifest is None:
        return {}
    path = data / recipe.files.manifest
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"[files] manifest: no {recipe.files.manifest} in the data folder") from None
    except ValueError as error:
        raise ValueError(f"[files] manifest: {path.name} is no JSON ({error})") from error
    rows = content.get("files") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "file" in row for row in rows):
        raise ValueError(
            f"[files] manifest: {path.name} is no list of files; write "
            '{"files": [{"file": PATH, "source": TEXT, "license": TEXT}]}'
        )
    return {
        str(row["file"]): {
            "license": str(row.get("license") or row.get("licence") or ""),
            "source": str(row.get("source") or ""),
        }
        for row in rows
    }


def _require_names_apart(files: list[CorpusFile]) -> None:
    """Raise where records could not tell two files apart."""
    place_of: dict[str, str] = {}
    for file in files:
        stem = file.path.stem
        if stem in place_of:
            raise ValueError(
                f"{place_of[stem]} and {file.place} have one name, so that copies could not be told apart; "
                "rename one of them"
            )
        place_of[stem] = file.place
