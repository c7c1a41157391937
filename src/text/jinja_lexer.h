// Splits a template into text and tokens, with Jinja's rules for white space: trim_blocks and lstrip_blocks
// on, the last newline of the source dropped, "-" and "+" signs on every tag.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"
#include "text/jinja_ast.h"

namespace pare::jinja {

enum class TokenType : uint8_t {
  kText,
  kPrintBegin,
  kPrintEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  Position position;
  std::string text;  // decoded for strings
  int64_t integer = 0;
  double real = 0;
};

// "line 3, column 7: message".
Status error_at(Position position, std::string_view message);

// The tokens, kEnd last. `source` is valid UTF-8.
Expected<std::vector<Token>> tokenize(std::string_view source);

}  // namespace pare::jinja
