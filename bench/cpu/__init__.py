"""Benchmarks of a CPU."""
