// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "compute_graph_pes.h"

#include "requests.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "group.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>

using namespace LAMMPS_NS;

namespace {

const char *const STYLE = "compute graph_pes";

}    // namespace

ComputeGraphPES::ComputeGraphPES(LAMMPS *lmp, int narg, char **arg) :
    Compute(lmp, narg, arg), neighbourhood_(lmp)
{
  int next = 3;
  bool cuda = false;
  if (narg > next && (std::string(arg[next]) == "cpu" || std::string(arg[next]) == "cuda"))
    cuda = std::string(arg[next++]) == "cuda";
  const int types = atom->ntypes;
  if (narg != next + 2 + types)
    error->all(FLERR,
               "{}: expected '[cpu|cuda] file output' and {} chemical symbols, one for each atom "
               "type",
               STYLE, types);
  file_ = arg[next];
  output_ = arg[next + 1];
  model_ = graph_pes::load_model(lmp, STYLE, file_, cuda);
  numbers_of_types_ =
      graph_pes::atomic_numbers_of_types(lmp, STYLE, model_->metadata(), arg + next + 2);
  choose_output();
}

ComputeGraphPES::~ComputeGraphPES()
{
  memory->destroy(of_atoms_);
  memory->sfree(array_atom);
}

void ComputeGraphPES::choose_output()
{
  const auto &metadata = model_->metadata();
  const auto &all = metadata.outputs;
  const auto found = std::find(all.begin(), all.end(), output_);
  if (found == all.end())
    error->all(FLERR, "{}: {} predicts {}, not '{}'", STYLE, file_, utils::join_words(all, " "),
               output_);
  const auto n = static_cast<size_t>(found - all.begin());
  kind_ = metadata.kinds.at(n);
  width_ = metadata.widths.at(n);
  if (kind_ == "edge")
    error->all(FLERR, "{}: {} belongs to pairs of atoms, not to atoms", STYLE, output_);
  if (kind_ == "atom") {
    peratom_flag = 1;
    size_peratom_cols = width_ == 1 ? 0 : width_;
  } else if (width_ == 1) {
    scalar_flag = 1;
    extscalar = kind_ == "sum";
  } else {
    vector_flag = 1;
    size_vector = width_;
    extvector = kind_ == "sum";
  }
  values_.resize(width_);
  if (vector_flag) vector = values_.data();
  const std::string &unit = metadata.units.at(n);
  if (comm->me == 0)
    utils::logmesg(lmp, "{} {}: {} of {}{}{}\n", STYLE, id, output_, file_,
                   unit.empty() ? "" : ", in ", unit);
}

void ComputeGraphPES::init()
{
  if (kind_ == "structure" && comm->nprocs > 1)
    error->all(FLERR,
               "{}: {} is not a sum over atoms, so that no process knows enough of the structure: "
               "use one process",
               STYLE, output_);
  const auto &metadata = model_->metadata();
  if (!peratom_flag && metadata.whole_structure && igroup != group->find("all"))
    error->all(FLERR, "{}: {} belongs to the whole structure: use the group all", STYLE, output_);
  const auto &all = metadata.outputs;
  const bool derived = std::find(all.begin(), all.end(), "gradients") != all.end();
  if (output_ == "forces_uncertainty" && derived && !metadata.exchanges_ghosts && comm->nprocs > 1)
    error->all(FLERR,
               "{}: the model does not exchange ghosts, so that no process knows all of the forces "
               "of its members: use one process",
               STYLE);
  const auto units = graph_pes::units_of(lmp, STYLE);
  graph_pes::set_number_of_threads(comm->nthreads);
  neighbourhood_.init(
      model_->metadata(), units.angstrom, [this](int size) { comm->forward_comm(this, size); },
      [this](int size) { comm->reverse_comm(this, size); });
  graph_pes::request_neighbours(lmp, this, neighbourhood_, NeighConst::REQ_OCCASIONAL, 0);
}

void ComputeGraphPES::init_list(int, NeighList *list)
{
  list_ = list;
}

void ComputeGraphPES::setup()
{
  graph_pes::check_reach(lmp, STYLE, neighbourhood_);
}

// The output, of own atoms or of the part of the structure that they are.
const double *ComputeGraphPES::evaluate()
{
  neighbor->build_one(list_);
  neighbourhood_.find(list_, numbers_of_types_);
  auto inputs = neighbourhood_.inputs();
  mask_.assign(inputs.mask, inputs.mask + inputs.N);
  for (int i = 0; i < atom->nlocal; i++)
    if (!(atom->mask[i] & groupbit)) mask_[i] = 0;
  // what belongs to an atom of the group may depend on the energies of all others
  if (!peratom_flag && !model_->metadata().whole_structure) inputs.mask = mask_.data();
  try {
    model_->run(inputs, neighbourhood_.exchange());
  } catch (const std::exception &exception) {
    error->one(FLERR, "{}: {}: {}", STYLE, file_, exception.what());
  }
  return model_->output(output_);
}

void ComputeGraphPES::compute_peratom()
{
  invoked_peratom = update->ntimestep;
  const int own = atom->nlocal;
  if (atom->nmax > reserved_ || !of_atoms_) {
    reserved_ = atom->nmax;
    memory->grow(of_atoms_, reserved_ * width_, "graph_pes:of_atoms");
    if (width_ == 1) {
      vector_atom = of_atoms_;
    } else {
      memory->sfree(array_atom);
      array_atom = static_cast<double **>(
          memory->smalloc(reserved_ * sizeof(double *), "graph_pes:array_atom"));
      for (int i = 0; i < reserved_; i++) array_atom[i] = of_atoms_ + i * width_;
    }
  }
  const double *const found = evaluate();
  for (int i = 0; i < own; i++)
    for (int k = 0; k < width_; k++)
      of_atoms_[i * width_ + k] = mask_[i] == 0 ? 0 : found[i * width_ + k];
}

void ComputeGraphPES::compute_structure()
{
  const double *const found = evaluate();
  MPI_Allreduce(found, values_.data(), width_, MPI_DOUBLE, MPI_SUM, world);
}

double ComputeGraphPES::compute_scalar()
{
  invoked_scalar = update->ntimestep;
  compute_structure();
  return scalar = values_[0];
}

void ComputeGraphPES::compute_vector()
{
  invoked_vector = update->ntimestep;
  compute_structure();
}

double ComputeGraphPES::memory_usage()
{
  return neighbourhood_.memory_usage() + 8.0 * (reserved_ * width_ + mask_.capacity());
}

// --- communication ------------------------------------------------------------------------------

int ComputeGraphPES::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  return neighbourhood_.pack_forward(n, atoms, buffer);
}

void ComputeGraphPES::unpack_forward_comm(int n, int first, double *buffer)
{
  neighbourhood_.unpack_forward(n, first, buffer);
}

int ComputeGraphPES::pack_reverse_comm(int n, int first, double *buffer)
{
  return neighbourhood_.pack_reverse(n, first, buffer);
}

void ComputeGraphPES::unpack_reverse_comm(int n, int *atoms, double *buffer)
{
  neighbourhood_.unpack_reverse(n, atoms, buffer);
}

// --- for the plugin -----------------------------------------------------------------------------

extern "C" __attribute__((visibility("default"))) void *graph_pes_new_compute(void *lmp, int narg,
                                                                              char **arg)
{
  return static_cast<Compute *>(new ComputeGraphPES(static_cast<LAMMPS *>(lmp), narg, arg));
}
