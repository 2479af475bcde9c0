// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "fix_graph_pes_mobility.h"

#include "analytic_mobility.h"
#include "random_numbers.h"

#include "atom.h"
#include "error.h"
#include "force.h"
#include "update.h"

#include <cmath>

using namespace LAMMPS_NS;

namespace {

const char *const STYLE = "fix graph_pes/mobility";

// Streams of random numbers.
constexpr uint32_t NOISE = 0, DISPLACEMENTS = 1;

}    // namespace

FixGraphPESMobility::FixGraphPESMobility(LAMMPS *lmp, int narg, char **arg) : Fix(lmp, narg, arg)
{
  time_integrate = 1;
  if (!atom->tag_enable) error->all(FLERR, "{} needs atom IDs", STYLE);
  const std::string kind = narg > 3 ? arg[3] : "";
  int next = 0;
  if (kind == "oseen" || kind == "rpy")
    next = read_analytic(narg, arg);
  else if (kind == "model")
    next = read_model(narg, arg);
  else
    error->all(FLERR, "{}: expected oseen, rpy or model, got '{}'", STYLE, kind);
  read_noise(next, narg, arg);
}

int FixGraphPESMobility::read_analytic(int narg, char **arg)
{
  const std::string kind = arg[3];
  if (narg < 6) error->all(FLERR, "{}: expected '{} viscosity radius'", STYLE, kind);
  const double viscosity = utils::numeric(FLERR, arg[4], false, lmp);
  const double radius = utils::numeric(FLERR, arg[5], false, lmp);
  if (!(viscosity > 0 && radius > 0))
    error->all(FLERR, "{}: expected a viscosity and a radius above 0, got {} and {}", STYLE, arg[4],
               arg[5]);
  const auto tensor =
      kind == "oseen" ? graph_pes::Tensor::OSEEN : graph_pes::Tensor::ROTNE_PRAGER;
  mobility_ = std::make_unique<graph_pes::AnalyticMobility>(lmp, STYLE, groupbit, tensor, viscosity,
                                                            radius);
  return 6;
}

int FixGraphPESMobility::read_model(int narg, char **arg)
{
  int next = 4;
  bool cuda = false;
  if (narg > next && (std::string(arg[next]) == "cpu" || std::string(arg[next]) == "cuda"))
    cuda = std::string(arg[next++]) == "cuda";
  const int types = atom->ntypes;
  if (narg < next + 1 + types)
    error->all(FLERR,
               "{}: expected 'model [cpu|cuda] file' and {} chemical symbols, one for each atom "
               "type",
               STYLE, types);
  auto learned = std::make_unique<graph_pes::LearnedMobility>(lmp, STYLE, groupbit, arg[next], cuda,
                                                              arg + next + 1);
  learned_ = learned.get();
  mobility_ = std::move(learned);
  return next + 1 + types;
}

void FixGraphPESMobility::read_noise(int next, int narg, char **arg)
{
  bool seeded = false;
  for (; next < narg; next += 2) {
    const std::string keyword = arg[next];
    if (next + 1 == narg) error->all(FLERR, "{}: expected a value after {}", STYLE, keyword);
    if (keyword == "temperature") {
      temperature_ = utils::numeric(FLERR, arg[next + 1], false, lmp);
    } else if (keyword == "seed") {
      const auto seed = utils::bnumeric(FLERR, arg[next + 1], false, lmp);
      if (seed <= 0 || seed > UINT32_MAX)
        error->all(FLERR, "{}: expected a seed from 1 to {}, got {}", STYLE, UINT32_MAX, seed);
      seed_ = static_cast<uint32_t>(seed);
      seeded = true;
    } else {
      error->all(FLERR, "{}: expected temperature or seed, got '{}'", STYLE, keyword);
    }
  }
  if (!(temperature_ >= 0))
    error->all(FLERR, "{}: expected a temperature of at least 0, got {:g}", STYLE, temperature_);
  if (temperature_ > 0 && !seeded)
    error->all(FLERR, "{}: noise at temperature {:g} needs a seed", STYLE, temperature_);
}

int FixGraphPESMobility::setmask()
{
  return FixConst::INITIAL_INTEGRATE;
}

void FixGraphPESMobility::init()
{
  if (utils::strmatch(update->integrate_style, "^respa"))
    error->all(FLERR, "{}: expected run_style verlet, got {}", STYLE, update->integrate_style);
  if (learned_) learned_->init(this);
}

void FixGraphPESMobility::init_list(int, NeighList *list)
{
  learned_->set_list(list);
}

void FixGraphPESMobility::setup(int)
{
  mobility_->setup();
}

// A step of Euler and Maruyama.
void FixGraphPESMobility::initial_integrate(int)
{
  const int own = atom->nlocal;
  const double kT = force->boltz * temperature_, dt = update->dt;
  drift_.assign(3 * static_cast<size_t>(own), 0);
  mobility_->find();
  if (kT > 0) {
    draw(DISPLACEMENTS);
    mobility_->add_divergence(random_, drift_);
    for (double &value : drift_) value *= kT;
  }
  mobility_->evaluate();

  forces_.assign(3 * static_cast<size_t>(own), 0);
  for (int i = 0; i < own; i++)
    if (atom->mask[i] & groupbit)
      for (int k = 0; k < 3; k++) forces_[3 * i + k] = atom->f[i][k];
  mobility_->multiply(forces_, product_);
  for (int i = 0; i < own; i++) {
    if (!(atom->mask[i] & groupbit)) continue;
    for (int k = 0; k < 3; k++) {
      atom->v[i][k] = product_[3 * i + k] + drift_[3 * i + k];
      atom->x[i][k] += dt * atom->v[i][k];
    }
  }
  if (kT == 0) return;

  draw(NOISE);
  mobility_->multiply_root(random_, product_);
  const double scale = std::sqrt(2 * kT * dt);
  for (int i = 0; i < own; i++)
    for (int k = 0; k < 3; k++) atom->x[i][k] += scale * product_[3 * i + k];
}

// Normal random numbers of this step.
void FixGraphPESMobility::draw(uint32_t stream)
{
  random_.assign(3 * static_cast<size_t>(atom->nlocal), 0);
  for (int i = 0; i < atom->nlocal; i++) {
    if (!(atom->mask[i] & groupbit)) continue;
    const auto numbers =
        graph_pes::normal_vector(seed_, stream, update->ntimestep, atom->tag[i]);
    for (int k = 0; k < 3; k++) random_[3 * i + k] = numbers[k];
  }
}

// --- communication, of learned mobilities only --------------------------------------------------

int FixGraphPESMobility::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  return learned_->neighbourhood().pack_forward(n, atoms, buffer);
}

void FixGraphPESMobility::unpack_forward_comm(int n, int first, double *buffer)
{
  learned_->neighbourhood().unpack_forward(n, first, buffer);
}

int FixGraphPESMobility::pack_reverse_comm(int n, int first, double *buffer)
{
  return learned_->neighbourhood().pack_reverse(n, first, buffer);
}

void FixGraphPESMobility::unpack_reverse_comm(int n, int *atoms, double *buffer)
{
  learned_->neighbourhood().unpack_reverse(n, atoms, buffer);
}

// --- for the plugin -----------------------------------------------------------------------------

extern "C" __attribute__((visibility("default"))) void *graph_pes_new_mobility(void *lmp, int narg,
                                                                               char **arg)
{
  return static_cast<Fix *>(new FixGraphPESMobility(static_cast<LAMMPS *>(lmp), narg, arg));
}
