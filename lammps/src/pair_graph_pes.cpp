// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "pair_graph_pes.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "platform.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

using namespace LAMMPS_NS;
using graph_pes::Neighbourhood;

namespace {

const char *const STYLE = "pair_style graph_pes";

constexpr int SHARED = 9;    // force and virial, which ghosts send to their owners

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

PairGraphPES::PairGraphPES(LAMMPS *lmp) : Pair(lmp), neighbourhood_(lmp)
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
      error->all(FLERR, "{}: expected cpu, cuda or debug, got '{}'", STYLE, option);
  }
}

void PairGraphPES::coeff(int narg, char **arg)
{
  const int types = atom->ntypes;
  if (narg != 3 + types || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR,
               "{}: expected 'pair_coeff * * file' and {} chemical symbols, one for each atom type",
               STYLE, types);
  file_ = arg[2];
  model_ = graph_pes::load_model(lmp, STYLE, file_, cuda_);
  numbers_of_types_ =
      graph_pes::atomic_numbers_of_types(lmp, STYLE, model_->metadata(), arg + 3);
  allocate();
  for (int i = 1; i <= types; i++)
    for (int j = i; j <= types; j++)
      setflag[i][j] = numbers_of_types_[i] > 0 && numbers_of_types_[j] > 0;
}

void PairGraphPES::allocate()
{
  if (allocated) return;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  allocated = 1;
}

double PairGraphPES::init_one(int, int)
{
  return model_->metadata().cutoff * units_.angstrom;
}

void PairGraphPES::init_style()
{
  const auto &model = model_->metadata();
  units_ = graph_pes::units_of(lmp, STYLE);
  check_bonds();
  graph_pes::set_number_of_threads(comm->nthreads);
  neighbourhood_.init(
      model, units_.angstrom, [this](int size) { comm->forward_comm(this, size); },
      [this](int size) { comm->reverse_comm(this, size); });
  neighbor->add_request(this, neighbourhood_.list_flags());
  reach_ghosts();
  reserve_messages(neighbourhood_.largest_message());
  if (comm->me == 0) {
    utils::logmesg(lmp,
                   "graph_pes: {} on {} ({}, cutoff {:g} Angstrom, {} layer{}), {} process{}: {}\n",
                   file_, model.device, model.dtype, model.cutoff, model.layers,
                   model.layers == 1 ? "" : "s", comm->nprocs, comm->nprocs == 1 ? "" : "es",
                   neighbourhood_.description());
    if (!model_->predicts("gradients") && !knows_stress())
      error->warning(FLERR, "{} predicts forces directly: pressures are not a number (nan)", file_);
  }
}

void PairGraphPES::reserve_messages(int size)
{
  comm_forward = size;
  comm_reverse = comm_reverse_off = std::max(SHARED, size);
  Pair *const all = force->pair;
  if (!all || all == this) return;
  // pair_style hybrid asks for what its styles needed before their models were loaded
  all->comm_forward = std::max(all->comm_forward, comm_forward);
  all->comm_reverse = std::max(all->comm_reverse, comm_reverse);
  all->comm_reverse_off = std::max(all->comm_reverse_off, comm_reverse_off);
}

void PairGraphPES::setup()
{
  effort_ = {};
  neighbourhood_.seconds_in_exchange = 0;
}

// Ghosts that are computed are further away than LAMMPS would have them.
void PairGraphPES::reach_ghosts()
{
  if (neighbourhood_.ghosts() != Neighbourhood::Ghosts::COMPUTED) return;
  if (comm->mode != Comm::SINGLE)
    error->all(FLERR, "{}: {} needs ghosts up to {:g} away, {} cutoffs and the skin, for all types: "
               "use comm_modify mode single",
               STYLE, file_, neighbourhood_.reach(), model_->metadata().layers);
  comm->cutghostuser = std::max(comm->cutghostuser, neighbourhood_.reach());
}

// Bonded atoms are neighbours like any others, but LAMMPS leaves them out of its lists by default.
void PairGraphPES::check_bonds()
{
  if (atom->molecular == Atom::ATOMIC || atom->nbonds == 0) return;
  for (int k = 1; k <= 3; k++)
    if (force->special_lj[k] == 0 && force->special_coul[k] == 0)
      error->all(FLERR,
                 "{} needs the neighbours that are bonded to an atom: use special_bonds lj/coul "
                 "1 1 1",
                 STYLE);
}

// --- energies and forces ------------------------------------------------------------------------

void PairGraphPES::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  {
    Stopwatch watch(effort_.neighbours);
    neighbourhood_.find(list, numbers_of_types_);
  }
  {
    Stopwatch watch(effort_.model);
    try {
      model_->run(neighbourhood_.inputs(), neighbourhood_.exchange());
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
  const auto &matrix = neighbourhood_.matrix();
  effort_.atoms += static_cast<bigint>(neighbourhood_.rows());
  effort_.edges += static_cast<bigint>(matrix.edges());
  effort_.places += matrix.rows() * matrix.columns();
}

void PairGraphPES::add_energies()
{
  const double *const energies = model_->output("local_energies");
  check_finite("energy", energies, 1);
  for (int i = 0; i < atom->nlocal; i++) {
    if (!neighbourhood_.counts(i)) continue;
    const double energy = energies[i] * units_.electronvolt;
    if (eflag_global) eng_vdwl += energy;
    if (eflag_atom) eatom[i] += energy;
  }
}

// Each edge pulls its two atoms in opposite directions; its virial belongs to its first atom.
void PairGraphPES::add_gradients()
{
  const double *const gradients = model_->output("gradients");
  const auto &matrix = neighbourhood_.matrix();
  check_finite("force", gradients, 3 * static_cast<int>(matrix.columns()));
  const double unit = units_.electronvolt / units_.angstrom;
  const int own = atom->nlocal, all = own + atom->nghost;
  // Without Newton's third law LAMMPS does not add up what ghosts get: it is communicated here.
  const bool add_up = !force->newton_pair && neighbourhood_.ghosts() != Neighbourhood::Ghosts::MAPPED;
  if (add_up) of_ghosts_.assign(SHARED * static_cast<size_t>(all), 0);
  const auto force_on = [&](int i) { return add_up ? &of_ghosts_[SHARED * i] : atom->f[i]; };

  for (size_t row = 0; row < neighbourhood_.rows(); row++) {
    const double *gradient = gradients + 3 * row * matrix.columns();
    double pull[3] = {0, 0, 0}, w[6] = {0, 0, 0, 0, 0, 0};
    for (size_t e = matrix.first(row); e < matrix.first(row + 1); e++, gradient += 3) {
      const auto &edge = matrix.edge(e);
      double *const other = force_on(neighbourhood_.end_of(edge));
      for (int k = 0; k < 3; k++) {
        pull[k] += gradient[k];
        other[k] -= gradient[k] * unit;
      }
      if (vflag_either) subtract_symmetric_product(w, edge.vector, gradient);
    }
    const int i = neighbourhood_.atom_of_row(row);
    for (int k = 0; k < 3; k++) force_on(i)[k] += pull[k] * unit;
    for (int k = 0; k < 6; k++) {
      if (vflag_global) virial[k] += w[k] * units_.electronvolt;
      if (vflag_atom) (add_up ? force_on(i) + 3 : vatom[i])[k] += w[k] * units_.electronvolt;
    }
  }
  if (!add_up) return;
  neighbourhood_.add_from_ghosts(of_ghosts_, SHARED);
  for (int i = 0; i < own; i++) {
    for (int k = 0; k < 3; k++) atom->f[i][k] += of_ghosts_[SHARED * i + k];
    for (int k = 0; k < 6; k++)
      if (vflag_atom) vatom[i][k] += of_ghosts_[SHARED * i + 3 + k];
  }
}

// Whether a stress is predicted, of a structure that has one.
bool PairGraphPES::knows_stress() const
{
  return model_->predicts("stress") && domain->xperiodic && domain->yperiodic && domain->zperiodic;
}

void PairGraphPES::add_direct_forces()
{
  const double *const forces = model_->output("forces");
  check_finite("force", forces, 3);
  const double unit = units_.electronvolt / units_.angstrom;
  constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  for (int i = 0; i < atom->nlocal; i++) {
    if (!neighbourhood_.counts(i)) continue;
    for (int k = 0; k < 3; k++) atom->f[i][k] += forces[3 * i + k] * unit;
    for (int k = 0; k < 6; k++)
      if (vflag_atom) vatom[i][k] = unknown;
  }
  if (!vflag_global) return;
  if (!knows_stress()) {
    for (int k = 0; k < 6; k++) virial[k] = unknown;
    return;
  }
  const double *const s = model_->output("stress");    // in eV/Å^3
  const double volume = domain->xprd * domain->yprd * domain->zprd / std::pow(units_.angstrom, 3);
  const double unit_of_virial = -volume * units_.electronvolt;
  const double of_stress[] = {s[0], s[4], s[8], (s[1] + s[3]) / 2, (s[2] + s[6]) / 2,
                              (s[5] + s[7]) / 2};
  for (int k = 0; k < 6; k++) virial[k] += unit_of_virial * of_stress[k];
}

// End the run if some of the values of an atom are infinite or not a number; of several such atoms
// the one that is closest to another is to blame.
void PairGraphPES::check_finite(const char *what, const double *values, int width) const
{
  const auto &matrix = neighbourhood_.matrix();
  int blamed = -1;
  double closest = 0;
  for (int i = 0; i < atom->nlocal; i++) {
    double sum = 0;
    for (int k = 0; k < width; k++) sum += values[static_cast<size_t>(i) * width + k];
    if (std::isfinite(sum) || !neighbourhood_.counts(i)) continue;
    double nearest = std::numeric_limits<double>::infinity();
    for (size_t e = matrix.first(i); e < matrix.first(i + 1); e++) {
      const double *const v = matrix.edge(e).vector;
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

int PairGraphPES::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  return neighbourhood_.pack_forward(n, atoms, buffer);
}

void PairGraphPES::unpack_forward_comm(int n, int first, double *buffer)
{
  neighbourhood_.unpack_forward(n, first, buffer);
}

int PairGraphPES::pack_reverse_comm(int n, int first, double *buffer)
{
  return neighbourhood_.pack_reverse(n, first, buffer);
}

void PairGraphPES::unpack_reverse_comm(int n, int *atoms, double *buffer)
{
  neighbourhood_.unpack_reverse(n, atoms, buffer);
}

// --- what it took -------------------------------------------------------------------------------

void PairGraphPES::finish()
{
  if (!debug_ || effort_.steps == 0) return;
  const double n = static_cast<double>(effort_.steps);
  double mean[] = {effort_.atoms / n, effort_.edges / n,
                   static_cast<double>(effort_.edges) / std::max<bigint>(1, effort_.places)};
  double ms[] = {effort_.neighbours / n * 1e3, effort_.model / n * 1e3, neighbourhood_.seconds_in_exchange / n * 1e3,
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
  return Pair::memory_usage() + neighbourhood_.memory_usage() + 8.0 * of_ghosts_.capacity();
}

// --- for the plugin -----------------------------------------------------------------------------

extern "C" __attribute__((visibility("default"))) void *graph_pes_new_pair(void *lmp)
{
  return static_cast<Pair *>(new PairGraphPES(static_cast<LAMMPS *>(lmp)));
}
