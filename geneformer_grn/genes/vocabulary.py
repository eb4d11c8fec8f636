"""The gene vocabulary: which gene is which token, and the non-zero median that scales its counts.

A vocabulary is plain data, a folder of ``genes.tsv`` and ``vocabulary.json`` (and ``aliases.tsv`` where it
brings its own identifier mapping), so that it can be read, diffed and shipped without this package.
Medians are written with 17 digits: the order of a cell's genes depends on their last bits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from geneformer_grn._runtime import atomic_path, package_version

Setting = Literal["v1", "v2", "default"]

SPECIAL_TOKENS: dict[str, tuple[str, ...]] = {
    "v1": ("<pad>", "<mask>"),
    "v2": ("<pad>", "<mask>", "<cls>", "<eos>"),
    "default": ("<pad>", "<mask>", "<cls>", "<eos>", "<unk>"),
}
VOCABULARY_FILES = ("genes.tsv", "vocabulary.json", "aliases.tsv")  # the last only with aliases of its own
MAX_LENGTH: dict[str, int] = {"v1": 2048, "v2": 4096, "default": 1024}
TARGET_SUM = 10_000.0


def resolve_vocabulary(name: Path | str) -> Path:
    """Return the folder of a vocabulary: `name` itself, or a shipped one of that name.

    In an installed package those lie in ``_vocabularies/``, in a checkout in ``tokenizers/``.
    """
    package = Path(__file__).resolve().parent.parent
    for home in (package / "_vocabularies", package.parent / "tokenizers"):
        if not Path(name).exists() and Path(name).name == str(name) and (home / name).is_dir():
            return home / name
    return Path(name)


class VocabularyMismatchError(ValueError):
    """Two things that must share a vocabulary (a corpus, a model, ranked cells) do not."""


@dataclass(frozen=True, eq=False)
class GeneVocabulary:
    """Which gene is which token.

    Parameters
    ----------
    ensembl_ids
        ``(V,)`` str; the row number is the token id. Special tokens come first, under their own names.
    symbols
        ``(V,)`` str; the gene symbol, or the Ensembl ID where none is known.
    medians
        ``(V,)`` float64; non-zero median of counts scaled to `target_sum`; NaN for special tokens.
    is_regulator
        ``(V,)`` bool; transcription factor.
    setting
        ``v1``, ``v2`` (as the reference has them) or ``default`` (ours).
    max_length
        Longest model input, special tokens included.
    target_sum
        Counts a cell is scaled to before medians are taken.
    aliases
        Upper-case identifier -> Ensembl ID, where the vocabulary brings its own mapping (imported ones do;
        an empty mapping is the identity). None: the package's gene table maps identifiers.
    provenance
        Free-form facts written beside the vocabulary (source file names, hashes, filters). Not fingerprinted.
    """

    ensembl_ids: np.ndarray
    symbols: np.ndarray
    medians: np.ndarray
    is_regulator: np.ndarray
    setting: Setting = "default"
    max_length: int = MAX_LENGTH["default"]
    target_sum: float = TARGET_SUM
    aliases: dict[str, str] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {len(self.ensembl_ids), len(self.symbols), len(self.medians), len(self.is_regulator)}
        if len(sizes) != 1:
            raise ValueError(f"the columns of a vocabulary differ in length: {sorted(sizes)}")
        if len(self.ensembl_ids) > np.iinfo(np.uint16).max + 1:
            raise ValueError(
                f"a vocabulary holds at most 65,536 tokens (uint16), this one {len(self.ensembl_ids):,}"
            )
        if tuple(self.ensembl_ids[: self.n_special]) != SPECIAL_TOKENS[self.setting]:
            raise ValueError(f"a {self.setting!r} vocabulary starts with {SPECIAL_TOKENS[self.setting]}")
        if not np.all(self.medians[self.n_special :] > 0):
            raise ValueError("every gene of a vocabulary needs a positive median")

    @property
    def n_special(self) -> int:
        """Number of special tokens; gene tokens start there."""
        return len(SPECIAL_TOKENS[self.setting])

    def __len__(self) -> int:
        return len(self.ensembl_ids)

    @cached_property
    def token_of(self) -> dict[str, int]:
        """Ensembl ID (or special token) -> token id."""
        return {gene: token for token, gene in enumerate(self.ensembl_ids)}

    def special(self, name: str) -> int | None:
        """Return the id of ``<pad>``, ``<mask>``, ``<cls>``, ``<eos>`` or ``<unk>``, or None where absent."""
        return self.token_of.get(name)

    @property
    def n_wrapping(self) -> int:
        """Special tokens put around every cell: 2 with ``<cls>`` and ``<eos>``, else 0."""
        return 2 if self.setting != "v1" else 0

    @property
    def wrapping(self) -> tuple[int, int] | None:
        """The tokens before and behind every cell, ``<cls>`` and ``<eos>``; None where there are none."""
        return (self.token_of["<cls>"], self.token_of["<eos>"]) if self.n_wrapping else None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that changes tokens: ids, medians, setting, lengths, aliases."""
        digest = hashlib.sha256()
        head = [self.setting, self.max_length, float(self.target_sum)]
        digest.update(json.dumps(head).encode())
        digest.update("\n".join(self.ensembl_ids).encode())
        digest.update(np.ascontiguousarray(self.medians[self.n_special :], dtype="<f8").tobytes())
        if self.aliases is not None:
            digest.update(json.dumps(sorted(self.aliases.items())).encode())
        return digest.hexdigest()

    def require_same(self, other_fingerprint: str, *, this: str, other: str) -> None:
        """Raise unless `other_fingerprint` is ours.

        Raises
        ------
        VocabularyMismatchError
            The fingerprints differ; the message names both things and both fingerprints.
        """
        if other_fingerprint != self.fingerprint:
            raise VocabularyMismatchError(
                f"{this} has vocabulary {self.fingerprint[:12]}, {other} has {other_fingerprint[:12]}; "
                "a token of one means another gene in the other. Tokenize the cells with this model's own."
            )

    def save(self, folder: Path | str) -> None:
        """Write ``genes.tsv``, ``vocabulary.json`` and, with own aliases, ``aliases.tsv`` into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        medians = [repr(value) if value == value else "" for value in self.medians.tolist()]
        genes = zip(self.ensembl_ids, self.symbols, medians, self.is_regulator.astype(int), strict=True)
        lines = ["ensembl_id\tsymbol\tmedian\tis_regulator", *("\t".join(map(str, row)) for row in genes)]
        with atomic_path(folder / "genes.tsv") as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if self.aliases is not None:
            with atomic_path(folder / "aliases.tsv") as path:
                rows = pd.DataFrame(sorted(self.aliases.items()), columns=["alias", "ensembl_id"])
                rows.to_csv(path, sep="\t", index=False)
        facts = {
            "format": 1,
            "setting": self.setting,
            "special_tokens": list(SPECIAL_TOKENS[self.setting]),
            "max_length": self.max_length,
            "target_sum": self.target_sum,
            "own_aliases": self.aliases is not None,
            "n_genes": len(self) - self.n_special,
            "n_regulators": int(self.is_regulator.sum()),
            "fingerprint": self.fingerprint,
            "package_version": package_version(),
            "provenance": self.provenance,
        }
        with atomic_path(folder / "vocabulary.json") as path:
            path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> GeneVocabulary:
        """Read a vocabulary folder, or a shipped one by its name (``human``), checking its fingerprint.

        Raises
        ------
        FileNotFoundError
            The folder holds no vocabulary.
        ValueError
            The files are damaged, or do not belong together (the fingerprint differs).
        """
        folder = resolve_vocabulary(folder)
        for name in ("genes.tsv", "vocabulary.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} holds no gene vocabulary ({name} is missing). A checkpoint of ours carries "
                    "genes.tsv and vocabulary.json; turn a published Geneformer folder into one with "
                    "geneformer-grn import-geneformer."
                )
        try:
            return cls._read(folder)
        except (KeyError, TypeError, ValueError, OverflowError, FileNotFoundError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"the gene vocabulary in {folder} is damaged: {reason}") from error

    @classmethod
    def _read(cls, folder: Path) -> GeneVocabulary:
        """Read the files as they are; damage raises whatever meets it first."""
        facts = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        table = pd.read_csv(
            folder / "genes.tsv",
            sep="\t",
            dtype={"ensembl_id": str, "symbol": str},
            keep_default_na=False,
            na_values={"median": [""]},
            float_precision="round_trip",
        )
        aliases = None
        if facts["own_aliases"]:
            rows = pd.read_csv(folder / "aliases.tsv", sep="\t", dtype=str, keep_default_na=False)
            aliases = dict(zip(rows["alias"], rows["ensembl_id"], strict=True))
        vocabulary = cls(
            ensembl_ids=table["ensembl_id"].to_numpy(dtype=object),
            symbols=table["symbol"].to_numpy(dtype=object),
            medians=table["median"].to_numpy(dtype=np.float64),
            is_regulator=table["is_regulator"].to_numpy().astype(bool),
            setting=facts["setting"],
            max_length=int(facts["max_length"]),
            target_sum=float(facts["target_sum"]),
            aliases=aliases,
            provenance=facts.get("provenance", {}),
        )
        if vocabulary.fingerprint != facts["fingerprint"]:
            raise ValueError(
                f"it was changed: genes.tsv has fingerprint {vocabulary.fingerprint[:12]}, "
                f"vocabulary.json says {facts['fingerprint'][:12]}"
            )
        return vocabulary
