"""What tests, doctor, verify and bench share: sample weights, comparisons, error bounds, timers, the environment."""
