#include "cli/help.h"

#include <fmt/format.h>

namespace pare::cli {

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  if (option->get_positional() || option->get_type_size() == 0) return "";
  // The library appends each check to the type ("INT:INT in [0 - 8]"); only a list of words is worth its place.
  const std::string type = option->get_type_name();
  const size_t words = type.find('{');
  return " " + (words == std::string::npos ? type.substr(0, type.find(':')) : type.substr(words));
}

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  const std::string value = option->get_default_str();
  const bool empty = value.empty() || value == "[]" || value == "{}" || value == "\"\"";
  return empty || option->get_positional() ? option->get_description()
                                           : fmt::format("{} [{}]", option->get_description(), value);
}

}  // namespace pare::cli
