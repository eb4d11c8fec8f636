"""Read the published Geneformer dictionaries without trusting them, and make a vocabulary of them.

They are pickles, and a pickle can run any code when it is read; ours are read by ``genes/plain_pickle.py``,
which builds dictionaries, lists, tuples, text and numbers, and refuses whatever else a file asks for by its
name. Imported vocabularies are plain text.
"""

from __future__ import annotations

import reprlib
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geneformer_grn._runtime import sha256_file
from geneformer_grn.genes.plain_pickle import NotPlainError, read_plain_pickle
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import MAX_LENGTH, SPECIAL_TOKENS, GeneVocabulary

PublishedSetting = Literal["v1", "v2"]

RELEASE: dict[str, str] = {"v1": "gc30M", "v2": "gc104M"}
_KINDS = ("token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict", "gene_name_id_dict")
_LFS_POINTER = b"version https://git-lfs"


def read_published_pickle(path: Path | str) -> dict[Any, Any]:
    """Read a pickled dictionary of plain values, running nothing that the file names.

    Parameters
    ----------
    path
        A published dictionary.

    Returns
    -------
    dict
        NumPy numbers come as Python's.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, a Git LFS pointer, no dictionary, or asks for anything but plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = path.read_bytes()
    if content.startswith(_LFS_POINTER):
        raise ValueError(
            f"{path.name} is a Git LFS pointer and not the file itself; fetch it with git lfs pull"
        )
    try:
        loaded = read_plain_pickle(content)
    except NotPlainError as error:
        raise ValueError(f"{path.name} is not read: {error}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path.name} is damaged or no pickle: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path.name} holds a {type(loaded).__name__}; a dictionary is needed")
    return loaded


def import_dictionaries(folder: Path | str, setting: PublishedSetting) -> GeneVocabulary:
    """Make a vocabulary of the published dictionaries of a release.

    Parameters
    ----------
    folder
        Holds ``token_dictionary_*.pkl``, ``gene_median_dictionary_*.pkl``, ``ensembl_mapping_dict_*.pkl`` and
        ``gene_name_id_dict_*.pkl`` of ``gc30M`` (v1) or ``gc104M`` (v2); other files are left alone.
    setting
        ``v1`` or ``v2``.

    Returns
    -------
    GeneVocabulary
        Tokens exactly as published, in token order, medians float64. Its aliases are the mapping dictionary's
        entries whose target is a token (the reference drops the others), and empty where it is the identity.

    Raises
    ------
    FileNotFoundError
        The folder or one of the files is missing.
    ValueError
        The setting is unknown, a file is refused, or the files do not belong together.

    Examples
    --------
    >>> vocabulary = import_dictionaries("gene_dictionaries", "v2")  # doctest: +SKIP
    >>> len(vocabulary)  # doctest: +SKIP
    20275
    """
    if setting not in RELEASE:
        raise ValueError(f"setting {setting!r} is not a published one; use v1 or v2")
    files = _find_files(Path(folder), setting)
    tokens, medians, mapping, id_of_name = (
        _checked(files[kind], of) for kind, of in zip(_KINDS, (int, float, str, str), strict=True)
    )
    genes = _genes_in_order(tokens, setting, files["token_dictionary"].name)
    n_special = len(SPECIAL_TOKENS[setting])
    largest = sys.float_info.max  # compares exactly with whole numbers beyond it
    without = [gene for gene in genes[n_special:] if not 0 < medians.get(gene, 0.0) <= largest]
    if without:
        raise ValueError(
            f"{files['gene_median_dictionary'].name} has no positive median for {len(without):,} tokens "
            f"(first: {without[0]}); the dictionaries are of different releases"
        )
    table = load_gene_table()
    known = set(genes[n_special:])
    names: dict[str, str] = {}
    for name, gene in id_of_name.items():
        names.setdefault(gene, name)
    identity = all(alias == gene for alias, gene in mapping.items()) and known <= mapping.keys()
    return GeneVocabulary(
        ensembl_ids=np.array(genes, dtype=object),
        symbols=np.array(
            [names.get(gene) or table.symbol_of.get(gene, gene) for gene in genes], dtype=object
        ),
        medians=np.array([medians.get(gene, np.nan) for gene in genes], dtype=np.float64),
        is_regulator=np.array([table.is_regulator(gene) for gene in genes], dtype=bool),
        setting=setting,
        max_length=MAX_LENGTH[setting],
        aliases={} if identity else {alias: gene for alias, gene in mapping.items() if gene in known},
        provenance={
            "imported": "published Geneformer dictionaries",
            "release": RELEASE[setting],
            "sources": [{"name": path.name, "sha256": sha256_file(path)} for path in files.values()],
        },
    )


def _find_files(folder: Path, setting: PublishedSetting) -> dict[str, Path]:
    """Return the four dictionaries of a release."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    files = {}
    for kind in _KINDS:
        name = f"{kind}_{RELEASE[setting]}.pkl"
        if not (folder / name).is_file():
            there = sorted(path.name for path in folder.glob("*.pkl"))
            raise FileNotFoundError(
                f"{folder} lacks {name}, which setting {setting} needs "
                f"(there: {', '.join(there) or 'no .pkl files'})"
            )
        files[kind] = folder / name
    return files


def _checked(path: Path, of: type) -> dict[str, Any]:
    """Read one dictionary, checking that it leads from text to values of one type."""
    content = read_published_pickle(path)
    numbers = (int, float) if of is float else of
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, numbers) or isinstance(value, bool):
            raise ValueError(
                f"{path.name}: {_shown(key)} leads to {_shown(value)}; text leading to {of.__name__} values "
                "is needed"
            )
    return content


def _shown(value: Any) -> str:
    """Return a value for a message; a container by its type, since nested ones can be endless in print."""
    return reprlib.repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _genes_in_order(tokens: dict[str, int], setting: PublishedSetting, name: str) -> list[str]:
    """Return what each token stands for, checking that tokens are 0 to n-1 with the special ones in front."""
    genes = sorted(tokens, key=tokens.__getitem__)
    if [tokens[gene] for gene in genes] != list(range(len(genes))):
        raise ValueError(f"the tokens in {name} are not the numbers 0 to {len(genes) - 1:,}")
    special = SPECIAL_TOKENS[setting]
    if tuple(genes[: len(special)]) != special:
        raise ValueError(
            f"{name} starts with {', '.join(genes[: len(special)])}; "
            f"setting {setting} needs {', '.join(special)}"
        )
    return genes
