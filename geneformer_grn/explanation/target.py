"""What is explained: one number that a fine-tuned head gives for each cell.

Of a class it is the log odds, ``log p / (1 - p)``: unlike a logit it does not change when all logits move
together, and unlike a probability it does not stand still where the model is sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geneformer_grn.cells.packing import PackedBatch, pack, plan_by_budget
from geneformer_grn.cells.ranking import RankedCells, model_input

if TYPE_CHECKING:
    from geneformer_grn.genes.vocabulary import GeneVocabulary
    from geneformer_grn.model.heads import Finetuned, HeadSpec

Input = tuple[np.ndarray, np.ndarray | None]
"""Tokens ``(L,)`` int64 of a cell as the model reads it, and their positions; None: 0, 1, 2, ..."""


@dataclass(frozen=True, eq=False)
class Explained:
    """One head of a fine-tuned model, to be explained.

    Parameters
    ----------
    model
        The model, in eval mode.
    spec
        The head.

    Examples
    --------
    >>> explained = choose_head(load_finetuned("cell_type"), "cell_type")  # doctest: +SKIP
    """

    model: Finetuned
    spec: HeadSpec

    @property
    def vocabulary(self) -> GeneVocabulary:
        """What the tokens mean."""
        return self.model.encoder.vocabulary

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.encoder.device

    @property
    def names(self) -> tuple[str, ...]:
        """What can be explained: the classes, or the task where it gives a single number."""
        return tuple(self.spec.classes) if self.spec.kind == "classification" else (self.spec.name,)

    def input_of(self, ranked: RankedCells, cell: int) -> np.ndarray:
        """Return the ``(L,)`` int64 tokens that the model reads of a ranked cell."""
        return model_input(ranked.cell(cell), self.vocabulary, max_length=self.model.max_length)

    def is_gene(self, ids: np.ndarray) -> np.ndarray:
        """Return which tokens are genes, not special."""
        return ids >= self.vocabulary.n_special

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the ``(N,)`` explained number of each cell, differentiable.

        Parameters
        ----------
        outputs
            ``(N, n_outputs)`` of the head.
        targets
            ``(N,)`` int64 class explained in each cell; without meaning where the head gives one number.
        """
        if self.spec.kind != "classification":
            return outputs.reshape(len(targets))
        chosen = outputs.gather(1, targets[:, None])[:, 0]
        others = outputs.scatter(1, targets[:, None], float("-inf"))
        return chosen - torch.logsumexp(others, dim=1)

    def run(self, batch: PackedBatch, targets: Tensor, *, embedded: Tensor | None = None) -> Tensor:
        """Return the ``(N,)`` explained numbers of a packed batch on the device, differentiable.

        Parameters
        ----------
        batch
            Packed cells.
        targets
            ``(N,)`` int64.
        embedded
            ``(1, T, d)`` token embeddings to use instead of the tokens' own.
        """
        outputs = self.model.outputs(batch, inputs_embeds=embedded)[self.spec.name]
        return self.scores(outputs.float(), targets)

    def run_many(
        self, inputs: Sequence[Input], targets: np.ndarray, *, token_budget: int = 16_384
    ) -> np.ndarray:
        """Return the ``(n,)`` float64 explained numbers of many inputs, without gradients.

        Parameters
        ----------
        inputs
            Tokens and positions of each.
        targets
            ``(n,)`` int64.
        token_budget
            Tokens in one packed batch.
        """
        found = np.empty(len(inputs))
        for chosen in plan_by_budget([len(ids) for ids, _ in inputs], token_budget):
            ids = [inputs[i][0] for i in chosen]
            places = [_positions(inputs[i]) for i in chosen]
            batch = pack(ids, position_ids=places).to(self.device)
            with torch.no_grad():
                scores = self.run(batch, torch.from_numpy(targets[chosen]).to(self.device))
            found[chosen] = scores.double().cpu().numpy()
        return found

    def token_embeddings(self, ids: Tensor) -> Tensor:
        """Return the ``(..., d)`` token embeddings of ids, before positions are added to them."""
        table: torch.nn.Embedding = self.model.encoder.model.bert.embeddings.word_embeddings
        with torch.no_grad():
            return table(ids).detach()

    def class_number(self, name: str) -> int:
        """Return the number of a class.

        Raises
        ------
        ValueError
            The model knows no such class.
        """
        if name not in self.names:
            raise ValueError(
                f"the model knows no class {name!r} of {self.spec.name!r}; it knows {', '.join(self.names)}"
            )
        return self.names.index(name)


def choose_head(model: Finetuned, task: str | None = None) -> Explained:
    """Return the head of a task of cells.

    Parameters
    ----------
    model
        A fine-tuned model.
    task
        Its name; None: the only one of cells.

    Raises
    ------
    ValueError
        There is no such task, it is one of genes, or there are several and none is named.
    """
    by_name = {spec.name: spec for spec in model.specs}
    of_cells = [name for name, spec in by_name.items() if spec.level == "cell"]
    listed = ", ".join(of_cells) or "none"
    if task is None and len(of_cells) != 1:
        raise ValueError(f"the model has {len(of_cells)} tasks of cells ({listed}); name one with --task")
    name = of_cells[0] if task is None else task
    if name not in by_name:
        raise ValueError(f"the model has no task {name!r}; its tasks of cells: {listed}")
    if name not in of_cells:
        raise ValueError(
            f"{name!r} is a task of genes, and explained are tasks of cells; the model has: {listed}"
        )
    return Explained(model, by_name[name])


def _positions(item: Input) -> np.ndarray:
    ids, positions = item
    return np.arange(len(ids), dtype=np.int64) if positions is None else positions
