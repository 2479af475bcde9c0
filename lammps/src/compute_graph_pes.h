// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "exported_model.h"
#include "loading.h"
#include "neighbourhood.h"

#include "compute.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

// compute ID group-ID graph_pes [cpu|cuda] model.pt2 output Si O
//
// An output of a model, in the units of the model: for each atom of the group, or of the structure
// that these atoms make.
class ComputeGraphPES : public Compute {
 public:
  ComputeGraphPES(LAMMPS *, int, char **);
  ~ComputeGraphPES() override;

  void init() override;
  void init_list(int, NeighList *) override;
  void setup() override;
  double compute_scalar() override;
  void compute_vector() override;
  void compute_peratom() override;
  double memory_usage() override;

  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;

 private:
  std::unique_ptr<graph_pes::ExportedModel> model_;
  graph_pes::Neighbourhood neighbourhood_;
  NeighList *list_ = nullptr;
  std::string file_, output_, kind_;
  int width_ = 0;                        // numbers for each atom, or the structure
  std::vector<int> numbers_of_types_;    // atomic numbers
  std::vector<double> mask_;             // of the atoms that count
  std::vector<double> values_;           // of the structure
  double *of_atoms_ = nullptr;
  int reserved_ = 0;    // atoms that there is memory for

  void choose_output();
  const double *evaluate();
  void compute_structure();
};

}    // namespace LAMMPS_NS
