// convert and quantize: a model in another container or format, written whole or not at all.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <system_error>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "io/store.h"
#include "quant/convert.h"
#include "quant/recipe.h"

namespace pare::cli {
namespace {

namespace fs = std::filesystem;

// As the hub has them: files that every tool can hold and resume.
constexpr uint64_t kShardBytes = uint64_t{5} << 30;

struct ConversionOptions {
  std::string in, out, recipe = "BF16";
  int threads = 0;
  bool force = false;
};

// Neither the input nor, without --force, anything else is overwritten.
Status check_output(const fs::path& in, const ConversionOptions& o) {
  std::error_code error;
  if (o.out.empty()) return invalid_argument("OUT is empty");
  if (!fs::exists(o.out, error)) {
    const fs::path folder = fs::absolute(o.out, error).parent_path();
    if (!fs::is_directory(folder, error)) return not_found(fmt::format("{}: no such folder", folder.string()));
    return ok_status();
  }
  if (fs::equivalent(in, o.out, error)) return invalid_argument(fmt::format("{}: OUT is IN", o.out));
  const bool empty_folder = fs::is_directory(o.out, error) && fs::is_empty(o.out, error);
  if (!o.force && !empty_folder) return invalid_argument(fmt::format("{} exists (--force replaces it)", o.out));
  return ok_status();
}

// Shards are written beside the folder and appear in it together; with --force into a folder that is not empty, one
// by one.
Status write_folder(const ModelFile& in, const fs::path& out, const ConvertOptions& options) {
  std::error_code error;
  if (fs::is_directory(out, error) && !fs::is_empty(out, error)) {
    return convert_to_safetensors(in, out, kShardBytes, options);
  }
  fs::path staged = fs::absolute(out, error).lexically_normal();
  if (!staged.has_filename()) staged = staged.parent_path();  // "out/"
  const fs::path final_path = staged;
  staged.replace_filename(fmt::format(".{}.{}.partial", final_path.filename().string(), ::getpid()));
  if (!fs::create_directory(staged, error)) {
    return io_error(fmt::format("{}: {}", staged.string(), error ? error.message() : "exists"));
  }
  Status status = convert_to_safetensors(in, staged, kShardBytes, options);
  if (status.ok()) {
    fs::rename(staged, final_path, error);
    if (error) status = io_error(fmt::format("{}: {}", final_path.string(), error.message()));
  }
  if (!status.ok()) fs::remove_all(staged, error);
  return status;
}

int64_t bytes_of(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return static_cast<int64_t>(fs::file_size(path, error));
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.is_regular_file(error)) bytes += static_cast<int64_t>(entry.file_size(error));
  }
  return bytes;
}

Status convert(const ConversionOptions& o, bool json) {
  PARE_ASSIGN_OR_RETURN(const Recipe recipe, find_recipe(o.recipe));
  PARE_ASSIGN_OR_RETURN(const fs::path in_path, resolve_model(o.in));
  PARE_RETURN_IF_ERROR(check_output(in_path, o));
  const bool gguf = fs::path(o.out).extension() == ".gguf";
  if (fs::path(o.out).extension() == ".safetensors") {
    return invalid_argument(fmt::format("{}: safetensors are written into a folder; name one", o.out));
  }
  if (!gguf && recipe.name != "BF16") {
    return invalid_argument(
        fmt::format("{}: safetensors are written in BF16; {} needs an OUT that ends in .gguf", o.out, recipe.name));
  }
  PARE_ASSIGN_OR_RETURN(const ModelFile in, ModelFile::open(in_path));
  ThreadPool pool(o.threads > 0 ? o.threads : usable_cpus());
  ConvertOptions options;
  options.recipe = recipe.name;
  options.pool = &pool;
  if (!in.tokenizer_json().empty()) {
    PARE_ASSIGN_OR_RETURN(const auto tokenizer, read_tokenizer(in));
    options.pre_tokenizer = tokenizer->pre_tokenizer();
  }
  Progress progress;
  options.progress = [&](uint64_t done, uint64_t total) {
    progress.update("writing " + fs::path(o.out).filename().string(), static_cast<int64_t>(done),
                    static_cast<int64_t>(total));
    return !interrupted();
  };
  // What was begun must be removed.
  arm_interrupt();
  const Status status = gguf ? convert_to_gguf(in, o.out, options) : write_folder(in, o.out, options);
  progress.finish();
  // A file system that refuses names OUT itself; everything else is about IN.
  const bool about_in = exit_code_for(status) == kExitBadInput && !status.message().starts_with(o.out);
  if (!status.ok()) return about_in ? at_path(status, in_path.string()) : status;
  const int64_t bytes = bytes_of(o.out);
  if (json) {
    print_json({{"path", o.out},
                {"type", recipe.name},
                {"container", gguf ? "GGUF" : "safetensors"},
                {"bytes", bytes},
                {"tensors", in.tensors().size()}});
  } else {
    fmt::print("{}: {}, {}\n", o.out, recipe.name, format_bytes(bytes));
  }
  return ok_status();
}

std::string recipe_names() {
  std::string names;
  for (const Recipe& recipe : recipes()) names += fmt::format("{}{}", names.empty() ? "" : ", ", recipe.name);
  return names;
}

CLI::App* add_conversion(Commands* commands, const std::string& name, const std::string& description,
                         const std::shared_ptr<ConversionOptions>& o) {
  CLI::App* app = commands->add(name, description, [o, commands] { return convert(*o, commands->json()); });
  app->add_option("IN", o->in, "A store name or a path: .gguf, .safetensors or a model folder")->required();
  app->add_option("OUT", o->out, "A .gguf file to write, or a folder for safetensors")->required();
  add_threads_option(app, &o->threads);
  app->add_flag("--force", o->force, "Replace OUT when it exists");
  return app;
}

}  // namespace

void add_convert_command(Commands* commands) {
  auto o = std::make_shared<ConversionOptions>();
  CLI::App* app =
      add_conversion(commands, "convert", "Write a model into another container, in half precision or any format", o);
  app->add_option("--type", o->recipe, fmt::format("Element format: {}", recipe_names()))->type_name("TYPE");
  app->footer(
      "OUT that ends in .gguf becomes one GGUF file with metadata, tokenizer and template; any other OUT is a folder\n"
      "that gets the tensors as BF16 safetensors (no configuration or tokenizer files).\n\n"
      "  pare convert smollm2-135m-instruct smollm2.bf16.gguf\n"
      "  pare convert ./my-finetune my-finetune.gguf --type F16");
}

void add_quantize_command(Commands* commands) {
  auto o = std::make_shared<ConversionOptions>();
  CLI::App* app = add_conversion(commands, "quantize", "Write a model in fewer bits", o);
  app->add_option("TYPE", o->recipe, fmt::format("One of {}", recipe_names()))->required();
  app->footer(
      "Q4_K_S and Q4_K_M mix formats: the output matrix and, for _M, some value and down projections get Q6_K. Norms\n"
      "and other vectors stay F32; a row that does not fit a format's blocks gets the next larger format that it "
      "fits.\n"
      "Quantizing what is quantized already loses twice: begin with F16, BF16 or F32 where you can.\n\n"
      "  pare quantize model.bf16.gguf model.q4.gguf Q4_K_M");
}

}  // namespace pare::cli
