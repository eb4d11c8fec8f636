from __future__ import annotations

from pathlib import Path

import pytest

from geneformer_grn.training.config import flat_config, known_keys, read_config


def test_defaults_values_and_overrides(config_file: Path):
    config = read_config(
        config_file, ["optim.lr=2e-4", "data.corpus=/some/where/train", "optim.betas=[0.8, 0.9]"]
    )
    assert config.model.n_layers == 2
    assert config.model.activation == "gelu"
    assert config.optim.lr == 2e-4
    assert config.optim.betas == (0.8, 0.9)
    assert config.data.corpus == Path("/some/where/train")
    assert flat_config(config)["data.corpus"] == "train", "outputs record names, not directories"


def test_none_unsets_an_optional_key(config_file: Path):
    changes = ["data.validation=held_out", "run.threads=2"]
    assert read_config(config_file, changes).run.threads == 2
    unset = read_config(config_file, [*changes, "data.validation=none", "run.threads=none"])
    assert unset.data.validation is None
    assert unset.run.threads is None
    with pytest.raises(ValueError, match=r"optim\.lr"):
        read_config(config_file, ["optim.lr=none"])


@pytest.mark.parametrize(
    ("change", "near"),
    [
        ("optim.learning_rte=1", "unknown key"),
        ("optim.warmup_step=1", "did you mean 'optim.warmup_steps'"),
        ("optim.lrate=1", "did you mean 'optim.lr'"),
        ("run.lr=1", "did you mean 'optim.lr'"),
        ("optim.wd=1", "known keys: optim.optimizer, optim.lr"),
        ("mdel.n_layers=2", "model"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(config_file: Path, change: str, near: str):
    with pytest.raises(ValueError, match="unknown key") as caught:
        read_config(config_file, [change])
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["optim.lr=fast"], "optim.lr"),
        (["optim.lr=-1"], "greater than 0"),
        (["optim.lr"], "section.key=value"),
        (["lr=1"], "section.key=value"),
        (["model.n_heads=3"], "multiple"),
        (["data.keep=0.9", "data.random=0.2"], "more than 1"),
        (["run.precision=fp8"], "run.precision"),
    ],
)
def test_values_that_do_not_fit_are_named(config_file: Path, changes: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        read_config(config_file, changes)


def test_length_is_epochs_or_steps(config_file: Path, tmp_path: Path):
    assert read_config(config_file, ["run.epochs=1.5"]).run.max_steps is None
    both = tmp_path / "both.toml"
    both.write_text(config_file.read_text() + "epochs = 1\n")
    with pytest.raises(ValueError, match=r"either run.epochs or run.max_steps"):
        read_config(both)


def test_no_file_and_no_toml(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.toml"):
        read_config(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(ValueError, match="not a TOML file"):
        read_config(tmp_path / "bad.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ValueError, match="'data' is missing"):
        read_config(tmp_path / "empty.toml")


def test_configs_are_frozen(make_config):
    with pytest.raises(ValueError, match="frozen"):
        make_config().run.seed = 3


def test_shipped_configs_are_valid(repository: Path):
    paths = sorted((repository / "pretrain" / "configs").glob("*.toml"))
    assert {path.stem for path in paths} >= {"sanity", "mini"}
    for path in paths:
        assert set(flat_config(read_config(path))) == set(known_keys())


def test_settings_that_do_not_go_together_are_refused(make_config):
    with pytest.raises(ValueError, match="needs whole matrices"):
        make_config("optim.optimizer=muon", "run.sharding=fsdp2")
    with pytest.raises(ValueError, match="cannot be compiled"):
        make_config("run.attention=buckets", "run.compile=true")
    for stages in ("[[1.0, 20], [0.5, 30]]", "[[1.0, 2]]", "[[0, 20]]"):
        with pytest.raises(ValueError, match="curriculum takes pairs"):
            make_config(f"data.curriculum={stages}")
    config = make_config("data.curriculum=[[0.5, 20], [1, 30]]", "run.sharding=none")
    assert config.data.curriculum == ((0.5, 20), (1.0, 30))
    assert config.run.sharding == "none"
