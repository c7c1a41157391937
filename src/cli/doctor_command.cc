#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "base/limits.h"
#include "base/thread_pool.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/machine.h"
#include "cli/version.h"
#include "eval/bandwidth.h"
#include "io/store.h"
#include "io/store_catalog.h"
#include "kernels/cpu_level.h"
#include "ops/accelerator.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

Json machine_json() {
  const MachineFacts m = read_machine_facts();
  return {{"cpu", m.cpu_model},
          {"cpus", m.cpus},
          {"usable_cpus", usable_cpus()},
          {"memory_bytes", m.memory_bytes},
          {"memory_available_bytes", m.memory_available_bytes},
          {"memory_limit_bytes", m.memory_limit_bytes},
          {"transparent_huge_pages", m.transparent_huge_pages},
          {"huge_pages_free", m.huge_pages_free}};
}

// The levels above the detected one cannot run here, so no test on this machine covers them.
Json cpu_level_json(Json* problems) {
  const CpuLevel detected = detected_cpu_level();
  const auto selected = selected_cpu_level();
  if (!selected.ok()) problems->push_back(std::string(selected.status().message()));
  Json untested = Json::array();
  for (const CpuLevel level : {CpuLevel::kScalar, CpuLevel::kAvx2, CpuLevel::kAvx512, CpuLevel::kAmx}) {
    if (level > detected) untested.push_back(cpu_level_name(level));
  }
  return {{"detected", cpu_level_name(detected)},
          {"selected", selected.ok() ? Json(cpu_level_name(*selected)) : Json(nullptr)},
          {"never_tested_here", untested}};
}

Json store_json(Json* problems) {
  const auto root = store_root();
  if (!root.ok()) {
    problems->push_back(std::string(root.status().message()));
    return nullptr;
  }
  Json pulled = Json::array();
  for (const StoreModel& model : store_catalog()) {
    if (resolve_model(model.name).ok()) pulled.push_back(model.name);
  }
  // The folder appears with the first pull: the nearest one above it tells the room.
  std::filesystem::path existing = *root;
  std::error_code error;
  while (!std::filesystem::exists(existing, error) && existing.has_relative_path()) existing = existing.parent_path();
  const auto space = std::filesystem::space(existing, error);
  return {{"path", root->string()}, {"free_bytes", error ? Json(nullptr) : Json(space.available)}, {"pulled", pulled}};
}

Json cuda_json() {
  const auto version = [](int32_t v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); };
  const auto cards = ops::list_accelerators();
  Json devices = Json::array();
  if (!cards.ok()) return {{"devices", devices}, {"why_not", std::string(cards.status().message())}};
  for (const ops::AcceleratorInfo& card : *cards) {
    devices.push_back({{"index", card.device.index},
                       {"name", card.name},
                       {"compute", fmt::format("{}.{}", card.major, card.minor)},
                       {"multiprocessors", card.multiprocessors},
                       {"memory_bytes", card.memory_bytes},
                       {"l2_bytes", card.l2_bytes},
                       {"runtime", version(card.runtime_version)},
                       {"driver", version(card.driver_version)}});
  }
  return {{"devices", devices}};
}

void print_report(const Json& r) {
  const auto bytes = [](const Json& value) {
    return value.is_number() ? format_bytes(value.get<int64_t>()) : "unknown";
  };
  const auto words = [](const Json& list) {
    std::string text;
    for (const Json& item : list) text += (text.empty() ? "" : ", ") + item.get<std::string>();
    return text.empty() ? std::string("none") : text;
  };
  const auto line = [](std::string_view name, const std::string& value) { fmt::print("{:<20} {}\n", name, value); };
  const Json& m = r["machine"];
  const int64_t limit = m["memory_limit_bytes"].get<int64_t>();
  line("CPU", fmt::format("{}, {} of {} CPUs usable", m["cpu"].get<std::string>(), m["usable_cpus"].get<int>(),
                          m["cpus"].get<int>()));
  line("CPU level",
       fmt::format("{} (detected {})",
                   r["cpu_level"]["selected"].is_null() ? "none" : r["cpu_level"]["selected"].get<std::string>(),
                   r["cpu_level"]["detected"].get<std::string>()));
  line("never tested here", words(r["cpu_level"]["never_tested_here"]));
  line("memory", fmt::format("{}, {} available{}", bytes(m["memory_bytes"]), bytes(m["memory_available_bytes"]),
                             limit > 0 ? fmt::format(", limited to {}", format_bytes(limit)) : ""));
  line("huge pages", fmt::format("transparent: {}, reserved and free: {}",
                                 m["transparent_huge_pages"].get<std::string>(), m["huge_pages_free"].get<int64_t>()));
  if (r.contains("read_bandwidth_bytes_per_s")) {
    line("read bandwidth",
         fmt::format("{:.1f} GB/s with {} threads", r["read_bandwidth_bytes_per_s"].get<double>() * 1e-9,
                     m["usable_cpus"].get<int>()));
  }
  if (!r["store"].is_null()) {
    line("store", fmt::format("{}, {} free", r["store"]["path"].get<std::string>(), bytes(r["store"]["free_bytes"])));
    line("pulled", words(r["store"]["pulled"]));
  }
  line("build", r["build"]["version"].get<std::string>());
  if (r["cuda"]["devices"].empty()) {
    line("CUDA", r["cuda"]["why_not"].get<std::string>());
  }
  for (const Json& d : r["cuda"]["devices"]) {
    line("CUDA",
         fmt::format("cuda:{} {}, compute {}, {} multiprocessors, {}, CUDA {}, driver for {}", d["index"].get<int>(),
                     d["name"].get<std::string>(), d["compute"].get<std::string>(), d["multiprocessors"].get<int>(),
                     bytes(d["memory_bytes"]), d["runtime"].get<std::string>(), d["driver"].get<std::string>()));
  }
  for (const Json& problem : r["problems"]) line("problem", problem.get<std::string>());
  fmt::print("\nlimits on what comes from outside\n");
  for (const Limit& l : kLimits) fmt::print("  {:<24} {:>12} {}\n", l.name, l.value, l.unit);
}

Status doctor(bool quick, bool json) {
  Json problems = Json::array();
  Json r{{"machine", machine_json()}, {"cpu_level", cpu_level_json(&problems)}};
  if (!quick) r["read_bandwidth_bytes_per_s"] = read_bandwidth_bytes_per_s(usable_cpus());
  r["store"] = store_json(&problems);
  r["cuda"] = cuda_json();
#ifdef PARE_HAS_CUDA
  constexpr bool has_cuda = true;
#else
  constexpr bool has_cuda = false;
#endif
  r["build"] = {{"version", version_text()}, {"commit", commit()}, {"cuda", has_cuda}};
  r["problems"] = std::move(problems);
  if (!json) {
    print_report(r);
    return ok_status();
  }
  Json limits = Json::array();
  for (const Limit& l : kLimits) limits.push_back({{"name", l.name}, {"value", l.value}, {"unit", l.unit}});
  r["limits"] = std::move(limits);
  print_json(r);
  return ok_status();
}

}  // namespace

void add_doctor_command(Commands* commands) {
  auto quick = std::make_shared<bool>(false);
  CLI::App* app =
      commands->add("doctor", "Report the machine, the CPU level in use, the store, the build and the limits",
                    [quick, commands] { return doctor(*quick, commands->json()); });
  app->add_flag("--quick", *quick, "Do not measure the read bandwidth (about a third of a second)");
  app->footer(
      "PARE_CPU_LEVEL (scalar, avx2, avx512, amx) lowers the level; one above the detected is reported as a problem\n"
      "here and is an error elsewhere. \"never tested here\" are the levels that this CPU cannot run.\n\n"
      "  pare doctor\n"
      "  PARE_CPU_LEVEL=avx2 pare doctor --quick --json");
}

}  // namespace pare::cli
