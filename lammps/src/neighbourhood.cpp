// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "neighbourhood.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "platform.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

using namespace LAMMPS_NS;

namespace graph_pes {

namespace {

constexpr int MIN_ROWS = 2;    // programs are made for any number of atoms from 2 on

int doubles_in(const Rows &rows)
{
  return (rows.bytes() + 7) / 8;
}

template <typename Number> void add_row(char *row, const double *buffer, int width)
{
  auto *const sum = reinterpret_cast<Number *>(row);
  const auto *const received = reinterpret_cast<const Number *>(buffer);
  for (int k = 0; k < width; k++) sum[k] += received[k];
}

}    // namespace

Neighbourhood::Neighbourhood(LAMMPS *lmp) : Pointers(lmp) {}

// --- what LAMMPS has to know before a run -------------------------------------------------------

void Neighbourhood::init(const Metadata &metadata, double angstrom, Communicate forward,
                         Communicate reverse)
{
  metadata_ = metadata;
  angstrom_ = angstrom;
  forward_ = std::move(forward);
  reverse_ = std::move(reverse);
  if (metadata.whole_structure && comm->nprocs > 1)
    error->all(FLERR,
               "graph_pes: predictions of the model depend on the whole structure, of which each "
               "of {} processes knows a part: use one process",
               comm->nprocs);
  if (comm->nprocs == 1)
    ghosts_ = Ghosts::MAPPED;
  else
    ghosts_ = metadata.exchanges_ghosts ? Ghosts::EXCHANGED : Ghosts::COMPUTED;
}

int Neighbourhood::list_flags() const
{
  const bool of_ghosts = ghosts_ == Ghosts::COMPUTED && metadata_.layers > 1;
  return of_ghosts ? NeighConst::REQ_FULL | NeighConst::REQ_GHOST : NeighConst::REQ_FULL;
}

double Neighbourhood::neighbour_distance() const
{
  return metadata_.cutoff * angstrom_ + neighbor->skin;
}

double Neighbourhood::reach() const
{
  const int steps = ghosts_ == Ghosts::COMPUTED ? metadata_.layers : 1;
  return steps * metadata_.cutoff * angstrom_ + neighbor->skin;
}

int Neighbourhood::largest_message() const
{
  const auto &widths = metadata_.exchange_widths;
  const int widest = widths.empty() ? 1 : *std::max_element(widths.begin(), widths.end());
  return std::max(1, doubles_in({nullptr, widest, metadata_.dtype == "float32" ? 4 : 8}));
}

std::string Neighbourhood::description() const
{
  const auto &widths = metadata_.exchange_widths;
  if (ghosts_ == Ghosts::EXCHANGED)
    return fmt::format("ghosts exchange {} numbers in {} messages",
                       std::accumulate(widths.begin(), widths.end(), 0), widths.size());
  if (ghosts_ == Ghosts::COMPUTED)
    return fmt::format("ghosts are computed, up to {:g} away", reach());
  return "ghosts are images of its atoms";
}

// --- which atoms and neighbours the model is given ----------------------------------------------

void Neighbourhood::find(const NeighList *list, const std::vector<int> &numbers_of_types,
                         int groupbit)
{
  const int all = atom->nlocal + atom->nghost;
  takes_part_.resize(all);
  for (int i = 0; i < all; i++)
    takes_part_[i] = (atom->mask[i] & groupbit) && numbers_of_types[atom->type[i]] > 0;
  find_rows(list);
  find_neighbours(list);
  set_numbers_and_mask(numbers_of_types);
  if (metadata_.whole_structure) set_structure();
}

void Neighbourhood::find_rows(const NeighList *list)
{
  const int own = atom->nlocal, all = own + atom->nghost;
  row_of_.resize(all);
  for (int i = 0; i < own; i++) row_of_[i] = i;
  padding_ = std::max(0, MIN_ROWS - own);
  if (ghosts_ == Ghosts::MAPPED)
    find_owners();
  else
    for (int j = own; j < all; j++) row_of_[j] = ghosts_ == Ghosts::EXCHANGED ? j + padding_ : -1;

  atoms_.resize(own);
  for (int i = 0; i < own; i++) atoms_[i] = i;
  depth_.assign(own, 0);
  listed_.assign(all, 0);
  const int listed = list->inum + (list->ghost ? list->gnum : 0);
  for (int n = 0; n < listed; n++) listed_[list->ilist[n]] = 1;
}

// Communicated, which needs no atom IDs.
void Neighbourhood::find_owners()
{
  const int own = atom->nlocal, all = own + atom->nghost;
  owners_.resize(all);
  for (int i = 0; i < own; i++) owners_[i] = i;
  copy_to_ghosts(owners_, 1);
  for (int j = own; j < all; j++) row_of_[j] = static_cast<int64_t>(owners_[j]);
}

void Neighbourhood::add_neighbours(const NeighList *list, int i)
{
  const double *const *const x = atom->x;
  const double angstrom = 1 / angstrom_, cutoff = metadata_.cutoff;
  for (int n = 0; n < list->numneigh[i]; n++) {
    const int j = list->firstneigh[i][n] & NEIGHMASK;
    NeighbourMatrix::Edge edge{j, {}};
    double squared = 0;
    for (int k = 0; k < 3; k++) {
      edge.vector[k] = (x[j][k] - x[i][k]) * angstrom;
      squared += edge.vector[k] * edge.vector[k];
    }
    // positions that are not a number are neighbours, so that they are noticed
    if (takes_part_[j] && !(squared >= cutoff * cutoff)) matrix_.add(edge);
  }
}

// Fills the matrix. Where ghosts are computed, rows are added for those that are reached.
void Neighbourhood::find_neighbours(const NeighList *list)
{
  matrix_.clear();
  for (size_t row = 0; row < atoms_.size(); row++) {
    const size_t before = matrix_.edges();
    matrix_.begin_row();
    const int i = atoms_[row];
    if (listed_[i] && takes_part_[i] && depth_[row] < metadata_.layers) add_neighbours(list, i);
    if (ghosts_ != Ghosts::COMPUTED) continue;
    for (size_t e = before; e < matrix_.edges(); e++) {
      const int j = matrix_.edge(e).atom;
      if (row_of_[j] >= 0) continue;
      row_of_[j] = static_cast<int64_t>(atoms_.size());
      atoms_.push_back(j);
      depth_.push_back(depth_[row] + 1);
    }
  }
  const auto rows = std::max<int64_t>(MIN_ROWS, atoms_.size());
  matrix_.finish(rows, row_of_, metadata_.cutoff);
}

void Neighbourhood::set_numbers_and_mask(const std::vector<int> &numbers_of_types)
{
  const int own = atom->nlocal;
  const int64_t rows = matrix_.rows();
  const int any = *std::max_element(numbers_of_types.begin(), numbers_of_types.end());
  const auto number_of = [&](int i) {
    const int number = numbers_of_types[atom->type[i]];
    return number > 0 ? number : any;    // atoms of other styles have no neighbours here
  };
  const bool further = ghosts_ == Ghosts::EXCHANGED;
  numbers_.assign(rows + (further ? atom->nghost : 0), any);
  for (size_t row = 0; row < atoms_.size(); row++) numbers_[row] = number_of(atoms_[row]);
  if (further)
    for (int k = 0; k < atom->nghost; k++) numbers_[rows + k] = number_of(own + k);
  mask_.assign(rows, 0);
  for (int i = 0; i < own; i++) mask_[i] = takes_part_[i];
}

void Neighbourhood::set_structure()
{
  positions_.assign(3 * matrix_.rows(), 0);
  for (size_t row = 0; row < atoms_.size(); row++)
    for (int k = 0; k < 3; k++) positions_[3 * row + k] = atom->x[atoms_[row]][k] / angstrom_;
  const double cell[] = {domain->xprd, 0, 0, domain->xy, domain->yprd, 0,
                         domain->xz, domain->yz, domain->zprd};
  for (int k = 0; k < 9; k++) cell_[k] = cell[k] / angstrom_;
  for (int k = 0; k < 3; k++) periodic_[k] = domain->periodicity[k] != 0;
}

ModelInputs Neighbourhood::inputs() const
{
  return {matrix_.rows(),       matrix_.columns(), static_cast<int64_t>(numbers_.size()),
          matrix_.vectors(),    matrix_.neighbours(), numbers_.data(),
          mask_.data(),         positions_.data(),    cell_,
          periodic_};
}

// --- communication ------------------------------------------------------------------------------

void Neighbourhood::copy_to_ghosts(const Rows &rows)
{
  move(rows, padding_, forward_);
}

void Neighbourhood::add_from_ghosts(const Rows &rows)
{
  move(rows, padding_, reverse_);
}

void Neighbourhood::copy_to_ghosts(std::vector<double> &rows, int width)
{
  move({reinterpret_cast<char *>(rows.data()), width, 8}, 0, forward_);
}

void Neighbourhood::add_from_ghosts(std::vector<double> &rows, int width)
{
  move({reinterpret_cast<char *>(rows.data()), width, 8}, 0, reverse_);
}

void Neighbourhood::move(const Rows &rows, int64_t padding, const Communicate &communicate)
{
  const double start = platform::walltime();
  moving_ = rows;
  moving_padding_ = padding;
  communicate(doubles_in(rows));
  seconds_in_exchange += platform::walltime() - start;
}

char *Neighbourhood::moving_row(int i) const
{
  return moving_.data + (i < atom->nlocal ? i : i + moving_padding_) * moving_.bytes();
}

int Neighbourhood::pack_forward(int n, const int *atoms, double *buffer) const
{
  const int stride = doubles_in(moving_);
  for (int k = 0; k < n; k++)
    memcpy(buffer + k * stride, moving_row(atoms[k]), moving_.bytes());
  return n * stride;
}

void Neighbourhood::unpack_forward(int n, int first, const double *buffer)
{
  const int stride = doubles_in(moving_);
  for (int k = 0; k < n; k++)
    memcpy(moving_row(first + k), buffer + k * stride, moving_.bytes());
}

int Neighbourhood::pack_reverse(int n, int first, double *buffer) const
{
  const int stride = doubles_in(moving_);
  for (int k = 0; k < n; k++)
    memcpy(buffer + k * stride, moving_row(first + k), moving_.bytes());
  return n * stride;
}

void Neighbourhood::unpack_reverse(int n, const int *atoms, const double *buffer)
{
  const int stride = doubles_in(moving_);
  for (int k = 0; k < n; k++)
    if (moving_.size_of_number == 4)
      add_row<float>(moving_row(atoms[k]), buffer + k * stride, moving_.width);
    else
      add_row<double>(moving_row(atoms[k]), buffer + k * stride, moving_.width);
}

double Neighbourhood::memory_usage() const
{
  return matrix_.memory_usage() + 8.0 * (owners_.capacity() + row_of_.capacity()) +
      16.0 * (numbers_.capacity() + mask_.capacity()) + 8.0 * positions_.capacity();
}

}    // namespace graph_pes
