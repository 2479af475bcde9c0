// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "learned_mobility.h"

#include "loading.h"
#include "requests.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "fix.h"
#include "update.h"

#include <cmath>
#include <map>
#include <utility>

using namespace LAMMPS_NS;

namespace graph_pes {

namespace {

constexpr int BLOCK = 9;    // numbers in a block of L

// Displacements to find out how M depends on positions, in cutoffs: small, yet larger than what
// rounding does.
constexpr double SMALL = 1e-5, SMALL_IN_SINGLE_PRECISION = 1e-3;

// 1 ps in units of LAMMPS, by the name of the unit style.
const std::map<std::string, double> PICOSECONDS = {
    {"metal", 1},   {"real", 1e3},   {"electron", 1e3}, {"si", 1e-12},
    {"cgs", 1e-12}, {"micro", 1e-6}, {"nano", 1e-3},
};

// y += A x, or Aᵀ x
void add_product(const double *A, bool transposed, const double *x, double *y)
{
  for (int k = 0; k < 3; k++)
    for (int l = 0; l < 3; l++) y[k] += A[transposed ? 3 * l + k : 3 * k + l] * x[l];
}

}    // namespace

LearnedMobility::LearnedMobility(LAMMPS *lmp, std::string style, int groupbit,
                                 const std::string &file, bool cuda, char **symbols) :
    Mobility(lmp),
    style_(std::move(style)), file_(file), groupbit_(groupbit),
    model_(load_model(lmp, style_, file, cuda)), neighbourhood_(lmp),
    numbers_of_types_(atomic_numbers_of_types(lmp, style_, model_->metadata(), symbols))
{
  if (!model_->predicts("mobility_self") || !model_->predicts("mobility_pairs"))
    error->all(FLERR, "{}: {} predicts {}, not mobility_self and mobility_pairs", style_, file_,
               utils::join_words(model_->metadata().outputs, " "));
}

void LearnedMobility::init(Fix *fix)
{
  const auto units = units_of(lmp, style_);
  angstrom_ = units.angstrom;
  const double picosecond = PICOSECONDS.at(update->unit_style);
  unit_ = std::sqrt(units.angstrom * units.angstrom / (units.electronvolt * picosecond));
  set_number_of_threads(comm->nthreads);
  neighbourhood_.init(
      model_->metadata(), units.angstrom,
      [this, fix](int size) { comm->forward_comm(fix, size); },
      [this, fix](int size) { comm->reverse_comm(fix, size); });
  request_neighbours(lmp, fix, neighbourhood_, 0, 3);
  fix->comm_forward = std::max(fix->comm_forward, 3);
  for (int i = 0; i < atom->nlocal; i++)
    if ((atom->mask[i] & groupbit_) && numbers_of_types_[atom->type[i]] == 0)
      error->one(FLERR, "{}: atom {} of the group has type {}, which is NULL", style_,
                 atom->tag[i], atom->type[i]);
}

void LearnedMobility::setup()
{
  check_reach(lmp, style_, neighbourhood_);
}

void LearnedMobility::find()
{
  neighbourhood_.find(list_, numbers_of_types_, groupbit_);
}

void LearnedMobility::evaluate()
{
  run(neighbourhood_.inputs());
}

void LearnedMobility::run(const ModelInputs &inputs)
{
  try {
    model_->run(inputs, neighbourhood_.exchange());
  } catch (const std::exception &exception) {
    error->one(FLERR, "{}: {}: {}", style_, file_, exception.what());
  }
}

// Random finite differences (Delong et al., doi:10.1063/1.4869866): for a normal random vector W and
// a short length δ, the mean of [M(x + δ/2 W) - M(x - δ/2 W)] W / δ is ∇·M.
void LearnedMobility::add_divergence(const OwnVectors &random, OwnVectors &sum)
{
  const auto &metadata = model_->metadata();
  const double relative = metadata.dtype == "float32" ? SMALL_IN_SINGLE_PRECISION : SMALL;
  const double length = relative * metadata.cutoff * angstrom_;
  for (const double sign : {1.0, -1.0}) {
    evaluate_displaced(sign * length / 2, random);
    multiply(random, velocities_);
    for (size_t k = 0; k < sum.size(); k++) sum[k] += sign * velocities_[k] / length;
  }
}

void LearnedMobility::evaluate_displaced(double multiple, const OwnVectors &displacements)
{
  to_all(displacements);
  auto inputs = neighbourhood_.inputs();
  const auto &matrix = neighbourhood_.matrix();
  vectors_.assign(inputs.vectors, inputs.vectors + 3 * inputs.N * inputs.D);
  for (size_t row = 0; row < neighbourhood_.rows(); row++) {
    const int i = neighbourhood_.atom_of_row(row);
    double *vector = &vectors_[3 * row * inputs.D];
    for (size_t e = matrix.first(row); e < matrix.first(row + 1); e++, vector += 3) {
      const int j = neighbourhood_.end_of(matrix.edge(e));
      for (int k = 0; k < 3; k++)
        vector[k] += multiple * (rows_[3 * j + k] - rows_[3 * i + k]) / angstrom_;
    }
  }
  inputs.vectors = vectors_.data();
  run(inputs);
}

// Vectors of own atoms, and of ghosts, as rows_.
void LearnedMobility::to_all(const OwnVectors &vectors)
{
  rows_.assign(3 * static_cast<size_t>(atom->nlocal + atom->nghost), 0);
  std::copy_n(vectors.begin(), 3 * static_cast<size_t>(atom->nlocal), rows_.begin());
  neighbourhood_.copy_to_ghosts(rows_, 3);
}

// L Lᵀ x
void LearnedMobility::multiply(const OwnVectors &x, OwnVectors &product)
{
  const double *const self = model_->output("mobility_self");
  const double *const pairs = model_->output("mobility_pairs");
  const auto &matrix = neighbourhood_.matrix();
  const int own = atom->nlocal;
  rows_.assign(3 * static_cast<size_t>(own + atom->nghost), 0);
  for (int i = 0; i < own; i++) {
    if (!neighbourhood_.counts(i)) continue;
    add_product(self + static_cast<size_t>(BLOCK) * i, true, &x[3 * i], &rows_[3 * i]);
    const double *pair = pairs + BLOCK * i * matrix.columns();
    for (size_t e = matrix.first(i); e < matrix.first(i + 1); e++, pair += BLOCK)
      add_product(pair, true, &x[3 * i], &rows_[3 * neighbourhood_.end_of(matrix.edge(e))]);
  }
  neighbourhood_.add_from_ghosts(rows_, 3);
  moved_.assign(rows_.begin(), rows_.begin() + 3 * static_cast<size_t>(own));
  multiply_root(moved_, product);
  for (double &value : product) value *= unit_;
}

// L x
void LearnedMobility::multiply_root(const OwnVectors &x, OwnVectors &product)
{
  const double *const self = model_->output("mobility_self");
  const double *const pairs = model_->output("mobility_pairs");
  const auto &matrix = neighbourhood_.matrix();
  const int own = atom->nlocal;
  to_all(x);
  product.assign(3 * static_cast<size_t>(own), 0);
  for (int i = 0; i < own; i++) {
    if (!neighbourhood_.counts(i)) continue;
    add_product(self + static_cast<size_t>(BLOCK) * i, false, &x[3 * i], &product[3 * i]);
    const double *pair = pairs + BLOCK * i * matrix.columns();
    for (size_t e = matrix.first(i); e < matrix.first(i + 1); e++, pair += BLOCK)
      add_product(pair, false, &rows_[3 * neighbourhood_.end_of(matrix.edge(e))], &product[3 * i]);
  }
  for (double &value : product) value *= unit_;
}

}    // namespace graph_pes
