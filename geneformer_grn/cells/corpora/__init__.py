"""Corpora of tokenised cells: how they are made, opened, joined, split and described.

Apart from the rest of ``cells`` because they live on disk and outlive the files they were made of: what is
here knows parts, shards, manifests and leaks, and of cells only what a ranking gives.
"""
