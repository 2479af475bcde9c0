// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "exported_model.h"
#include "mobility.h"
#include "neighbourhood.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {
class Fix;
class NeighList;
}

namespace graph_pes {

// Mobility by an exported model, which gives the 3 x 3 blocks of L: of each atom with itself, and
// of each atom with each of its neighbours. M = L Lᵀ is never formed: each product with it takes a
// sum over neighbours for Lᵀ, and one for L, so that any number of processes share the work.
class LearnedMobility : public Mobility {
 public:
  // `symbols` has one for each atom type.
  LearnedMobility(LAMMPS_NS::LAMMPS *, std::string style, int groupbit, const std::string &file,
                  bool cuda, char **symbols);

  // Called in init() of the fix.
  void init(LAMMPS_NS::Fix *);
  void set_list(const LAMMPS_NS::NeighList *list) { list_ = list; }
  Neighbourhood &neighbourhood() { return neighbourhood_; }

  void setup() override;
  void find() override;
  void add_divergence(const OwnVectors &, OwnVectors &) override;
  void evaluate() override;
  void multiply(const OwnVectors &, OwnVectors &) override;
  void multiply_root(const OwnVectors &, OwnVectors &) override;

 private:
  std::string style_, file_;
  int groupbit_;
  std::unique_ptr<ExportedModel> model_;
  Neighbourhood neighbourhood_;
  const LAMMPS_NS::NeighList *list_ = nullptr;
  std::vector<int> numbers_of_types_;
  double angstrom_ = 1, unit_ = 1;    // unit of L

  std::vector<double> rows_;       // vectors of all atoms, ghosts included
  std::vector<double> vectors_;    // to neighbours that are displaced
  OwnVectors moved_, velocities_;

  void run(const ModelInputs &);
  void evaluate_displaced(double multiple, const OwnVectors &);
  void to_all(const OwnVectors &);
};

}    // namespace graph_pes
