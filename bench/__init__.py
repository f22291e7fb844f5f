"""Benchmarks. Each checks equality first, then measures; nothing here runs in the tests."""
