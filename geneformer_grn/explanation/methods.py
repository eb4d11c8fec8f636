"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable

from geneformer_grn.explanation.attention import pooled_attention
from geneformer_grn.explanation.attributions import Attributions
from geneformer_grn.explanation.gradients import gradient_x_input, integrated_gradients
from geneformer_grn.explanation.occlusion import occlusion

METHODS: dict[str, Callable[..., Attributions]] = {
    "integrated_gradients": integrated_gradients,
    "gradient_x_input": gradient_x_input,
    "attention": pooled_attention,
    "occlusion": occlusion,
}
