"""How much of a shift in bf16 is rounding: measured on the model and the cells at hand, not assumed.

A shift is one minus a number very close to one. In bf16 two encodings of nearly the same cell differ by
rounding alone, and a knock-out may move a cell by a millionth; whether that drowns depends on the model and
on the genes, so a sample of the run's own passes is encoded both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.edits import InputLayout, edit_function
from geneformer_grn.perturbation.parts import perturb_part
from geneformer_grn.perturbation.requests import PerturbSettings, Request

MOST_NOISE = 0.05
"""Share of the median effect that rounding may have."""

_SAMPLE = 64
_DRAWS = 4096  # until the sample is full: genes may be rare


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """What rounding adds to shifts; of the readout (cell, or a state) that suffers most.

    Parameters
    ----------
    floor
        Median absolute difference between the shifts in bf16 and in fp32.
    median_effect
        Median absolute shift in fp32.
    n_pairs
        Pairs of a perturbation and a cell it was measured on.
    """

    floor: float
    median_effect: float
    n_pairs: int

    @property
    def share(self) -> float:
        """The floor as a share of the median effect; infinite where there is none."""
        return self.floor / self.median_effect if self.median_effect > 0 else float("inf")


def noise_floor(
    encoder: Encoder,
    ranked: RankedCells,
    requests: Sequence[Request],
    settings: PerturbSettings,
    *,
    states: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> NoiseFloor:
    """Encode a sample of a run's passes in bf16 and in fp32, and compare the shifts.

    Parameters
    ----------
    encoder, ranked, requests, settings, states
        As in `geneformer_grn.perturbation.engine.perturb_cells`; the encoder's own precision does not matter.
    seed
        Seed of the sample: 64 pairs of a perturbation and a cell that holds its genes, or as many as are
        found.

    Returns
    -------
    The floor of the readout, cell or a state, in which it is the largest share of the effect.

    Raises
    ------
    ValueError
        No cell holds any of the genes.

    Examples
    --------
    >>> noise_floor(encoder, ranked, requests, PerturbSettings()).share < MOST_NOISE  # doctest: +SKIP
    """
    pairs = _sample(encoder, ranked, requests, settings, seed)
    how = replace(settings, readouts=("cell",) if states is None else ("cell", "state"))
    plain, rounded = (
        perturb_part(
            replace(encoder, precision=precision), ranked, requests, pairs, how, states=states
        ).values
        for precision in ("fp32", "bf16")
    )
    effects = plain.copy()
    effects[:, 0] = 1.0 - effects[:, 0]  # the cell's is a cosine, those of states are differences
    found = [
        NoiseFloor(floor=float(floor), median_effect=float(effect), n_pairs=len(plain))
        for floor, effect in zip(
            np.median(np.abs(rounded - plain), axis=0), np.median(np.abs(effects), axis=0), strict=True
        )
    ]
    return max(found, key=lambda noise: noise.share)


def require_fine(noise: Mapping[str, float | None]) -> None:
    """Say how coarse bf16 is on these cells, and refuse it where that is too much.

    Parameters
    ----------
    noise
        ``bf16_noise`` (the floor), ``median_effect``, ``bf16_noise_share`` (None: there is no effect) and
        ``n_noise_pairs``, as `geneformer_grn.workflows.perturb_parts.PerturbWork.noise` returns them.

    Raises
    ------
    ValueError
        The floor is more than `MOST_NOISE` of the median effect.
    """
    share = noise["bf16_noise_share"]
    told = (
        f"bf16 changes shifts by {noise['bf16_noise']:.1e} in the median, "
        f"{'more than all' if share is None else format(share, '.1%')} of the median effect of "
        f"{noise['median_effect']:.1e} ({noise['n_noise_pairs']} passes of these cells compared)"
    )
    if share is None or share > MOST_NOISE:
        raise ValueError(f"{told}; at most {MOST_NOISE:.0%} is accepted: run with precision fp32")
    logger.info("%s", told)


def _sample(
    encoder: Encoder,
    ranked: RankedCells,
    requests: Sequence[Request],
    settings: PerturbSettings,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (requests, cells) of pairs that hold the genes, ascending by cell."""
    rng, layout = np.random.default_rng(seed), InputLayout.of(encoder.vocabulary)
    some = [number for number, request in enumerate(requests) if len(request.cells)]
    chosen: dict[tuple[int, int], None] = {}
    for number in rng.choice(some, _DRAWS) if some else ():
        request = requests[number]
        cell = int(rng.choice(request.cells))
        ids = model_input(ranked.cell(cell), encoder.vocabulary)
        if edit_function(request.kind, settings.quartiles)(ids, request.genes, layout) is not None:
            chosen[cell, int(number)] = None
        if len(chosen) == _SAMPLE:
            break
    if not chosen:
        raise ValueError("no cell holds any of the genes, so that bf16 cannot be judged; use fp32")
    cells, numbers = np.array(sorted(chosen), dtype=np.int64).T
    return numbers, cells
