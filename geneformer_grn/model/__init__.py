"""The encoder: a plain Hugging Face BERT, fed packed cells through attention functions of our own.

Trade-off: we keep ``transformers``' model class, so that every checkpoint loads anywhere and published ones
load here, and pay for it by calling its embedding and layers one by one (its own forward would build padding
masks).
"""
