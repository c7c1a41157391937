// What is wrong with a command line, a text or a machine is named, with its place and the right exit code.
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "model_files.h"
#include "process.h"

namespace pare::test {
namespace {

const std::string kLlama = tiny_model("llama");

std::string error_of_run(std::vector<std::string> flags, const std::vector<std::string>& parts) {
  flags.insert(flags.begin(), {"run", kLlama, "--raw", "hello"});
  return expect_error(flags, 2, parts);
}

TEST(BadInput, CommandLine) {
  expect_error({}, 2, {"no command"});
  expect_error({"bogus"}, 2, {"'bogus'", "run, chat"});
  expect_error({"run"}, 2, {"MODEL"});
  expect_error({"run", kLlama, "--bogus", "hi"}, 2, {"--bogus"});
  expect_error({"run", kLlama, "--raw"}, 2, {"PROMPT"});
  expect_error({"run", kLlama, "hi"}, 2, {"no chat template", "--raw"});
  expect_error({"run", "no-such-model", "hi"}, 2, {"'no-such-model'", "smollm2-135m-instruct"});
  expect_error({"run", "/no/such/model.gguf", "hi"}, 2, {"/no/such/model.gguf"});
  expect_error({"tokenize", kLlama}, 2, {"--text", "--file"});
  expect_error({"tokenize", kLlama, "--file", "/no/such/text"}, 2, {"/no/such/text"});
  expect_error({"embed", kLlama, "--text", "hi"}, 2, {"decoder"});
  expect_error({"embed", tiny_model("bert")}, 2, {"--text"});
  expect_error({"run", tiny_model("bert"), "--raw", "hi"}, 2, {"encoder"});
  expect_error({"bench", kLlama, "--prompt", "0", "--gen", "0"}, 2, {"--prompt", "--gen"});
  expect_error({"bench", kLlama, "--prompt", "0", "--depth", "300"}, 2, {"--depth", "256"});
  expect_error({"bench"}, 2, {"MODEL", "--shape"});
  expect_error({"bench", kLlama, "--shape", "qwen3-8b"}, 2, {"MODEL", "--shape"});
  expect_error({"bench", kLlama, "--dtype", "q8_0"}, 2, {"--dtype", "--shape"});
  expect_error({"bench", kLlama, "--only", "rows"}, 2, {"--only", "kernels"});
  expect_error({"bench", "kernels"}, 2, {"--device cuda"});
  expect_error({"bench", "kernels", "--shape", "qwen3-8b"}, 2, {"kernels", "--shape"});
  expect_error({"bench", "kernels", "--device", "cuda", "--peer-json", "absent.json"}, 2, {"absent.json"});
  expect_error({"bench", "kv", "--shape", "14/3/64"}, 2, {"14/3/64", "multiple of kv_heads"});
  expect_error({"bench", "kv", "--lengths", "0"}, 2, {"--lengths", "0 rows"});
  expect_error({"bench", "kv", "--kv", "leank(mask=absent.json)"}, 2, {"absent.json", "No such file"});
  expect_error({"bench", "kv", "--kv", "quant+leank"}, 2, {"'leank' cannot follow 'quant'", "Plain"});
  expect_error({"bench", "kv", "--peer", "x"}, 2, {"bench kv", "--peer"});
  expect_error({"bench", kLlama, "--write-gate", "x.json"}, 2, {"--write-gate", "bench kv"});
  expect_error({"bench", "kv", "--kv", "leank", "--write-gate", "absent.json"}, 2, {"absent.json"});
  expect_error({"bench", "attention", "--attn", "triangle", "--write-gate", "absent.json"}, 2, {"absent.json"});
  expect_error({"bench", kLlama, "--lengths", "4K"}, 2, {"--lengths", "bench kv"});
  expect_error({"bench", "--shape", "qwen9"}, 2, {"qwen9", "smollm2-135m"});
  expect_error({"bench", "--shape", "qwen3-8b", "--dtype", "q3_K"}, 2, {"--dtype", "q3_K"});
  expect_error({"bench", "--shape", "smollm2-135m", "--dtype", "q4_K"}, 2, {"576", "256", "Q4_K"});
  expect_error({"bench", "--shape", "smollm2-135m", "--peer", "llama-bench"}, 2, {"--peer", "--shape"});
  expect_error({"eval", "bogus", kLlama, "--file", kLlama}, 2, {"bogus"});
  expect_error({"eval", "perplexity", kLlama}, 2, {"--file"});
  expect_error({"eval", "gsm8k", kLlama}, 2, {"--file"});
  expect_error({"eval", "gsm8k", kLlama, "--file", source_path("README.md")}, 2, {"README.md", "line 1"});
  expect_error({"eval", "copy", kLlama, "--file", source_path("README.md")}, 2, {"--file"});
  expect_error({"eval", "needle", kLlama, "--lengths", "100000"}, 2, {"--lengths", "100000", "256"});
  expect_error({"eval", "needle", kLlama, "--lengths", "200"}, 2, {"200"});
  expect_error({"eval", "needle", kLlama, "--candidate", "a=kv=foo", "--lengths", "200"}, 2, {"'a'", "foo"});
  expect_error({"eval", "needle", kLlama, "--candidate", "a=bogus"}, 2, {"--candidate", "a=bogus"});
  expect_error({"eval", "needle", kLlama, "--against-model", kLlama}, 2, {"--against-model"});
  expect_error({"eval", "needle", kLlama, "--against-threads", "2"}, 2, {"--against-threads", "devices"});
  expect_error({"eval", "devices", kLlama, "--lengths", "100"}, 2, {"--against"});
  expect_error({"eval", "devices", kLlama, "--against", "cpu:mmx", "--lengths", "100"}, 2, {"mmx", "avx2"});
  expect_error({"eval", "devices", kLlama, "--against", "tpu", "--lengths", "100"}, 2, {"tpu"});
  expect_error({"eval", "devices", kLlama, "--against", "cpu", "--lengths", "250"}, 2, {"--lengths", "256"});
  expect_error({"eval", "devices", kLlama, "--against", "cpu", "--lengths", "0"}, 2, {"--lengths"});
  expect_error({"eval", "devices", kLlama, "--against", "cpu", "--cases", "0"}, 2, {"--cases"});
  expect_error({"eval", "devices", kLlama, "--against", "cpu", "--scored", "0"}, 2, {"--scored"});
  expect_error({"eval", "devices", kLlama, "--against", "cpu", "--out", "x.json"}, 2, {"--out"});
  expect_error({"eval", "devices", kLlama, "--against", "cpu", "--against-model", kLlama}, 2, {"--against-model"});
  expect_error({"eval", "needle", kLlama, "--figure", "heat"}, 2, {"--figure", "--plot"});
  expect_error({"eval", "needle", kLlama, "--plot", "x.svg", "--figure", "pie"}, 2, {"pie", "heat"});
  expect_error({"eval", "needle", kLlama, "--out", source_path("README.md")}, 2, {"README.md"});
  expect_error({"eval", "needle", kLlama, "--seed", "-1"}, 2, {"-1"});
  expect_error({"eval", "perplexity", kLlama, "--file", source_path("README.md"), "--context", "512"}, 2,
               {"--context", "512", "256"});
  expect_error({"eval", "perplexity", kLlama, "--file", source_path(".gitignore"), "--context", "256"}, 2,
               {".gitignore", "256"});
  expect_error({"inspect", "model"}, 2, {"WHAT"});
  expect_error({"pull", "no-such-model"}, 2, {"'no-such-model'"});
}

TEST(BadInput, SamplingParameters) {
  for (const char* value : {"-1", "nan", "inf"}) error_of_run({"--temperature", value}, {"temperature", value});
  for (const char* value : {"0", "-0.5", "1.5", "nan"}) error_of_run({"--top-p", value}, {"top_p", value});
  for (const char* value : {"-0.5", "1.5", "nan"}) error_of_run({"--min-p", value}, {"min_p", value});
  for (const char* value : {"0", "nan"}) error_of_run({"--typical-p", value}, {"typical_p", value});
  for (const char* value : {"0", "-2", "nan"}) {
    error_of_run({"--repetition-penalty", value}, {"repetition_penalty", value});
  }
  error_of_run({"--frequency-penalty", "nan"}, {"frequency_penalty", "nan"});
  error_of_run({"--presence-penalty", "1000"}, {"presence_penalty", "1000"});
  error_of_run({"--top-k", "-1"}, {"top_k", "-1"});
  error_of_run({"--max-tokens", "0"}, {"max_tokens", "0"});
  error_of_run({"--max-tokens", "-3"}, {"max_tokens", "-3"});
  error_of_run({"--samples", "0"}, {"samples", "0"});
  error_of_run({"--logprobs", "101"}, {"logprobs", "101", "100"});
  error_of_run({"--seed", "-1"}, {"--seed", "-1"});
  error_of_run({"--temperature", "warm"}, {"--temperature", "warm"});
  error_of_run({"--logit-bias", "5"}, {"'5'", "ID="});
  error_of_run({"--logit-bias", "5=nan"}, {"token 5", "nan"});
  error_of_run({"--logit-bias", "999=1"}, {"999", "264"});
  error_of_run({"--threads", "-1"}, {"--threads", "-1"});
  error_of_run({"--context", "1000"}, {"--context", "1000", "256"});
}

// A caret stands under the character at fault.
void expect_caret(const std::string& message, const std::string& spec, size_t column) {
  EXPECT_NE(message.find("column " + std::to_string(column)), std::string::npos) << message;
  EXPECT_TRUE(message.ends_with("\n  " + spec + "\n  " + std::string(column - 1, ' ') + "^")) << message;
}

TEST(BadInput, PolicySpecs) {
  std::string spec = "strming";
  expect_caret(error_of_run({"--attn", spec}, {"unknown policy 'strming'", "dense, streaming"}), spec, 1);
  spec = "streaming(sink=4,windw=2)";
  expect_caret(error_of_run({"--attn", spec}, {"unknown parameter 'windw'", "window"}), spec, 18);
  spec = "streaming(sink=4";
  expect_caret(error_of_run({"--attn", spec}, {"expected"}), spec, 17);
  spec = "streaming(recent=0)";
  expect_caret(error_of_run({"--kv", spec}, {"recent: 0", "16777216"}), spec, 18);
  spec = "streaming+dense";
  expect_caret(error_of_run({"--kv", spec}, {"'dense' cannot follow 'streaming'"}), spec, 11);
  error_of_run({"--attn", "dense(layers=0-7)"}, {"layer 7", "2 layers"});
  error_of_run({"--attn", "dense+streaming"}, {"column 7"});
  expect_error({"inspect", "spec", "attn=dense; kv=foo"}, 2, {"column 16", "unknown policy 'foo'"});
  expect_error({"eval", "kl", kLlama, "--file", source_path("README.md"), "--context", "64", "--against", "kv=foo"}, 2,
               {"unknown policy 'foo'"});
}

TEST(BadInput, Texts) {
  const std::string bad = "ab\xFF";
  expect_error({"run", kLlama, "--raw", bad}, 2, {"PROMPT", "UTF-8", "byte 2"});
  expect_error({"tokenize", kLlama, "--text", bad}, 2, {"--text", "UTF-8", "byte 2"});
  expect_error({"tokenize", kLlama, "--file", "-"}, 2, {"-: ", "UTF-8", "byte 2"}, {.input = bad});
  expect_error({"embed", tiny_model("bert"), "--text", "a", "--text", bad}, 2, {"text 1", "UTF-8", "byte 2"});
  const std::string text(400, 'x');
  expect_error({"run", kLlama, "--raw", text}, 2, {"400 tokens", "256"});
  expect_error({"run", kLlama, "--raw", "--context", "8", "0123456789"}, 2, {"10 tokens", "8"});
}

TEST(BadInput, Templates) {
  const ScratchFolder folder;
  const std::string path = folder / "t.jinja", messages = folder / "m.json";
  const std::vector<std::string> command{"render", "--template", path, "--messages", messages};
  write_whole(messages, R"([{"role": "user", "content": "hi"}])");
  write_whole(path, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
  expect_error(command, 2, {path, "2000000 steps"});
  write_whole(path, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
  expect_error(command, 2, {path, "deeper"});
  write_whole(path, "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}");
  expect_error(command, 2, {path, "bytes"});
  write_whole(path, "a\n{{ x");
  expect_error(command, 2, {path, "line 2, column 5"});
  write_whole(path, "{{ raise_exception('no systems') }}");
  expect_error(command, 2, {path, "no systems"});
  write_whole(path, "x");
  write_whole(messages, "[{");
  expect_error(command, 2, {messages, "JSON"});
  // The same template inside a model.
  write_changed(folder / "loop.gguf", [](Parts* p) {
    p->metadata.set("tokenizer.chat_template",
                    std::string("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"));
  });
  expect_error({"run", folder / "loop.gguf", "hi"}, 2, {"2000000 steps"});
  expect_error({"chat", folder / "loop.gguf"}, 2, {"2000000 steps"});
}

TEST(BadInput, FullDiskLeavesNothing) {
  const ScratchFolder folder;
  const ProcessOptions small{.file_bytes_max = 50'000};
  expect_error({"quantize", kLlama, folder / "q.gguf", "F32"}, 1, {folder / "q.gguf", "File too large"}, small);
  expect_error({"convert", kLlama, folder / "model"}, 1, {"model", "File too large"}, small);
  EXPECT_EQ(folder.entries(), std::vector<std::string>{});
  // An answer that does not reach its reader is a failure too.
  write_whole(folder / "long.txt", std::string(100'000, 'x'));
  EXPECT_EQ(run_pare({"tokenize", kLlama, "--file", folder / "long.txt", "--json"}, small).code, 1);
}

TEST(BadInput, ReadOnlyPlaces) {
  if (::geteuid() != 0) GTEST_SKIP() << "as root only: the rights of nobody are known";
  const ScratchFolder folder;
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
  const std::string store = "PARE_STORE=" + (folder / "store");
  const ProcessOptions nobody{.environment = {store}, .as_nobody = true};
  if (run_pare({"--version"}, nobody).code != 0) GTEST_SKIP() << "nobody may not run the program here";
  expect_error({"pull", "smollm2-135m-instruct"}, 1, {folder / "store", "ermission denied"}, nobody);
  expect_error({"quantize", kLlama, folder / "q.gguf", "F16"}, 1, {folder / "q.gguf", "ermission denied"}, nobody);
  EXPECT_EQ(folder.entries(), std::vector<std::string>{});
}

TEST(BadInput, Environment) {
  expect_error({"run", kLlama, "--raw", "hi"}, 2, {"PARE_CPU_LEVEL", "'fast'"},
               {.environment = {"PARE_CPU_LEVEL=fast"}});
  expect_error({"pull", "smollm2-135m-instruct"}, 2, {"PARE_STORE", "'here'"}, {.environment = {"PARE_STORE=here"}});
}

}  // namespace
}  // namespace pare::test
