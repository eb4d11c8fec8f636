"""Cells: open and check count files, rank genes, store corpora, pack batches.

Everything that a model sees of a cell is made here, once, and exactly: counts become ranks in 64-bit
arithmetic, ties have an order, and whatever is left out of a file is counted and reported. Reading a corpus
and packing batches need neither anndata, scanpy nor datasets, so that a bare training machine can do both.
``formats/`` holds a file for each file format, ``corpora/`` what becomes of cells on disk.
"""
