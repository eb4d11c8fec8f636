"""The data card goes with the model card: from the checkpoint or by name, read for names and licences."""

from __future__ import annotations

import json
import shutil

import pytest

from geneformer_grn.workflows.corpus_build import build_corpus
from geneformer_grn.workflows.publish import PublishSettings, publish, stage_repository
from geneformer_grn.workflows.publish_data_card import data_card_text


@pytest.fixture(scope="module")
def built(make, tmp_path_factory):
    """Return the folder of a build."""
    folder = tmp_path_factory.mktemp("corpus")
    make.write(folder, train_a=make.study(1, 30, donors=("Ann-Smith", "Bob-Smith")))
    build_corpus(make.recipe(folder, "[vocabulary]\nmin_cells = 3"), folder, folder / "out")
    return folder / "out"


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "tiny")


@pytest.mark.parametrize("name", ["data_card.md", "data_card.json"])
@pytest.mark.parametrize("lies_in_the_folder", [True, False])
def test_what_a_build_wrote_is_published_as_markdown(
    built, checkpoint, card, tmp_path, name, lies_in_the_folder
):
    named = None if lies_in_the_folder else built / name
    if lies_in_the_folder:
        shutil.copyfile(built / name, checkpoint / name)
    settings = PublishSettings(card=card, data_card=named, dry_run=True)
    staged = tmp_path / "staged"
    files = stage_repository(checkpoint, staged, settings)
    text = (built / "data_card.md").read_text(encoding="utf-8")
    assert (staged / "data_card.md").read_text(encoding="utf-8") == text
    assert [file["size"] for file in files if file["name"] == "data_card.md"] == [len(text.encode())]
    assert {path.name for path in staged.iterdir()} == {file["name"] for file in files}
    found = publish(checkpoint, "someone/tiny", settings)
    assert found["files"] == files


def test_the_file_named_comes_before_the_folders(built, checkpoint):
    assert data_card_text(checkpoint, None) is None
    (checkpoint / "data_card.json").write_text("[]")
    (checkpoint / "data_card.md").write_text("# Old\n")
    assert data_card_text(checkpoint, None) == "# Old\n"
    assert data_card_text(checkpoint, built / "data_card.json").startswith("# Data card\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("| cells | donor |\n|---|---|\n| 12 | Ann-Smith |\n", r"names donor \('Ann-Smith'\)"),
        ("| Patient ID |\n|---|\n| 4 |\n| `P7` |\n", r"names Patient ID \('P7'\)"),
        ("Built in /" + "home/me/corpus.\n", "path of a machine"),
        ("First cell: AAACCTGAGAAACCAT-1\n", "cell barcode"),
        ("Mostly cells of Bob-Smith.\n", "holds 'bob-smith'"),
        ("**Not to be shipped:** it holds files of no stated licence.\n", "is not to be shipped"),
    ],
)
def test_names_paths_and_corpora_not_to_be_shipped_are_refused(checkpoint, card, tmp_path, text, message):
    path = tmp_path / "mine.md"
    path.write_text(f"# Data card\n\n{text}")
    settings = PublishSettings(card=card, data_card=path, forbidden=("bob-smith",))
    with pytest.raises(ValueError, match=message):
        stage_repository(checkpoint, tmp_path / "staged", settings)
    assert not (tmp_path / "staged").exists()


def test_numbers_of_donors_are_no_names(tmp_path, checkpoint):
    path = tmp_path / "mine.md"
    path.write_text(
        "| part | donors | cells without a donor |\n|---|---|---|\n| train | 23 | 2,825 |\n\n"
        "| file | cells |\n|---|---|\n| a.h5ad | 157 copy of a cell kept apart |\n"
    )
    assert data_card_text(checkpoint, path) == path.read_text()


def test_a_json_card_is_looked_into_as_json(built, checkpoint, tmp_path):
    """So that what rendering leaves out is seen too."""
    card = json.loads((built / "data_card.json").read_text())
    for content, message in (
        ({**card, "donors": ["Ann-Smith"]}, r"names donors \('Ann-Smith'\)"),
        ({**card, "may_be_shipped": False}, "is not to be shipped"),
        ({"kind": "another"}, "no data card of geneformer-grn"),
        ([card], "no data card of geneformer-grn"),
    ):
        path = tmp_path / "data_card.json"
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            data_card_text(checkpoint, path)
    with pytest.raises(FileNotFoundError, match=r"no data card at none\.md"):
        data_card_text(checkpoint, tmp_path / "none.md")
