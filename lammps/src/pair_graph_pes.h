// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "exported_model.h"
#include "neighbour_matrix.h"

#include "pair.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

// pair_style graph_pes [cpu|cuda] [debug]
// pair_coeff * * model.pt2 Si O
class PairGraphPES : public Pair, private graph_pes::GhostExchange {
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
  // How atoms that belong to other processes, or are periodic images, are dealt with.
  enum class Ghosts {
    MAPPED,       // one process: they are images of its own atoms
    EXCHANGED,    // the model asks their owners for what it knows of them
    COMPUTED      // the model computes them, from neighbours further away
  };

  // Times in s, and sizes, summed over the steps of a run.
  struct Effort {
    double neighbours = 0, model = 0, exchange = 0, forces = 0;
    bigint steps = 0, atoms = 0, edges = 0, places = 0;
  };

  std::unique_ptr<graph_pes::ExportedModel> model_;
  Ghosts ghosts_ = Ghosts::MAPPED;
  bool cuda_ = false, debug_ = false;
  std::string file_;
  std::vector<int> numbers_of_types_;    // atomic numbers; 0 for types of other styles
  double angstrom_ = 1, electronvolt_ = 1;    // in the units of LAMMPS
  Effort effort_;

  graph_pes::NeighbourMatrix matrix_;
  std::vector<int> atoms_;           // of each row
  std::vector<int> depth_;           // steps from an atom of this process, of each row
  std::vector<int64_t> row_of_;      // of each atom, -1 for none
  std::vector<char> listed_;         // whether LAMMPS lists neighbours of an atom
  std::vector<int64_t> numbers_;     // of each row
  std::vector<double> mask_;         // of each row
  std::vector<double> received_;     // owners of ghosts, or forces and virials of ghosts
  int64_t padding_ = 0;              // rows between those of own atoms and of ghosts
  graph_pes::Rows moving_{};         // rows that are being communicated, and their padding
  int64_t moving_padding_ = 0;

  void load(const std::string &);
  std::string exported_file(const std::string &);
  void set_elements(char **);
  void choose_units();
  void check_bonds();
  void allocate();

  void find_rows();
  void find_owners();
  void find_neighbours();
  void add_neighbours(int);
  void set_numbers_and_mask();
  void add_energies();
  void add_gradients();
  void add_direct_forces();
  void check_finite(const char *, const double *, int) const;

  void copy_to_ghosts(const graph_pes::Rows &) override;
  void add_from_ghosts(const graph_pes::Rows &) override;
  void forward(const graph_pes::Rows &, int64_t);
  void reverse(const graph_pes::Rows &, int64_t);
  char *moving_row(int) const;
};

}    // namespace LAMMPS_NS
