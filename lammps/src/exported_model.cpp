// graph_pes in LAMMPS. Copyright the graph-pes authors; GPL-2.0-only, see ../LICENSE.
// The only file that knows torch.
#include "exported_model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/library.h>
#include <torch/version.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <unordered_map>

#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace graph_pes {

namespace {

constexpr int FORMAT = 7;    // of exported files, as in graph_pes/deploy/exported.py

// --- the operators by which models ask for rows of ghosts ---------------------------------------

GhostExchange *current_exchange = nullptr;    // of the model that runs

// x (N, C) to (M, C), or back: `like` has as many rows as the result
at::Tensor moved(const at::Tensor &x, const at::Tensor &like, bool to_ghosts)
{
  const int64_t before = x.size(0), after = like.size(0);
  if (!current_exchange) {
    if (before != after)
      throw std::runtime_error("a model asks for ghost atoms where there are none");
    return x.clone();
  }
  auto rows = at::empty({std::max(before, after), x.size(1)}, x.options().device(at::kCPU));
  rows.narrow(0, 0, before).copy_(x);
  const Rows view{static_cast<char *>(rows.data_ptr()), static_cast<int>(x.size(1)),
                  static_cast<int>(x.element_size())};
  if (to_ghosts)
    current_exchange->copy_to_ghosts(view);
  else
    current_exchange->add_from_ghosts(view);
  return rows.narrow(0, 0, after).to(x.device());
}

at::Tensor ghost_exchange(const at::Tensor &x, const at::Tensor &like)
{
  return moved(x, like, true);
}

at::Tensor ghost_reverse(const at::Tensor &x, const at::Tensor &like)
{
  return moved(x, like, false);
}

// Compiled programs look these up by name. Python declares them, too, where it runs graph_pes in
// the same process.
void register_operators()
{
  static std::vector<torch::Library> libraries;
  if (!libraries.empty()) return;
  const auto file = __FILE__;
  if (!c10::Dispatcher::singleton().findSchema({"graph_pes::ghost_exchange", ""})) {
    libraries.emplace_back(torch::Library::FRAGMENT, "graph_pes", std::nullopt, file, __LINE__);
    libraries.back().def("ghost_exchange(Tensor x, Tensor like) -> Tensor");
    libraries.back().def("ghost_reverse(Tensor x, Tensor like) -> Tensor");
  }
  for (auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    libraries.emplace_back(torch::Library::IMPL, "graph_pes", std::make_optional(key), file,
                           __LINE__);
    libraries.back().impl("ghost_exchange", &ghost_exchange);
    libraries.back().impl("ghost_reverse", &ghost_reverse);
  }
}

// --- memory -------------------------------------------------------------------------------------

// Keep what a step no longer needs for the next one, as graph_pes/memory.py does: glibc would give
// it back to the system. What the environment says of memory goes before.
void keep_freed_memory()
{
#ifdef __GLIBC__
  constexpr int KEPT = 1 << 30;    // bytes
  for (char **variable = environ; *variable; variable++) {
    const std::string text = *variable;
    if (text.rfind("MALLOC_", 0) == 0 || text.rfind("GLIBC_TUNABLES=", 0) == 0) return;
  }
  mallopt(M_TRIM_THRESHOLD, KEPT);
  mallopt(M_MMAP_THRESHOLD, KEPT);
#endif
}

// --- metadata: strings that hold JSON -----------------------------------------------------------

using Strings = std::unordered_map<std::string, std::string>;

const std::string &entry(const Strings &strings, const std::string &key)
{
  const auto found = strings.find(key);
  if (found == strings.end())
    throw std::runtime_error("it was not made by this version of graph-pes-export (no '" + key +
                             "'): export the model again");
  return found->second;
}

double number(const Strings &strings, const std::string &key)
{
  return std::stod(entry(strings, key));
}

// What stands between pairs of quotation marks.
std::vector<std::string> texts(const Strings &strings, const std::string &key)
{
  std::vector<std::string> found;
  const std::string &json = entry(strings, key);
  for (size_t from = json.find('"'); from != std::string::npos;) {
    const size_t to = json.find('"', from + 1);
    found.push_back(json.substr(from + 1, to - from - 1));
    from = json.find('"', to + 1);
  }
  return found;
}

std::vector<int> integers(const Strings &strings, const std::string &key)
{
  std::string json = entry(strings, key);
  std::replace_if(
      json.begin(), json.end(), [](char c) { return !std::isdigit(c); }, ' ');
  std::istringstream stream(json);
  return {std::istream_iterator<int>(stream), std::istream_iterator<int>()};
}

Metadata metadata_from(const Strings &strings)
{
  const int format = static_cast<int>(number(strings, "format"));
  if (format != FORMAT)
    throw std::runtime_error("it has format " + std::to_string(format) + ", but this plugin reads " +
                             std::to_string(FORMAT) +
                             ": export the model again, or run 'graph-pes-lammps build' again");
  Metadata metadata;
  metadata.cutoff = number(strings, "cutoff");
  metadata.dtype = texts(strings, "dtype").at(0);
  metadata.device = texts(strings, "device").at(0);
  metadata.energy_unit = texts(strings, "energy_unit").at(0);
  metadata.length_unit = texts(strings, "length_unit").at(0);
  metadata.torch_version = texts(strings, "torch").at(0);
  metadata.elements = texts(strings, "elements");
  metadata.outputs = texts(strings, "outputs");
  metadata.kinds = texts(strings, "kinds");
  metadata.widths = integers(strings, "widths");
  metadata.units = texts(strings, "units");
  metadata.exchange_widths = integers(strings, "exchange_widths");
  metadata.whole_structure = entry(strings, "whole_structure") == "true";
  metadata.layers = static_cast<int>(number(strings, "layers"));
  metadata.exchanges_ghosts = entry(strings, "exchanges_ghosts") == "true";
  return metadata;
}

void check_file(const std::string &path)
{
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("there is no such file, or it can't be read");
  char start[2] = {};
  file.read(start, 2);
  if (start[0] != 'P' || start[1] != 'K')
    throw std::runtime_error("it is no file made by graph-pes-export");
  // The table of contents of an archive is at its end, within 65,557 bytes.
  file.seekg(0, std::ios::end);
  const auto size = static_cast<int64_t>(file.tellg());
  std::string end(std::min<int64_t>(size, 65557), '\0');
  file.seekg(size - static_cast<int64_t>(end.size()));
  file.read(end.data(), static_cast<std::streamsize>(end.size()));
  if (end.rfind("PK\x05\x06") == std::string::npos)
    throw std::runtime_error("it is damaged: its end is missing");
}

std::string first_line(const std::string &text)
{
  return text.substr(0, std::min<size_t>(text.find('\n'), 300));
}

}    // namespace

// --- models -------------------------------------------------------------------------------------

struct ExportedModel::Program {
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader;
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kDouble;
  std::unordered_map<std::string, at::Tensor> outputs;
};

ExportedModel::ExportedModel(const std::string &path, int accelerator) :
    program_(std::make_unique<Program>())
{
  check_file(path);
  register_operators();
  keep_freed_memory();
  try {
    program_->loader = std::make_unique<torch::inductor::AOTIModelPackageLoader>(
        path, "model", false, 1, static_cast<c10::DeviceIndex>(accelerator));
  } catch (const std::exception &error) {
    throw std::runtime_error("torch " TORCH_VERSION
                             " can't load it. It is damaged, or was made with another version of "
                             "torch, for another processor, or with --mode portable (" +
                             first_line(error.what()) + ")");
  }
  metadata_ = metadata_from(program_->loader->get_metadata());
  const std::string device = accelerator < 0 ? "cpu" : "cuda";
  if (metadata_.device != device)
    throw std::runtime_error("it was exported for " + metadata_.device + ", but is to run on " +
                             device + ": export it with --device " + device);
  if (accelerator >= 0)
    program_->device = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(accelerator));
  if (metadata_.dtype == "float32") program_->dtype = at::kFloat;
}

ExportedModel::~ExportedModel() = default;

bool ExportedModel::predicts(const std::string &output) const
{
  const auto &all = metadata_.outputs;
  return std::find(all.begin(), all.end(), output) != all.end();
}

void ExportedModel::run(const ModelInputs &in, GhostExchange *exchange)
{
  const c10::InferenceMode guard;
  const auto tensor = [this](const void *data, at::IntArrayRef shape, at::ScalarType type) {
    return at::from_blob(const_cast<void *>(data), shape, at::TensorOptions().dtype(type))
        .to(program_->device);
  };
  try {
    current_exchange = exchange;
    std::vector<at::Tensor> arguments = {
        tensor(in.vectors, {in.N, in.D, 3}, at::kDouble).to(program_->dtype),
        tensor(in.neighbours, {in.N, in.D}, at::kLong),
        tensor(in.numbers, {in.M}, at::kLong),
        tensor(in.mask, {in.N}, at::kDouble),
    };
    if (metadata_.whole_structure) {
      arguments.push_back(tensor(in.positions, {in.N, 3}, at::kDouble));
      arguments.push_back(tensor(in.cell, {3, 3}, at::kDouble));
      arguments.push_back(tensor(in.periodic, {3}, at::kBool));
    }
    auto results = program_->loader->run(arguments);
    current_exchange = nullptr;
    for (size_t n = 0; n < results.size(); n++)
      program_->outputs[metadata_.outputs.at(n)] =
          results[n].to(at::kCPU, at::kDouble).contiguous();
  } catch (const std::exception &error) {
    current_exchange = nullptr;
    throw std::runtime_error("the model failed: " + first_line(error.what()));
  }
}

const double *ExportedModel::output(const std::string &name) const
{
  return program_->outputs.at(name).const_data_ptr<double>();
}

int number_of_accelerators()
{
  return at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0;
}

void set_number_of_threads(int threads)
{
  at::set_num_threads(threads);
}

}    // namespace graph_pes
