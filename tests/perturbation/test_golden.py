"""The engine against the reference method's own output, on its tokens (golden set), to 1e-5."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import MAX_LENGTH, SPECIAL_TOKENS, GeneVocabulary
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.requests import PerturbSettings, Request

pytestmark = pytest.mark.shared

SIZE = {"v1": 25426, "v2": 20275}


def plain_vocabulary(setting):
    """A vocabulary in which gene t is called T<t>: the golden tokens need no names."""
    special = SPECIAL_TOKENS[setting]
    names = [*special, *(f"T{token}" for token in range(len(special), SIZE[setting]))]
    medians = np.ones(SIZE[setting])
    medians[: len(special)] = np.nan
    return GeneVocabulary(
        ensembl_ids=np.array(names, dtype=object),
        symbols=np.array(names, dtype=object),
        medians=medians,
        is_regulator=np.zeros(SIZE[setting], dtype=bool),
        setting=setting,
        max_length=MAX_LENGTH[setting],
    )


@pytest.fixture(scope="module", params=["v1", "v2"])
def golden(request, golden_dir):
    return Golden(golden_dir, request.param)


class Golden:
    def __init__(self, folder, setting):
        import torch
        from transformers import BertForMaskedLM

        from geneformer_grn.model.attention import PACKED_ATTENTION, register_attention
        from geneformer_grn.model.encoder import Encoder

        register_attention()
        self.setting = setting
        self.folder = folder / setting
        self.log = json.loads((folder / "isp_log.json").read_text())
        model = BertForMaskedLM.from_pretrained(
            folder / "models" / f"{setting}_3L64", attn_implementation=PACKED_ATTENTION
        ).eval()
        self.encoder = Encoder(
            model=model,
            vocabulary=plain_vocabulary(setting),
            device=torch.device("cpu"),
            precision="fp32",
            name=setting,
        )
        self.states = dict(np.load(self.folder / "state_embs_short.npz"))
        self.tokens = {"short": {}, "full": {}}
        n_special = len(SPECIAL_TOKENS[setting])
        for cell in json.loads((self.folder / "short_cells.json").read_text()):
            ids = np.array(cell["input_ids"])
            self.tokens["short"][cell["cell_id"]] = ids[ids >= n_special]
        stored = np.load(self.folder / ("tokens.npz" if setting == "v1" else "tokens_first120.npz"))
        ends = np.cumsum(stored["lengths"])
        for name, end, length in zip(stored["cell_id"], ends, stored["lengths"], strict=True):
            ids = stored["ids"][end - length : end]
            self.tokens["full"][str(name)] = ids[ids >= n_special]

    def run(self, name):
        """The reference's table of a run and ours: (expected, cells in order, Perturbed)."""
        expected = pd.read_parquet(self.folder / f"isp_{name}.parquet")
        entry = self.log[f"{self.setting}_{name}"]
        arguments = entry["args"]
        tokens = self.tokens[name.rsplit("_", 1)[1]]
        cells = [tokens.get(cell) for cell in entry["cells_in_order"]]
        known = [i for i, cell in enumerate(cells) if cell is not None]
        offsets = np.concatenate([[0], np.cumsum([0 if cell is None else len(cell) for cell in cells])])
        flat = np.concatenate([cell for cell in cells if cell is not None]).astype(np.uint16)
        ranked = RankedCells(tokens=flat, offsets=offsets, n_counts=np.ones(len(cells)))
        kind = arguments["perturb_type"]
        if arguments["genes_to_perturb"] == "all":
            holders = {}
            for i in known:
                for token in cells[i]:
                    holders.setdefault(int(token), []).append(i)
            requests = [
                Request(genes=(token,), kind=kind, cells=np.array(rows)) for token, rows in holders.items()
            ]
        else:
            (first, *_) = expected["perturbed_tokens"]
            genes = json.loads(first)
            requests = [Request(genes=tuple(np.atleast_1d(genes).tolist()), kind=kind, cells=np.array(known))]
        readouts = ["cell"]
        if arguments["emb_mode"].endswith("and_gene"):
            readouts.append("genes")
        states = self.states if "cell_states_to_model" in arguments else None
        if states:
            readouts.append("state")
        settings = PerturbSettings(
            encoder_layer=arguments["emb_layer"], readouts=tuple(readouts), token_budget=4096
        )
        return expected, known, perturb_cells(self.encoder, ranked, requests, settings, states=states)


@pytest.mark.parametrize(
    "name",
    [
        "delete_CD74_full",
        "overexpress_B2M_full",
        "overexpress_FOXP3_full",
        "delete_H1_short",
        "delete_layer0_H1_short",
        "delete_pair_short",
        "overexpress_H1_short",
        "overexpress_GATA4_TBX5_H1_short",
        "delete_H1_states_short",
        "overexpress_GATA4_states_short",
    ],
)
def test_one_perturbation_equals_the_reference(golden, name):
    if not (golden.folder / f"isp_{name}.parquet").is_file():
        pytest.skip("this run is kept aside")
    expected, known, found = golden.run(name)
    cells = expected[expected["affected"] == "cell_emb"]
    ours = found.cells
    if "states" in name:
        ours = ours[ours["readout"] == "state"]
    for state, part in ours.groupby("state"):
        reference = cells[cells["state"] == state].set_index("ordinal")["cos"].loc[known]
        np.testing.assert_allclose(part.sort_values("cell_id")["cosine"].dropna(), reference, atol=1e-5)
    check_gene_shifts(expected, found.gene_shifts)


@pytest.mark.parametrize("name", ["delete_all_short", "delete_all_genes_short", "delete_all_states_short"])
def test_every_gene_equals_the_reference(golden, name):
    if not (golden.folder / f"isp_{name}.parquet").is_file():
        pytest.skip("this run is kept aside")
    expected, _, found = golden.run(name)
    cells = expected[expected["affected"] == "cell_emb"].copy()
    cells["cell_id"] = [int(re.search(r"embs_(\d+)batch", file).group(1)) for file in cells["file"]]
    cells["gene"] = "T" + cells["perturbed_tokens"].astype(str)
    ours = found.cells[found.cells["readout"] == ("state" if "states" in name else "cell")]
    keys = ["cell_id", "gene", "state"]
    both = ours.merge(cells[[*keys, "cos"]], on=keys, how="outer")
    assert len(both) == len(cells) == len(ours)
    np.testing.assert_allclose(both["cosine"], both["cos"], atol=1e-5)
    check_gene_shifts(expected, found.gene_shifts)


def check_gene_shifts(expected, found):
    genes = expected[expected["affected"] != "cell_emb"]
    assert (found is None) == genes.empty
    if found is None:
        return
    mean = genes.groupby(["perturbed_tokens", "affected"])["cos"].agg(["mean", "size"]).reset_index()
    mean["gene"] = [
        "+".join(f"T{token}" for token in np.atleast_1d(json.loads(tokens)))
        for tokens in mean["perturbed_tokens"]
    ]
    mean["affected"] = "T" + mean["affected"].astype(str)
    both = found.merge(mean, on=["gene", "affected"], how="outer")
    assert len(both) == len(mean) == len(found)
    np.testing.assert_allclose(1 - both["shift"], both["mean"], atol=1e-5)
    np.testing.assert_array_equal(both["n_cells"], both["size"])
