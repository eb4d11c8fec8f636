"""A recipe says what it wants or is refused with one clear sentence, before anything is written."""

import json
import re
from pathlib import Path

import pytest

from geneformer_grn.workflows.corpus_build import build_corpus
from geneformer_grn.workflows.corpus_recipe import AboutFile, CorpusFile, read_recipe, recipe_files

APART = '[keep_apart]\nfiles = ["judge/j.h5ad"]\n'


@pytest.fixture
def data(make, tmp_path) -> Path:
    make.write(
        tmp_path, train_a=make.study(1, 8, donors=("Ann", "Bob")), train_b=make.study(2, 6),
        held_h=make.study(3, 5, donors=("Eve",)), judge_j=make.study(4, 5),
    )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    ("files", "text", "error", "message"),
    [
        ('cells = ["train/*"]\ncolumn = ["x"]', "", ValueError, "unknown key 'files.column'; did you mean"),
        ('cells = ["train/*"]', "[heldout]", ValueError, "unknown key 'heldout'; did you mean 'held_out'"),
        ("cells = []", "", ValueError, "'files.cells'"),
        ('cells = ["train/z.h5ad"]', "", FileNotFoundError, "[files] cells: nothing .* 'train/z.h5ad'"),
        ('cells = ["tumour/*"]', "", FileNotFoundError, "nothing in the data folder is, or fits, 'tumour/*'"),
        ('cells = ["../*"]', "", ValueError, "leaves the data folder"),
        ('cells = ["train/*"]', '[held_out]\nfiles = ["z/*"]', FileNotFoundError, "[held_out] files: noth"),
        ('cells = ["train/*"]\nmanifest = "m.json"', "", FileNotFoundError, "no m.json in the data folder"),
        ('cells = ["train/*"]\nmanifest = "recipe.toml"', "", ValueError, "recipe.toml is no JSON"),
        (
            'cells = ["train/*", "held/h.h5ad"]', '[held_out]\nfiles = ["held/*"]', ValueError,
            "held/h.h5ad is named in [files] cells to be trained on, and held out, too",
        ),
        (
            'cells = ["train/*", "judge/j.h5ad"]', APART, ValueError,
            "judge/j.h5ad is named in [files] cells to be trained on, and kept apart, too",
        ),
        (
            'cells = ["train/*"]', '[held_out]\nfiles = ["judge/*"]\n' + APART, ValueError,
            "judge/j.h5ad is both in [held_out] and in [keep_apart]",
        ),
        (
            'cells = ["train/*"]', '[[files.about]]\nfile = "train/c.h5ad"', ValueError,
            "speaks of 'train/c.h5ad', which is none of the recipe's files",
        ),
        (
            'cells = ["train/*"]', '[held_out]\ndonors = ["Anne"]', ValueError,
            "'Anne' is in no file's obs['donor'], which names 2 donors, such as Ann",
        ),
        (
            'cells = ["train/*"]', '[held_out]\ncolumn = "patient"\ndonors = ["Ann"]', ValueError,
            "no file has a donor in obs['patient']",
        ),
        (
            'cells = ["train/*"]', "[quality.umi]\nmin_genes = 9999", ValueError,
            "no cell is left to train on (14 few genes); loosen [quality]",
        ),
        (
            'cells = ["train/b.h5ad"]', '[held_out]\nfiles = ["held/*"]\n[quality.umi]\nmin_counts = 900000',
            ValueError, "no cell is left to train on (6 few counts)",
        ),
        ('cells = ["train/*"]', "[quality.full_length]\nmin_counts = 5", ValueError, "[quality.umi] only"),
        (
            'cells = ["train/*"]', '[vocabulary]\nuse = "human"\nmin_cells = 5', ValueError,
            "min_cells is for building a vocabulary",
        ),
        ('cells = ["held/*"]', '[held_out]\nfiles = ["held/*"]', ValueError, "no file is left to train on"),
        ('cells = ["train/*"]\ncolumns = ["sex"]', "", ValueError, "obs has no column 'sex'"),
    ],
)  # fmt: skip
def test_a_bad_recipe_is_refused_in_one_line_and_leaves_nothing(make, data, files, text, error, message):
    pattern = ".*".join(re.escape(piece) for piece in message.split(" .* "))
    with pytest.raises(error, match=pattern) as refused:
        build_corpus(make.recipe(data, f"{text}", files=files), data, data / "out")
    assert "\n" not in str(refused.value)
    assert not list(data.glob("out*"))


def test_files_have_the_role_that_the_recipe_gives_them(make, data):
    path = make.recipe(
        data,
        '[held_out]\nfiles = ["held/*"]\n[keep_apart]\nfiles = ["judge/*"]',
        files='cells = ["*/*.h5ad"]',
    )
    files = recipe_files(read_recipe(path), data)
    assert [(file.place, file.role) for file in files] == [
        ("train/a.h5ad", "train"), ("train/b.h5ad", "train"), ("held/h.h5ad", "held out"),
        ("judge/j.h5ad", "kept apart"),
    ]  # fmt: skip
    make.write(data, other_a=make.study(5, 4))
    with pytest.raises(ValueError, match=r"other/a.h5ad and train/a.h5ad have one name"):
        recipe_files(read_recipe(path), data)


def test_there_must_be_a_recipe_and_a_data_folder(make, data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no config file .*none.toml"):
        build_corpus(tmp_path / "none.toml", data, data / "out")
    with pytest.raises(FileNotFoundError, match="no such folder; --data names"):
        build_corpus(make.recipe(data), data / "nowhere", data / "out")


@pytest.mark.parametrize(
    ("recipe", "in_file", "manifest", "licence", "shipped"),
    [
        (None, "CC0", "MIT", "CC0", True),
        (None, "not stated", "MIT", "MIT", True),
        ("GPL-3", "CC0", "MIT", "GPL-3", True),
        (None, "not stated", "", "", False),
        (None, "repo states no licence; GEO GSE1", "", "repo states no licence; GEO GSE1", False),
        (None, "unknown", "", "unknown", False),
        (None, "The Unlicense", "", "The Unlicense", True),
    ],
)
def test_the_licence_is_the_recipe_s_then_the_file_s_then_the_list_s(
    recipe, in_file, manifest, licence, shipped
):
    stated = {"license": in_file, "source": "not stated"}
    for says in (None, True, False):
        file = CorpusFile(
            path=Path("a.h5ad"), place="a.h5ad", role="train",
            stated={"license": manifest, "source": "there"},
            about=AboutFile(file="a.h5ad", licence=recipe, licence_ok=says),
        )  # fmt: skip
        assert file.licence(stated) == licence
        assert file.source(stated) == "there"
        assert file.may_be_shipped(stated) is (shipped if says is None else says)


def test_the_recipe_of_the_shipped_model_can_be_read(repository):
    recipe = read_recipe(repository / "pretrain" / "corpora" / "mini.toml")
    assert recipe.held_out.files
    assert recipe.keep_apart.whole_donors


@pytest.mark.shared
def test_the_shipped_model_is_trained_on_nothing_that_it_is_judged_on(repository, shared_dir):
    """Every file of cells has one role, and none of the folders for judging is trained on."""
    data = shared_dir / "data"
    files = recipe_files(read_recipe(repository / "pretrain" / "corpora" / "mini.toml"), data)
    trained = {file.place for file in files if file.role == "train"}
    assert {place.split("/")[0] for place in trained} == {"pretrain"}
    rows = json.loads((data / "MANIFEST.json").read_text())["files"]
    cells = {row["file"] for row in rows if row["file"].endswith(".h5ad")}
    assert {file.place for file in files} == cells - {"perturbation/morphic_bulk_ko_de_dev.h5ad"}  # no counts
