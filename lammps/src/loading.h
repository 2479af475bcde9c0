// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "exported_model.h"

#include "lammps.h"

#include <memory>
#include <string>
#include <vector>

namespace graph_pes {

// Å and eV in the units of LAMMPS.
struct Units {
  double angstrom = 1, electronvolt = 1;
};

// What all styles do to set a model up. Errors end LAMMPS, with the style in the message.

// Load a file that graph-pes-export made; model.pt of training is exported first, once on each
// machine. All processes call this together.
std::unique_ptr<ExportedModel> load_model(LAMMPS_NS::LAMMPS *, const std::string &style,
                                          const std::string &file, bool cuda);

// Atomic numbers from a chemical symbol for each atom type, counted from 1; 0 for NULL.
std::vector<int> atomic_numbers_of_types(LAMMPS_NS::LAMMPS *, const std::string &style,
                                         const Metadata &, char **symbols);

Units units_of(LAMMPS_NS::LAMMPS *, const std::string &style);

}    // namespace graph_pes
