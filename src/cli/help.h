// How --help looks: one line an option, its unit or file in the place of a type, its default in brackets.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace pare::cli {

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(34); }

 protected:
  std::string make_option_opts(const CLI::Option* option) const override;
  std::string make_option_desc(const CLI::Option* option) const override;
};

}  // namespace pare::cli
