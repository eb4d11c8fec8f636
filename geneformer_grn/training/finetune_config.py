"""What a fine-tuning run is asked to do: the sections of ``finetune/configs/*.toml``.

The model and the optimizer have their sections in `geneformer_grn.training.finetune_settings`; here is what
is around them: which cells, which labels, how they are split, and what the result is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from geneformer_grn.training.finetune_settings import FinetuneModel, FinetuneOptim, FinetuneSettings, Mode
from geneformer_grn.training.search import SearchSection
from geneformer_grn.training.splits import SplitRule
from geneformer_grn.training.supervision import Kind, Level
from geneformer_grn.training.toml_config import read_toml_config

REGULATORS = "regulators"
"""As the table of a gene task: the shipped regulators and the genes that they are paired with."""
MISSING_NAMES = ("", "unknown", "unlabelled", "unlabeled", "unassigned", "nan", "na", "n/a", "none")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataSection(_Section):
    """Which cells."""

    files: tuple[Path, ...] = Field(default=(), description="count files; or give `generate`")
    generate: Literal["planted_disease"] | None = Field(
        default=None, description="planted_disease: shipped immune cells dealt to donors, half of them ill"
    )
    n_cells: int | None = Field(default=None, ge=1, description="a random sample of each file")
    where: str | None = Field(default=None, description="only cells that fit, such as 'n_genes > 500'")
    layer: str | None = None
    gene_column: str | None = None
    drop_empty: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> DataSection:
        if bool(self.files) == (self.generate is not None):
            raise ValueError("give either data.files or data.generate")
        return self


class TaskSection(_Section):
    """One thing to predict, see `geneformer_grn.training.supervision.Task`."""

    name: str = Field(min_length=1)
    level: Level = "cell"
    kind: Kind | None = Field(default=None, description="needed where the labels are numbers")
    column: str | None = Field(default=None, description="obs column, or column of the table; default: name")
    table: Path | str | None = Field(
        default=None, description="of genes: a TSV with a column `gene`; regulators: matched non-regulators"
    )
    classes: tuple[str, ...] = Field(
        default=(), description="only these; of an ordinal task all of them, ascending"
    )
    missing: tuple[str, ...] = Field(default=MISSING_NAMES, description="values that say: no label")
    min_units: int = Field(default=3, ge=1, description="classes with fewer labels are left out")
    weight: float = Field(default=1.0, gt=0.0, description="of the task's loss, where there are several")

    @model_validator(mode="after")
    def _fits_level(self) -> TaskSection:
        if self.level == "gene" and self.table is None:
            raise ValueError(
                "a gene task takes its labels from a table: set table to a TSV or to 'regulators'"
            )
        if self.level == "cell" and self.table is not None:
            raise ValueError("a cell task takes its labels from obs; table belongs to level 'gene'")
        return self


class SplitSection(_Section):
    """How cells or genes are divided, see `geneformer_grn.training.splits.SplitRule`."""

    by: str = Field(
        default="random", description="random; an obs column such as donor; family (genes); given:COLUMN"
    )
    scheme: Literal["holdout", "kfold", "leave_one_out"] = "holdout"
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    folds: int = Field(default=5, ge=3)
    repeats: int = Field(default=1, ge=1)
    stratify: bool = True
    only_folds: tuple[int, ...] = Field(default=(), description="run only these folds, counted from 1")
    confounders: tuple[str, ...] = Field(
        default=(), description="obs columns whose levels must not coincide with the labels, such as donor"
    )
    why: str = Field(default="", description="a sentence that is printed with the rule")

    def rule(self) -> SplitRule:
        """Return the part that `make_splits` takes."""
        named = {"random": "group", "family": "gene family"}.get(
            self.by, self.by.split("given:")[0] or "group"
        )
        return SplitRule(
            scheme=self.scheme, fractions=self.fractions, folds=self.folds, repeats=self.repeats,
            stratify=self.stratify, groups_are=named,
        )  # fmt: skip


class GoalSection(_Section):
    """What the run is expected to show; the table says whether it did."""

    measure: str = Field(description="of the score card, such as macro_f1")
    labels: int | None = Field(default=None, ge=1, description="labels a class; None: all")
    at_least: float | None = None
    ahead_by: float | None = Field(
        default=None, description="over the best baseline; 0: not behind it, by the interval"
    )

    @model_validator(mode="after")
    def _one_goal(self) -> GoalSection:
        if (self.at_least is None) == (self.ahead_by is None):
            raise ValueError("a goal has either at_least or ahead_by")
        return self


class EvaluationSection(_Section):
    """What the fine-tuned model is compared with, and how sure the comparison is."""

    baselines: tuple[str, ...] | None = Field(default=None, description="names; None: all that apply")
    few_shot: tuple[int, ...] = Field(default=(), description="labels a class of a learning curve")
    few_shot_draws: int = Field(default=3, ge=1, description="draws of labels for each point of the curve")
    few_shot_modes: tuple[Mode, ...] = Field(
        default=(), description="model.mode of the curve, a line each; goals judge the first; (): model.mode"
    )
    few_shot_baselines: tuple[str, ...] | None = Field(default=None, description="None: as baselines")
    few_shot_test: int | None = Field(
        default=None, ge=1, description="score the curve on a sample of so many test cells"
    )
    random_lr: float | None = Field(
        default=None, gt=0.0,
        description="optim.lr of the row random_weights: rates that spare pretrained weights are too low for "
        "random ones; its heads then begin with small random weights. None: all as the model's",
    )  # fmt: skip
    random_head_lr: float | None = Field(default=None, gt=0.0, description="the same of optim.head_lr")
    bootstrap: int = Field(default=500, ge=0, description="draws of the intervals")
    goals: tuple[GoalSection, ...] = ()


class RunSection(_Section):
    """Seed and machine."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = Field(default=None, ge=1)


class FinetuneConfig(_Section):
    """One fine-tuning run."""

    name: str = Field(default="finetuned", min_length=1)
    data: DataSection
    model: FinetuneModel = FinetuneModel()
    optim: FinetuneOptim = FinetuneOptim()
    tasks: tuple[TaskSection, ...] = Field(min_length=1)
    split: SplitSection = SplitSection()
    evaluation: EvaluationSection = EvaluationSection()
    run: RunSection = RunSection()
    search: SearchSection | None = Field(default=None, description="what finetune-search tries")

    @model_validator(mode="after")
    def _tasks_fit(self) -> FinetuneConfig:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"two tasks have one name: {', '.join(names)}")
        if len({task.level for task in self.tasks}) > 1:
            raise ValueError("tasks of cells and of genes are split differently; give them a config each")
        if self.level == "gene" and self.split.by not in {"random", "family"}:
            raise ValueError(f"genes are split at random or by family, not by {self.split.by!r}")
        if len(names) > 1 and any(str(task.table) == REGULATORS for task in self.tasks):
            raise ValueError(
                f"a task of table {REGULATORS!r} has pairs of its own to split by; it goes alone"
            )
        if self.evaluation.few_shot and (len(names) > 1 or self.tasks[0].kind == "regression"):
            raise ValueError("evaluation.few_shot counts labels a class: it takes one task of classes")
        modes = self.evaluation.few_shot_modes
        if len(set(modes)) < len(modes):
            raise ValueError(f"evaluation.few_shot_modes names a mode twice: {', '.join(modes)}")
        if self.model.quantised != "none" and (learning := set(modes) & {"full", "top"}):
            raise ValueError(
                f"quantised layers cannot learn: evaluation.few_shot_modes {learning.pop()!r} needs "
                "model.quantised 'none'"
            )
        if lacking := {goal.labels for goal in self.evaluation.goals} - {None, *self.evaluation.few_shot}:
            raise ValueError(f"a goal is about {lacking.pop()} labels a class, which few_shot does not hold")
        return self

    def settings(self, mode: Mode | None = None) -> FinetuneSettings:
        """Return the part that `geneformer_grn.training.finetune.finetune` takes; None: in ``model.mode``."""
        model = self.model.model_dump() | {"mode": mode or self.model.mode}
        return FinetuneSettings(model=FinetuneModel(**model), optim=self.optim)

    def random_settings(self) -> FinetuneSettings:
        """Return what the row random_weights is trained with."""
        asked, settings = self.evaluation, self.settings()
        rates = {"lr": asked.random_lr, "head_lr": asked.random_head_lr}
        given = {key: rate for key, rate in rates.items() if rate is not None}
        model = {"mode": "full", "quantised": "none"} | ({"heads": "steps"} if given else {})
        return FinetuneSettings(
            model=settings.model.model_copy(update=model), optim=settings.optim.model_copy(update=given)
        )

    def split_rule(self) -> SplitRule:
        """Return the part of the split section that `make_splits` takes, with what a group is called."""
        rule = self.split.rule()
        if not self.regulators:
            return rule
        family = "gene family or " * (self.split.by == "family")
        return replace(rule, groups_are=f"{family}matched pair")

    @property
    def regulators(self) -> bool:
        """Whether the labels are the regulators and the genes that they are paired with."""
        return str(self.tasks[0].table) == REGULATORS

    @property
    def level(self) -> Level:
        """What the units are: cells or genes."""
        return self.tasks[0].level


def read_finetune_config(path: Path | str, overrides: Sequence[str] = ()) -> FinetuneConfig:
    """Read a config file and lay ``key=value`` overrides over it.

    Parameters
    ----------
    path
        TOML file with the sections of `FinetuneConfig`. Relative paths in it are taken from the working
        directory.
    overrides
        As of `geneformer_grn.training.toml_config.read_toml_config`; of several tasks one is named by its
        place: ``tasks.0.column=cell_type``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no TOML, a key is unknown (the nearest known one is named), or a value does not fit.

    Examples
    --------
    >>> config = read_finetune_config("finetune/configs/cell_type.toml")  # doctest: +SKIP
    >>> config.tasks[0].column  # doctest: +SKIP
    'cell_type'
    """
    rivals = {"data.files": "generate", "data.generate": "files"}
    return read_toml_config(path, FinetuneConfig, overrides, rivals=rivals)


def resolved(config: FinetuneConfig) -> dict[str, Any]:
    """Return `config` in plain JSON types, defaults included; paths as names: outputs record no folders."""
    content = config.model_dump(mode="json")
    content["data"]["files"] = [Path(name).name for name in content["data"]["files"]]
    content["model"]["checkpoint"] = Path(content["model"]["checkpoint"]).name
    for task in content["tasks"]:
        task["table"] = None if task["table"] is None else Path(task["table"]).name
    return content
