// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "learned_mobility.h"
#include "mobility.h"

#include "fix.h"

#include <memory>
#include <string>

namespace LAMMPS_NS {

// fix ID group-ID graph_pes/mobility oseen|rpy viscosity radius [temperature T seed n]
// fix ID group-ID graph_pes/mobility model [cpu|cuda] model.pt2 Si O [temperature T seed n]
//
// Overdamped dynamics: dx = v dt + √(2 kT) L dW, where v = M F + kT ∇·M is the velocity that atoms
// are given, and M = L Lᵀ.
class FixGraphPESMobility : public Fix {
 public:
  FixGraphPESMobility(LAMMPS *, int, char **);

  int setmask() override;
  void init() override;
  void init_list(int, NeighList *) override;
  void setup(int) override;
  void initial_integrate(int) override;

  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;

 private:
  std::unique_ptr<graph_pes::Mobility> mobility_;
  graph_pes::LearnedMobility *learned_ = nullptr;    // mobility_, or none
  double temperature_ = 0;
  uint32_t seed_ = 0;
  graph_pes::OwnVectors forces_, random_, drift_, product_;

  int read_analytic(int, char **);
  int read_model(int, char **);
  void read_noise(int, int, char **);
  void draw(uint32_t stream);
};

}    // namespace LAMMPS_NS
