#include "io/sha256.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "io/store_files.h"

namespace pare {

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  ok_ = context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
}
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

void Sha256::update(std::string_view bytes) {
  if (ok_) ok_ = EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1;
}

Expected<std::string> Sha256::finish_hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (ok_) ok_ = EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1;
  if (!ok_) return internal_error("SHA-256: the crypto library refused");
  ok_ = false;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += kHex[digest[i] >> 4];
    text += kHex[digest[i] & 15];
  }
  return text;
}

Expected<std::string> sha256_of_file(const std::filesystem::path& path,
                                     const std::function<void(int64_t done)>& on_bytes) {
  PARE_ASSIGN_OR_RETURN(UniqueFd file, open_file(path, O_RDONLY));
  Sha256 hash;
  std::vector<char> block(1 << 20);
  int64_t done = 0;
  for (;;) {
    const ssize_t got = ::read(file.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status(errno, "read", path);
    if (got == 0) return hash.finish_hex();
    hash.update({block.data(), static_cast<size_t>(got)});
    done += got;
    if (on_bytes) on_bytes(done);
  }
}

bool is_sha256_hex(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace pare
