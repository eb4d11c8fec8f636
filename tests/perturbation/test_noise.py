"""The noise floor against two whole runs in both precisions."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.noise import NoiseFloor, noise_floor, require_fine
from geneformer_grn.perturbation.requests import PerturbSettings, Request


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary):
    rng = np.random.default_rng(2)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [rng.permutation(genes)[:length] for length in (20, 25, 30)]
    return RankedCells(
        tokens=np.concatenate(cells).astype(np.uint16),
        offsets=np.array([0, 20, 45, 75]),
        n_counts=np.ones(3),
    )


@pytest.mark.parametrize("kind", ["delete", "knockout"])
def test_the_floor_is_the_median_difference_of_two_runs(tiny_encoder, ranked, kind):
    shared = [gene for gene in ranked.cell(0) if gene in ranked.cell(1) and gene in ranked.cell(2)]
    requests = [
        Request(genes=(int(gene),), kind=kind, cells=np.arange(3))
        for gene in (*shared[:3], ranked.cell(2)[0])
    ]
    states = {"there": np.random.default_rng(0).normal(size=tiny_encoder.hidden_size)}
    settings = PerturbSettings(readouts=("cell", "state", "genes"), encoder_layer=0)
    runs = {
        precision: perturb_cells(
            replace(tiny_encoder, precision=precision), ranked, requests, settings, states=states
        ).cells
        for precision in ("fp32", "bf16")
    }
    expected = {}
    for readout, rows in runs["fp32"].groupby("readout"):
        difference = (runs["bf16"].loc[rows.index, "shift"] - rows["shift"]).abs().median()
        expected[readout] = (difference, rows["shift"].abs().median())
    found = noise_floor(tiny_encoder, ranked, requests, settings, states=states)
    assert found.n_pairs == runs["fp32"].query("readout == 'cell'")["shift"].notna().sum()
    worst = max(expected.values(), key=lambda pair: pair[0] / pair[1])
    # Rounding depends on the company in a batch, a little.
    np.testing.assert_allclose([found.floor, found.median_effect], worst, rtol=0.3)
    assert 0 < found.share < 10


def test_without_any_effect_nothing_is_fine_enough(tiny_encoder, ranked):
    assert NoiseFloor(floor=1e-9, median_effect=0.0, n_pairs=3).share == float("inf")
    absent = next(gene for gene in range(5, 65) if gene not in ranked.tokens)
    request = Request(genes=(absent,), kind="delete", cells=np.arange(3))
    with pytest.raises(ValueError, match="no cell holds any of the genes"):
        noise_floor(tiny_encoder, ranked, [request], PerturbSettings())


@pytest.mark.parametrize(("share", "told"), [(0.051, "5.1%"), (None, "more than all")])
def test_coarse_runs_are_refused(share, told):
    noise = {"bf16_noise": 2e-6, "median_effect": 3e-5, "bf16_noise_share": share, "n_noise_pairs": 64}
    with pytest.raises(ValueError, match=f"by 2.0e-06 in the median, {told} of .* 3.0e-05 .64 passes.*fp32"):
        require_fine(noise)


def test_fine_runs_are_told_how_fine(caplog):
    noise = {"bf16_noise": 2e-6, "median_effect": 4e-5, "bf16_noise_share": 0.05, "n_noise_pairs": 64}
    with caplog.at_level(logging.INFO, logger="geneformer_grn"):
        require_fine(noise)
    assert "5.0% of the median effect" in caplog.text
