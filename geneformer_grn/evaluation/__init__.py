"""Score cards: what a model is worth, beside the simple baselines it has to beat, on the same masks."""
