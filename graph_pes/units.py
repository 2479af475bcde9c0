"""Physical constants in the units used throughout: eV, Å and elementary charges."""

from __future__ import annotations

#: Coulomb constant e²/(4πε₀) in eV·Å (CODATA 2018).
COULOMB_CONSTANT = 14.399645478425668

#: Bohr radius in Å (CODATA 2018).
BOHR = 0.529177210903

#: Hartree in eV (CODATA 2018).
HARTREE = 27.211386245988
