// An environment variable that has another value for a while. Not while other threads read the environment.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

namespace pare::test {

// Sets an environment variable (nullptr: unsets it) for a scope.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    set(value);
  }
  ~ScopedEnv() { set(old_ ? old_->c_str() : nullptr); }

 private:
  void set(const char* value) { value != nullptr ? ::setenv(name_, value, 1) : ::unsetenv(name_); }
  const char* name_;
  std::optional<std::string> old_;
};

}  // namespace pare::test
