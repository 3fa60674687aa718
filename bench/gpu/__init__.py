"""Tests and benchmarks of a GPU."""
