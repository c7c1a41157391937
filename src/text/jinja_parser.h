// Grammar of the templates: Jinja's, less inheritance, includes, autoescape and recursive loops
// (kUnsupported).
#pragma once

#include <string_view>

#include "text/jinja_ast.h"

namespace pare::jinja {

// `source` is valid UTF-8. Errors give line and column. Nesting is bounded by kMaxTemplateDepth, the height
// of an expression (a + b + c ... nests to the left) by kMaxExprDepth.
inline constexpr int kMaxExprDepth = 8 * static_cast<int>(kMaxTemplateDepth);
Expected<Block> parse_template(std::string_view source);

}  // namespace pare::jinja
