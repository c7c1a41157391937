#include "eval/cuda/kernel_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <tuple>

namespace pare {
namespace cuda {
namespace {

constexpr size_t kFlushBytes = size_t{256} << 20;

}  // namespace

Expected<KernelRun> KernelRun::create(const KernelBenchOptions& options, KernelReport* report) {
  PARE_ASSIGN_OR_RETURN(Stopwatch watch, Stopwatch::create());
  KernelRun run(options, report, std::move(watch));
  PARE_ASSIGN_OR_RETURN(run.flush_, zeros(kFlushBytes));
  PARE_ASSIGN_OR_RETURN(run.sink_, zeros(sizeof(uint32_t)));
  return run;
}

bool KernelRun::wants(std::string_view group, std::string_view name) const {
  return fmt::format("{}: {}", group, name).find(options_.only) != std::string::npos;
}

Status KernelRun::announce(const std::string& group, const std::string& name) const {
  if (options_.next && !options_.next(fmt::format("{}: {}", group, name))) return cancelled("interrupted");
  return ok_status();
}

void KernelRun::add(std::string group, std::string name, const KernelWork& work, double seconds) {
  KernelLine line;
  line.group = std::move(group);
  line.name = std::move(name);
  line.seconds = seconds;
  const std::pair<double, std::string_view> floors[] = {{work.read_bytes / report_.read_rate, "read"},
                                                        {work.moved_bytes / report_.copy_rate, "copy"},
                                                        {work.flop / report_.gemm_rate, "GEMM"}};
  std::tie(line.floor_seconds, line.bound) = *std::max_element(std::begin(floors), std::end(floors));
  report_.lines.push_back(std::move(line));
}

Status KernelRun::measure(std::string group, std::string name, const KernelWork& work, const Stopwatch::Call& call) {
  PARE_RETURN_IF_ERROR(announce(group, name));
  PARE_ASSIGN_OR_RETURN(const double seconds, seconds_of(call));
  add(std::move(group), std::move(name), work, seconds);
  return ok_status();
}

Expected<double> KernelRun::seconds_of(const Stopwatch::Call& call) {
  // Reading leaves nothing behind that would have to be written back within the time of the call.
  const auto flush = [&] { return read_all(flush_.data(), flush_.size(), sink_.as<uint32_t>(), stream()); };
  return watch_.median_seconds(kBenchRepeats, call, flush);
}

Status KernelRun::measure_peer(const std::string& peer, const Stopwatch::Call& call) {
  PARE_ASSIGN_OR_RETURN(report_.lines.back().peer_seconds, seconds_of(call));
  report_.peer = peer;
  return ok_status();
}

Status KernelRun::measure_in_graph(std::string group, std::string name, const KernelWork& work, int calls,
                                   const Stopwatch::Call& call) {
  PARE_RETURN_IF_ERROR(announce(group, name));
  PARE_ASSIGN_OR_RETURN(const double seconds, watch_.median_seconds_in_graph(calls, kBenchRepeats, call));
  add(std::move(group), std::move(name), work, seconds);
  return ok_status();
}

void KernelRun::add_sum(std::string group, std::string name, size_t lines) {
  KernelLine sum;
  sum.group = std::move(group);
  sum.name = std::move(name);
  for (size_t i = report_.lines.size() - std::min(lines, report_.lines.size()); i < report_.lines.size(); ++i) {
    sum.seconds += report_.lines[i].seconds;
    sum.floor_seconds += report_.lines[i].floor_seconds;
    sum.bound = report_.lines[i].bound;
  }
  report_.lines.push_back(std::move(sum));
}

Expected<DeviceBuffer> zeros(size_t bytes) {
  PARE_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::allocate(std::max<size_t>(bytes, 16)));
  PARE_RETURN_IF_ERROR(buffer.fill(0));
  return buffer;
}

Expected<DeviceBuffer> uploaded_bytes(const void* host, size_t bytes) {
  PARE_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::allocate(std::max<size_t>(bytes, 16)));
  PARE_RETURN_IF_ERROR(buffer.upload(host, bytes));
  return buffer;
}

std::string tokens_text(int64_t tokens) {
  return tokens % 1024 == 0 ? fmt::format("{}K tokens", tokens / 1024)
                            : fmt::format("{} token{}", tokens, tokens == 1 ? "" : "s");
}

}  // namespace cuda

Expected<KernelReport> bench_kernels(const KernelBenchOptions& options) {
  PARE_ASSIGN_OR_RETURN(const auto card, ops::open_accelerator(options.device));
  KernelReport report;
  report.card = card->info();
  if (options.next && !options.next("the card's rates")) return cancelled("interrupted");
  PARE_ASSIGN_OR_RETURN(report.read_rate, cuda::measure_read_rate());
  PARE_ASSIGN_OR_RETURN(report.copy_rate, cuda::measure_copy_rate());
  PARE_ASSIGN_OR_RETURN(report.gemm_rate, cuda::measure_gemm_rate());
  PARE_ASSIGN_OR_RETURN(cuda::KernelRun run, cuda::KernelRun::create(options, &report));
  PARE_RETURN_IF_ERROR(cuda::bench_prefill_attention(run));
  PARE_RETURN_IF_ERROR(cuda::bench_decode_attention(run, report.card.multiprocessors));
  PARE_RETURN_IF_ERROR(cuda::bench_small_linear(run));
  PARE_RETURN_IF_ERROR(cuda::bench_row_ops(run));
  PARE_RETURN_IF_ERROR(cuda::bench_sampler(run));
  return report;
}

}  // namespace pare
