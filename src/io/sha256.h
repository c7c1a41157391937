// SHA-256 of what passes by, for checking downloads.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "pare/status.h"

struct evp_md_ctx_st;

namespace pare {

class Sha256 {
 public:
  Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  ~Sha256();

  void update(std::string_view bytes);
  // 64 lower-case hex digits of everything so far; the object is spent afterwards. kInternal when the crypto
  // library refused any step (it reports lack of memory, and a policy without SHA-256).
  Expected<std::string> finish_hex();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
  bool ok_;
};

// Hash of a whole file. `on_bytes`, when set, is told after each block how many bytes are done.
Expected<std::string> sha256_of_file(const std::filesystem::path& path,
                                     const std::function<void(int64_t done)>& on_bytes = {});

// Whether `text` is 64 lower-case hex digits.
bool is_sha256_hex(std::string_view text);

}  // namespace pare
