// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "mobility.h"

#include <string>
#include <vector>

namespace graph_pes {

enum class Tensor { OSEEN, ROTNE_PRAGER };

// Blocks of M of two equal spheres, 3 x 3, as in graph_pes/models/mobility.py.
void pair_mobility(Tensor, double viscosity, double radius, const double *r, double *block);

// Spheres in an unbounded fluid, far from each other: the tensor of Oseen, or of Rotne, Prager
// (doi:10.1063/1.1670977) and Yamakawa (doi:10.1063/1.1673799). Both have no divergence.
//
// Each process knows the whole matrix, and its Cholesky factor.
class AnalyticMobility : public Mobility {
 public:
  AnalyticMobility(LAMMPS_NS::LAMMPS *, std::string style, int groupbit, Tensor, double viscosity,
                   double radius);

  void find() override;
  void add_divergence(const OwnVectors &, OwnVectors &) override {}    // there is none
  void evaluate() override;
  void multiply(const OwnVectors &, OwnVectors &) override;
  void multiply_root(const OwnVectors &, OwnVectors &) override;

 private:
  std::string style_;
  int groupbit_;
  Tensor tensor_;
  double viscosity_, radius_;

  std::vector<int> own_;          // atoms of this process, and which of all atoms they are
  std::vector<size_t> place_;
  std::vector<int> counts_;       // numbers that processes have, and where they begin
  std::vector<int> starts_;
  std::vector<size_t> order_;     // of all atoms of all processes, by their IDs
  std::vector<double> tags_;
  std::vector<double> positions_, matrix_, root_;
  size_t n_ = 0;    // rows of the matrix

  std::vector<double> gathered(const OwnVectors &) const;
  void multiply_rows(const std::vector<double> &matrix, const OwnVectors &, OwnVectors &) const;
  void factorise();
  void report_closest() const;
};

}    // namespace graph_pes
