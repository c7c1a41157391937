#include "runtime/loaded_model.h"

#include <fmt/format.h>

namespace pare {

Expected<std::shared_ptr<const LoadedModel>> load(const std::filesystem::path& path, ThreadPool* pool,
                                                  std::shared_ptr<ops::Accelerator> accelerator) {
  PARE_ASSIGN_OR_RETURN(const ModelFile file, ModelFile::open(path));
  return load(file, path, pool, std::move(accelerator));
}

Expected<std::shared_ptr<const LoadedModel>> load(const ModelFile& file, const std::filesystem::path& path,
                                                  ThreadPool* pool, std::shared_ptr<ops::Accelerator> accelerator) {
  auto loaded = std::make_shared<LoadedModel>();
  loaded->path = path;
  loaded->content_hash = file.content_hash();
  for (const TensorEntry& entry : file.tensors()) loaded->file_bytes += entry.data.size();
  PARE_ASSIGN_OR_RETURN(loaded->model, load_model(file, {pool, accelerator}));
  loaded->accelerator = std::move(accelerator);
  if (file.container() == ModelFile::Container::kGguf) {
    PARE_ASSIGN_OR_RETURN(loaded->tokenizer, make_tokenizer_from_gguf(file.metadata()));
  } else {
    PARE_ASSIGN_OR_RETURN(loaded->tokenizer,
                          make_tokenizer_from_json(file.tokenizer_json(), file.tokenizer_config_json()));
  }
  const int32_t vocab = loaded->model->config().vocab;
  // Padded embedding tables are common; the reverse would let the tokenizer name rows that do not exist.
  if (loaded->tokenizer->vocab_size() > vocab) {
    return data_loss(fmt::format("the tokenizer has {} tokens, the embedding table {} rows",
                                 loaded->tokenizer->vocab_size(), vocab));
  }
  loaded->chat_template = file.chat_template();
  return std::shared_ptr<const LoadedModel>(std::move(loaded));
}

Expected<std::string> render_chat(const LoadedModel& model, std::string_view messages_json,
                                  std::string_view tools_json) {
  if (model.chat_template.empty()) {
    return not_found(fmt::format("{} has no chat template; use --raw", model.path.filename().string()));
  }
  PARE_ASSIGN_OR_RETURN(const ChatTemplate chat, ChatTemplate::parse(model.chat_template));
  ChatTemplateInputs inputs;
  inputs.messages_json = messages_json;
  inputs.tools_json = tools_json;
  const Tokenizer& tokenizer = *model.tokenizer;
  if (tokenizer.bos() != kNoToken) inputs.bos_token = tokenizer.token_text(tokenizer.bos());
  if (tokenizer.eos() != kNoToken) inputs.eos_token = tokenizer.token_text(tokenizer.eos());
  return chat.render(inputs);
}

}  // namespace pare
