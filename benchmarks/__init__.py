"""Speed, memory and accuracy, beside other packages: ``python -m benchmarks --help``."""
