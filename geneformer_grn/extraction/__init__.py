"""Networks out of the model: what its attention, embeddings and expectations say of regulators and targets.

Streaming throughout: regulators and targets are fixed up front and sums are kept for their pairs only, so
memory never grows with cells × genes × genes.
"""
