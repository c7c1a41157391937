// Prompts that leave the full zone by groups of pages when they end: bytes that one request holds, and bits.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "../../scratch_folder.h"
#include "io/mask_file.h"
#include "moving_rows.h"

namespace pare::test {
namespace {

constexpr int32_t kContext = 4096;

// The tiny llama with room for long prompts, and a mask by which moved rows take half of the bytes; files that go with
// their owner.
class LongModel {
 public:
  LongModel() {
    std::ifstream in(tiny_model_path("llama"), std::ios::binary);
    std::string bytes(std::istreambuf_iterator<char>(in), {});
    const std::string key = "llama.context_length";
    const size_t at = bytes.find(key);
    if (at == std::string::npos) throw std::runtime_error("the tiny llama has no " + key);
    std::memcpy(bytes.data() + at + key.size() + sizeof(uint32_t), &kContext, sizeof(kContext));  // after its type
    std::ofstream(folder_ / "model.gguf", std::ios::binary) << bytes;
    model = load_model_file(folder_ / "model.gguf");
    const ModelConfig& c = model->model->config();
    ChannelMask mask{.n_layers = c.n_layers, .n_kv_heads = c.n_kv_heads, .head_dim = c.head_dim};
    for (int32_t i = 0; i < c.n_layers * c.n_kv_heads; ++i) {
      mask.heads.emplace_back();
      for (int32_t k = 0; i % 2 == 0 && k < c.head_dim; ++k) {
        mask.heads.back().push_back({static_cast<uint16_t>(k), 1.0f});
      }
    }
    EXPECT_TRUE(write_channel_mask(folder_ / "mask.json", mask).ok());
  }
  std::string spec(const char* rest = "") const {
    return "leank(mask=\"" + (folder_ / "mask.json").string() + "\",sink=4,recent=64,flush=64" + rest + ")";
  }

  std::shared_ptr<const LoadedModel> model;

 private:
  ScratchFolder folder_;
};

EngineOptions options_of(const std::string& kv, int32_t max_sequences, int64_t rows) {
  EngineOptions options = moving_options(kv, max_sequences);
  options.max_context = kContext;
  options.kv_rows = rows;
  return options;
}

// Sixty rows beyond the prompt are less than what its pruning saves.
TEST(MoveGroups, OneRequestPeaksAtWhatItHoldsDensely) {
  const LongModel files;
  const Request request = long_answer(1, 570, 60);
  const int64_t page = kPageRows * files.model->model->config().kv_bytes_per_token();
  const auto peak = [&](const std::string& kv, uint64_t* moved = nullptr, bool in_groups = true) {
    const auto engine = make_engine(options_of(kv, 1, in_groups ? 640 : 1280), files.model);
    if (!in_groups) EngineTestPeer::store(*engine).set_move_pages(1000);
    const auto answers = submit(*engine, request);
    EXPECT_TRUE(engine->run().ok());
    EXPECT_EQ((*answers)[0].finish, FinishReason::kLength);
    const KvClassStats stats = EngineTestPeer::store(*engine).stats().classes[0];
    EXPECT_LE(stats.bytes_held_peak, stats.bytes_limit);
    if (moved) *moved = static_cast<uint64_t>(engine->stats().kv_pages_moved);
    expect_idle(*engine);
    return engine->stats().kv_bytes_used_peak;
  };
  const int64_t dense = peak("dense");
  // A group is one page here, whatever the prompt's length. The last keeps every channel: its pages are as large as
  // whole ones, and one is more than the answer will need.
  for (const std::string& kv :
       {files.spec(), files.spec(",empty=mean"), files.spec() + "+quant(k=4,v=4,recent=64,flush=64)",
        std::string("leank(sink=4,recent=64,flush=64)")}) {
    uint64_t moved = 0;
    EXPECT_LE(peak(kv, &moved), kv.find("mask") == std::string::npos ? dense + page : dense) << kv;
    EXPECT_GE(moved, 7u) << kv;
  }
  EXPECT_GT(peak(files.spec(), nullptr, false), dense + 2 * page) << "all pages at once: a peak that is seen";
}

TEST(MoveGroups, TheirSizeChangesNoBit) {
  const LongModel files;
  const Request request = long_answer(2, 1000, 150);
  for (const std::string& kv : {files.spec(), files.spec(",empty=mean") + "+quant(k=4,v=2,recent=64,flush=128)"}) {
    Answers expected;
    for (const int32_t pages : {1000, 0, 1, 2, 5}) {
      const auto engine = make_engine(options_of(kv, 1, 4096), files.model);
      EngineTestPeer::store(*engine).set_move_pages(pages);
      const auto answers = submit(*engine, request);
      ASSERT_TRUE(engine->run().ok());
      EXPECT_GE(engine->stats().kv_pages_moved, 15);
      if (expected.empty()) expected = *answers;
      EXPECT_EQ((*answers)[0].rows, expected[0].rows) << kv << ", groups of " << pages;
      EXPECT_EQ((*answers)[0].tokens, expected[0].tokens);
    }
  }
}

// Samples, a request with the same prompt, one that is cancelled and pre-emptions, in pools that hold little more than
// one prompt.
TEST(MoveGroups, MatesSeeNothingOfThem) {
  const LongModel files;
  Request samples = long_answer(3, 1000, 40);
  samples.samples = 3;
  samples.sampling.temperature = 1.0f;
  Request same = long_answer(3, 1000, 60), other = long_answer(4, 900, 60);
  const auto alone = [&](Request request) {
    request.samples = 1;
    return run_alone(request, options_of(files.spec(), 1, 4096), files.model)[0];
  };
  const Answer first = alone(samples), second = alone(same);
  for (const int64_t rows : {1216, 1600, 4096}) {
    for (const bool scarce : {false, true}) {
      SCOPED_TRACE(std::to_string(rows) + " rows" + (scarce ? ", scarce" : ""));
      EngineOptions options = options_of(files.spec(), 4, rows);
      options.step_rows = 300;
      const auto engine = make_engine(options, files.model);
      KvStore& store = EngineTestPeer::store(*engine);
      const auto a = submit(*engine, samples), b = submit(*engine, same);
      RequestId id = 0;
      const auto c = submit(*engine, other, &id);
      for (int64_t step = 0;; ++step) {
        // The second or third branch of a step finds no page.
        store.deny_reserve_after(scarce && step % 7 == 3 ? 1 + step % 2 : -1);
        if (!(*c)[0].tokens.empty()) engine->cancel(id);
        const auto more = engine->step();
        ASSERT_TRUE(more.ok());
        if (!*more) break;
        ASSERT_TRUE(store.check().ok()) << store.check().message();
        ASSERT_LT(step, 5000);
      }
      EXPECT_EQ((*a)[0].rows, first.rows);
      EXPECT_EQ((*a)[0].tokens, first.tokens);
      EXPECT_EQ((*b)[0].rows, second.rows);
      for (const Answer& answer : *a) EXPECT_EQ(answer.finish, FinishReason::kLength);
      EXPECT_EQ((*c)[0].finish, FinishReason::kCancelled);
      EXPECT_GE(engine->stats().kv_pages_moved, 2 * 14);
      const KvClassStats stats = store.stats().classes[0];
      EXPECT_LE(stats.bytes_held_peak, stats.bytes_limit);
      expect_idle(*engine);
    }
  }
}

// A pool without room for the first group fails the request, which says so, and nothing else.
TEST(MoveGroups, APromptWithoutRoomToMoveFails) {
  const LongModel files;
  const auto engine = make_engine(options_of(files.spec(), 1, 1024), files.model);
  EngineTestPeer::store(*engine).set_move_pages(1000);
  const auto answers = submit(*engine, long_answer(5, 1000, 10));
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ((*answers)[0].finish, FinishReason::kFailed);
  EXPECT_EQ((*answers)[0].error, StatusCode::kResourceExhausted);
  EXPECT_EQ(engine->stats().kv_pages_moved, 0);
  expect_idle(*engine);
  EngineTestPeer::store(*engine).set_move_pages(1);
  const auto again = submit(*engine, long_answer(5, 1000, 10));
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ((*again)[0].finish, FinishReason::kLength);
  EXPECT_EQ((*again)[0].rows,
            run_alone(long_answer(5, 1000, 10), options_of(files.spec(), 1, 4096), files.model)[0].rows);
}

}  // namespace
}  // namespace pare::test
