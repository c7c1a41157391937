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
  if (texts.empty()) return invalid_argument("nothing to embed: give --text or --file");
  PARE_ASSIGN_OR_RETURN(const auto model, load_by_name(o.model, o.threads));
  PARE_ASSIGN_OR_RETURN(const auto embedder, Embedder::create(model, o.threads));
  std::vector<std::vector<TokenId>> ids;
  for (const std::string& text : texts) {
    PARE_ASSIGN_OR_RETURN(ids.emplace_back(), model->tokenizer->encode(text, {}));
  }
  PARE_ASSIGN_OR_RETURN(const auto vectors, embedder->embed(ids));
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
  app->add_option("--text", o->texts, "A text; may be repeated")->allow_extra_args(false);
  app->add_option("--file", o->file, "One text a line; - is standard input");
  app->add_option("--threads", o->threads, "CPU threads; 0 takes what the machine allows");
  app->footer(
      "Vectors have length 1: the dot product of two is their cosine similarity.\n\n"
      "  pare embed all-minilm-l6-v2 --text \"a cat\" --text \"a kitten\" --json");
}

}  // namespace pare::cli
