#include "plan/registry.h"

#include <fmt/format.h>

#include <optional>

#include "base/check.h"

namespace pare {
namespace {

std::string_view kind_name(ParamKind kind) {
  switch (kind) {
    case ParamKind::kInt: return "an integer";
    case ParamKind::kFloat: return "a number";
    case ParamKind::kFraction: return "a percentage or a number from 0 to 1";
    case ParamKind::kBytes: return "a byte size such as 8GiB";
    case ParamKind::kString: return "a word or a \"string\"";
    case ParamKind::kLayers: return "a layer list such as 0-3,7";
  }
  return "";
}

std::string print_bound(ParamKind kind, double v) {
  SpecValue value;
  switch (kind) {
    case ParamKind::kBytes: value.kind = SpecValue::Kind::kBytes; break;
    case ParamKind::kFloat:
    case ParamKind::kFraction:
      value.kind = SpecValue::Kind::kFloat;
      value.number = v;
      return print_value(value);
    default: break;
  }
  value.integer = static_cast<int64_t>(v);
  return print_value(value);
}

std::string known_params(const PolicySchema& schema) {
  if (schema.params.empty()) return fmt::format("'{}' takes no parameters", schema.name);
  std::string out = fmt::format("'{}' takes", schema.name);
  for (const ParamSchema& p : schema.params) {
    out += fmt::format("{} {}", &p == schema.params.data() ? "" : ",", p.name);
  }
  return out;
}

// The number that a value stands for, or nothing if it is of another kind.
std::optional<double> as_number(const SpecValue& v, ParamKind kind) {
  using Kind = SpecValue::Kind;
  if (v.kind == Kind::kInt) return static_cast<double>(v.integer);
  if (v.kind == Kind::kBytes && kind == ParamKind::kBytes) return static_cast<double>(v.integer);
  if (v.kind == Kind::kFloat && (kind == ParamKind::kFloat || kind == ParamKind::kFraction)) return v.number;
  if (v.kind == Kind::kPercent && kind == ParamKind::kFraction) return v.number / 100;
  return std::nullopt;
}

}  // namespace

Expected<BoundTerm> bind_term(const Spec& spec, size_t term, const PolicySchema& schema) {
  const SpecTerm& t = spec.terms[term];
  BoundTerm bound;
  bound.schema_ = &schema;
  for (const ParamSchema& p : schema.params) {
    BoundTerm::Value v;
    v.integer = static_cast<int64_t>(p.fallback);
    v.number = p.fallback;
    v.present = !p.optional;
    bound.values_.push_back(std::move(v));
  }
  for (const SpecParam& param : t.params) {
    size_t i = 0;
    while (i < schema.params.size() && schema.params[i].name != param.name) ++i;
    if (i == schema.params.size()) {
      return spec_error(spec, param.name_column,
                        fmt::format("unknown parameter '{}'; {}", param.name, known_params(schema)));
    }
    const ParamSchema& p = schema.params[i];
    const SpecValue& in = param.value;
    const auto wrong = [&](std::string_view why) {
      return spec_error(spec, param.value_column, fmt::format("{}: {}", p.name, why));
    };
    BoundTerm::Value& out = bound.values_[i];
    out.present = true;
    if (p.kind == ParamKind::kString) {
      if (in.kind != SpecValue::Kind::kString) return wrong(fmt::format("expected {}", kind_name(p.kind)));
      out.text = in.text;
    } else if (p.kind == ParamKind::kLayers) {
      if (in.kind == SpecValue::Kind::kLayers) {
        out.layers = in.layers;
      } else if (in.kind == SpecValue::Kind::kInt && in.integer >= 0 && in.integer <= static_cast<int64_t>(p.max)) {
        out.layers = {{static_cast<int32_t>(in.integer), static_cast<int32_t>(in.integer)}};
      } else {
        return wrong(fmt::format("expected {}", kind_name(p.kind)));
      }
    } else {
      const std::optional<double> v = as_number(in, p.kind);
      if (!v) return wrong(fmt::format("expected {}", kind_name(p.kind)));
      if (!(*v >= p.min && *v <= p.max)) {
        return wrong(fmt::format("{} is out of range; {} to {} is possible", print_value(in),
                                 print_bound(p.kind, p.min), print_bound(p.kind, p.max)));
      }
      out.number = *v;
      out.integer = in.integer;
    }
  }
  return bound;
}

int BoundTerm::index_of(std::string_view name, ParamKind a, ParamKind b) const {
  size_t i = 0;
  while (i < schema_->params.size() && schema_->params[i].name != name) ++i;
  PARE_CHECK(i < schema_->params.size());
  PARE_CHECK(schema_->params[i].kind == a || schema_->params[i].kind == b);
  return static_cast<int>(i);
}

int64_t BoundTerm::integer(std::string_view name) const {
  return values_[index_of(name, ParamKind::kInt, ParamKind::kBytes)].integer;
}
double BoundTerm::number(std::string_view name) const {
  return values_[index_of(name, ParamKind::kFloat, ParamKind::kFraction)].number;
}
const std::string& BoundTerm::text(std::string_view name) const {
  return values_[index_of(name, ParamKind::kString, ParamKind::kString)].text;
}
const std::vector<LayerRange>& BoundTerm::layers(std::string_view name) const {
  return values_[index_of(name, ParamKind::kLayers, ParamKind::kLayers)].layers;
}

bool BoundTerm::has(std::string_view name) const {
  size_t i = 0;
  while (i < schema_->params.size() && schema_->params[i].name != name) ++i;
  PARE_CHECK(i < schema_->params.size());
  return values_[i].present;
}
void BoundTerm::set_integer(std::string_view name, int64_t value) {
  Value& v = values_[index_of(name, ParamKind::kInt, ParamKind::kBytes)];
  v.integer = value;
  v.number = static_cast<double>(value);
  v.present = true;
}
void BoundTerm::set_layers(std::string_view name, std::vector<LayerRange> layers) {
  Value& v = values_[index_of(name, ParamKind::kLayers, ParamKind::kLayers)];
  v.present = !layers.empty();
  v.layers = std::move(layers);
}
void BoundTerm::clear(std::string_view name) {
  for (size_t i = 0; i < schema_->params.size(); ++i) {
    if (schema_->params[i].name == name) values_[i] = Value{.present = false};
  }
}

std::string BoundTerm::canonical() const {
  SpecTerm term;
  term.name = schema_->name;
  for (size_t i = 0; i < values_.size(); ++i) {
    const Value& v = values_[i];
    if (!v.present) continue;
    SpecValue value;
    switch (schema_->params[i].kind) {
      case ParamKind::kInt: value.integer = v.integer; break;
      case ParamKind::kBytes:
        value.kind = SpecValue::Kind::kBytes;
        value.integer = v.integer;
        break;
      case ParamKind::kFloat:
      case ParamKind::kFraction:
        value.kind = SpecValue::Kind::kFloat;
        value.number = v.number;
        break;
      case ParamKind::kString:
        value.kind = SpecValue::Kind::kString;
        value.text = v.text;
        break;
      case ParamKind::kLayers:
        value.kind = SpecValue::Kind::kLayers;
        value.layers = v.layers;
        break;
    }
    term.params.push_back({std::string(schema_->params[i].name), std::move(value), 0, 0});
  }
  return print_term(term);
}

Status unknown_policy(const Spec& spec, size_t term, std::span<const std::string_view> known) {
  return spec_error(spec, spec.terms[term].column,
                    fmt::format("unknown policy '{}'; known: {}", spec.terms[term].name, fmt::join(known, ", ")));
}

}  // namespace pare
