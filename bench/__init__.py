"""Benchmarks. What they claim are ratios, measured in one run on one machine."""
