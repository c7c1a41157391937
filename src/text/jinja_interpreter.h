// Runs a parsed template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "text/jinja_ast.h"

namespace pare::jinja {

// The text of `template_body` with `variables` defined. Errors of the template give line and column;
// raise_exception(m) is kInvalidArgument with m alone. Bounds: the runtime's, kMaxTemplateOutputBytes for the
// result, kMaxTemplateDepth for calls of macros inside each other.
Expected<std::string> render(Runtime& rt, const Block& template_body,
                             std::vector<std::pair<std::string, Value>> variables);

}  // namespace pare::jinja
