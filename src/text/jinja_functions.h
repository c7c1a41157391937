// Global functions: range, dict, namespace, joiner, raise_exception, strftime_now.
#pragma once

#include <string_view>

#include "text/jinja_library.h"

namespace pare::jinja {

struct Function {
  std::string_view name;
  Expected<Value> (*apply)(Runtime& rt, const Arguments& args);
  bool raises = false;  // the string it returns is the error of the whole rendering
};

struct FunctionObject : Object {
  FunctionObject(Runtime* runtime, const Function* entry) : Object(runtime, sizeof(FunctionObject)), function(entry) {}
  const Function* const function;
};

// Null where there is none.
const Function* find_function(std::string_view name);
// What a joiner gives when it is called.
Expected<Value> call_joiner_object(Runtime& rt, const Value& self, const Arguments& args);

}  // namespace pare::jinja
