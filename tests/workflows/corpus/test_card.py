"""The data card counts what is there, says what is not stated, and names nobody."""

import json

import numpy as np
import pytest
from scipy import stats

from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.workflows.corpus_build import build_corpus
from geneformer_grn.workflows.corpus_card import effective_number


@pytest.fixture(scope="module")
def built(make, tmp_path_factory):
    """Return a build's folder and its card: two tissues, sex of some, a donor held out, one copy."""
    folder = tmp_path_factory.mktemp("secret-place")
    tissue = ["lung"] * 24 + ["liver"] * 6
    first = make.study(
        1, 30, donors=("Ann-Smith", "Bob-Smith"), tissue=tissue, Sex=["female", "unknown"] * 15
    )
    judged = make.study(3, 6)
    counts = first.X.toarray()
    counts[0] = judged.X.toarray()[2]
    first.X = counts
    make.write(folder, train_a=first, train_b=make.study(2, 10), judge_j=judged)
    recipe = make.recipe(
        folder,
        '[held_out]\ndonors = ["Bob-Smith"]\n[keep_apart]\nfiles = ["judge/*"]\nwhole_donors = false\n'
        "[vocabulary]\nmin_cells = 3",
    )
    build_corpus(recipe, folder, folder / "out")
    return folder / "out", json.loads((folder / "out" / "data_card.json").read_text())


def test_parts_and_shares_are_those_of_the_corpora(built):
    out, card = built
    for name, part in card["parts"].items():
        corpus = Corpus.open(out / name)
        assert (part["n_cells"], part["n_tokens"]) == (len(corpus), int(corpus.lengths.sum()))
    assert card["parts"]["train"]["n_cells"] == 14 + 10
    assert card["parts"]["heldout"]["n_cells"] == 15
    assert (card["parts"]["train"]["n_donors"], card["parts"]["train"]["n_cells_without_donor"]) == (1, 10)
    shares = card["shares"]["tissue"]
    cells = {row["value"]: row["n_cells"] for row in shares["values"]}
    assert cells == {"lung": 11 + 10, "liver": 3}
    assert shares["effective_number"] == pytest.approx(np.exp(stats.entropy([21, 3])), abs=0.005)
    assert card["shares"]["disease"]["values"][0]["value"] == "not stated"
    lengths = Corpus.open(out / "train").lengths
    rows = card["shares"]["study"]["values"]
    sources = Corpus.open(out / "train").column("source")
    for row in rows:
        expected = lengths[sources == f"{row['value']}.h5ad"].sum() / lengths.sum()
        assert row["share_tokens"] == pytest.approx(expected, abs=1e-4)


def test_what_is_over_represented_is_named(make, tmp_path):
    make.write(
        tmp_path, train_a=make.study(1, 40, tissue="blood"),
        train_b=make.study(2, 6, tissue=["lung", "liver", "heart", "skin", "bone", "eye"]),
    )  # fmt: skip
    recipe = make.recipe(tmp_path, "[vocabulary]\nmin_cells = 3")
    card = build_corpus(recipe, tmp_path, tmp_path / "out")
    assert card["shares"]["tissue"]["over_represented"] == ["blood"]
    assert card["shares"]["study"]["over_represented"] == []
    assert "heldout" not in card["parts"]


def test_the_effective_number_is_that_of_equal_groups():
    assert effective_number(np.array([7.0, 7.0, 7.0, 0.0])) == pytest.approx(3)
    assert effective_number(np.array([1e9, 1.0])) == pytest.approx(1, abs=1e-6)


def test_the_card_names_no_cell_no_donor_and_no_folder(built):
    out, card = built
    text = (out / "data_card.md").read_text()
    for written in (json.dumps(card), text):
        for secret in ("barcode-", "Smith", "secret-place", "train/", str(out.parent)):
            assert secret not in written
    assert card["recipe"]["name"] == "recipe.toml"
    assert "copy of a cell kept apart" in text
    assert "21" in text
    assert "CC0" in text


def test_what_nobody_states_is_said_not_to_be_known(built):
    out, card = built
    assert card["people"]["sex"] == {"share_stated": round(14 / 24, 4), "values": {"female": 14}}
    assert card["people"]["ethnicity"] == {"share_stated": 0.0, "values": {}}
    text = (out / "data_card.md").read_text()
    assert "**ethnicity**: not stated in any file. Nothing is known of the balance." in text
    assert "**sex**: stated for 58.3 % of the cells: female 14." in text


def test_no_file_of_a_build_says_where_the_data_lay(built):
    out, _ = built
    for path in out.rglob("*.json"):
        assert "secret-place" not in path.read_text(), path.name
