"""What a perturbation does to the tokens of one cell, and which positions stay comparable.

Pure numpy, one cell at a time. Each kind returns an `Edit`: the perturbed model input, and for every
unperturbed gene where it sat before and where it sits now. All kinds edit the model input, that is the
ranking *after* it was cropped to the model's length, as the reference method does: deleting a gene does not
pull in a gene from behind the crop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from geneformer_grn.genes.vocabulary import GeneVocabulary

_LAST_QUARTILE = 3


@dataclass(frozen=True)
class InputLayout:
    """Where the genes sit in a model input.

    Parameters
    ----------
    n_front
        Special tokens before the first gene (``<cls>``: 1, else 0).
    n_back
        Special tokens behind the last gene (``<eos>``: 1, else 0).
    max_length
        Longest model input, special tokens included.
    """

    n_front: int
    n_back: int
    max_length: int

    @classmethod
    def of(cls, vocabulary: GeneVocabulary) -> InputLayout:
        """Return the layout of cells encoded with `vocabulary`."""
        wrapped = int(vocabulary.n_wrapping > 0)
        return cls(n_front=wrapped, n_back=wrapped, max_length=vocabulary.max_length)

    def genes(self, length: int) -> np.ndarray:
        """Return the gene positions ``(length - specials,)`` int64 of an input of `length` tokens."""
        return np.arange(self.n_front, length - self.n_back, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Edit:
    """One perturbed cell, aligned with its unperturbed self.

    Parameters
    ----------
    input_ids
        ``(L',)`` int64; the perturbed model input.
    position_ids
        ``(L',)`` int64; the position embedding of each token.
    original_index, perturbed_index
        ``(k,)`` int64; position of the i-th unperturbed gene in the original and in the perturbed input.
    original_pool
        Positions of the original that a mean over its genes pools.
    original_dropped
        ``(c,)`` int64; positions to take out of the original before it is encoded (the indices above count
        without them). Inserting a gene at full length pushes the last one out; the original it is compared
        with leaves that gene out too, or the shift would mix two effects (so does the reference).
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    original_index: np.ndarray
    perturbed_index: np.ndarray
    original_pool: np.ndarray
    original_dropped: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def _removal(input_ids: np.ndarray, genes: Sequence[int], layout: InputLayout) -> np.ndarray | None:
    """Return a mask of the positions kept, or None unless the cell holds all of `genes` and one gene more."""
    kept = ~np.isin(input_ids, genes)
    n_removed = len(input_ids) - int(kept.sum())
    n_genes = len(input_ids) - layout.n_front - layout.n_back
    return kept if n_removed == len(genes) < n_genes else None


def delete(input_ids: np.ndarray, genes: Sequence[int], layout: InputLayout) -> Edit | None:
    """Remove `genes` together; the genes that follow move up.

    Parameters
    ----------
    input_ids
        ``(L,)`` int64 model input of the cell, cropped and with its special tokens.
    genes
        Distinct gene tokens.
    layout
        Where the genes sit in `input_ids`.

    Returns
    -------
    The edit, or None where the cell lacks one of the genes, or has no other.
    """
    kept = _removal(input_ids, genes, layout)
    if kept is None:
        return None
    perturbed = input_ids[kept]
    positions = layout.genes(len(input_ids))
    return Edit(
        input_ids=perturbed,
        position_ids=np.arange(len(perturbed), dtype=np.int64),
        original_index=positions[kept[positions]],
        perturbed_index=layout.genes(len(perturbed)),
        original_pool=positions,
    )


def knockout(input_ids: np.ndarray, genes: Sequence[int], layout: InputLayout) -> Edit | None:
    """Hide `genes` from every other token, in every layer, with nothing moving.

    Removing a token while the others keep their position ids equals masking it as a key in every layer.
    Unlike with `delete`, a shift is then not due to later genes having moved up a rank. Pools leave the
    gene out before and after, so that its own state counts in neither. Parameters and return as in
    `delete`.
    """
    kept = _removal(input_ids, genes, layout)
    if kept is None:
        return None
    positions = layout.genes(len(input_ids))
    unperturbed = positions[kept[positions]]
    return Edit(
        input_ids=input_ids[kept],
        position_ids=np.flatnonzero(kept).astype(np.int64),
        original_index=unperturbed,
        perturbed_index=layout.genes(int(kept.sum())),
        original_pool=unperturbed,
    )


def overexpress(input_ids: np.ndarray, genes: Sequence[int], layout: InputLayout) -> Edit | None:
    """Put `genes`, in their order, in front of all others (behind ``<cls>``), held by the cell or not.

    What no longer fits is cropped from the end; ``<eos>`` stays. Parameters as in `delete`.

    Returns
    -------
    The edit, or None where no unperturbed gene would be left to compare.

    Raises
    ------
    ValueError
        More genes than the model input can hold.
    """
    room = layout.max_length - layout.n_front - layout.n_back - len(genes)
    if room < 1:
        raise ValueError(
            f"cannot overexpress {len(genes):,} genes at once: an input holds {layout.max_length:,} tokens"
        )
    positions = layout.genes(len(input_ids))
    unperturbed = positions[~np.isin(input_ids[positions], genes)]
    aligned, dropped = unperturbed[:room], unperturbed[room:]
    if not len(aligned):
        return None
    front, back = input_ids[: layout.n_front], input_ids[len(input_ids) - layout.n_back :]
    perturbed = np.concatenate([front, np.asarray(genes, dtype=np.int64), input_ids[aligned], back])
    start = layout.n_front + len(genes)
    return Edit(
        input_ids=perturbed,
        position_ids=np.arange(len(perturbed), dtype=np.int64),
        original_index=aligned,
        perturbed_index=np.arange(start, start + len(aligned), dtype=np.int64),
        original_pool=layout.genes(len(input_ids) - len(dropped)),
        original_dropped=dropped,
    )


def quartile_place(n_genes: int, position: int, quartiles: int) -> int:
    """Return where a gene of a ranking ends up that is moved by whole quartiles.

    Position ``p`` of ``n`` genes (0 = first) is in quartile ``floor(4 p / n)``, 0 to 3, so quartile ``t``
    holds the positions ``ceil(t n / 4)`` to ``ceil((t + 1) n / 4) - 1``. A gene of quartile ``q`` goes to
    the middle position of quartile ``q + quartiles``; of two middle positions, to the one further on. From
    where no such quartile is left it goes to the very front or the very end. A ranking of fewer than four
    genes has quartiles without a position: the gene then goes to the position next to where the quartile
    would be, on its far side as seen from the gene (or to the end, where there is none).

    Where ``n`` is a multiple of 4, moving down is the mirror image of moving up; elsewhere no division into
    four is its own mirror image.

    Parameters
    ----------
    n_genes
        Genes of the ranking, special tokens not counted.
    position
        Where the gene is, 0 to ``n_genes - 1``.
    quartiles
        How far it is moved; negative: towards the front.

    Returns
    -------
    Where the gene is afterwards. A gene is never moved against its direction.

    Examples
    --------
    >>> [quartile_place(8, position, -1) for position in range(8)]
    [0, 0, 0, 0, 2, 2, 4, 4]
    >>> [quartile_place(8, position, 1) for position in range(8)]
    [3, 3, 5, 5, 7, 7, 7, 7]
    """
    reached = 4 * position // n_genes + quartiles
    if reached < 0:
        return 0
    if reached > _LAST_QUARTILE:
        return n_genes - 1
    first, end = -(-reached * n_genes // 4), -(-(reached + 1) * n_genes // 4)
    if quartiles < 0:
        return (first + end - 1) // 2
    return min((first + end) // 2, n_genes - 1)


def inhibit(
    input_ids: np.ndarray, genes: Sequence[int], layout: InputLayout, *, quartiles: int = 1
) -> Edit | None:
    """Move `genes` down the ranking by `quartiles`, one after the other, each from where it is by then.

    Where a gene ends up is said in `quartile_place`; from the last quartile it goes to the end. The order
    of the other genes stays. A gene that is at the end already stays there. The ranking is that of the
    model input, cropped to the model's length.

    Parameters
    ----------
    input_ids, genes, layout
        As in `delete`.
    quartiles
        1 to 3.

    Returns
    -------
    The edit, or None where the cell lacks one of the genes, or has no other.

    Notes
    -----
    Documented, though not available, in the reference method; Theodoris et al. (2023), Nature 618.
    """
    return _move(input_ids, genes, layout, quartiles)


def activate(
    input_ids: np.ndarray, genes: Sequence[int], layout: InputLayout, *, quartiles: int = 1
) -> Edit | None:
    """Move `genes` up the ranking by `quartiles`; from the first quartile to the front.

    Otherwise as `inhibit`.
    """
    return _move(input_ids, genes, layout, -quartiles)


def _move(input_ids: np.ndarray, genes: Sequence[int], layout: InputLayout, quartiles: int) -> Edit | None:
    kept = _removal(input_ids, genes, layout)
    if kept is None:
        return None
    positions = layout.genes(len(input_ids))
    order = positions.tolist()  # original positions, in perturbed order
    where = {int(gene): position for position, gene in enumerate(input_ids.tolist())}
    for gene in genes:
        place = order.index(where[int(gene)])
        moved = order.pop(place)
        order.insert(quartile_place(len(positions), place, quartiles), moved)
    perturbed = input_ids.copy()
    perturbed[positions] = input_ids[order]
    unperturbed = np.array([position for position in order if kept[position]], dtype=np.int64)
    return Edit(
        input_ids=perturbed,
        position_ids=np.arange(len(perturbed), dtype=np.int64),
        original_index=unperturbed,
        perturbed_index=positions[kept[order]],
        original_pool=positions,
    )


EditFunction = Callable[[np.ndarray, Sequence[int], InputLayout], Edit | None]
EDITS: dict[str, EditFunction] = {
    "delete": delete,
    "overexpress": overexpress,
    "inhibit": inhibit,
    "activate": activate,
    "knockout": knockout,
}
MOVES = frozenset({"inhibit", "activate"})
NEEDS_GENE = frozenset({"delete", "knockout"}) | MOVES


def edit_function(kind: str, quartiles: int = 1) -> EditFunction:
    """Return the edit of `kind`, moving by `quartiles` where it moves genes by quartiles."""
    if kind == "inhibit":
        return partial(inhibit, quartiles=quartiles)
    if kind == "activate":
        return partial(activate, quartiles=quartiles)
    return EDITS[require_kind(kind)]


def require_kind(kind: str) -> str:
    """Return `kind` if there is such a perturbation.

    Raises
    ------
    ValueError
        There is none; the message lists those there are.
    """
    if kind not in EDITS:
        raise ValueError(f"perturbation kind {kind!r} is not available; choose one of {', '.join(EDITS)}")
    return kind
