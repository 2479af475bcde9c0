// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#include "loading.h"

#include "elements.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "update.h"
#include "utils.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

using namespace LAMMPS_NS;

namespace graph_pes {

namespace {

// By the name of the unit style.
const std::map<std::string, Units> UNITS = {
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

std::string quoted(const std::string &text)
{
  std::string result = "'";
  for (char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// Run a command; its exit status, and what it prints.
int run(const std::string &command, std::string &output)
{
  FILE *pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return -1;
  char part[1024];
  while (fgets(part, sizeof(part), pipe)) output += part;
  return pclose(pipe);
}

bool ends_with(const std::string &text, const std::string &end)
{
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// The file itself, or what a model.pt is exported to.
std::string exported_file(LAMMPS *lmp, const std::string &file, bool cuda)
{
  if (!ends_with(file, ".pt")) return file;
  std::string output;
  int status = 0;
  if (lmp->comm->me == 0) {
    utils::logmesg(lmp, "graph_pes: exporting {}, which takes minutes unless it was done before\n",
                   file);
    const char *chosen = getenv("GRAPH_PES_PYTHON");
    status = run(quoted(chosen ? chosen : GRAPH_PES_PYTHON) + " -m graph_pes.cli.lammps export " +
                     quoted(file) + (cuda ? " --device cuda" : " --device cpu"),
                 output);
  }
  MPI_Bcast(&status, 1, MPI_INT, 0, lmp->world);
  output = utils::trim(broadcast(output, lmp->world));
  if (status != 0) lmp->error->all(FLERR, "graph_pes can't export {}:\n{}", file, output);
  return output.substr(output.rfind('\n') + 1);    // the last line is the path
}

int accelerator(LAMMPS *lmp, const std::string &style)
{
  const int available = number_of_accelerators();
  if (available == 0) lmp->error->all(FLERR, "{} cuda: torch finds no CUDA device", style);
  return lmp->comm->me % available;
}

}    // namespace

std::unique_ptr<ExportedModel> load_model(LAMMPS *lmp, const std::string &style,
                                          const std::string &file, bool cuda)
{
  const std::string path = exported_file(lmp, file, cuda);
  const int device = cuda ? accelerator(lmp, style) : -1;
  std::unique_ptr<ExportedModel> model;
  std::string problem;
  try {
    model = std::make_unique<ExportedModel>(path, device);
    const auto &metadata = model->metadata();
    if (metadata.energy_unit != "eV" || metadata.length_unit != "Angstrom")
      problem = "it states energies in " + metadata.energy_unit + " and lengths in " +
          metadata.length_unit + "; expected eV and Angstrom";
  } catch (const std::exception &exception) {
    problem = exception.what();
  }
  // Where all processes fail they end together; where some do, these end the others.
  const int failed = problem.empty() ? 0 : 1;
  int failures;
  MPI_Allreduce(&failed, &failures, 1, MPI_INT, MPI_SUM, lmp->world);
  const std::string message = style + " can't use the model " + path + ": " + problem;
  if (failures == lmp->comm->nprocs) lmp->error->all(FLERR, message);
  if (failed) lmp->error->one(FLERR, message);
  if (failures) MPI_Barrier(lmp->world);
  return model;
}

std::vector<int> atomic_numbers_of_types(LAMMPS *lmp, const std::string &style,
                                         const Metadata &metadata, char **symbols)
{
  const auto &known = metadata.elements;
  std::vector<int> numbers(lmp->atom->ntypes + 1, 0);
  for (int type = 1; type <= lmp->atom->ntypes; type++) {
    const std::string symbol = symbols[type - 1];
    if (symbol == "NULL") continue;
    numbers[type] = atomic_number(symbol);
    if (numbers[type] == 0)
      lmp->error->all(FLERR, "{}: expected a chemical symbol for type {}, got '{}'", style, type,
                      symbol);
    if (!known.empty() && std::find(known.begin(), known.end(), symbol) == known.end())
      lmp->error->all(FLERR, "{}: the model knows the elements {}, but type {} is to be {}", style,
                      utils::join_words(known, " "), type, symbol);
  }
  if (std::all_of(numbers.begin(), numbers.end(), [](int Z) { return Z == 0; }))
    lmp->error->all(FLERR, "{}: all atom types are NULL", style);
  return numbers;
}

Units units_of(LAMMPS *lmp, const std::string &style)
{
  const auto found = UNITS.find(lmp->update->unit_style);
  if (found == UNITS.end())
    lmp->error->all(FLERR,
                    "{}: the energies of models are in eV, which units {} can't express: use units "
                    "metal",
                    style, lmp->update->unit_style);
  return found->second;
}

}    // namespace graph_pes
