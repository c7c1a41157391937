// Engines over tiny models, and what came out of their requests.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../../tiny_models.h"
#include "base/rng.h"
#include "io/sha256.h"
#include "pare/engine.h"
#include "runtime/engine_impl.h"

namespace pare {

struct EngineTestPeer {
  static KvStore& store(Engine& engine) { return engine.impl_->memory->store(); }
  static CpuLevel cpu_level(Engine& engine) { return engine.impl_->memory->context().level; }
  // Oldest first.
  static const std::vector<std::unique_ptr<Branch>>& branches(Engine& engine) {
    return engine.impl_->scheduler->branches();
  }
};

}  // namespace pare

namespace pare::test {

inline std::vector<int32_t> random_tokens(Philox& rng, int32_t n, int32_t vocab = 256) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.below(static_cast<uint32_t>(vocab)));
  return ids;
}

// Logits chosen by the test: what follows `token` at `position`.
class ScriptedModel : public Model {
 public:
  using Script = std::function<void(int32_t token, int32_t position, std::span<float> logits)>;

  ScriptedModel(int32_t vocab, Script script) : Model(config_of(vocab)), script_(std::move(script)) {}
  size_t workspace_bytes(const ExecContext&, int64_t, int64_t, int32_t) const override { return 0; }
  void forward(ExecContext&, const StepInputs& inputs, Tensor* out) const override {
    const size_t vocab = static_cast<size_t>(config_.vocab);
    for (int64_t i = 0; i < inputs.logit_rows.items(); ++i) {
      const int32_t row = inputs.logit_rows.as<int32_t>()[i];
      const int32_t token = inputs.tokens.as<int32_t>()[row];
      EXPECT_TRUE(token >= 0 && token < config_.vocab) << "an embedding would read out of bounds";
      script_(token, inputs.positions.as<int32_t>()[row], std::span(out->as<float>() + i * vocab, vocab));
    }
  }

 private:
  static ModelConfig config_of(int32_t vocab) {
    ModelConfig c;
    c.arch = "scripted";
    c.n_layers = c.n_heads = c.n_kv_heads = 1;
    c.dim = c.head_dim = c.ffn_dim = 16;
    c.vocab = vocab;
    c.context_max = 512;
    return c;
  }
  Script script_;
};

// A vocabulary of given pieces of bytes; the last id ends the text.
class PieceTokenizer : public Tokenizer {
 public:
  explicit PieceTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)), end_{vocab_size() - 1} {}
  Expected<std::vector<TokenId>> encode(std::string_view, const EncodeOptions&) const override {
    return unsupported("pieces only");
  }
  std::string token_bytes(TokenId id, bool) const override { return id == end_[0] ? "" : pieces_[id]; }
  std::string decode(std::span<const TokenId> ids, bool) const override {
    std::string text;
    for (TokenId id : ids) text += token_bytes(id, false);
    return text;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(pieces_.size()) + 1; }
  TokenKind kind(TokenId id) const override { return id == end_[0] ? TokenKind::kControl : TokenKind::kNormal; }
  std::string_view token_text(TokenId id) const override { return pieces_[id]; }
  TokenId find_token(std::string_view) const override { return kNoToken; }
  TokenId bos() const override { return kNoToken; }
  TokenId eos() const override { return end_[0]; }
  TokenId pad() const override { return kNoToken; }
  std::span<const TokenId> end_of_generation() const override { return end_; }
  std::string_view family() const override { return "pieces"; }
  std::string_view pre_tokenizer() const override { return ""; }
  uint64_t count_steps(std::string_view) const override { return 0; }

 private:
  std::vector<std::string> pieces_;
  TokenId end_[1];
};

inline std::shared_ptr<const LoadedModel> scripted_model(std::vector<std::string> pieces,
                                                         ScriptedModel::Script script) {
  auto loaded = std::make_shared<LoadedModel>();
  auto tokenizer = std::make_unique<PieceTokenizer>(std::move(pieces));
  loaded->model = std::make_unique<ScriptedModel>(tokenizer->vocab_size(), std::move(script));
  loaded->tokenizer = std::move(tokenizer);
  return loaded;
}

// What came out of one branch.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> top;
  std::string text;
  std::map<int32_t, std::string> rows;  // SHA-256 of the logits at a position
  FinishReason finish = FinishReason::kNone;
  StatusCode error = StatusCode::kOk;
};
using Answers = std::vector<Answer>;  // by branch

inline std::string hash_of(std::span<const float> row) {
  Sha256 sha;
  sha.update(std::string_view(reinterpret_cast<const char*>(row.data()), row.size_bytes()));
  return sha.finish_hex().value();
}

// Queues `request`; its answers fill as the engine steps. Null when it was refused.
inline std::shared_ptr<Answers> submit(Engine& engine, Request request, RequestId* id = nullptr) {
  auto answers = std::make_shared<Answers>(static_cast<size_t>(std::max(1, request.samples)));
  request.on_logits = [answers](int32_t branch, int32_t position, std::span<const float> logits) {
    EXPECT_TRUE((*answers)[branch].rows.emplace(position, hash_of(logits)).second)
        << "branch " << branch << " shows position " << position << " again";
  };
  const auto queued = engine.submit(std::move(request), [answers](const TokenEvent& event) {
    Answer& a = (*answers)[event.branch];
    EXPECT_EQ(a.finish, FinishReason::kNone) << "an event after the end";
    if (event.token >= 0) {
      a.tokens.push_back(event.token);
      a.logprobs.push_back(event.logprob);
      a.top.emplace_back(event.top.begin(), event.top.end());
    }
    a.text += event.text;
    a.finish = event.finish;
    EXPECT_EQ(event.error != nullptr, event.finish == FinishReason::kFailed);
    if (event.error) a.error = event.error->code();
  });
  if (!queued.ok()) return nullptr;
  if (id) *id = *queued;
  return answers;
}

// Nothing is held by anybody any more.
inline void expect_idle(Engine& engine) {
  KvStore& store = EngineTestPeer::store(engine);
  const Status status = store.check();
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(engine.stats().sequences, 0);
  EXPECT_EQ(engine.stats().kv_pages_used, 0);
  store.clear_cache();
  EXPECT_EQ(engine.stats().kv_pages_cached, 0);
  EXPECT_TRUE(store.check().ok());
}

// Never null: an engine that cannot be made throws, which ends the test.
inline std::unique_ptr<Engine> make_engine(const EngineOptions& options,
                                           std::shared_ptr<const LoadedModel> model = tiny_model()) {
  auto engine = Engine::create(std::move(model), options);
  EXPECT_TRUE(engine.ok()) << engine.status().to_string();
  return std::move(engine).value();
}

// The answers of `request` alone in an engine of its own.
inline Answers run_alone(const Request& request, const EngineOptions& options,
                         const std::shared_ptr<const LoadedModel>& model = tiny_model()) {
  const auto engine = make_engine(options, model);
  const auto answers = submit(*engine, request);
  EXPECT_NE(answers, nullptr) << "refused";
  EXPECT_TRUE(engine->run().ok());
  return answers ? *answers : Answers(static_cast<size_t>(std::max(1, request.samples)));
}

}  // namespace pare::test
