"""The part that runs in the environment of the package that is measured.

It imports nothing but torch, ASE and that package, and is started as ``python -m worker`` in the
folder of the benchmarks, so that it finds the installed package and not the one in the clone.
"""
