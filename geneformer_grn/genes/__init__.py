"""Genes: the vocabulary (which gene is which token), identifiers and symbols, the published dictionaries.

Everything here works offline on tables that ship with the package, and reports what it could not match.
"""
