// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
//
// What LAMMPS loads when it starts: names the styles. Torch is loaded with the first of them that
// is used, from libgraph_pes.so beside this file, in a scope of its own: LAMMPS exports a slow
// BLAS that would otherwise take the place of torch's.
#include "fix_plumed.h"

#include "error.h"
#include "lammps.h"
#include "modify.h"

#include <dlfcn.h>

#include <string>

using namespace LAMMPS_NS;

namespace {

// As in lammpsplugin.h, which is not installed with LAMMPS.
extern "C" {
typedef void *(Factory)(void *);
typedef void *(FactoryWithArguments)(void *, int, char **);
struct Plugin {
  const char *version, *style, *name, *info, *author;
  union {
    Factory *plain;
    FactoryWithArguments *with_arguments;
  } creator;
  void *handle;
};
typedef void (*Register)(Plugin *, void *);
}

// A function of the library that knows torch.
void *function(const char *name, LAMMPS *lmp)
{
  static void *library = nullptr;
  if (!library) {
    Dl_info own;
    dladdr(reinterpret_cast<void *>(&function), &own);
    std::string path = own.dli_fname;
    path = path.substr(0, path.rfind('/') + 1) + "libgraph_pes.so";
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (!library)
      lmp->error->all(FLERR, "graph_pes can't load {}: {}. 'graph-pes-lammps doctor' may tell why",
                      path, dlerror());
  }
  return dlsym(library, name);
}

void *new_pair(void *lmp)
{
  const auto found = function("graph_pes_new_pair", static_cast<LAMMPS *>(lmp));
  return reinterpret_cast<Factory *>(found)(lmp);
}

void *new_compute(void *lmp, int narg, char **arg)
{
  const auto found = function("graph_pes_new_compute", static_cast<LAMMPS *>(lmp));
  return reinterpret_cast<FactoryWithArguments *>(found)(lmp, narg, arg);
}

void *new_mobility(void *lmp, int narg, char **arg)
{
  const auto found = function("graph_pes_new_mobility", static_cast<LAMMPS *>(lmp));
  return reinterpret_cast<FactoryWithArguments *>(found)(lmp, narg, arg);
}

void *new_plumed(void *lmp, int narg, char **arg)
{
  return static_cast<Fix *>(new FixPlumed(static_cast<LAMMPS *>(lmp), narg, arg));
}

}    // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle,
                                                                         void *regfunc)
{
  Plugin plugin{static_cast<LAMMPS *>(lmp)->version,
                "pair",
                "graph_pes",
                "models of graph-pes",
                "the graph-pes authors",
                {.plain = &new_pair},
                handle};
  const auto add = reinterpret_cast<Register>(regfunc);
  add(&plugin, lmp);
  plugin.style = "compute";
  plugin.creator.with_arguments = &new_compute;
  add(&plugin, lmp);
  plugin.style = "fix";
  plugin.name = "graph_pes/mobility";
  plugin.creator.with_arguments = &new_mobility;
  add(&plugin, lmp);
  // unless LAMMPS was built with its own
  if (static_cast<LAMMPS *>(lmp)->modify->fix_map->count("plumed")) return;
  plugin.name = "plumed";
  plugin.info = "PLUMED, loaded from $PLUMED_KERNEL";
  plugin.creator.with_arguments = &new_plumed;
  add(&plugin, lmp);
}
