"""How genes are masked, and the masks of evaluation: cell by cell, by numpy's Philox generator.

The draw depends on (seed, epoch, cell) alone: neither the number of processes nor the order of cells changes
what a model is asked. Published figures rest on these draws, so they stay as they are; training, which needs
a hundred times as many, draws its own in :mod:`geneformer_grn.cells.batch_kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geneformer_grn.genes.vocabulary import GeneVocabulary

IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """How genes are masked (BERT; Devlin et al., 2019).

    Parameters
    ----------
    rate
        Probability that a gene is asked for.
    keep
        Share of those that stay as they are.
    random
        Share of those that become a random gene; the rest becomes ``<mask>``.
    """

    rate: float = 0.15
    keep: float = 0.1
    random: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"the masking rate is {self.rate}; it must be above 0 and at most 1")
        if self.keep < 0 or self.random < 0 or self.keep + self.random > 1:
            raise ValueError(
                f"of the masked genes {self.keep} are kept and {self.random} random; shares are not negative "
                "and add up to at most 1"
            )


def mask_cell(
    ids: np.ndarray, vocabulary: GeneVocabulary, settings: MaskSettings, *, seed: int, epoch: int, cell: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mask genes of one model input, as evaluation does.

    Parameters
    ----------
    ids
        ``(l,)`` token ids with special tokens; unchanged.
    vocabulary
        Names the special tokens: these are never masked, and never put in at random.
    settings
        Rate and shares.
    seed, epoch, cell
        What the draw depends on, and nothing else; each at least 0.

    Returns
    -------
    input_ids
        ``(l,)`` int64, what the model reads.
    labels
        ``(l,)`` int64, the true gene where it is asked for, else -100. At least one gene is asked for.

    Raises
    ------
    ValueError
        The cell holds no gene.
    """
    input_ids = ids.astype(np.int64)
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    gene_positions = np.flatnonzero(input_ids >= vocabulary.n_special)
    if len(gene_positions) == 0:
        raise ValueError(f"cell {cell} holds no gene, so nothing of it can be masked")
    # Philox takes the three numbers as they are: key and counter, no hashing, a stream of its own for each
    # cell.
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, cell]))
    draws = generator.random(len(gene_positions))
    chosen = draws < settings.rate
    if not chosen.any():
        chosen[np.argmin(draws)] = True
    asked = gene_positions[chosen]
    labels[asked] = input_ids[asked]
    # Below the rate a draw is uniform again, so that it also decides what happens to the gene.
    fate = draws[chosen] / settings.rate
    randomised = asked[(fate >= settings.keep) & (fate < settings.keep + settings.random)]
    input_ids[asked[fate >= settings.keep + settings.random]] = vocabulary.token_of["<mask>"]
    input_ids[randomised] = generator.integers(vocabulary.n_special, len(vocabulary), len(randomised))
    return input_ids, labels
