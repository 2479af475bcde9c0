// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include "neighbourhood.h"

#include "comm.h"
#include "error.h"
#include "lammps.h"
#include "neighbor.h"

#include <algorithm>
#include <string>

namespace LAMMPS_NS {

// As in neigh_request.h, which is not installed with LAMMPS.
class NeighRequest {
 public:
  void set_cutoff(double);
};

}    // namespace LAMMPS_NS

namespace graph_pes {

// Called in init() of a compute or fix: it gets a list of neighbours, and ghosts, as far away as
// its model needs them, whatever the pair style needs, and buffers for what is communicated.
template <typename Style>
void request_neighbours(LAMMPS_NS::LAMMPS *lmp, Style *style, const Neighbourhood &neighbourhood,
                        int flags, int reverse_size)
{
  const int message = neighbourhood.largest_message();
  style->comm_forward = message;
  style->comm_reverse = std::max(message, reverse_size);
  lmp->neighbor->add_request(style, neighbourhood.list_flags() | flags)
      ->set_cutoff(neighbourhood.neighbour_distance());
  lmp->comm->cutghostuser = std::max(lmp->comm->cutghostuser, neighbourhood.reach());
}

// Called in setup(), once LAMMPS knows how far its ghosts reach.
inline void check_reach(LAMMPS_NS::LAMMPS *lmp, const std::string &style,
                        const Neighbourhood &neighbourhood)
{
  const double needed = neighbourhood.reach();
  if (lmp->comm->nprocs > 1 &&
      (lmp->comm->mode != LAMMPS_NS::Comm::SINGLE ||
       lmp->comm->get_comm_cutoff() < needed * (1 - 1e-10)))
    lmp->error->all(FLERR,
                    "{}: its model needs ghosts up to {:g} away: use comm_modify mode single "
                    "cutoff {:g}",
                    style, needed, needed);
}

}    // namespace graph_pes
