// Hostile and honest `.pth` files.
#include "io/torch_tensor_file.h"

#include <gtest/gtest.h>

#include "base/half.h"
#include "base/limits.h"
#include "io/torch_pickle.h"
#include "torch_test_files.h"

namespace pare {
namespace {

class TorchTensorFile : public ::testing::Test {
 protected:
  Expected<TorchTensor> read(const Members& members, bool deflate = false) {
    write_zip(path_, members, deflate);
    return read_torch_tensor(path_);
  }
  Expected<TorchTensor> read(const TorchPickle& pickle, const std::string& storage) {
    return read(torch_members(pickle.bytes(), storage));
  }
  void expect_refused(const Expected<TorchTensor>& tensor, StatusCode code, std::string_view text) {
    ASSERT_FALSE(tensor.ok()) << text;
    EXPECT_EQ(tensor.status().code(), code) << tensor.status().to_string();
    EXPECT_NE(tensor.status().message().find(text), std::string_view::npos) << tensor.status().message();
    EXPECT_TRUE(tensor.status().message().starts_with(path_.string())) << tensor.status().message();
  }

  ScratchFolder folder_;
  std::filesystem::path path_ = folder_ / "t.pth";
  TorchPickle good_ = float_pickle({2, 3});
  std::string storage_ = float_bytes({0, 1, 2, 3, 4, 5});
};

TEST_F(TorchTensorFile, ReadsWhatTorchSaves) {
  const auto tensor = read(good_, storage_);
  ASSERT_TRUE(tensor.ok()) << tensor.status().to_string();
  EXPECT_EQ(tensor->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensor->values, (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_TRUE(read(torch_members(good_.bytes(), storage_), true).ok()) << "deflated";
}

TEST_F(TorchTensorFile, FollowsStridesAndOffset) {
  TorchPickle p = good_;
  p.shape = {2, 2};
  p.strides = {1, 3};  // a transpose
  p.offset = 1;
  const auto tensor = read(p, storage_);
  ASSERT_TRUE(tensor.ok()) << tensor.status().to_string();
  EXPECT_EQ(tensor->values, (std::vector<float>{1, 4, 2, 5}));
}

TEST_F(TorchTensorFile, ReadsEveryTypeOnTheList) {
  Bytes half, bfloat, bytes, doubles;
  for (const float v : {0.5f, -2.0f}) {
    half.number(float_to_half(v));
    bfloat.number(float_to_bfloat(v));
    doubles.number(static_cast<double>(v));
  }
  bytes.raw(std::string("\x02\xff", 2));
  TorchPickle p = float_pickle({2});
  const auto values = [&](const char* type, const std::string& storage) {
    p.type = std::string("torch\n") + type + "\n";
    const auto tensor = read(p, storage);
    EXPECT_TRUE(tensor.ok()) << tensor.status().to_string();
    return tensor.ok() ? tensor->values : std::vector<float>();
  };
  EXPECT_EQ(values("HalfStorage", half.text()), (std::vector<float>{0.5f, -2.0f}));
  EXPECT_EQ(values("BFloat16Storage", bfloat.text()), (std::vector<float>{0.5f, -2.0f}));
  EXPECT_EQ(values("DoubleStorage", doubles.text()), (std::vector<float>{0.5f, -2.0f}));
  EXPECT_EQ(values("ByteStorage", bytes.text()), (std::vector<float>{2.0f, 255.0f}));
  EXPECT_EQ(values("CharStorage", bytes.text()), (std::vector<float>{2.0f, -1.0f}));
  EXPECT_EQ(values("BoolStorage", bytes.text()), (std::vector<float>{1.0f, 1.0f}));
}

TEST_F(TorchTensorFile, RefusesGlobalsBeyondTheList) {
  const auto with = [&](auto member, const char* global) {
    TorchPickle p = good_;
    p.*member = global;
    return read(p, storage_);
  };
  expect_refused(with(&TorchPickle::rebuild, "os\nsystem\n"), StatusCode::kUnsupported, "global 'os'.'system'");
  expect_refused(with(&TorchPickle::hooks, "builtins\neval\n"), StatusCode::kUnsupported, "global 'builtins'.'eval'");
  expect_refused(with(&TorchPickle::type, "torch\nComplexFloatStorage\n"), StatusCode::kUnsupported,
                 "global 'torch'.'ComplexFloatStorage'");
  // Known, but not callable; a storage type that is none.
  expect_refused(with(&TorchPickle::hooks, "torch\nFloatStorage\n"), StatusCode::kDataLoss, "a storage type is called");
  expect_refused(with(&TorchPickle::type, "collections\nOrderedDict\n"), StatusCode::kDataLoss, "persistent id");
  expect_refused(with(&TorchPickle::rebuild, "no end"), StatusCode::kUnsupported, "global");
}

TEST_F(TorchTensorFile, RefusesOpcodesBeyondTheList) {
  // Every byte that is no opcode of the list; the string ones that build, import or set state among them.
  const std::string known(
      "\x80"
      "cqrhj(XJKM\x8a\x88\x89)\x85\x86\x87tQR.");
  int refused = 0;
  for (int opcode = 0; opcode < 256; ++opcode) {
    if (known.find(static_cast<char>(opcode)) != std::string::npos) continue;
    TorchPickle p = good_;
    p.before_stop = std::string(1, static_cast<char>(opcode));
    const auto tensor = read_torch_pickle(as_bytes(p.bytes()));
    ASSERT_FALSE(tensor.ok()) << opcode;
    EXPECT_EQ(tensor.status().code(), StatusCode::kUnsupported) << tensor.status().to_string();
    ++refused;
  }
  EXPECT_EQ(refused, 256 - 22);
  TorchPickle p = good_;
  p.before_stop = "b";  // BUILD
  expect_refused(read(p, storage_), StatusCode::kUnsupported, "opcode 'b' has no place in the pickle of a tensor");
  p.before_stop = "\x93";  // STACK_GLOBAL
  expect_refused(read(p, storage_), StatusCode::kUnsupported, "opcode 0x93");
  p.before_stop = "0";  // what was left on the stack is no way out either
  expect_refused(read(p, storage_), StatusCode::kUnsupported, "opcode '0'");
}

TEST_F(TorchTensorFile, RefusesShapesAndStridesThatLie) {
  const auto with = [&](std::vector<int32_t> shape, std::vector<int32_t> strides, int32_t offset = 0) {
    TorchPickle p = good_;
    p.shape = std::move(shape);
    p.strides = std::move(strides);
    p.offset = offset;
    return read(p, storage_);
  };
  expect_refused(with({2, 3}, {4, 1}), StatusCode::kDataLoss, "reaches item 6 of a storage of 6 items");
  expect_refused(with({2, 3}, {3, 1}, 1), StatusCode::kDataLoss, "reaches item 6 of a storage of 6 items");
  expect_refused(with({2, 3}, {3, 1}, -1), StatusCode::kDataLoss, "storage offset -1");
  expect_refused(with({2, 3}, {-3, 1}), StatusCode::kDataLoss, "a stride of -3");
  expect_refused(with({-2, 3}, {3, 1}), StatusCode::kDataLoss, "a size of -2");
  expect_refused(with({2, 3}, {3}), StatusCode::kDataLoss, "2 sizes and 1 strides");
  expect_refused(with({1, 1, 1, 1, 6}, {1, 1, 1, 1, 1}), StatusCode::kLimitExceeded, "5 dimensions, limit 4");
  // Many elements out of few bytes, and a product beyond 64 bits.
  expect_refused(with({INT32_MAX, 1}, {0, 0}), StatusCode::kLimitExceeded, "a tensor of more than 16777216 elements");
  expect_refused(with({INT32_MAX, INT32_MAX, INT32_MAX}, {0, 0, 0}), StatusCode::kLimitExceeded, "elements");
  EXPECT_TRUE(with({0, INT32_MAX}, {1, 1}).ok()) << "no elements reach nothing";
}

TEST_F(TorchTensorFile, RefusesStoragesThatLie) {
  expect_refused(read(good_, storage_.substr(1)), StatusCode::kDataLoss, "storage 0 has 23 bytes, its 6 items take 24");
  TorchPickle p = good_;
  p.type = "torch\nHalfStorage\n";
  expect_refused(read(p, storage_), StatusCode::kDataLoss, "storage 0 has 24 bytes, its 6 items take 12");
  p = good_;
  p.key = "1";
  expect_refused(read(p, storage_), StatusCode::kNotFound, "no member 't/data/1'");
  p.key = "../0";
  expect_refused(read(p, storage_), StatusCode::kDataLoss, "storage key '../0' is not a number");
  p = good_;
  p.tag = "module";
  expect_refused(read(p, storage_), StatusCode::kDataLoss, "persistent id");
  p = good_;
  p.items = -1;
  expect_refused(read(p, storage_), StatusCode::kDataLoss, "a storage of -1 items");
}

TEST_F(TorchTensorFile, RefusesPicklesThatEndWrong) {
  const auto pickle = [&](const std::string& bytes) { return read(torch_members(bytes, storage_)); };
  expect_refused(pickle("\x80\x02."), StatusCode::kDataLoss, "the pickle ends with 0 values");
  expect_refused(pickle("\x80\x02K\x01."), StatusCode::kUnsupported, "the file holds an integer, not a tensor");
  expect_refused(pickle("\x80\x04."), StatusCode::kUnsupported, "pickle protocol 4");
  expect_refused(pickle(good_.bytes() + "x"), StatusCode::kDataLoss, "1 bytes after the end");
  expect_refused(pickle("\x80\x02h\x07."), StatusCode::kDataLoss, "memo slot 7 is empty");
  expect_refused(pickle("\x80\x02q\x01."), StatusCode::kDataLoss, "nothing to put into the memo");
  expect_refused(pickle("\x80\x02t."), StatusCode::kDataLoss, "a tuple without a mark");
  expect_refused(pickle("\x80\x02\x85."), StatusCode::kDataLoss, "a tuple of 1 from 0 values");
  expect_refused(pickle("\x80\x02(\x85."), StatusCode::kDataLoss, "a mark inside a tuple");
  expect_refused(pickle("\x80\x02R."), StatusCode::kDataLoss, "the stack is empty");
  expect_refused(pickle("\x80\x02\x8a\x09"
                        "123456789."),
                 StatusCode::kLimitExceeded, "an integer of 9 bytes");
  expect_refused(pickle(std::string("\x80\x02") + std::string(300, '(') + "."), StatusCode::kLimitExceeded,
                 "more than 256 values on the stack");
  expect_refused(pickle(std::string(kMaxTorchPickleBytes + 1, ')')), StatusCode::kDataLoss, "limit 65536");
  // Deep nesting costs no stack: refused for what it is.
  std::string nested = "\x80\x02)";
  nested += std::string(60'000, '\x85') + ".";
  expect_refused(pickle(nested), StatusCode::kUnsupported, "the file holds a tuple");
}

TEST_F(TorchTensorFile, RefusesHostileArchives) {
  const Members good = torch_members(good_.bytes(), storage_);
  const auto with = [&](const std::string& name, const std::string& content) {
    Members members = good;
    members.emplace_back(name, content);
    return read(members);
  };
  expect_refused(with("../evil", "x"), StatusCode::kDataLoss, "entry '../evil' would leave its folder");
  expect_refused(with("/etc/evil", "x"), StatusCode::kDataLoss, "would leave its folder");
  expect_refused(with("u/data.pkl", "x"), StatusCode::kDataLoss, "two folders with a data.pkl");
  EXPECT_TRUE(with("t/.data/serialization_id", "x").ok()) << "what is not needed is not read";
  Members big = good;
  big[1].second = "big";
  expect_refused(read(big), StatusCode::kUnsupported, "byte order 'big'");
  Members many = good;
  for (int i = 0; i < kMaxTorchEntries; ++i) many.emplace_back("t/extra" + std::to_string(i), "");
  expect_refused(read(many), StatusCode::kDataLoss, "68 entries, limit 64");
  expect_refused(read({{"t/version", "3"}}), StatusCode::kDataLoss, "not a file of torch.save");
  // A bomb: 32 MiB of zeros in 32 KiB, with a pickle that asks for them.
  TorchPickle bomb = float_pickle({8 << 20});
  expect_refused(read(torch_members(bomb.bytes(), std::string(32 << 20, '\0')), true), StatusCode::kDataLoss,
                 "unpacks to more than 16 times its stored bytes");
  bomb = float_pickle({(kMaxTorchStorageBytes >> 2) + 1});
  expect_refused(read(torch_members(bomb.bytes(), storage_)), StatusCode::kLimitExceeded, "elements");
  write_whole(path_, "PK but no archive");
  expect_refused(read_torch_tensor(path_), StatusCode::kDataLoss, "not a readable zip archive");
  EXPECT_EQ(read_torch_tensor(folder_ / "none.pth").status().code(), StatusCode::kNotFound);
}

TEST_F(TorchTensorFile, NoByteFlipOrCutCrashes) {
  write_zip(path_, torch_members(good_.bytes(), storage_));
  const std::string good = read_whole(path_);
  for (size_t i = 0; i < good.size(); ++i) {
    for (const unsigned char flip : {0x01, 0x80, 0xff}) {
      std::string bad = good;
      bad[i] = static_cast<char>(static_cast<unsigned char>(bad[i]) ^ flip);
      const auto tensor = read_torch_tensor(as_bytes(bad));
      if (tensor.ok()) {
        EXPECT_EQ(tensor->values.size(), 6u) << "byte " << i;
      }
    }
    EXPECT_FALSE(read_torch_tensor(as_bytes(good.substr(0, i))).ok()) << i;
  }
  // The same without the archive's checksums in the way.
  const std::string pickle = good_.bytes();
  for (size_t i = 0; i < pickle.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string bad = pickle;
      bad[i] = static_cast<char>(value);
      const auto record = read_torch_pickle(as_bytes(bad));
      if (record.ok()) {
        EXPECT_EQ(record->shape.size(), record->strides.size());
        EXPECT_GE(record->offset, 0);
      }
    }
  }
}

}  // namespace
}  // namespace pare
