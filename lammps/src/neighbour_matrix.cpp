// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "neighbour_matrix.h"

#include <algorithm>

namespace graph_pes {

namespace {

constexpr size_t MIN_COLUMNS = 4;    // as in graph_pes/deploy/engine.py

}    // namespace

void NeighbourMatrix::clear()
{
  edges_.clear();
  first_.clear();
}

void NeighbourMatrix::finish(int64_t rows, const std::vector<int64_t> &row_of, double cutoff)
{
  first_.resize(rows + 1, edges_.size());
  size_t columns = MIN_COLUMNS;
  for (int64_t row = 0; row < rows; row++)
    columns = std::max(columns, first_[row + 1] - first_[row]);
  rows_ = rows;
  columns_ = static_cast<int64_t>(columns);
  vectors_.resize(3 * rows * columns);
  neighbours_.resize(rows * columns);
  for (int64_t row = 0; row < rows; row++) {
    double *vector = &vectors_[3 * row * columns];
    int64_t *neighbour = &neighbours_[row * columns];
    for (size_t e = first_[row]; e < first_[row + 1]; e++) {
      *neighbour++ = row_of[edges_[e].atom];
      vector = std::copy(edges_[e].vector, edges_[e].vector + 3, vector);
    }
    for (size_t missing = columns - (first_[row + 1] - first_[row]); missing > 0; missing--) {
      *neighbour++ = row;
      *vector++ = cutoff + 1;
      *vector++ = 0;
      *vector++ = 0;
    }
  }
}

double NeighbourMatrix::memory_usage() const
{
  return static_cast<double>(edges_.capacity() * sizeof(Edge) + first_.capacity() * sizeof(size_t) +
                             vectors_.capacity() * sizeof(double) +
                             neighbours_.capacity() * sizeof(int64_t));
}

}    // namespace graph_pes
