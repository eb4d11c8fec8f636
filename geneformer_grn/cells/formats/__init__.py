"""Formats: how each kind of count file is taken apart, so that its counts can be read in blocks of rows.

One module a format finds the cells, the genes and the matrix in a file; ``matrices`` and ``transpose`` read
blocks of rows out of whatever layout the matrix has. Nothing here judges counts or gene names.
"""
