// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "pointers.h"

#include <vector>

namespace graph_pes {

// Vectors of the atoms of this process: 3 numbers each, 0 for those outside of the group.
using OwnVectors = std::vector<double>;

// The mobility M = L Lᵀ of the atoms of a group: their velocities are M times the forces on them.
// In the units of LAMMPS. All processes call all members together.
class Mobility : protected LAMMPS_NS::Pointers {
 public:
  using Pointers::Pointers;

  // Before each run, once LAMMPS has set up what was asked for in init() of the fix.
  virtual void setup() {}
  // Find out what there is of the present positions that the others need.
  virtual void find() = 0;
  // Add ∇·M, or an estimate from normal random numbers whose mean it is. Before evaluate().
  virtual void add_divergence(const OwnVectors &random, OwnVectors &sum) = 0;
  // Evaluate M and L at the present positions, for the products of them with vectors.
  virtual void evaluate() = 0;
  virtual void multiply(const OwnVectors &, OwnVectors &product) = 0;
  virtual void multiply_root(const OwnVectors &, OwnVectors &product) = 0;
};

}    // namespace graph_pes
