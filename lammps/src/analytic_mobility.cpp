// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "analytic_mobility.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

using namespace LAMMPS_NS;

namespace graph_pes {

namespace {

constexpr double PI = 3.14159265358979323846;

}    // namespace

void pair_mobility(Tensor tensor, double viscosity, double radius, const double *r, double *block)
{
  const double distance = std::sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
  double identity, outer;    // of directions, in units of 1 / (6π η a)
  const double a = radius, d = distance;
  if (tensor == Tensor::OSEEN) {
    identity = outer = 0.75 * a / d;
  } else if (d > 2 * a) {
    identity = 0.75 * a / d * (1 + 2 * a * a / (3 * d * d));
    outer = 0.75 * a / d * (1 - 2 * a * a / (d * d));
  } else {
    identity = 1 - 9 * d / (32 * a);
    outer = 3 * d / (32 * a);
  }
  const double unit = 1 / (6 * PI * viscosity * a);
  for (int k = 0; k < 3; k++)
    for (int l = 0; l < 3; l++) {
      const double direction = d > 0 ? r[k] * r[l] / (d * d) : 0;
      block[3 * k + l] = unit * ((k == l ? identity : 0) + outer * direction);
    }
}

AnalyticMobility::AnalyticMobility(LAMMPS *lmp, std::string style, int groupbit, Tensor tensor,
                                   double viscosity, double radius) :
    Mobility(lmp),
    style_(std::move(style)), groupbit_(groupbit), tensor_(tensor), viscosity_(viscosity),
    radius_(radius)
{
}

// Which atoms there are, and where, in the order of their IDs: the same on all processes.
void AnalyticMobility::find()
{
  own_.clear();
  OwnVectors unwrapped(3 * static_cast<size_t>(atom->nlocal)), tags(unwrapped.size());
  for (int i = 0; i < atom->nlocal; i++) {
    if (!(atom->mask[i] & groupbit_)) continue;
    own_.push_back(i);
    domain->unmap(atom->x[i], atom->image[i], &unwrapped[3 * i]);
    tags[3 * i] = static_cast<double>(atom->tag[i]);
  }
  const int count = 3 * static_cast<int>(own_.size());
  counts_.resize(comm->nprocs);
  starts_.assign(comm->nprocs, 0);
  MPI_Allgather(&count, 1, MPI_INT, counts_.data(), 1, MPI_INT, world);
  std::partial_sum(counts_.begin(), counts_.end() - 1, starts_.begin() + 1);
  n_ = static_cast<size_t>(starts_.back() + counts_.back());

  order_.resize(n_ / 3);
  std::iota(order_.begin(), order_.end(), 0);
  const auto unordered = gathered(tags);
  std::sort(order_.begin(), order_.end(),
            [&](size_t p, size_t q) { return unordered[3 * p] < unordered[3 * q]; });
  tags_.resize(order_.size());
  for (size_t p = 0; p < order_.size(); p++) tags_[p] = unordered[3 * order_[p]];
  place_.resize(own_.size());
  for (size_t p = 0; p < own_.size(); p++) {
    const auto tag = static_cast<double>(atom->tag[own_[p]]);
    place_[p] = std::lower_bound(tags_.begin(), tags_.end(), tag) - tags_.begin();
  }
  positions_ = gathered(unwrapped);
}

// Vectors of all atoms, in the order that was found.
std::vector<double> AnalyticMobility::gathered(const OwnVectors &vectors) const
{
  std::vector<double> own, by_process(n_), all(n_);
  own.reserve(3 * own_.size());
  for (int i : own_) own.insert(own.end(), &vectors[3 * i], &vectors[3 * i] + 3);
  MPI_Allgatherv(own.data(), static_cast<int>(own.size()), MPI_DOUBLE, by_process.data(),
                 counts_.data(), starts_.data(), MPI_DOUBLE, world);
  for (size_t p = 0; p < order_.size(); p++)
    std::copy_n(&by_process[3 * order_[p]], 3, &all[3 * p]);
  return all;
}

void AnalyticMobility::evaluate()
{
  matrix_.assign(n_ * n_, 0);
  const double self = 1 / (6 * PI * viscosity_ * radius_);
  for (size_t k = 0; k < n_; k++) matrix_[k * n_ + k] = self;
  for (size_t p = 0; p < n_; p += 3)
    for (size_t q = 0; q < p; q += 3) {
      double r[3], block[9];
      for (int k = 0; k < 3; k++) r[k] = positions_[q + k] - positions_[p + k];
      pair_mobility(tensor_, viscosity_, radius_, r, block);
      for (int k = 0; k < 3; k++)
        for (int l = 0; l < 3; l++)
          matrix_[(p + k) * n_ + q + l] = matrix_[(q + l) * n_ + p + k] = block[3 * k + l];
    }
  factorise();
}

// The Cholesky factor L of M.
void AnalyticMobility::factorise()
{
  root_ = matrix_;
  for (size_t k = 0; k < n_; k++) {
    double *const row = &root_[k * n_];
    for (size_t l = 0; l <= k; l++) {
      const double *const other = &root_[l * n_];
      double rest = row[l];
      for (size_t m = 0; m < l; m++) rest -= row[m] * other[m];
      if (l < k)
        row[l] = rest / other[l];
      else if (rest > 0)
        row[k] = std::sqrt(rest);
      else
        report_closest();
    }
    std::fill(row + k + 1, row + n_, 0);
  }
}

void AnalyticMobility::report_closest() const
{
  double closest = std::numeric_limits<double>::infinity();
  size_t a = 0, b = 0;
  bool finite = true;
  for (size_t p = 0; p < n_; p += 3)
    for (size_t q = 0; q < p; q += 3) {
      double squared = 0;
      for (int k = 0; k < 3; k++) squared += std::pow(positions_[q + k] - positions_[p + k], 2);
      finite = finite && std::isfinite(squared);
      if (squared < closest) closest = squared, a = q / 3, b = p / 3;
    }
  if (!finite) error->all(FLERR, "{}: some positions are not finite", style_);
  error->all(FLERR,
             "{}: the mobility of these positions is not positive definite; atoms {:.0f} and "
             "{:.0f} are {:g} from each other, spheres of radius {:g}. Use rpy rather than oseen, "
             "or a potential that keeps them apart",
             style_, tags_[a], tags_[b], std::sqrt(closest), radius_);
}

void AnalyticMobility::multiply_rows(const std::vector<double> &matrix, const OwnVectors &x,
                                     OwnVectors &product) const
{
  const auto all = gathered(x);
  product.assign(3 * static_cast<size_t>(atom->nlocal), 0);
  for (size_t p = 0; p < own_.size(); p++)
    for (int k = 0; k < 3; k++) {
      const double *const row = &matrix[(3 * place_[p] + k) * n_];
      product[3 * own_[p] + k] = std::inner_product(all.begin(), all.end(), row, 0.0);
    }
}

void AnalyticMobility::multiply(const OwnVectors &x, OwnVectors &product)
{
  multiply_rows(matrix_, x, product);
}

void AnalyticMobility::multiply_root(const OwnVectors &x, OwnVectors &product)
{
  multiply_rows(root_, x, product);
}

}    // namespace graph_pes
