// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "exported_model.h"
#include "neighbour_matrix.h"

#include "pointers.h"

#include <functional>
#include <string>
#include <vector>

namespace LAMMPS_NS {
class NeighList;
}

namespace graph_pes {

// The atoms of this process and their neighbours, as models take them.
//
// The style that owns this gives it the functions that make LAMMPS communicate, and passes the
// buffers on that LAMMPS then asks it to fill and to read.
class Neighbourhood : private LAMMPS_NS::Pointers, public GhostExchange {
 public:
  // How atoms that belong to other processes, or are periodic images, are dealt with.
  enum class Ghosts {
    MAPPED,       // one process: they are images of its own atoms
    EXCHANGED,    // the model asks their owners for what it knows of them
    COMPUTED      // the model computes them, from neighbours further away
  };

  using Communicate = std::function<void(int)>;    // so many doubles for each atom

  explicit Neighbourhood(LAMMPS_NS::LAMMPS *);
  // Called before each run. `angstrom` is 1 Å in the units of LAMMPS.
  void init(const Metadata &, double angstrom, Communicate forward, Communicate reverse);
  // What it needs of LAMMPS: flags of the list of neighbours, how far this and ghosts have to
  // reach, and the most doubles that are communicated for each atom.
  int list_flags() const;
  double neighbour_distance() const;
  double reach() const;
  int largest_message() const;
  std::string description() const;    // for the log
  Ghosts ghosts() const { return ghosts_; }

  // Find the neighbours in a list of LAMMPS. Atoms of types with number 0, or outside of a group
  // of LAMMPS, take no part.
  void find(const LAMMPS_NS::NeighList *, const std::vector<int> &numbers_of_types,
            int groupbit = 1);
  ModelInputs inputs() const;
  GhostExchange *exchange() { return ghosts_ == Ghosts::EXCHANGED ? this : nullptr; }

  const NeighbourMatrix &matrix() const { return matrix_; }
  size_t rows() const { return atoms_.size(); }          // those of this process first
  int atom_of_row(size_t row) const { return atoms_[row]; }
  bool counts(int i) const { return mask_[i] != 0; }    // the energy of an own atom
  // The atom whose force an edge changes: its owner, if that is known here.
  int end_of(const NeighbourMatrix::Edge &edge) const
  {
    return ghosts_ == Ghosts::MAPPED ? static_cast<int>(row_of_[edge.atom]) : edge.atom;
  }

  void copy_to_ghosts(const Rows &) override;
  void add_from_ghosts(const Rows &) override;
  // The same for rows of all atoms of LAMMPS, `width` doubles each.
  void copy_to_ghosts(std::vector<double> &, int width);
  void add_from_ghosts(std::vector<double> &, int width);
  double seconds_in_exchange = 0;

  int pack_forward(int n, const int *atoms, double *buffer) const;
  void unpack_forward(int n, int first, const double *buffer);
  int pack_reverse(int n, int first, double *buffer) const;
  void unpack_reverse(int n, const int *atoms, const double *buffer);

  double memory_usage() const;    // in bytes

 private:
  Metadata metadata_;
  double angstrom_ = 1;
  Communicate forward_, reverse_;
  Ghosts ghosts_ = Ghosts::MAPPED;

  NeighbourMatrix matrix_;
  std::vector<int> atoms_;          // of each row
  std::vector<int> depth_;          // steps from an atom of this process, of each row
  std::vector<int64_t> row_of_;     // of each atom, -1 for none
  std::vector<char> takes_part_;    // whether the model knows of an atom
  std::vector<char> listed_;        // whether LAMMPS lists neighbours of an atom
  std::vector<int64_t> numbers_;    // of each row
  std::vector<double> mask_;        // of each row
  std::vector<double> positions_;   // of each row, three in Å, if the model needs them
  double cell_[9] = {};
  bool periodic_[3] = {};
  std::vector<double> owners_;      // of each atom
  int64_t padding_ = 0;             // rows between those of own atoms and of ghosts
  Rows moving_{};                   // that are being communicated, and their padding
  int64_t moving_padding_ = 0;

  void find_rows(const LAMMPS_NS::NeighList *);
  void find_owners();
  void find_neighbours(const LAMMPS_NS::NeighList *);
  void add_neighbours(const LAMMPS_NS::NeighList *, int i);
  void set_numbers_and_mask(const std::vector<int> &);
  void set_structure();
  void move(const Rows &, int64_t padding, const Communicate &);
  char *moving_row(int i) const;
};

}    // namespace graph_pes
