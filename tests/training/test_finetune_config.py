from __future__ import annotations

from pathlib import Path

import pytest

from geneformer_grn.training.finetune_config import read_finetune_config, resolved

TEXT = """
name = "types"
[data]
files = ["cells.h5ad"]
[[tasks]]
name = "cell_type"
[split]
by = "donor"
[evaluation]
few_shot = [5]
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "types.toml"
    path.write_text(TEXT)
    return path


def test_defaults_and_overrides(config_file):
    config = read_finetune_config(
        config_file,
        ['data.files=["/some/where/other.h5ad"]', "tasks.column=celltype", "optim.lr=1e-5", "split.folds=4"],
    )
    assert config.data.files == (Path("/some/where/other.h5ad"),)
    assert resolved(config)["data"]["files"] == ["other.h5ad"], "outputs record names, not directories"
    assert config.tasks[0].column == "celltype"
    assert config.settings().optim.lr == 1e-5
    assert config.split.rule().groups_are == "donor"
    assert config.level == "cell"
    frozen = read_finetune_config(config_file, ['evaluation.few_shot_modes=["frozen"]'])
    assert frozen.settings().model.mode == "full"
    assert frozen.settings("frozen").model.mode == "frozen"
    generated = read_finetune_config(config_file, ["data.generate=planted_disease"])
    assert generated.data.files == (), "one source takes the place of the other"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optim.learning=1", "unknown key 'optim.learning'"),
        ("tasks.colum=x", "did you mean 'tasks.column'"),
        ("split.fold=4", "did you mean 'split.folds'"),
        ("evaluation.baseline=[]", "did you mean 'evaluation.baselines'"),
        ("taks.name=x", "did you mean 'tasks'"),
        ("tasks.1.name=x", "tasks holds 1"),
        ("tasks.level=gene", "takes its labels from a table"),
        ("tasks.kind=regression", "takes one task of classes"),
        ("split.folds=2", "greater than or equal to 3"),
        ("model.mode=half", "model.mode"),
        ("data.files=none", "data.files"),
        ("evaluation.goals=[{measure='auroc', labels=7, at_least=0.9}]", "7 labels a class"),
        ("evaluation.goals=[{measure='auroc'}]", ": a goal has either at_least or ahead_by"),
        ('evaluation.few_shot_modes=["top", "top"]', ": evaluation.few_shot_modes names a mode twice: top"),
    ],
)
def test_what_does_not_fit_is_refused(config_file, change, message):
    with pytest.raises(ValueError, match=r"types\.toml|--set") as caught:
        read_finetune_config(config_file, [change])
    assert message in str(caught.value)


def test_a_learning_curve_of_quantised_layers_is_refused_where_they_would_learn(config_file):
    frozen = ["model.mode=frozen", "model.quantised=8bit"]
    kept = read_finetune_config(config_file, [*frozen, 'evaluation.few_shot_modes=["lora"]'])
    assert kept.settings("lora").model.quantised == "8bit"
    with pytest.raises(ValueError, match=r"few_shot_modes 'full' needs model\.quantised 'none'$"):
        read_finetune_config(config_file, [*frozen, 'evaluation.few_shot_modes=["full"]'])


def test_random_weights_may_have_rates_of_their_own(config_file):
    own = read_finetune_config(config_file, ["model.heads=fitted", "model.mode=top", "optim.lr=1e-4"])
    assert own.random_settings() == own.settings("full"), "unless they are given"
    asked = ["model.heads=fitted", "optim.lr=1e-4", "optim.head_lr=1e-3", "evaluation.random_lr=2e-3"]
    random = read_finetune_config(config_file, asked).random_settings()
    assert (random.optim.lr, random.optim.head_lr, random.model.heads) == (2e-3, 1e-3, "steps")
    both = read_finetune_config(config_file, [*asked, "evaluation.random_head_lr=7e-3"])
    assert both.random_settings().optim.head_lr == 7e-3
    assert both.settings().optim.head_lr == 1e-3, "the model's are as they were"
    small = read_finetune_config(config_file, ["model.mode=frozen", "model.quantised=8bit"])
    assert (small.random_settings().model.mode, small.random_settings().model.quantised) == ("full", "none")


def test_several_tasks(tmp_path):
    path = tmp_path / "two.toml"
    two = TEXT.replace("[split]", '[[tasks]]\nname = "age"\nkind = "regression"\n[split]')
    path.write_text(two.replace("few_shot = [5]", ""))
    config = read_finetune_config(path, ["tasks.1.column=years"])
    assert [task.name for task in config.tasks] == ["cell_type", "age"]
    assert config.tasks[1].column == "years"
    with pytest.raises(ValueError, match=r"tasks holds 2; write tasks.NUMBER.key"):
        read_finetune_config(path, ["tasks.column=years"])
    with pytest.raises(ValueError, match="two tasks have one name"):
        read_finetune_config(path, ["tasks.1.name=cell_type"])


def test_shipped_configs_are_read(repository):
    found = sorted((repository / "finetune" / "configs").glob("*.toml"))
    names = {path.stem for path in found}
    assert {"cell_type", "stimulation", "gene_class", "multitask", "disease_state", "sanity"} <= names
    for path in found:
        config = read_finetune_config(path)
        assert config.name == path.stem
        assert all(file.name == str(file) for file in config.data.files), "files are named, not placed"
