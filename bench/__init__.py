"""Benchmarks: the price of an add, peers side by side, and accuracy. Run with `python bench/cpu/run.py`."""
