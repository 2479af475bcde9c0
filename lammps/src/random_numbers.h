// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace graph_pes {

// Philox4x32-10, a random function of a counter and a key (Salmon et al.,
// doi:10.1145/2063384.2063405). Numbers that follow from the step and the atom are the same on any
// number of processes, and after a restart.
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key)
{
  for (int round = 0; round < 10; round++) {
    const uint64_t p = uint64_t{0xD2511F53} * counter[0];
    const uint64_t q = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(q >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(q),
               static_cast<uint32_t>(p >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// Three numbers of the normal distribution. Streams are independent of each other.
inline std::array<double, 3> normal_vector(uint32_t seed, uint32_t stream, int64_t step, int64_t tag)
{
  const auto part = [](int64_t x, int shift) { return static_cast<uint32_t>(x >> shift); };
  const auto bits =
      philox({part(step, 0), part(step, 32), part(tag, 0), part(tag, 32)}, {seed, stream});
  double u[4];
  for (int k = 0; k < 4; k++) u[k] = (bits[k] + 0.5) / 4294967296.0;
  constexpr double TWO_PI = 6.28318530717958647692;
  const double a = std::sqrt(-2 * std::log(u[0])), b = std::sqrt(-2 * std::log(u[2]));
  return {a * std::cos(TWO_PI * u[1]), a * std::sin(TWO_PI * u[1]), b * std::cos(TWO_PI * u[3])};
}

}    // namespace graph_pes
