"""Gene networks without a model: edge tables, inference from counts, propagation along signed edges.

Everything here runs on a table of edges or a matrix of expression from anywhere. The trade-off: methods work
on dense regulators × targets blocks, which bounds memory by the pairs asked for and not by genes × genes.
"""
