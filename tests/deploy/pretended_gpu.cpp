// A GPU for torch without CUDA, as far as tensors without data need one: "cuda" is a device that
// exists, whose streams and events do nothing. Loaded before torch, into a process of its own.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::Stream;

constexpr auto CUDA = c10::DeviceType::CUDA;

struct Guard final : c10::impl::NoOpDeviceGuardImpl<CUDA> {
  Device getDevice() const override { return {CUDA, 0}; }
  Device exchangeDevice(Device) const override { return {CUDA, 0}; }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, {CUDA, 0}); }
  Stream exchangeStream(Stream) const noexcept override { return getStream({CUDA, 0}); }
  void record(void **, const Stream &, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void *, const Stream &) const override {}
  bool queryEvent(void *) const override { return true; }
};

} // namespace

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

namespace at {

// torch looks for this name.
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return false; }
};

REGISTER_CUDA_HOOKS(CUDAHooks)

} // namespace at
