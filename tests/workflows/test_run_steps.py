"""Steps of a run by themselves: which groups are perturbed where not all fit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.perturbation import effects, matching, screen
from geneformer_grn.workflows.run_steps import RunSettings, perturb_groups


def test_the_groups_that_hold_the_genes_are_perturbed_before_larger_ones(monkeypatch, caplog):
    cells = [[9, 5, 6]] * 3 + [[6, 7]] * 7 + [[]] + [[5, 8]] * 2
    labels = np.repeat(["few", "many", "fewer"], [3, 8, 2])
    ranked = RankedCells(
        tokens=np.concatenate(cells).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]), n_counts=np.ones(13),
    )  # fmt: skip

    def fits_one(groups, _sets, _plan):
        if len(groups) > 1:
            raise ValueError("too many")

    asked = {}
    monkeypatch.setattr(matching, "rank_groups", lambda _ranked, kept, *_, **__: sorted({*kept} - {None}))
    monkeypatch.setattr(screen, "plan_screen", fits_one)
    monkeypatch.setattr(effects, "run_screen", lambda _e, _r, kept, *_, **__: asked.update(kept=kept))
    network = SimpleNamespace(universe=SimpleNamespace(n_cells={"few": 3, "many": 8, "fewer": 2}))
    given = {"counts": None, "network": network, "settings": RunSettings(max_passes=10)}
    encoder = SimpleNamespace(vocabulary=None)
    with caplog.at_level("WARNING"):
        _, left_out = perturb_groups(encoder, ranked, labels, genes=[5, 9], **given)
    assert asked["kept"].tolist() == ["few"] * 3 + [None] * 10
    assert left_out == ["fewer", "many"]
    assert "whose cells hold most of the genes: few; not perturbed: fewer, many" in caplog.text
    monkeypatch.setattr(screen, "plan_screen", lambda *_: fits_one([1, 2], None, None))
    with pytest.raises(ValueError, match="too many"):
        perturb_groups(encoder, ranked, labels, genes=[5, 9], **given)
