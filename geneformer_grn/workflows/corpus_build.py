"""``corpus build``: one recipe to a training corpus, a held-out one, their vocabulary and the data card.

The steps are those that a user could call one by one (``corpus duplicates``, ``vocab build``, ``tokenize
--without``, ``corpus split``, ``corpus merge``). What is done lies in ``OUT.unfinished`` until all of it is
there, so an interrupted build goes on where it was; a build that is refused leaves nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import atomic_path, logger, package_version, sha256_file, write_json
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.dealing import SplitSettings
from geneformer_grn.cells.corpora.identity import file_rows
from geneformer_grn.cells.corpora.leaks import require_different_cells
from geneformer_grn.cells.corpora.merging import merge_corpora
from geneformer_grn.cells.corpora.plan import is_finished
from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.splitting import split_corpus
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cells.opening import open_source
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.cells.stamps import stamp_of
from geneformer_grn.cells.vocabulary_build import VocabularySettings, build_vocabulary
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.corpus_card import CARD, CARD_KIND, data_card
from geneformer_grn.workflows.corpus_card_text import card_text
from geneformer_grn.workflows.corpus_choice import choose_cells
from geneformer_grn.workflows.corpus_look import look_at
from geneformer_grn.workflows.corpus_recipe import CorpusFile, CorpusRecipe, read_recipe, recipe_files

LEFT_OUT, NOT_TRAINED = "left_out.tsv", "not_trained.tsv"
_PLAN, _DECIDED = "build.json", "decided.json"


@dataclass(frozen=True, kw_only=True)
class _Build:
    """A build: what is asked, by which files, and where the work is."""

    recipe: CorpusRecipe
    files: list[CorpusFile]
    unlicensed: list[str]
    work: Path
    workers: int

    @property
    def read(self) -> ReadSettings:
        """How every file is read."""
        files = self.recipe.files
        return ReadSettings(
            layer=files.layer, gene_column=files.gene_column, sum_duplicates=True, drop_empty=True
        )

    def without(self, table: str) -> ReadSettings:
        """Return how a file is read without the cells of a table of the work folder."""
        return replace(self.read, without=str((self.work / table).resolve()))


def build_corpus(
    recipe_path: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    include_unlicensed: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Build the corpora of a recipe; goes on where an earlier call was stopped.

    The same recipe and files give the same bytes, whatever machine, number of processes or interruptions.

    Parameters
    ----------
    recipe_path
        See :mod:`geneformer_grn.workflows.corpus_recipe`.
    data
        Folder that the recipe's paths are in.
    out
        Folder to write ``vocabulary``, ``train``, ``heldout`` (where the recipe holds out),
        ``data_card.json`` and ``data_card.md`` into, all or none. An earlier build there is replaced,
        anything else is not.
    include_unlicensed
        Train on files of no stated licence, too; the card then says that nothing may be shipped.
    workers
        Processes that tokenise.

    Returns
    -------
    dict
        The data card, see :func:`geneformer_grn.workflows.corpus_card.data_card`.

    Raises
    ------
    FileNotFoundError, FileExistsError
        A file is not there; `out` is something else than a build.
    ValueError
        The recipe cannot be followed: an unknown key or donor, a file that is held out and trained on, a
        donor on both sides, no cell left; or a file is refused.

    Examples
    --------
    >>> card = build_corpus("pretrain/corpora/mini.toml", "data", "runs/corpus")  # doctest: +SKIP
    >>> card["parts"]["train"]["n_cells"]  # doctest: +SKIP
    14768
    """
    out = Path(out)
    recipe = read_recipe(recipe_path)
    _require_place(out)
    files, unlicensed = _licensed(recipe_files(recipe, data), include=include_unlicensed)
    work = out.with_name(f"{out.name}.unfinished")
    begun = _enter(work, recipe, files)
    build = _Build(recipe=recipe, files=files, unlicensed=unlicensed, work=work, workers=workers)
    try:
        card = _built(build, Path(recipe_path), include_unlicensed=include_unlicensed)
        if out.exists():
            shutil.rmtree(work / "replaced", ignore_errors=True)
            out.rename(work / "replaced")
        (work / "out").rename(out)
    except (ValueError, TypeError, FileNotFoundError, PermissionError):
        if not begun:  # the recipe or a file is wrong: there is nothing to go on with
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work)
    logger.info("wrote %s", out)
    return card


def _built(build: _Build, recipe_path: Path, *, include_unlicensed: bool) -> dict[str, Any]:
    """Do what is not done yet, and leave all of it in ``out`` of the work folder."""
    decided = _decided(build)
    vocabulary = _vocabulary(build, decided)
    result = build.work / "out"
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir()
    _corpora(build, decided, vocabulary, result)
    vocabulary.save(result / "vocabulary")
    parts = {name: Corpus.open(result / name) for name in ("train", "heldout") if (result / name).exists()}
    if len(parts) == 2:
        _require_apart(build, parts)
    card = data_card(
        build.recipe, build.files, decided, parts,
        about={
            "recipe": {"name": recipe_path.name, "sha256": sha256_file(recipe_path)},
            "include_unlicensed": include_unlicensed, "left_out_for_licence": build.unlicensed,
        },
    )  # fmt: skip
    write_json(result / CARD, card)
    (result / "data_card.md").write_text(card_text(card), encoding="utf-8")
    return card


def _require_apart(build: _Build, parts: dict[str, Corpus]) -> None:
    """Ask once more, of what was written: no held-out row, and no cell of its tokens, is trained on."""
    require_different_cells(list(parts.values()), list(parts))
    table = pd.read_csv(build.work / NOT_TRAINED, sep="\t", dtype=str, keep_default_na=False)
    trained = {entry["name"] for entry in parts["train"].manifest["files"]}
    for name, rows in table.groupby("file", sort=False)["row"]:
        if name in trained and len(
            np.intersect1d(rows.astype(np.int64), file_rows(parts["train"], str(name)))
        ):
            raise RuntimeError(f"cells of {name} that are not to be trained on are in the training corpus")


def _require_place(out: Path) -> None:
    """Refuse to write over something else than an earlier build."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        kind = json.loads((out / CARD).read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        kind = None
    if kind != CARD_KIND:
        raise FileExistsError(
            f"{out} exists and is not a built corpus; it is left as it is. Choose another --out"
        )


def _licensed(files: Sequence[CorpusFile], *, include: bool) -> tuple[list[CorpusFile], list[str]]:
    """Return the files that are used, and the names of those left out since no licence is stated."""
    kept, left = [], []
    for file in files:
        if file.role == "train" and not include:
            with open_source(file.path) as source:
                shipped = file.may_be_shipped(source.stated)
            if not shipped:
                left.append(file.name)
                continue
        kept.append(file)
    if left:
        logger.info(
            "left out, since no licence is stated: %s (--include-unlicensed takes them in)", ", ".join(left)
        )
    if not any(file.role == "train" for file in kept):
        raise ValueError(
            f"no file is left to train on: {', '.join(left) or 'all are held out or kept apart'}"
            + (" state no licence; pass --include-unlicensed, or say licence_ok = true" if left else "")
        )
    return kept, left


def _enter(work: Path, recipe: CorpusRecipe, files: Sequence[CorpusFile]) -> bool:
    """Make the work folder, or keep that of the same recipe and files; return whether it was there."""
    facts = {
        "recipe": recipe.model_dump(mode="json"), "version": package_version(),
        "files": [[file.place, file.role, *stamp_of(file.path)] for file in files],
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    try:
        known = json.loads((work / _PLAN).read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        known = None
    if known == key:
        logger.info("going on with %s", work.name)
        return True
    if work.exists():
        if known is None and any(work.iterdir()):
            raise FileExistsError(
                f"{work} is in the way and is no unfinished build; move it or choose another --out"
            )
        shutil.rmtree(work)
    work.mkdir(parents=True)
    write_json(work / _PLAN, {"key": key})
    return False


def _decided(build: _Build) -> dict[str, Any]:
    """Return what becomes of the cells, and have the two tables of it in the work folder."""
    path = build.work / _DECIDED
    if not path.is_file():
        quality = build.recipe.quality
        looks = look_at(
            build.files, build.read, column=build.recipe.held_out.column,
            rules={"umi": quality.umi, "full-length": quality.full_length},
        )  # fmt: skip
        choice = choose_cells(looks, build.recipe)
        for name, tables in (
            (LEFT_OUT, [choice.left_out]),
            (NOT_TRAINED, [choice.left_out, choice.held_out]),
        ):
            with atomic_path(build.work / name) as temporary:
                pd.concat([table for table in tables if len(table)] or tables).to_csv(
                    temporary, sep="\t", index=False
                )
        write_json(
            path, {"files": choice.files, "pairs": choice.pairs}
        )  # last: with it, the tables are there
    decided: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return decided


def _of(build: _Build, decided: dict[str, Any], *, train: bool, held_out: bool) -> list[Path]:
    """Return the files that have cells in just these corpora."""
    return [
        file.path
        for file, facts in zip(build.files, decided["files"], strict=True)
        if (facts["n_train"] > 0, facts["n_held_out"] > 0) == (train, held_out)
    ]


def _vocabulary(build: _Build, decided: dict[str, Any]) -> GeneVocabulary:
    """Return the recipe's vocabulary, built from the cells that are trained on and no others."""
    asked = build.recipe.vocabulary
    if asked.use is not None:
        return GeneVocabulary.load(asked.use)
    folder = build.work / "vocabulary"
    if not folder.exists():
        files = _of(build, decided, train=True, held_out=False) + _of(
            build, decided, train=True, held_out=True
        )
        settings = VocabularySettings(
            setting=asked.setting, min_cells=asked.min_cells, max_genes=asked.max_genes,
            max_length=asked.max_length, biotypes=asked.biotypes, read=build.without(NOT_TRAINED),
        )  # fmt: skip
        vocabulary = build_vocabulary(files, settings, work=build.work / "vocabulary.unfinished")
        read = {**vocabulary.provenance["read"], "without": NOT_TRAINED}  # a name, never where it lay
        vocabulary = replace(vocabulary, provenance={**vocabulary.provenance, "read": read})
        with atomic_path(folder) as temporary:
            vocabulary.save(temporary)
    return GeneVocabulary.load(folder)


def _corpora(build: _Build, decided: dict[str, Any], vocabulary: GeneVocabulary, result: Path) -> None:
    """Tokenise files of one role as they are; split those of both by donor; join what belongs together."""
    recipe = build.recipe
    sides: dict[str, list[Path]] = {"train": [], "heldout": []}
    for name, train in (("train", True), ("heldout", False)):
        if files := _of(build, decided, train=train, held_out=not train):
            sides[name].append(_tokenised(build, f"{name}-files", files, vocabulary, recipe.files.columns))
    if mixed := _of(build, decided, train=True, held_out=True):
        column = recipe.held_out.column
        columns = tuple(dict.fromkeys([*recipe.files.columns, column]))
        whole = _tokenised(build, "mixed-files", mixed, vocabulary, columns)
        there = {text for text in Corpus.open(whole).column(column) if text is not None}
        donors = sorted(text for text in there if text.strip() in recipe.held_out.donors)
        shutil.rmtree(build.work / "split", ignore_errors=True)
        split = SplitSettings(by=column, assign={"heldout": donors}, missing="train")
        split_corpus(whole, build.work / "split", split)
        for name, paths in sides.items():
            paths.append(build.work / "split" / name)
    for name, paths in sides.items():
        if len(paths) == 1:
            shutil.copytree(paths[0], result / name)
        elif paths:
            merge_corpora(paths, result / name, columns=recipe.files.columns)


def _tokenised(
    build: _Build, name: str, files: Sequence[Path], vocabulary: GeneVocabulary, columns: tuple[str, ...]
) -> Path:
    """Return a corpus of whole files in the work folder, left as it is where it is finished."""
    path = build.work / name
    if not is_finished(path):
        settings = CorpusSettings(read=build.without(LEFT_OUT), columns=columns)
        write_corpus(files, path, vocabulary, settings, workers=build.workers)
    return path
