"""Networks out of the model: what its attention, embeddings and expectations say of regulators and targets.

Streaming throughout: regulators and targets are fixed up front and sums are kept for their pairs only, so
memory never grows with cells × genes × genes.
"""

MODEL_METHODS = (
    "attention",
    "attention_rank_corrected",
    "attention_rollout",
    "embedding",
    "contextual",
    "influence",
    "gene_shifts",
)
"""Names of `geneformer_grn.extraction.methods.METHODS`, for those who must not load torch to list them."""
