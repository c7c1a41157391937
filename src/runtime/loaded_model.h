// A model as the engine takes it: weights, tokenizer and chat template of one file. Immutable; shared by engines.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "model/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace pare {

struct LoadedModel {
  std::filesystem::path path;
  std::shared_ptr<ops::Accelerator> accelerator;  // null: host memory
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  std::string chat_template;  // source; empty when the file has none
  uint64_t content_hash = 0;  // identity of the weights: part of every prefix key
  uint64_t file_bytes = 0;
};

// Reads, packs and checks everything. `pool` is used during the call only. With an accelerator the weights lie there,
// and engines of this model run there.
Expected<std::shared_ptr<const LoadedModel>> load(const std::filesystem::path& path, ThreadPool* pool,
                                                  std::shared_ptr<ops::Accelerator> accelerator = nullptr);
// The same of a model that is open already; `path` is how it is called.
Expected<std::shared_ptr<const LoadedModel>> load(const ModelFile& file, const std::filesystem::path& path,
                                                  ThreadPool* pool,
                                                  std::shared_ptr<ops::Accelerator> accelerator = nullptr);

// The prompt of a conversation: messages_json as ChatTemplateInputs takes it, rendered by the model's template.
// kNotFound when the model has none.
Expected<std::string> render_chat(const LoadedModel& model, std::string_view messages_json,
                                  std::string_view tools_json = {});

}  // namespace pare
