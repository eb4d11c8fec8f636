"""The processes of a fine-tuning run: one, or those that a launcher started, through Accelerate."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, eq=False)
class Processes:
    """Which process this is, of how many, and on what it computes.

    Parameters
    ----------
    device
        Of this process.
    accelerator
        None with one process.
    """

    device: torch.device
    accelerator: Accelerator | None = None

    @classmethod
    def started(cls, device: torch.device) -> Processes:
        """Return the processes that a launcher started, or the one there is; it computes on `device`."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(device)
        from accelerate import Accelerator, InitProcessGroupKwargs

        # One process fits, validates and predicts for all, while the others wait for what it found.
        patient = InitProcessGroupKwargs(timeout=timedelta(days=1))
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[patient])
        return cls(accelerator.device, accelerator)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return 1 if self.accelerator is None else int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        """Which one this is."""
        return 0 if self.accelerator is None else int(self.accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this one validates and writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return `module` so that gradients are averaged over processes."""
        return module if self.accelerator is None else cast("nn.Module", self.accelerator.prepare(module))

    def synchronised(self, module: nn.Module, *, when: bool) -> contextlib.AbstractContextManager[Any]:
        """Return a context whose backward pass exchanges gradients only `when` asked to."""
        if self.accelerator is None or when:
            return contextlib.nullcontext()
        return cast("contextlib.AbstractContextManager[Any]", self.accelerator.no_sync(module))

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the processes."""
        return values if self.accelerator is None else cast("Tensor", self.accelerator.reduce(values, "sum"))

    def agree(self, value: Any) -> Any:
        """Return what the main process holds, on all of them."""
        if self.accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]
