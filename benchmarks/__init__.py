"""Benchmarks, which report ratios between runs that alternate in one process, and development tools."""
