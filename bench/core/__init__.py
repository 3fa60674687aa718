"""What the benchmarks of every device share: inputs, references, timing, the price of an add."""
