// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace graph_pes {

// The neighbours of atoms within a cutoff, as the columns of a matrix that is filled up with edges
// that are longer than the cutoff: see graph_pes/deploy/engine.py. Its memory is used again.
class NeighbourMatrix {
 public:
  struct Edge {
    int atom;    // that it leads to
    double vector[3];
  };

  void clear();
  // Rows are added one by one, each with its edges.
  void begin_row() { first_.push_back(edges_.size()); }
  void add(const Edge &edge) { edges_.push_back(edge); }
  // Make the matrix, with at least `rows` rows. `row_of` holds the row of each atom.
  void finish(int64_t rows, const std::vector<int64_t> &row_of, double cutoff);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  const double *vectors() const { return vectors_.data(); }               // (rows, columns, 3)
  const int64_t *neighbours() const { return neighbours_.data(); }        // (rows, columns)

  size_t edges() const { return edges_.size(); }    // without the filling
  const Edge &edge(size_t e) const { return edges_[e]; }
  size_t first(int64_t row) const { return first_[row]; }    // edge of a row

  double memory_usage() const;    // in bytes

 private:
  int64_t rows_ = 0, columns_ = 0;
  std::vector<Edge> edges_;
  std::vector<size_t> first_;    // edge of each row
  std::vector<double> vectors_;
  std::vector<int64_t> neighbours_;
};

}    // namespace graph_pes
