#include "eval/kernel_bench.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "io/json.h"

namespace pare {

Status read_peer_kernels(std::string_view json, KernelReport* report) {
  PARE_ASSIGN_OR_RETURN(const auto root, parse_json(json));
  const auto lines = root.is_object() ? root.find("lines") : root.end();
  if (!root.is_object() || lines == root.end() || !lines->is_array()) return data_loss("no list 'lines'");
  for (const auto& line : *lines) {
    const bool good = line.is_object() && line.contains("name") && line["name"].is_string() &&
                      line.contains("seconds") && line["seconds"].is_number();
    if (!good) return data_loss("a line without 'name' or 'seconds'");
    for (KernelLine& ours : report->lines) {
      if (ours.name == line["name"].get<std::string>()) ours.peer_seconds = line["seconds"].get<double>();
    }
  }
  return ok_status();
}

#ifndef PARE_HAS_CUDA
Expected<KernelReport> bench_kernels(const KernelBenchOptions&) {
  return unsupported("this build has no CUDA backend (configure with the preset 'cuda')");
}
#endif

}  // namespace pare
