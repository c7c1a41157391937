// The interface that scripts rely on, as docs/cli.md has it: fields and their types, exit codes, what stands where.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "model_files.h"
#include "process.h"

namespace pare::test {
namespace {

using Json = nlohmann::json;

enum class Kind { kString, kInteger, kNumber, kBoolean, kArray, kObject };

bool is(const Json& value, Kind kind) {
  switch (kind) {
    case Kind::kString: return value.is_string();
    case Kind::kInteger: return value.is_number_integer();
    case Kind::kNumber: return value.is_number();
    case Kind::kBoolean: return value.is_boolean();
    case Kind::kArray: return value.is_array();
    case Kind::kObject: return value.is_object();
  }
  return false;
}

struct Field {
  const char* name;
  Kind kind;
};

void expect_fields(const Json& object, const std::vector<Field>& fields) {
  for (const Field& field : fields) {
    ASSERT_TRUE(object.contains(field.name)) << field.name << " in " << object.dump().substr(0, 500);
    EXPECT_TRUE(is(object[field.name], field.kind)) << field.name << " is " << object[field.name].dump();
  }
}

const std::string kLlama = tiny_model("llama");

TEST(Interface, Tokenize) {
  const Json text = pare_json({"tokenize", kLlama, "--text", "hi 01"});
  expect_fields(text, {{"ids", Kind::kArray}, {"count", Kind::kInteger}});
  EXPECT_EQ(text["ids"], Json({104, 105, 32, 48, 49}));
  EXPECT_EQ(text["count"], 5);
  const ScratchFolder folder;
  write_whole(folder / "t.txt", "hi 01");
  EXPECT_EQ(pare_json({"tokenize", kLlama, "--file", folder / "t.txt"}), text);
  EXPECT_EQ(pare_json({"tokenize", kLlama, "--file", "-"}, {.input = "hi 01"}), text);
  EXPECT_EQ(pare_json({"tokenize", kLlama, "--text", "<|eos|>"})["ids"], Json({261}));
  EXPECT_EQ(pare_json({"tokenize", kLlama, "--no-special", "--text", "<|eos|>"})["ids"].size(), 7u);
  EXPECT_EQ(pare_json({"tokenize", kLlama, "--text", ""})["ids"], Json::array());
}

TEST(Interface, Render) {
  const ScratchFolder folder;
  write_whole(folder / "t.jinja",
              "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
              "{% if tools %}{{ tools | length }}{% endif %}{% if add_generation_prompt %}>{% endif %}");
  write_whole(folder / "m.json", R"([{"role": "user", "content": "h\u00e9"}])");
  write_whole(folder / "tools.json", R"([{"name": "f"}])");
  const std::vector<std::string> base{"render", "--template", folder / "t.jinja", "--messages", folder / "m.json"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    const Json object = pare_json(more);
    expect_fields(object, {{"text", Kind::kString}});
    return object["text"].get<std::string>();
  };
  EXPECT_EQ(with({}), "[user]h\u00e9>");
  EXPECT_EQ(with({"--bos", "<s>", "--eos", "</s>"}), "<s>[user]h\u00e9</s>>");
  EXPECT_EQ(with({"--tools", folder / "tools.json"}), "[user]h\u00e91>");
  EXPECT_EQ(with({"--no-generation-prompt"}), "[user]h\u00e9");
}

TEST(Interface, Run) {
  const Json run = pare_json(
      {"run", kLlama, "--raw", "--max-tokens", "6", "--temperature", "0", "--logprobs", "5", "--ignore-eos", "hello"});
  expect_fields(run, {{"text", Kind::kString},
                      {"finish", Kind::kString},
                      {"prompt_ids", Kind::kArray},
                      {"tokens", Kind::kArray},
                      {"stats", Kind::kObject}});
  EXPECT_EQ(run["prompt_ids"], Json({104, 101, 108, 108, 111}));
  EXPECT_EQ(run["finish"], "length");
  ASSERT_EQ(run["tokens"].size(), 6u);
  for (const Json& token : run["tokens"]) {
    expect_fields(token, {{"id", Kind::kInteger}, {"logprob", Kind::kNumber}, {"top", Kind::kArray}});
    EXPECT_LE(token["logprob"], 0.0);
    ASSERT_EQ(token["top"].size(), 5u);
    double mass = 0.0, last = 0.0;
    for (const Json& entry : token["top"]) {
      ASSERT_TRUE(entry.is_array() && entry.size() == 2 && entry[0].is_number_integer() && entry[1].is_number());
      EXPECT_LE(entry[1], last);
      last = entry[1];
      mass += std::exp(last);
    }
    EXPECT_LE(mass, 1.0 + 1e-5);
    // Greedy: the chosen token is the most likely one.
    EXPECT_EQ(token["top"][0][0], token["id"]);
    EXPECT_EQ(token["top"][0][1], token["logprob"]);
  }
  const Json& stats = run["stats"];
  expect_fields(stats, {{"prompt_tokens", Kind::kInteger},
                        {"cached_tokens", Kind::kInteger},
                        {"generated_tokens", Kind::kInteger},
                        {"preemptions", Kind::kInteger},
                        {"load_ms", Kind::kNumber},
                        {"ttft_ms", Kind::kNumber},
                        {"itl_ms", Kind::kNumber},
                        {"decode_bytes_per_step", Kind::kNumber},
                        {"decode_bandwidth_share", Kind::kNumber},
                        {"query_key_pairs", Kind::kInteger},
                        {"kv_bytes_used_peak", Kind::kInteger},
                        {"kv_bytes_per_token", Kind::kInteger},
                        {"kv_pages_freed", Kind::kInteger},
                        {"weight_bytes", Kind::kInteger},
                        {"peak_rss_bytes", Kind::kInteger},
                        {"threads", Kind::kInteger},
                        {"attn", Kind::kString},
                        {"kv", Kind::kString}});
  EXPECT_EQ(stats["prompt_tokens"], 5);
  EXPECT_EQ(stats["generated_tokens"], 6);
  EXPECT_EQ(stats["kv_bytes_per_token"], 256);
}

TEST(Interface, RunDrawsTheSameAnswerFromTheSameSeed) {
  const std::vector<std::string> command{"run",
                                         kLlama,
                                         "--raw",
                                         "--max-tokens",
                                         "8",
                                         "--ignore-eos",
                                         "--temperature",
                                         "1.5",
                                         "--samples",
                                         "2",
                                         "--seed",
                                         "7",
                                         "--kv",
                                         "streaming(recent=64)",
                                         "--attn",
                                         "streaming(sink=2,window=8)",
                                         "hello"};
  Json first = pare_json(command);
  expect_fields(first, {{"samples", Kind::kArray}});
  ASSERT_EQ(first["samples"].size(), 2u);
  EXPECT_EQ(first["samples"][0]["tokens"], first["tokens"]);
  EXPECT_NE(first["samples"][1]["tokens"], first["tokens"]);
  EXPECT_EQ(first["stats"]["attn"], "streaming(sink=2,window=8)");
  EXPECT_EQ(first["stats"]["kv"], "streaming(sink=4,recent=64)");
  EXPECT_EQ(pare_json(command)["samples"], first["samples"]);
}

TEST(Interface, RunWithoutJsonKeepsStatisticsOffStandardOutput) {
  const std::vector<std::string> command{"run", kLlama, "--raw", "--max-tokens", "4", "--ignore-eos", "hello"};
  const ProcessResult plain = run_pare(command);
  EXPECT_EQ(plain.code, 0);
  EXPECT_THAT(plain.err, testing::ContainsRegex("^5 prompt tokens, 4 generated \\| TTFT .*ITL .*KV .*\n$"));
  EXPECT_THAT(plain.out, testing::Not(testing::HasSubstr("generated |")));
  EXPECT_TRUE(plain.out.ends_with('\n'));
}

TEST(Interface, EvalPerplexity) {
  const Json result =
      pare_json({"eval", "perplexity", kLlama, "--file", source_path("README.md"), "--context", "32", "--chunks", "3"});
  expect_fields(result, {{"perplexity", Kind::kNumber},
                         {"nll", Kind::kNumber},
                         {"nll_stderr", Kind::kNumber},
                         {"tokens", Kind::kInteger},
                         {"chunks", Kind::kInteger},
                         {"context", Kind::kInteger},
                         {"attn", Kind::kString},
                         {"kv", Kind::kString}});
  EXPECT_EQ(result["chunks"], 3);
  EXPECT_EQ(result["tokens"], 3 * 15);  // of each context the second half, but for the token that has no successor
  EXPECT_NEAR(std::log(result["perplexity"].get<double>()), result["nll"].get<double>(), 1e-9);
}

TEST(Interface, EvalKl) {
  std::vector<std::string> command{"eval", "kl",       kLlama, "--file", source_path("README.md"),    "--context",
                                   "64",   "--chunks", "2",    "--attn", "streaming(sink=1,window=4)"};
  const Json result = pare_json(command);
  expect_fields(result, {{"kl", Kind::kNumber},
                         {"kl_stderr", Kind::kNumber},
                         {"kl_max", Kind::kNumber},
                         {"top1_agreement", Kind::kNumber},
                         {"perplexity", Kind::kNumber},
                         {"reference_perplexity", Kind::kNumber},
                         {"tokens", Kind::kInteger},
                         {"attn", Kind::kString},
                         {"kv", Kind::kString},
                         {"against_attn", Kind::kString},
                         {"against_kv", Kind::kString}});
  EXPECT_GT(result["kl"], 0.0);
  EXPECT_EQ(result["against_attn"], "dense");
  command.insert(command.end(), {"--against", "attn=streaming(sink=1,window=4)", "--against-model", kLlama});
  const Json same = pare_json(command);
  EXPECT_EQ(same["kl"], 0.0);
  EXPECT_EQ(same["top1_agreement"], 1.0);
  EXPECT_EQ(same["against_attn"], "streaming(sink=1,window=4)");
}

// Two threads, and another instruction set, on one machine: what a card is compared by must hold here first.
TEST(Interface, EvalDevices) {
  const std::vector<std::string> command{"eval",    "devices", kLlama,   "--threads", "1",        "--lengths", "40,90",
                                         "--cases", "2",       "--seed", "3",         "--scored", "12"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = command;
    all.insert(all.end(), more.begin(), more.end());
    return pare_json(all);
  };
  const Json same = with({"--against", "cpu", "--against-threads", "2"});
  expect_fields(same, {{"reference", Kind::kObject},
                       {"other", Kind::kObject},
                       {"tokens", Kind::kInteger},
                       {"agreed", Kind::kInteger},
                       {"agreement", Kind::kNumber},
                       {"diverged", Kind::kInteger},
                       {"log_prob_gap", Kind::kObject},
                       {"kl", Kind::kObject},
                       {"disagreements", Kind::kArray},
                       {"prompts", Kind::kArray}});
  EXPECT_EQ(same["agreement"], 1.0);
  EXPECT_EQ(same["agreed"], same["tokens"]);
  EXPECT_EQ(same["diverged"], 0);
  EXPECT_TRUE(same["first_divergence"].is_null());
  EXPECT_EQ(same["log_prob_gap"]["max"], 0.0);
  EXPECT_EQ(same["kl"]["max"], 0.0);
  EXPECT_EQ(same["disagreements"], Json::array());
  EXPECT_EQ(same["reference"]["threads"], 1);
  EXPECT_EQ(same["other"]["threads"], 2);
  ASSERT_EQ(same["prompts"].size(), 4u);
  EXPECT_EQ(same["prompts"][0]["prompt_tokens"], 40);
  EXPECT_EQ(same["prompts"][3]["prompt_tokens"], 90);
  EXPECT_EQ(same["prompts"][3]["seed"], 4);
  const Json text = with({"--against", "cpu", "--file", source_path("tests/data/text/pare_sample.txt")});
  EXPECT_EQ(text["agreement"], 1.0);
  const Json scalar = with({"--against", "cpu:scalar"});
  EXPECT_EQ(scalar["other"]["cpu_level"], "scalar");
  EXPECT_EQ(scalar["reference"]["cpu_level"], same["reference"]["cpu_level"]);
  EXPECT_LE(scalar["log_prob_gap"]["max"], 0.1);
  std::vector<std::string> table = command;
  table.insert(table.end(), {"--against", "cpu"});
  EXPECT_THAT(run_pare(table).out, testing::HasSubstr("same most likely token  100.000 %"));
}

TEST(Interface, Bench) {
  const Json result = pare_json({"bench", kLlama, "--prompt", "32", "--gen", "8", "--threads", "1", "--parallel", "2",
                                 "--depth", "16", "--repetitions", "2"});
  expect_fields(result, {{"prefill_tps", Kind::kNumber},
                         {"decode_tps", Kind::kNumber},
                         {"decode_floor_ratio", Kind::kNumber},
                         {"peak_rss_bytes", Kind::kInteger},
                         {"decode_bytes_per_step", Kind::kNumber},
                         {"read_bandwidth_bytes_per_s", Kind::kNumber},
                         {"prefill_spread", Kind::kObject},
                         {"decode_spread", Kind::kObject},
                         {"cpu_level", Kind::kString},
                         {"commit", Kind::kString}});
  for (const char* positive : {"prefill_tps", "decode_tps", "decode_floor_ratio", "peak_rss_bytes"}) {
    EXPECT_GT(result[positive], 0) << positive;
  }
  EXPECT_EQ(result["threads"], 1);
  EXPECT_EQ(result["parallel"], 2);
  EXPECT_EQ(result["depth"], 16);
  for (const char* of_a_card : {"step_us", "step_gap_us", "step_clock_resolution_ns"}) {
    ASSERT_TRUE(result.contains(of_a_card));
    EXPECT_TRUE(result[of_a_card].is_null()) << of_a_card;
  }
  // Of both halves each may be left out.
  const Json decode = pare_json({"bench", kLlama, "--prompt", "0", "--gen", "4", "--repetitions", "1"});
  EXPECT_EQ(decode["prefill_tps"], 0.0);
  EXPECT_TRUE(decode["prefill_spread"].is_null());
}

TEST(Interface, BenchOfAShapeSaysThatWeightsAreRandom) {
  const std::vector<std::string> command{"bench", "--shape", "smollm2-135m",  "--dtype", "q4_0", "--prompt", "8",
                                         "--gen", "2",       "--repetitions", "1"};
  const Json result = pare_json(command);
  EXPECT_EQ(result["model"], "smollm2-135m");
  EXPECT_EQ(result["weights"], "random");
  EXPECT_EQ(result["dtype"], "Q4_0");
  EXPECT_EQ(result["device"], "cpu");
  EXPECT_GT(result["decode_tps"], 0.0);
  EXPECT_GT(result["prefill_flop_per_s"], 0.0);
  EXPECT_THAT(run_pare(command).out, testing::HasSubstr("| smollm2-135m, random weights, Q4_0 |"));
}

TEST(Interface, BenchPeer) {
  const ScratchFolder folder;
  const std::string peer = folder / "llama-bench";
  write_whole(peer, R"sh(#!/bin/sh
echo "noise" >&2
echo '[{"n_prompt": 16, "n_gen": 0, "n_depth": 0, "avg_ts": 100.0}, {"n_prompt": 0, "n_gen": 4, "n_depth": 0, "avg_ts": 50.0}]'
)sh");
  std::filesystem::permissions(peer, std::filesystem::perms::owner_all);
  std::vector<std::string> command{"bench", kLlama,          "--prompt", "16",     "--gen",
                                   "4",     "--repetitions", "1",        "--peer", peer};
  const Json result = pare_json(command);
  expect_fields(result, {{"peer", Kind::kObject}, {"prefill_ratio", Kind::kNumber}, {"decode_ratio", Kind::kNumber}});
  EXPECT_EQ(result["peer"]["decode_spread"]["median"], 50.0);
  EXPECT_DOUBLE_EQ(result["prefill_ratio"], result["prefill_tps"].get<double>() / 100.0);
  write_whole(peer, "#!/bin/sh\necho not a table\n");
  expect_error(command, 1, {peer, "JSON"});
  command.back() = folder / "absent";
  expect_error(command, 2, {folder / "absent", "No such file"});
}

TEST(Interface, Embed) {
  const Json result = pare_json({"embed", tiny_model("bert"), "--text", "a", "--text", "hello"});
  expect_fields(result, {{"embeddings", Kind::kArray}, {"dim", Kind::kInteger}});
  ASSERT_EQ(result["embeddings"].size(), 2u);
  for (const Json& vector : result["embeddings"]) EXPECT_EQ(vector.size(), result["dim"].get<size_t>());
  EXPECT_EQ(pare_json({"embed", tiny_model("bert"), "--file", "-"}, {.input = "a\n\nhello\n"}), result);
}

TEST(Interface, Inspect) {
  const Json model = pare_json({"inspect", "model", kLlama, "--tensors"});
  expect_fields(model, {{"path", Kind::kString},
                        {"container", Kind::kString},
                        {"config", Kind::kObject},
                        {"tokenizer", Kind::kObject},
                        {"tensors", Kind::kObject}});
  EXPECT_EQ(model["config"]["layers"], 2);
  EXPECT_EQ(model["tensors"]["list"].size(), model["tensors"]["count"].get<size_t>());
  const Json spec = pare_json({"inspect", "spec", "kv=streaming( recent = 64 ); attn=streaming"});
  EXPECT_EQ(spec["canonical"], "attn=streaming(sink=4,window=1024); kv=streaming(sink=4,recent=64)");
  expect_fields(spec, {{"attn", Kind::kString}, {"kv", Kind::kString}, {"features", Kind::kObject}});
  const Json policies = pare_json({"inspect", "policies"});
  expect_fields(policies, {{"attn", Kind::kArray}, {"kv", Kind::kArray}, {"legality", Kind::kArray}});
}

TEST(Interface, PullListsAndDoctorReports) {
  const Json list = pare_json({"pull"});
  expect_fields(list, {{"models", Kind::kArray}});
  EXPECT_EQ(list["models"][0]["name"], "smollm2-135m-instruct");
  expect_fields(list["models"][0], {{"bytes", Kind::kInteger}, {"licence", Kind::kString}, {"pulled", Kind::kBoolean}});
  const Json report = pare_json({"doctor", "--quick"});
  expect_fields(report, {{"machine", Kind::kObject},
                         {"cpu_level", Kind::kObject},
                         {"build", Kind::kObject},
                         {"problems", Kind::kArray},
                         {"limits", Kind::kArray}});
  expect_fields(report["machine"], {{"memory_bytes", Kind::kInteger}, {"usable_cpus", Kind::kInteger}});
}

TEST(Interface, EveryCommandExplainsItself) {
  const ProcessResult all = run_pare({"--help"});
  EXPECT_EQ(all.code, 0);
  for (const char* name : {"run", "chat", "embed", "bench", "eval", "tune", "tokenize", "render", "inspect", "convert",
                           "quantize", "pull", "doctor"}) {
    EXPECT_THAT(all.out, testing::HasSubstr(std::string("\n  ") + name + " "));
    const ProcessResult one = run_pare({name, "--help"});
    EXPECT_EQ(one.code, 0) << name;
    EXPECT_EQ(one.err, "") << name;
    EXPECT_THAT(one.out, testing::HasSubstr(std::string("\n  pare ") + name)) << "an example";
    EXPECT_THAT(one.out, testing::HasSubstr("--json")) << name;
  }
  const std::string bench = run_pare({"bench", "--help"}).out;
  for (const char* term : {"TTFT", "ITL", "TPOT", "floor"}) EXPECT_THAT(bench, testing::HasSubstr(term));
}

TEST(Interface, InterruptIs130AndStillOneObject) {
  const ProcessResult waiting = run_pare({"tokenize", kLlama, "--file", "-", "--json"}, {.interrupt = true});
  EXPECT_EQ(waiting.code, 130);
  EXPECT_EQ(one_object(waiting)["error"]["code"], "cancelled");
  // While work is under way that ends in good order.
  const ProcessResult busy = run_pare(
      {"bench", kLlama, "--prompt", "200", "--gen", "50", "--repetitions", "1000", "--json"}, {.interrupt = true});
  EXPECT_EQ(busy.code, 130);
  EXPECT_EQ(one_object(busy)["error"]["code"], "cancelled");
}

}  // namespace
}  // namespace pare::test
