"""Benchmarks of `oodattack`: all results are ratios between runs that alternate in one process."""
