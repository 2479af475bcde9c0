// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "fix_plumed.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "timer.h"
#include "update.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <map>
#include <stdexcept>

using namespace LAMMPS_NS;

namespace {

const char *const STYLE = "fix plumed";

constexpr size_t PER_ATOM = 5;     // numbers: position, mass, charge
constexpr size_t FURTHER = 8;      // results besides forces: bias, virial, whether to stop

// Energy in kJ/mol, length in nm and time in ps, by the name of the unit style.
struct PlumedUnits {
  double energy, length, time;
};
const std::map<std::string, PlumedUnits> UNITS = {
    {"metal", {96.48533212331, 0.1, 1}},
    {"real", {4.184, 0.1, 1e-3}},
    {"electron", {2625.4996394799, 0.0529177210903, 1e-3}},
};

}    // namespace

// The functions of PLUMED that its wrapper Plumed.h calls. Members throw std::runtime_error.
class FixPlumed::Kernel {
 public:
  explicit Kernel(const std::string &path)
  {
    // In a scope of its own: LAMMPS exports another BLAS and LAPACK.
    library_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (!library_) throw std::runtime_error(dlerror());
    const auto create = reinterpret_cast<void *(*)()>(function("plumed_plumedmain_create"));
    command_ = reinterpret_cast<Command>(function("plumed_plumedmain_cmd"));
    finalize_ = reinterpret_cast<void (*)(void *)>(function("plumed_plumedmain_finalize"));
    plumed_ = create();
  }
  Kernel(const Kernel &) = delete;
  ~Kernel() { finalize_(plumed_); }    // which writes what is left; the library stays

  void command(const char *name, const void *value = nullptr)
  {
    try {
      command_(plumed_, name, value);
    } catch (const std::exception &exception) {
      throw std::runtime_error(exception.what());
    } catch (...) {
      throw std::runtime_error(std::string("it failed at ") + name + ", see its log");
    }
  }

 private:
  using Command = void (*)(void *, const char *, const void *);
  void *library_, *plumed_ = nullptr;
  Command command_;
  void (*finalize_)(void *);

  void *function(const char *name) const
  {
    void *const found = dlsym(library_, name);
    if (!found) throw std::runtime_error(std::string("it has no function ") + name);
    return found;
  }
};

FixPlumed::FixPlumed(LAMMPS *lmp, int narg, char **arg) : Fix(lmp, narg, arg)
{
  for (int n = 3; n < narg; n += 2) {
    const std::string keyword = arg[n];
    if (n + 1 == narg || (keyword != "plumedfile" && keyword != "outfile"))
      error->all(FLERR, "{}: expected 'plumedfile file' or 'outfile file', got '{}'", STYLE,
                 keyword);
    (keyword == "plumedfile" ? input_ : log_) = arg[n + 1];
  }
  scalar_flag = extscalar = 1;
  global_freq = 1;
  energy_global_flag = virial_global_flag = 1;
  thermo_energy = thermo_virial = 1;
  if (!atom->tag_enable || !atom->tag_consecutive())
    error->all(FLERR, "{} needs atoms with the IDs 1, 2, 3, ...", STYLE);
  const char *const path = getenv("PLUMED_KERNEL");
  if (!path)
    error->all(FLERR,
               "{}: this LAMMPS has no PLUMED of its own, and the environment variable "
               "PLUMED_KERNEL is not set: it names the file libplumedKernel.so",
               STYLE);
  n_ = static_cast<size_t>(atom->natoms);
  std::string failure;
  try {
    if (comm->me == 0) kernel_ = std::make_unique<Kernel>(path);
  } catch (const std::exception &exception) {
    failure = exception.what();
  }
  // Ended by all, since a process that aborts the others may do so before its message is read.
  int failed = !failure.empty();
  MPI_Bcast(&failed, 1, MPI_INT, 0, world);
  if (failed) error->all(FLERR, "{} can't load PLUMED_KERNEL={}: {}", STYLE, path, failure);
}

FixPlumed::~FixPlumed() = default;

int FixPlumed::setmask()
{
  return FixConst::POST_FORCE | FixConst::MIN_POST_FORCE;
}

void FixPlumed::init()
{
  if (results_.empty() && kernel_) {
    try {
      start_kernel();
    } catch (const std::exception &exception) {
      error->one(FLERR, "{}: {}", STYLE, exception.what());
    }
  }
  results_.resize(3 * n_ + FURTHER);
  if (static_cast<size_t>(atom->natoms) != n_)
    error->all(FLERR, "{}: the number of atoms has changed from {} to {}", STYLE, n_, atom->natoms);
}

void FixPlumed::start_kernel()
{
  const std::string style = update->unit_style;
  const int precision = sizeof(double), n = static_cast<int>(n_);
  kernel_->command("setRealPrecision", &precision);
  if (style == "lj") {
    kernel_->command("setNaturalUnits");
  } else {
    const auto found = UNITS.find(style);
    if (found == UNITS.end())
      throw std::runtime_error("expected units lj, metal, real or electron, got " + style);
    kernel_->command("setMDEnergyUnits", &found->second.energy);
    kernel_->command("setMDLengthUnits", &found->second.length);
    kernel_->command("setMDTimeUnits", &found->second.time);
  }
  kernel_->command("setMDEngine", "LAMMPS");
  kernel_->command("setNatoms", &n);
  kernel_->command("setTimestep", &update->dt);
  kernel_->command("setPlumedDat", input_.c_str());
  kernel_->command("setLogFile", log_.c_str());
  kernel_->command("init");
}

void FixPlumed::setup(int vflag)
{
  post_force(vflag);
}

void FixPlumed::min_setup(int vflag)
{
  post_force(vflag);
}

void FixPlumed::min_post_force(int vflag)
{
  post_force(vflag);
}

void FixPlumed::post_force(int vflag)
{
  v_init(vflag);
  gather();
  std::fill(results_.begin(), results_.end(), 0);
  if (kernel_) {
    try {
      evaluate();
    } catch (const std::exception &exception) {
      error->one(FLERR, "{}: {}", STYLE, exception.what());
    }
  }
  MPI_Bcast(results_.data(), static_cast<int>(results_.size()), MPI_DOUBLE, 0, world);
  for (int i = 0; i < atom->nlocal; i++)
    for (int k = 0; k < 3; k++) atom->f[i][k] += results_[3 * (atom->tag[i] - 1) + k];
  const double *const further = &results_[3 * n_];
  bias_ = further[0];
  if (comm->me == 0)
    for (int k = 0; k < 6; k++) virial[k] += further[1 + k];
  if (further[7] != 0) timer->force_timeout();
}

// All atoms, by their IDs, on the first process.
void FixPlumed::gather()
{
  own_.assign(PER_ATOM * n_, 0);
  all_.resize(own_.size());
  for (int i = 0; i < atom->nlocal; i++) {
    const size_t n = atom->tag[i] - 1;
    domain->unmap(atom->x[i], atom->image[i], &own_[3 * n]);
    own_[3 * n_ + n] = atom->rmass ? atom->rmass[i] : atom->mass[atom->type[i]];
    own_[4 * n_ + n] = atom->q ? atom->q[i] : 0;
  }
  MPI_Reduce(own_.data(), all_.data(), static_cast<int>(own_.size()), MPI_DOUBLE, MPI_SUM, 0, world);
}

void FixPlumed::evaluate()
{
  const double *const h = domain->h;
  const double box[9] = {h[0], 0, 0, h[5], h[1], 0, h[4], h[3], h[2]};
  const long long step = update->ntimestep;
  double w[9] = {}, *const further = &results_[3 * n_];
  int stop = 0, needs_energy = 0;
  kernel_->command("setStepLongLong", &step);
  kernel_->command("setStopFlag", &stop);
  kernel_->command("setPositions", all_.data());
  kernel_->command("setMasses", &all_[3 * n_]);
  kernel_->command("setCharges", &all_[4 * n_]);
  kernel_->command("setForces", results_.data());
  kernel_->command("setBox", box);
  kernel_->command("setVirial", w);
  kernel_->command("prepareCalc");
  kernel_->command("isEnergyNeeded", &needs_energy);
  if (needs_energy)
    throw std::runtime_error(input_ + " uses ENERGY, which this fix does not give to PLUMED");
  kernel_->command("performCalc");
  kernel_->command("getBias", &further[0]);
  const int order[6] = {0, 4, 8, 1, 2, 5};    // xx, yy, zz, xy, xz, yz
  for (int k = 0; k < 6; k++) further[1 + k] = -w[order[k]];
  further[7] = stop;
}

double FixPlumed::compute_scalar()
{
  return bias_;
}
