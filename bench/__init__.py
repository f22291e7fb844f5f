"""The benchmark: cases, providers, runs, reports, results. Each result is checked before it is timed."""
