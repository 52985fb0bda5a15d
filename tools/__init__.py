"""Programs for the work on this repository, run as `python -m tools.NAME`; no part of what is installed."""
