// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "fix.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

// fix ID group-ID plumed [plumedfile plumed.dat] [outfile plumed.log]
//
// PLUMED (doi:10.1016/j.cpc.2013.09.018) biases the atoms, for a LAMMPS that was built without it:
// its kernel is loaded from $PLUMED_KERNEL. It runs on the first process, which is given all atoms.
class FixPlumed : public Fix {
 public:
  FixPlumed(LAMMPS *, int, char **);
  ~FixPlumed() override;

  int setmask() override;
  void init() override;
  void setup(int) override;
  void min_setup(int) override;
  void post_force(int) override;
  void min_post_force(int) override;
  double compute_scalar() override;

 private:
  class Kernel;
  std::unique_ptr<Kernel> kernel_;    // on the first process
  std::string input_ = "plumed.dat", log_ = "plumed.log";
  size_t n_ = 0;    // atoms
  double bias_ = 0;
  std::vector<double> own_, all_;      // positions, masses and charges
  std::vector<double> results_;        // forces, and what follows them

  void start_kernel();
  void gather();
  void evaluate();
};

}    // namespace LAMMPS_NS
