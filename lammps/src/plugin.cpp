// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
//
// What LAMMPS loads when it starts: names the styles. Torch is loaded with the first of them that
// is used, from libgraph_pes.so beside this file, in a scope of its own: LAMMPS exports a slow
// BLAS that would otherwise take the place of torch's.
#include "error.h"
#include "lammps.h"

#include <dlfcn.h>

#include <string>

using namespace LAMMPS_NS;

namespace {

// As in lammpsplugin.h, which is not installed with LAMMPS.
extern "C" {
typedef void *(Factory)(void *);
struct Plugin {
  const char *version, *style, *name, *info, *author;
  Factory *creator;
  void *handle;
};
typedef void (*Register)(Plugin *, void *);
}

// A function of the library that knows torch.
Factory *factory(const char *name, LAMMPS *lmp)
{
  static void *library = nullptr;
  if (!library) {
    Dl_info own;
    dladdr(reinterpret_cast<void *>(&factory), &own);
    std::string path = own.dli_fname;
    path = path.substr(0, path.rfind('/') + 1) + "libgraph_pes.so";
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (!library)
      lmp->error->all(FLERR, "graph_pes can't load {}: {}. 'graph-pes-lammps doctor' may tell why",
                      path, dlerror());
  }
  return reinterpret_cast<Factory *>(dlsym(library, name));
}

void *new_pair(void *lmp)
{
  return factory("graph_pes_new_pair", static_cast<LAMMPS *>(lmp))(lmp);
}

}    // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  Plugin plugin{static_cast<LAMMPS *>(lmp)->version,
                "pair",
                "graph_pes",
                "models of graph-pes",
                "the graph-pes authors",
                &new_pair,
                handle};
  reinterpret_cast<Register>(regfunc)(&plugin, lmp);
}
