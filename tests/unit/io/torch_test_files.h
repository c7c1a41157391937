// Archives and pickles as torch.save writes them, and as it never would.
#pragma once

#include <gtest/gtest.h>
#include <zip.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "model_test_files.h"

namespace pare {

using Members = std::vector<std::pair<std::string, std::string>>;

inline void write_zip(const std::filesystem::path& path, const Members& members, bool deflate = false) {
  zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
  ASSERT_NE(archive, nullptr);
  for (const auto& [name, content] : members) {
    zip_source_t* source = zip_source_buffer(archive, content.data(), content.size(), 0);
    const zip_int64_t index = zip_file_add(archive, name.c_str(), source, ZIP_FL_ENC_UTF_8);
    ASSERT_GE(index, 0) << name;
    const auto method = deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE;
    ASSERT_EQ(zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), method, 0), 0);
  }
  ASSERT_EQ(zip_close(archive), 0);
}

// What a pickle of one tensor is made of; every field may lie.
struct TorchPickle {
  std::string rebuild = "torch._utils\n_rebuild_tensor_v2\n", type = "torch\nFloatStorage\n",
              hooks = "collections\nOrderedDict\n";
  std::string tag = "storage", key = "0";
  int32_t items = 0, offset = 0;
  std::vector<int32_t> shape, strides;
  std::string before_stop;  // opcodes

  static void text(Bytes& out, const std::string& value) {
    out.raw("X").u32(static_cast<uint32_t>(value.size())).raw(value);
  }
  static void integers(Bytes& out, const std::vector<int32_t>& values) {
    out.raw("(");
    for (const int32_t v : values) out.raw("J").number(v);
    out.raw("t");
  }
  std::string bytes() const {
    Bytes out;
    out.raw("\x80\x02").raw("c" + rebuild).raw("((");
    text(out, tag);
    out.raw("c" + type);
    text(out, key);
    text(out, "cpu");
    out.raw("J").number(items).raw("tQ").raw("J").number(offset);
    integers(out, shape);
    integers(out, strides);
    out.raw("\x89").raw("c" + hooks).raw(")RtR").raw(before_stop).raw(".");
    return out.text();
  }
};

// A pickle of a contiguous tensor of floats.
inline TorchPickle float_pickle(const std::vector<int32_t>& shape) {
  TorchPickle p;
  p.shape = shape;
  p.strides.assign(shape.size(), 1);
  p.items = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    p.strides[d] = p.items;
    p.items *= shape[d];
  }
  return p;
}

inline std::string float_bytes(const std::vector<float>& values) {
  std::string out(values.size() * sizeof(float), '\0');
  if (!values.empty()) std::memcpy(out.data(), values.data(), out.size());
  return out;
}

inline Members torch_members(const std::string& pickle, const std::string& storage) {
  return {{"t/data.pkl", pickle}, {"t/byteorder", "little"}, {"t/data/0", storage}, {"t/version", "3\n"}};
}

}  // namespace pare
