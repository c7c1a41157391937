// Splits or encodes records for the scripts in tools/ that compare with other implementations.
//
//   text_probe split NAME               pieces of the pre-tokenizer NAME: their ends, in bytes
//   text_probe encode FILE [CONFIG]     ids of FILE: a *.gguf, a tokenizer.json or a vocab.txt
//
// Records on stdin and stdout are a little-endian uint32 count, then that many bytes (in) or int32 values
// (out).
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "io/gguf.h"
#include "io/mapped_file.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace {

using namespace pare;

bool read_record(std::string* text) {
  uint32_t size;
  if (std::fread(&size, sizeof(size), 1, stdin) != 1) return false;
  text->resize(size);
  return size == 0 || std::fread(text->data(), 1, size, stdin) == size;
}

template <typename T>
void write_record(const std::vector<T>& values) {
  const auto size = static_cast<uint32_t>(values.size());
  std::fwrite(&size, sizeof(size), 1, stdout);
  if (size > 0) std::fwrite(values.data(), sizeof(T), size, stdout);
}

int fail(const Status& status) {
  std::fprintf(stderr, "%s\n", status.to_string().c_str());
  return 2;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

Expected<std::unique_ptr<Tokenizer>> open(const std::string& path, const std::string& config) {
  if (path.ends_with(".txt")) return make_tokenizer_from_vocab_txt(read_file(path), config);
  if (path.ends_with(".json")) return make_tokenizer_from_json(read_file(path), config);
  PARE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  PARE_ASSIGN_OR_RETURN(const GgufContents contents, read_gguf(file.bytes()));
  return make_tokenizer_from_gguf(contents.metadata);
}

int split(const char* name) {
  const auto pre = PreTokenizer::from_name(name);
  if (!pre.ok()) return fail(pre.status());
  std::string text;
  std::vector<uint32_t> ends;
  while (read_record(&text)) {
    const Status status = pre->split(text, &ends);
    if (!status.ok()) return fail(status);
    write_record(ends);
  }
  return 0;
}

int encode(const char* path, const char* config) {
  const auto tokenizer = open(path, config == nullptr ? "" : read_file(config));
  if (!tokenizer.ok()) return fail(tokenizer.status());
  std::string text;
  while (read_record(&text)) {
    const auto ids = (*tokenizer)->encode(text, {.add_special = true, .parse_special = false});
    if (!ids.ok()) return fail(ids.status());
    write_record(*ids);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 2 ? argv[1] : "";
  if (mode == "split") return split(argv[2]);
  if (mode == "encode") return encode(argv[2], argc > 3 ? argv[3] : nullptr);
  std::fprintf(stderr, "usage: text_probe split NAME | text_probe encode FILE [CONFIG]\n");
  return 2;
}
