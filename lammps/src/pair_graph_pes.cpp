// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "pair_graph_pes.h"

#include "elements.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "platform.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <tuple>

using namespace LAMMPS_NS;
using graph_pes::Rows;

namespace {

constexpr int MIN_ROWS = 2;    // programs are made for any number of atoms from 2 on

// Units of LAMMPS: Å and eV in each style.
const std::map<std::string, std::pair<double, double>> UNITS = {
    {"metal", {1.0, 1.0}},
    {"real", {1.0, 23.060549}},                              // kcal/mol
    {"electron", {1 / 0.529177210903, 1 / 27.211386245988}},    // Bohr, Hartree
    {"si", {1e-10, 1.602176634e-19}},                        // m, J
    {"cgs", {1e-8, 1.602176634e-12}},                        // cm, erg
    {"micro", {1e-4, 1.602176634e-4}},                       // µm, pg µm²/µs²
    {"nano", {1e-1, 1.602176634e2}},                         // nm, ag nm²/ns²
};

// A text of rank 0, on all ranks.
std::string broadcast(std::string text, MPI_Comm world)
{
  int length = static_cast<int>(text.size());
  MPI_Bcast(&length, 1, MPI_INT, 0, world);
  text.resize(length);
  MPI_Bcast(text.data(), length, MPI_CHAR, 0, world);
  return text;
}

bool ends_with(const std::string &text, const std::string &end)
{
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string quoted(const std::string &text)
{
  std::string result = "'";
  for (char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

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

// w -= (a b + b a) / 2, in LAMMPS' order xx, yy, zz, xy, xz, yz
void subtract_symmetric_product(double *w, const double *a, const double *b)
{
  for (int k = 0; k < 3; k++) w[k] -= a[k] * b[k];
  w[3] -= (a[0] * b[1] + a[1] * b[0]) / 2;
  w[4] -= (a[0] * b[2] + a[2] * b[0]) / 2;
  w[5] -= (a[1] * b[2] + a[2] * b[1]) / 2;
}

// Measures the time until it is destroyed.
class Stopwatch {
 public:
  explicit Stopwatch(double &total) : total_(total), start_(platform::walltime()) {}
  ~Stopwatch() { total_ += platform::walltime() - start_; }

 private:
  double &total_;
  double start_;
};

}    // namespace

PairGraphPES::PairGraphPES(LAMMPS *lmp) : Pair(lmp)
{
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
  // The virial is summed over edges, since forces of images go to their owners at once.
  no_virial_fdotr_compute = 1;
}

PairGraphPES::~PairGraphPES()
{
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
}

// --- settings -----------------------------------------------------------------------------------

void PairGraphPES::settings(int narg, char **arg)
{
  for (int n = 0; n < narg; n++) {
    const std::string option = arg[n];
    if (option == "cpu")
      cuda_ = false;
    else if (option == "cuda")
      cuda_ = true;
    else if (option == "debug")
      debug_ = true;
    else
      error->all(FLERR, "pair_style graph_pes: expected cpu, cuda or debug, got '{}'", option);
  }
}

void PairGraphPES::coeff(int narg, char **arg)
{
  const int types = atom->ntypes;
  if (narg != 3 + types || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR,
               "pair_coeff of graph_pes: expected '* * file' and {} chemical symbols, one for each "
               "atom type",
               types);
  load(arg[2]);
  set_elements(arg + 3);
}

void PairGraphPES::load(const std::string &file)
{
  file_ = file;
  const std::string path = exported_file(file);
  int accelerator = -1;
  if (cuda_) {
    const int available = graph_pes::number_of_accelerators();
    if (available == 0) error->all(FLERR, "pair_style graph_pes cuda: torch finds no CUDA device");
    accelerator = comm->me % available;
  }
  std::string problem;
  try {
    model_ = std::make_unique<graph_pes::ExportedModel>(path, accelerator);
    const auto &metadata = model_->metadata();
    if (metadata.energy_unit != "eV" || metadata.length_unit != "Angstrom")
      problem = "it states energies in " + metadata.energy_unit + " and lengths in " +
          metadata.length_unit + "; expected eV and Angstrom";
  } catch (const std::exception &exception) {
    problem = exception.what();
  }
  const int failed = problem.empty() ? 0 : 1;
  int failures;
  MPI_Allreduce(&failed, &failures, 1, MPI_INT, MPI_SUM, world);
  const auto message = "graph_pes can't use the model " + path + ": " + problem;
  if (failures == comm->nprocs) error->all(FLERR, message);
  if (failed) error->one(FLERR, message);
  MPI_Barrier(world);    // a rank that failed ends all of them
}

// The file itself, or for a model.pt of training what it is exported to, once on each machine.
std::string PairGraphPES::exported_file(const std::string &file)
{
  if (!ends_with(file, ".pt")) return file;
  std::string output, last;
  int status = 0;
  if (comm->me == 0) {
    const char *chosen = getenv("GRAPH_PES_PYTHON");
    const std::string python = chosen ? chosen : GRAPH_PES_PYTHON;
    utils::logmesg(lmp, "graph_pes: exporting {}, unless that was done before: minutes\n", file);
    const auto command = quoted(python) + " -m graph_pes.cli.lammps export " + quoted(file) +
        (cuda_ ? " --device cuda" : " --device cpu") + " 2>&1";
    FILE *pipe = popen(command.c_str(), "r");
    if (!pipe) error->one(FLERR, "graph_pes can't start {}", command);
    char line[4096];
    while (fgets(line, sizeof(line), pipe)) {
      last = utils::trim(line);
      output += line;
    }
    status = pclose(pipe);
  }
  MPI_Bcast(&status, 1, MPI_INT, 0, world);
  if (status != 0)
    error->all(FLERR, "graph_pes can't export {}:\n{}", file, broadcast(output, world));
  return broadcast(last, world);
}

void PairGraphPES::set_elements(char **symbols)
{
  allocate();
  const int types = atom->ntypes;
  const auto &known = model_->metadata().elements;
  numbers_of_types_.assign(types + 1, 0);
  for (int type = 1; type <= types; type++) {
    const std::string symbol = symbols[type - 1];
    if (symbol == "NULL") continue;    // of another style of pair_style hybrid
    numbers_of_types_[type] = graph_pes::atomic_number(symbol);
    if (numbers_of_types_[type] == 0)
      error->all(FLERR, "pair_coeff of graph_pes: expected a chemical symbol for type {}, got '{}'",
                 type, symbol);
    if (!known.empty() && std::find(known.begin(), known.end(), symbol) == known.end())
      error->all(FLERR, "the model {} knows the elements {}, but type {} is to be {}", file_,
                 utils::join_words(known, " "), type, symbol);
  }
  int pairs = 0;
  for (int i = 1; i <= types; i++)
    for (int j = i; j <= types; j++) {
      setflag[i][j] = numbers_of_types_[i] > 0 && numbers_of_types_[j] > 0;
      pairs += setflag[i][j];
    }
  if (pairs == 0) error->all(FLERR, "pair_coeff of graph_pes: all atom types are NULL");
}

void PairGraphPES::allocate()
{
  if (allocated) return;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  for (int i = 1; i < n; i++)
    for (int j = i; j < n; j++) setflag[i][j] = 0;
  allocated = 1;
}

double PairGraphPES::init_one(int, int)
{
  return model_->metadata().cutoff * angstrom_;
}

void PairGraphPES::choose_units()
{
  const auto units = UNITS.find(update->unit_style);
  if (units == UNITS.end())
    error->all(FLERR,
               "pair_style graph_pes: the energies of {} are in eV, which units {} can't express: "
               "use units metal",
               file_, update->unit_style);
  std::tie(angstrom_, electronvolt_) = units->second;
}

// Bonded atoms are neighbours like any others, but LAMMPS leaves them out of its lists by default.
void PairGraphPES::check_bonds()
{
  if (atom->molecular == Atom::ATOMIC || atom->nbonds == 0) return;
  for (int k = 1; k <= 3; k++)
    if (force->special_lj[k] == 0 && force->special_coul[k] == 0)
      error->all(FLERR,
                 "pair_style graph_pes needs the neighbours that are bonded to an atom: use "
                 "special_bonds lj/coul 1 1 1");
}

void PairGraphPES::init_style()
{
  const auto &model = model_->metadata();
  const auto &widths = model.exchange_widths;
  choose_units();
  check_bonds();
  graph_pes::set_number_of_threads(comm->nthreads);

  if (comm->nprocs == 1)
    ghosts_ = Ghosts::MAPPED;
  else
    ghosts_ = model.exchanges_ghosts ? Ghosts::EXCHANGED : Ghosts::COMPUTED;
  const bool computed = ghosts_ == Ghosts::COMPUTED && model.layers > 1;
  neighbor->add_request(this, computed ? NeighConst::REQ_FULL | NeighConst::REQ_GHOST
                                       : NeighConst::REQ_FULL);
  std::string how = "ghosts are images of its atoms";
  if (ghosts_ == Ghosts::EXCHANGED)
    how = fmt::format("ghosts exchange {} numbers in {} messages",
                      std::accumulate(widths.begin(), widths.end(), 0), widths.size());
  if (ghosts_ == Ghosts::COMPUTED) {
    const double reach = model.layers * model.cutoff * angstrom_ + neighbor->skin;
    comm->cutghostuser = std::max(comm->cutghostuser, reach);
    how = fmt::format("ghosts are computed, up to {:g} away", comm->cutghostuser);
  }

  // Doubles for each atom: owners of ghosts, forces and virials, or what models exchange.
  const int size = model.dtype == "float32" ? 4 : 8;
  const int widest = widths.empty() ? 0 : *std::max_element(widths.begin(), widths.end());
  const int exchanged = (widest * size + 7) / 8;
  comm_forward = std::max(1, exchanged);
  comm_reverse = comm_reverse_off = std::max(9, exchanged);
  if (force->pair && force->pair != this) {    // pair_style hybrid has asked for less, by now
    force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
    force->pair->comm_reverse = std::max(force->pair->comm_reverse, comm_reverse);
    force->pair->comm_reverse_off = std::max(force->pair->comm_reverse_off, comm_reverse_off);
  }

  if (comm->me == 0) {
    utils::logmesg(lmp,
                   "graph_pes: {} on {} ({}, cutoff {:g} Angstrom, {} layer{}), {} process{}: {}\n",
                   file_, model.device, model.dtype, model.cutoff, model.layers,
                   model.layers == 1 ? "" : "s", comm->nprocs, comm->nprocs == 1 ? "" : "es", how);
    if (!model_->predicts("gradients"))
      error->warning(FLERR, "{} predicts forces directly: pressures are not a number (nan)", file_);
  }
}

// Once LAMMPS knows how far its ghosts reach.
void PairGraphPES::setup()
{
  effort_ = {};
  if (ghosts_ != Ghosts::COMPUTED) return;
  const auto &model = model_->metadata();
  const double needed = model.layers * model.cutoff * angstrom_ + neighbor->skin;
  if (comm->mode != Comm::SINGLE || comm->get_comm_cutoff() < needed * (1 - 1e-10))
    error->all(FLERR,
               "graph_pes: {} needs ghosts up to {:g} away, {} cutoffs and the skin; use "
               "comm_modify mode single cutoff {:g}",
               file_, needed, model.layers, needed);
}

// --- which atoms and neighbours the model is given ----------------------------------------------

void PairGraphPES::find_rows()
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
void PairGraphPES::find_owners()
{
  const int own = atom->nlocal, all = own + atom->nghost;
  received_.resize(all);
  for (int i = 0; i < own; i++) received_[i] = i;
  forward({reinterpret_cast<char *>(received_.data()), 1, 8}, 0);
  for (int j = own; j < all; j++) row_of_[j] = static_cast<int64_t>(received_[j]);
}

void PairGraphPES::add_neighbours(int i)
{
  const double *const *const x = atom->x;
  const double angstrom = 1 / angstrom_, cutoff = model_->metadata().cutoff;
  for (int n = 0; n < list->numneigh[i]; n++) {
    const int j = list->firstneigh[i][n] & NEIGHMASK;
    graph_pes::NeighbourMatrix::Edge edge{j, {}};
    double squared = 0;
    for (int k = 0; k < 3; k++) {
      edge.vector[k] = (x[j][k] - x[i][k]) * angstrom;
      squared += edge.vector[k] * edge.vector[k];
    }
    // positions that are not a number are neighbours, so that they are noticed
    if (!(squared >= cutoff * cutoff)) matrix_.add(edge);
  }
}

// Fills the matrix. Where ghosts are computed, rows are added for those that are reached.
void PairGraphPES::find_neighbours()
{
  const auto &model = model_->metadata();
  matrix_.clear();
  for (size_t row = 0; row < atoms_.size(); row++) {
    const size_t before = matrix_.edges();
    matrix_.begin_row();
    if (listed_[atoms_[row]] && depth_[row] < model.layers) add_neighbours(atoms_[row]);
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
  matrix_.finish(rows, row_of_, model.cutoff);
}

void PairGraphPES::set_numbers_and_mask()
{
  const int own = atom->nlocal;
  const int64_t rows = matrix_.rows();
  const int any = *std::max_element(numbers_of_types_.begin(), numbers_of_types_.end());
  const auto number_of = [&](int i) {
    const int number = numbers_of_types_[atom->type[i]];
    return number > 0 ? number : any;    // atoms of other styles have no neighbours here
  };
  const bool further = ghosts_ == Ghosts::EXCHANGED;
  numbers_.assign(rows + (further ? atom->nghost : 0), any);
  for (size_t row = 0; row < atoms_.size(); row++) numbers_[row] = number_of(atoms_[row]);
  if (further)
    for (int k = 0; k < atom->nghost; k++) numbers_[rows + k] = number_of(own + k);
  mask_.assign(rows, 0);
  for (int i = 0; i < own; i++) mask_[i] = numbers_of_types_[atom->type[i]] > 0;
}

// --- energies and forces ------------------------------------------------------------------------

void PairGraphPES::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  {
    Stopwatch watch(effort_.neighbours);
    find_rows();
    find_neighbours();
    set_numbers_and_mask();
  }
  {
    Stopwatch watch(effort_.model);
    try {
      model_->run({matrix_.rows(), matrix_.columns(), static_cast<int64_t>(numbers_.size()),
                   matrix_.vectors(), matrix_.neighbours(), numbers_.data(), mask_.data()},
                  ghosts_ == Ghosts::EXCHANGED ? this : nullptr);
    } catch (const std::exception &exception) {
      error->one(FLERR, "graph_pes: {}: {}", file_, exception.what());
    }
  }
  Stopwatch watch(effort_.forces);
  add_energies();
  if (model_->predicts("gradients"))
    add_gradients();
  else
    add_direct_forces();
  effort_.steps++;
  effort_.atoms += static_cast<bigint>(atoms_.size());
  effort_.edges += static_cast<bigint>(matrix_.edges());
  effort_.places += matrix_.rows() * matrix_.columns();
}

void PairGraphPES::add_energies()
{
  const double *const energies = model_->output("local_energies");
  check_finite("energy", energies, 1);
  for (int i = 0; i < atom->nlocal; i++) {
    if (mask_[i] == 0) continue;
    const double energy = energies[i] * electronvolt_;
    if (eflag_global) eng_vdwl += energy;
    if (eflag_atom) eatom[i] += energy;
  }
}

// Each edge pulls its two atoms in opposite directions; its virial belongs to its first atom.
void PairGraphPES::add_gradients()
{
  const double *const gradients = model_->output("gradients");
  check_finite("force", gradients, 3 * static_cast<int>(matrix_.columns()));
  const double unit = electronvolt_ / angstrom_;
  const int own = atom->nlocal, all = own + atom->nghost;
  const bool mapped = ghosts_ == Ghosts::MAPPED;
  // Without Newton's third law LAMMPS does not add up what ghosts get: it is communicated here.
  const bool add_up = !mapped && !force->newton_pair;
  if (add_up) received_.assign(9 * static_cast<size_t>(all), 0);
  const auto force_on = [&](int i) { return add_up ? &received_[9 * i] : atom->f[i]; };

  for (size_t row = 0; row < atoms_.size(); row++) {
    const double *gradient = gradients + 3 * row * matrix_.columns();
    double pull[3] = {0, 0, 0}, w[6] = {0, 0, 0, 0, 0, 0};
    for (size_t e = matrix_.first(row); e < matrix_.first(row + 1); e++, gradient += 3) {
      const auto &edge = matrix_.edge(e);
      double *const other = force_on(mapped ? static_cast<int>(row_of_[edge.atom]) : edge.atom);
      for (int k = 0; k < 3; k++) {
        pull[k] += gradient[k];
        other[k] -= gradient[k] * unit;
      }
      if (vflag_either) subtract_symmetric_product(w, edge.vector, gradient);
    }
    const int i = atoms_[row];
    for (int k = 0; k < 3; k++) force_on(i)[k] += pull[k] * unit;
    for (int k = 0; k < 6; k++) {
      if (vflag_global) virial[k] += w[k] * electronvolt_;
      if (vflag_atom) (add_up ? force_on(i) + 3 : vatom[i])[k] += w[k] * electronvolt_;
    }
  }
  if (!add_up) return;
  reverse({reinterpret_cast<char *>(received_.data()), 9, 8}, 0);
  for (int i = 0; i < own; i++) {
    for (int k = 0; k < 3; k++) atom->f[i][k] += received_[9 * i + k];
    for (int k = 0; k < 6; k++)
      if (vflag_atom) vatom[i][k] += received_[9 * i + 3 + k];
  }
}

void PairGraphPES::add_direct_forces()
{
  const double *const forces = model_->output("forces");
  check_finite("force", forces, 3);
  const double unit = electronvolt_ / angstrom_;
  constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  for (int i = 0; i < atom->nlocal; i++) {
    if (mask_[i] == 0) continue;
    for (int k = 0; k < 3; k++) atom->f[i][k] += forces[3 * i + k] * unit;
    for (int k = 0; k < 6; k++)
      if (vflag_atom) vatom[i][k] = unknown;
  }
  for (int k = 0; k < 6; k++)
    if (vflag_global) virial[k] = unknown;
}

// End the run if some of the values of an atom are infinite or not a number; of several such atoms
// the one that is closest to another is to blame.
void PairGraphPES::check_finite(const char *what, const double *values, int width) const
{
  int blamed = -1;
  double closest = 0;
  for (int i = 0; i < atom->nlocal; i++) {
    double sum = 0;
    for (int k = 0; k < width; k++) sum += values[static_cast<size_t>(i) * width + k];
    if (std::isfinite(sum) || mask_[i] == 0) continue;
    double nearest = std::numeric_limits<double>::infinity();
    for (size_t e = matrix_.first(i); e < matrix_.first(i + 1); e++) {
      const double *const v = matrix_.edge(e).vector;
      nearest = std::min(nearest, std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]));
    }
    if (blamed >= 0 && nearest >= closest) continue;
    blamed = i;
    closest = nearest;
  }
  if (blamed < 0) return;
  const double *const x = atom->x[blamed];
  error->one(FLERR,
             "graph_pes: the {} of atom {} is not finite; it is at {:g} {:g} {:g}, and its nearest "
             "neighbour {:g} Angstrom from it. Is the time step too long, or the structure far "
             "from those in training?",
             what, atom->tag[blamed], x[0], x[1], x[2], closest);
}

// --- communication ------------------------------------------------------------------------------

void PairGraphPES::copy_to_ghosts(const Rows &rows)
{
  Stopwatch watch(effort_.exchange);
  forward(rows, padding_);
}

void PairGraphPES::add_from_ghosts(const Rows &rows)
{
  Stopwatch watch(effort_.exchange);
  reverse(rows, padding_);
}

void PairGraphPES::forward(const Rows &rows, int64_t padding)
{
  moving_ = rows;
  moving_padding_ = padding;
  comm->forward_comm(this, doubles_in(rows));
}

void PairGraphPES::reverse(const Rows &rows, int64_t padding)
{
  moving_ = rows;
  moving_padding_ = padding;
  comm->reverse_comm(this, doubles_in(rows));
}

char *PairGraphPES::moving_row(int i) const
{
  return moving_.data + (i < atom->nlocal ? i : i + moving_padding_) * moving_.bytes();
}

int PairGraphPES::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  const int stride = doubles_in(moving_);
  for (int k = 0; k < n; k++)
    memcpy(buffer + k * stride, moving_row(atoms[k]), moving_.bytes());
  return n * stride;
}

void PairGraphPES::unpack_forward_comm(int n, int first, double *buffer)
{
  const int stride = doubles_in(moving_);
  for (int k = 0; k < n; k++)
    memcpy(moving_row(first + k), buffer + k * stride, moving_.bytes());
}

int PairGraphPES::pack_reverse_comm(int n, int first, double *buffer)
{
  const int stride = doubles_in(moving_);
  for (int k = 0; k < n; k++)
    memcpy(buffer + k * stride, moving_row(first + k), moving_.bytes());
  return n * stride;
}

void PairGraphPES::unpack_reverse_comm(int n, int *atoms, double *buffer)
{
  const int stride = doubles_in(moving_);
  for (int k = 0; k < n; k++)
    if (moving_.size_of_number == 4)
      add_row<float>(moving_row(atoms[k]), buffer + k * stride, moving_.width);
    else
      add_row<double>(moving_row(atoms[k]), buffer + k * stride, moving_.width);
}

// --- what it took -------------------------------------------------------------------------------

void PairGraphPES::finish()
{
  if (!debug_ || effort_.steps == 0) return;
  const double n = static_cast<double>(effort_.steps);
  double mean[] = {effort_.atoms / n, effort_.edges / n,
                   static_cast<double>(effort_.edges) / std::max<bigint>(1, effort_.places)};
  double ms[] = {effort_.neighbours / n * 1e3, effort_.model / n * 1e3, effort_.exchange / n * 1e3,
                 effort_.forces / n * 1e3};
  double means[3], most[4];
  MPI_Reduce(mean, means, 3, MPI_DOUBLE, MPI_SUM, 0, world);
  MPI_Reduce(ms, most, 4, MPI_DOUBLE, MPI_MAX, 0, world);
  if (comm->me == 0)
    utils::logmesg(lmp,
                   "graph_pes: {} evaluations of {:.0f} atoms with {:.0f} edges, {:.0f} % of the "
                   "matrix; ms on the slowest process: neighbours {:.2f}, model {:.2f} (exchange "
                   "{:.2f}), forces {:.2f}\n",
                   effort_.steps, means[0], means[1], 100 * means[2] / comm->nprocs, most[0],
                   most[1], most[2], most[3]);
}

double PairGraphPES::memory_usage()
{
  return Pair::memory_usage() + matrix_.memory_usage() + 8.0 * received_.capacity() +
      16.0 * numbers_.capacity();
}

// --- for the plugin -----------------------------------------------------------------------------

extern "C" __attribute__((visibility("default"))) void *graph_pes_new_pair(void *lmp)
{
  return static_cast<Pair *>(new PairGraphPES(static_cast<LAMMPS *>(lmp)));
}
