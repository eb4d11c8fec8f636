"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def require_methods(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names if there are such methods, each once.

    Raises
    ------
    ValueError
        One is unknown, or none is named.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ValueError(f"method {', '.join(unknown) or 'missing'}; choose from {', '.join(METHODS)}")
    return tuple(dict.fromkeys(names))
