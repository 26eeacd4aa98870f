"""Benchmarks against Norse: ``python -m norse_fast.benchmark --help``."""
