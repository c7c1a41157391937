// What the commands share, without a process around it.
#include "cli/console.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/command.h"
#include "cli/inspect_policies.h"
#include "cli/machine.h"
#include "cli/peer.h"
#include "plan/layer_map.h"

namespace pare::cli {
namespace {

TEST(Console, EveryCodeHasItsExit) {
  EXPECT_EQ(exit_code_for(ok_status()), 0);
  for (const Status& s : {io_error("x"), resource_exhausted("x"), internal_error("x")}) EXPECT_EQ(exit_code_for(s), 1);
  for (const Status& s :
       {invalid_argument("x"), not_found("x"), data_loss("x"), unsupported("x"), limit_exceeded("x")}) {
    EXPECT_EQ(exit_code_for(s), 2);
  }
  EXPECT_EQ(exit_code_for(cancelled("x")), 130);
}

TEST(Console, PathsAreNamedOnce) {
  EXPECT_EQ(at_path(data_loss("short"), "a.gguf").message(), "a.gguf: short");
  EXPECT_EQ(at_path(data_loss("a.gguf: short"), "a.gguf").message(), "a.gguf: short");
  EXPECT_TRUE(at_path(ok_status(), "a.gguf").ok());
}

TEST(Console, TextThatIsNotUtf8HasAPlace) {
  EXPECT_TRUE(check_utf8("x", "").ok());
  EXPECT_TRUE(check_utf8("x", "h\xC3\xA9llo \xF0\x9F\x98\x80").ok());
  EXPECT_EQ(check_utf8("PROMPT", "h\xC3\xA9\x80").message(), "PROMPT: not UTF-8 at byte 3");
  EXPECT_EQ(check_utf8("x", "\xED\xA0\x80").message(), "x: not UTF-8 at byte 0");  // a surrogate
  EXPECT_EQ(check_utf8("x", "ab\xC3").message(), "x: not UTF-8 at byte 2");        // cut off
}

TEST(Console, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(int64_t{3} << 40), "3.0 TiB");
}

TEST(Sampling, LogitBiases) {
  const auto biases = [](const std::string& text) {
    SamplingOptions options;
    options.bias = {text};
    const Status status = options.finish();
    return status.ok() ? options.params.logit_bias : std::vector<std::pair<int32_t, float>>{};
  };
  EXPECT_THAT(biases("5=-1.5"), testing::ElementsAre(std::pair(5, -1.5f)));
  for (const char* bad : {"5", "=1", "5=", "x=1", "5=1x", "5 =1", "99999999999=1"}) {
    EXPECT_THAT(biases(bad), testing::IsEmpty()) << bad;
  }
}

TEST(Peer, LlamaBenchTable) {
  const char* const kTable = R"([
    {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 350.5, "build_commit": "abc"},
    {"n_prompt": 0, "n_gen": 64, "n_depth": 0, "avg_ts": 150.25},
    {"n_prompt": 0, "n_gen": 64, "n_depth": 2048, "avg_ts": 90.0}])";
  BenchSample sample;
  ASSERT_TRUE(read_llama_bench(kTable, 0, &sample));
  EXPECT_EQ(sample.prefill_tps, 350.5);
  EXPECT_EQ(sample.decode_tps, 150.25);
  ASSERT_TRUE(read_llama_bench(kTable, 2048, &sample));
  EXPECT_EQ(sample.decode_tps, 90.0);
  // What a table lacks, or spells otherwise, stays as it was.
  ASSERT_TRUE(read_llama_bench(R"([{"n_prompt": "many", "avg_ts": null}])", 0, &sample));
  EXPECT_EQ(sample.prefill_tps, 350.5);
  for (const char* bad : {"", "{}", "null", "[1]", "[{", "error: no such model"}) {
    EXPECT_FALSE(read_llama_bench(bad, 0, &sample)) << bad;
  }
}

TEST(Machine, ProcFiles) {
  const char* const kText = "MemTotal:  100 kB\nMemFree: 7 kB\nmodel name\t: Some CPU @ 3 GHz\n";
  EXPECT_EQ(proc_field(kText, "MemFree"), "7 kB");
  EXPECT_EQ(proc_field(kText, "model name"), "Some CPU @ 3 GHz");
  EXPECT_EQ(proc_field(kText, "Mem"), "");
  EXPECT_EQ(proc_kib("7 kB"), 7 * 1024);
  EXPECT_EQ(proc_kib("seven"), 0);
  EXPECT_EQ(chosen_of("always [madvise] never"), "madvise");
  EXPECT_EQ(chosen_of("nothing"), "");
  EXPECT_GT(peak_rss_bytes(), 1 << 20);
}

std::string printed_spec(const std::string& text) {
  testing::internal::CaptureStdout();
  const Status status = inspect_spec(text, uniform_layer_map(4), {}, false);
  std::fflush(stdout);
  const std::string out = testing::internal::GetCapturedStdout();
  return status.ok() ? out.substr(0, out.find('\n')) : std::string(status.message());
}

TEST(Inspect, SpecsArePrintedInCanonicalForm) {
  EXPECT_EQ(printed_spec("attn=dense"), "attn=dense; kv=dense");
  EXPECT_EQ(printed_spec("kv = streaming ( recent = 64 ) ; attn = dense"),
            "attn=dense; kv=streaming(sink=4,recent=64)");
  EXPECT_EQ(printed_spec("attn=streaming(window=8,layers=0-1)+dense"),
            "attn=streaming(sink=4,window=8,layers=0-1)+dense; kv=dense");
  // What is printed is read as the same.
  const std::string canonical = printed_spec("attn=streaming(window=8,layers=0-1)+dense; kv=streaming");
  EXPECT_EQ(printed_spec(canonical), canonical);
  EXPECT_THAT(printed_spec("attn=dense; attn=dense"), testing::HasSubstr("column"));
}

}  // namespace
}  // namespace pare::cli
