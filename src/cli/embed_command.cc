#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "runtime/embedder.h"

namespace pare::cli {
namespace {

struct EmbedOptions {
  std::string model, file;
  std::vector<std::string> texts;
  int threads = 0;
  std::string device = "cpu";
};

Status embed(const EmbedOptions& o, bool json) {
  std::vector<std::string> texts = o.texts;
  if (!o.file.empty()) {
    PARE_ASSIGN_OR_RETURN(const std::string content, read_text_file(o.file, kMaxPromptBytes));
    for (size_t begin = 0; begin < content.size();) {
      const size_t end = std::min(content.find('\n', begin), content.size());
      if (end > begin) texts.push_back(content.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    PARE_RETURN_IF_ERROR(check_utf8(fmt::format("text {}", i), texts[i]));
  }
  if (texts.empty()) return invalid_argument("nothing to embed: give --text or --file");
  PARE_ASSIGN_OR_RETURN(const auto model, load_by_name(o.model, o.threads, o.device));
  PARE_ASSIGN_OR_RETURN(const auto embedder, Embedder::create(model, o.threads));
  std::vector<std::vector<TokenId>> ids;
  for (const std::string& text : texts) {
    PARE_ASSIGN_OR_RETURN(ids.emplace_back(), model->tokenizer->encode(text, {}));
  }
  constexpr size_t kAtOnce = 16;
  std::vector<std::vector<float>> vectors;
  Progress progress;
  for (size_t i = 0; i < ids.size(); i += kAtOnce) {
    const std::span part = std::span(ids).subspan(i, std::min(kAtOnce, ids.size() - i));
    PARE_ASSIGN_OR_RETURN(auto some, embedder->embed(part));
    std::move(some.begin(), some.end(), std::back_inserter(vectors));
    progress.update("embedding", static_cast<int64_t>(vectors.size()), static_cast<int64_t>(ids.size()), "texts");
  }
  progress.finish();
  if (json) {
    print_json({{"dim", embedder->dim()}, {"embeddings", vectors}});
  } else {
    for (const auto& vector : vectors) fmt::print("{}\n", nlohmann::json(vector).dump());
  }
  return ok_status();
}

}  // namespace

void add_embed_command(Commands* commands) {
  auto o = std::make_shared<EmbedOptions>();
  CLI::App* app = commands->add("embed", "Print sentence vectors from an encoder model",
                                [o, commands] { return embed(*o, commands->json()); });
  app->add_option("MODEL", o->model, "An encoder, e.g. all-minilm-l6-v2")->required();
  app->add_option("--text", o->texts, "A text; may be repeated")->type_name("TEXT")->allow_extra_args(false);
  app->add_option("--file", o->file, "One text a line, empty lines left out; - is standard input")->type_name("FILE");
  add_threads_option(app, &o->threads);
  add_device_option(app, &o->device);
  app->footer(
      "Prints one JSON array a line and text. Vectors of models that normalize have length 1: the dot product of two "
      "is\n"
      "their cosine similarity.\n\n"
      "  pare embed all-minilm-l6-v2 --text \"a cat\" --text \"a kitten\" --json");
}

}  // namespace pare::cli
