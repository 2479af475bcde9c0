// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace graph_pes {

// What a file made by graph-pes-export says of its model: Metadata in graph_pes/deploy/exported.py.
struct Metadata {
  double cutoff = 0;
  std::string dtype, device, energy_unit, length_unit, torch_version;
  std::vector<std::string> elements, outputs, kinds, units;    // the last two of each output
  std::vector<int> widths;                                     // of each output
  std::vector<int> exchange_widths;
  bool whole_structure = false;
  int layers = 0;
  bool exchanges_ghosts = false;
};

// The arguments of a model, see graph_pes/deploy/engine.py: N atoms with D columns of neighbours
// among M atoms, the first N of which they are.
struct ModelInputs {
  int64_t N, D, M;
  const double *vectors;        // (N, D, 3), in Å
  const int64_t *neighbours;    // (N, D)
  const int64_t *numbers;       // (M,), atomic numbers
  const double *mask;           // (N,)
  // what models of whole structures take as well
  const double *positions;      // (N, 3), in Å
  const double *cell;           // (3, 3), lattice vectors in rows, in Å
  const bool *periodic;         // (3,)
};

// One row of numbers for each of M atoms.
struct Rows {
  char *data;
  int width;           // numbers in a row
  int size_of_number;  // 4 or 8 bytes
  int bytes() const { return width * size_of_number; }
};

// Moves rows between processes while a model runs. All processes call it equally often.
class GhostExchange {
 public:
  // Give ghosts the rows of the atoms that they are images of.
  virtual void copy_to_ghosts(const Rows &) = 0;
  // Add the rows of ghosts to those of the atoms that they are images of.
  virtual void add_from_ghosts(const Rows &) = 0;

 protected:
  ~GhostExchange() = default;
};

// A compiled model. All members throw std::runtime_error with a message for the user.
class ExportedModel {
 public:
  // `accelerator` counts those of this machine; -1 for none.
  ExportedModel(const std::string &path, int accelerator);
  ~ExportedModel();

  const Metadata &metadata() const { return metadata_; }
  bool predicts(const std::string &output) const;

  // Evaluate the model. Without an exchange there must be no ghosts: M = N.
  void run(const ModelInputs &, GhostExchange *);
  // A result of the last run, in double precision; valid until the next one.
  const double *output(const std::string &name) const;

 private:
  struct Program;
  std::unique_ptr<Program> program_;
  Metadata metadata_;
};

// Number of accelerators that torch can use.
int number_of_accelerators();

// Threads that torch uses in this process.
void set_number_of_threads(int);

}    // namespace graph_pes
