// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "exported_model.h"
#include "loading.h"
#include "neighbourhood.h"

#include "pair.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

// pair_style graph_pes [cpu|cuda] [debug]
// pair_coeff * * model.pt2 Si O
class PairGraphPES : public Pair {
 public:
  explicit PairGraphPES(LAMMPS *);
  ~PairGraphPES() override;

  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  void setup() override;
  double init_one(int, int) override;
  void compute(int, int) override;
  void finish() override;
  double memory_usage() override;

  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;

 private:
  // Times in s, and sizes, summed over the evaluations of a run.
  struct Effort {
    double neighbours = 0, model = 0, forces = 0;
    bigint steps = 0, atoms = 0, edges = 0, places = 0;
  };

  std::unique_ptr<graph_pes::ExportedModel> model_;
  graph_pes::Neighbourhood neighbourhood_;
  graph_pes::Units units_;
  std::string file_;
  std::vector<int> numbers_of_types_;    // atomic numbers; 0 for types of other styles
  std::vector<double> of_ghosts_;        // forces and virials, which their owners add up
  bool cuda_ = false, debug_ = false;
  Effort effort_;

  void allocate();
  void check_bonds();
  void reach_ghosts();
  void reserve_messages(int);
  void add_energies();
  void add_gradients();
  void add_direct_forces();
  bool knows_stress() const;
  void check_finite(const char *, const double *, int) const;
};

}    // namespace LAMMPS_NS
