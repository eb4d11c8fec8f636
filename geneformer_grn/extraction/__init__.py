"""Networks out of the model: what the encoder's attention says about regulators and targets.

Streaming throughout: regulators and targets are fixed up front and sums are kept for their pairs only, so
memory never grows with cells × genes × genes.
"""
