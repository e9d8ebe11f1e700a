"""Benchmarks of `oodattack`, whose results are ratios between runs that alternate in one process, and dev tools."""
