#include <cmath>
#include <cstdio>

#include "text/jinja_library.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

Status unprintable(const Value& value) {
  return unsupported("text of a " + std::string(value.type_name()) + " (an address in Python)");
}

// Shared by repr and JSON: both check what they have written so far against the runtime's memory, because a
// value may hold the same list many times over.
class Writer {
 public:
  explicit Writer(Runtime* runtime) : rt_(*runtime) {}

  Status write_repr(const Value& value) {
    PARE_RETURN_IF_ERROR(rt_.step());
    PARE_RETURN_IF_ERROR(rt_.reserve(out.size()));
    switch (value.kind()) {
      case Kind::kUndefined: out += "Undefined"; return ok_status();
      case Kind::kNone: out += "None"; return ok_status();
      case Kind::kBool: out += value.as_bool() ? "True" : "False"; return ok_status();
      case Kind::kInt: out += std::to_string(value.as_integer()); return ok_status();
      case Kind::kFloat: out += format_real(value.as_real()); return ok_status();
      case Kind::kString:
        PARE_RETURN_IF_ERROR(rt_.step(value.text().size()));
        out += value.safe() ? "Markup(" + quote_python(value.text()) + ")" : quote_python(value.text());
        return ok_status();
      case Kind::kList: return write_items(value, "[", "]");
      case Kind::kTuple: return write_items(value, "(", value.items().size() == 1 ? ",)" : ")");
      case Kind::kView: return write_items(value, std::string(value.type_name()) + "([", "])");
      case Kind::kRange: return write_range(value.as<RangeObject>());
      case Kind::kDict: return write_dict(value.dict());
      case Kind::kNamespace: return write_namespace(value.as<NamespaceObject>());
      default: return unprintable(value);
    }
  }

  Status write_json(const Value& value, const JsonStyle& style, int level) {
    PARE_RETURN_IF_ERROR(rt_.step());
    PARE_RETURN_IF_ERROR(rt_.reserve(out.size()));
    switch (value.kind()) {
      case Kind::kNone: out += "null"; return ok_status();
      case Kind::kBool: out += value.as_bool() ? "true" : "false"; return ok_status();
      case Kind::kInt: out += std::to_string(value.as_integer()); return ok_status();
      case Kind::kFloat: out += json_real(value.as_real()); return ok_status();
      case Kind::kString:
        PARE_RETURN_IF_ERROR(rt_.step(value.text().size()));
        write_json_string(value.text(), style.ensure_ascii);
        return ok_status();
      case Kind::kList:
      case Kind::kTuple: return write_json_list(value, style, level);
      case Kind::kDict: return write_json_dict(value.dict(), style, level);
      default:
        return invalid_argument("Object of type " + std::string(value.type_name()) + " is not JSON serializable");
    }
  }

  std::string out;

 private:
  static std::string json_real(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return format_real(value);
  }

  Status write_items(const Value& value, std::string_view open, std::string_view close) {
    out += open;
    bool first = true;
    for (const Value& item : value.items()) {
      if (!first) out += ", ";
      first = false;
      PARE_RETURN_IF_ERROR(write_repr(item));
    }
    out += close;
    return ok_status();
  }

  Status write_range(const RangeObject& range) {
    out += "range(" + std::to_string(range.start) + ", " + std::to_string(range.stop);
    if (range.step != 1) out += ", " + std::to_string(range.step);
    out += ")";
    return ok_status();
  }

  Status write_dict(const DictObject& dict) {
    out += "{";
    bool first = true;
    for (const auto& [key, value] : dict.entries) {
      if (!first) out += ", ";
      first = false;
      PARE_RETURN_IF_ERROR(write_repr(key));
      out += ": ";
      PARE_RETURN_IF_ERROR(write_repr(value));
    }
    out += "}";
    return ok_status();
  }

  // A namespace may hold itself: depth is counted, where other values have theirs bounded when they are made.
  Status write_namespace(const NamespaceObject& ns) {
    if (++namespaces_ > kMaxTemplateDepth) {
      return limit_exceeded("namespaces nested deeper than " + std::to_string(kMaxTemplateDepth) + " levels");
    }
    out += "<Namespace {";
    bool first = true;
    for (const auto& [name, value] : ns.attributes) {
      if (!first) out += ", ";
      first = false;
      out += quote_python(name) + ": ";
      PARE_RETURN_IF_ERROR(write_repr(value));
    }
    out += "}>";
    --namespaces_;
    return ok_status();
  }

  void write_json_string(std::string_view text, bool ensure_ascii) {
    const auto unit = [&](char32_t c) {
      out += "\\u";
      for (int shift = 12; shift >= 0; shift -= 4) out.push_back("0123456789abcdef"[(c >> shift) & 0xf]);
    };
    out.push_back('"');
    for (size_t i = 0; i < text.size();) {
      const char32_t c = next_code_point(text, &i);
      switch (c) {
        case '"': out += "\\\""; continue;
        case '\\': out += "\\\\"; continue;
        case '\n': out += "\\n"; continue;
        case '\r': out += "\\r"; continue;
        case '\t': out += "\\t"; continue;
        case '\f': out += "\\f"; continue;
        case '\b': out += "\\b"; continue;
        default: break;
      }
      if (c < 0x20 || (ensure_ascii && c > 0x7e && c < 0x10000)) {
        unit(c);
      } else if (ensure_ascii && c >= 0x10000) {
        unit(0xd800 + ((c - 0x10000) >> 10));
        unit(0xdc00 + ((c - 0x10000) & 0x3ff));
      } else {
        append_utf8(&out, c);
      }
    }
    out.push_back('"');
  }

  void write_separator(const JsonStyle& style, bool first, int level) {
    if (!first) {
      const std::string_view fallback = style.has_indent ? "," : ", ";
      out += style.has_separators ? std::string_view(style.item_separator) : fallback;
    }
    write_newline(style, level);
  }

  void write_newline(const JsonStyle& style, int level) {
    if (!style.has_indent) return;
    out.push_back('\n');
    for (int i = 0; i < level; ++i) out += style.indent;
  }

  Status write_json_list(const Value& value, const JsonStyle& style, int level) {
    if (value.items().empty()) {
      out += "[]";
      return ok_status();
    }
    out.push_back('[');
    bool first = true;
    for (const Value& item : value.items()) {
      write_separator(style, first, level + 1);
      first = false;
      PARE_RETURN_IF_ERROR(write_json(item, style, level + 1));
    }
    write_newline(style, level);
    out.push_back(']');
    return ok_status();
  }

  Status write_json_dict(const DictObject& dict, const JsonStyle& style, int level) {
    if (dict.entries.empty()) {
      out += "{}";
      return ok_status();
    }
    out.push_back('{');
    for (size_t i = 0; i < dict.entries.size(); ++i) {
      const auto& [key, value] = dict.entries[style.sort_keys ? dict.order[i] : i];
      write_separator(style, i == 0, level + 1);
      PARE_RETURN_IF_ERROR(write_json_key(key, style));
      out += style.has_separators ? style.key_separator : ": ";
      PARE_RETURN_IF_ERROR(write_json(value, style, level + 1));
    }
    write_newline(style, level);
    out.push_back('}');
    return ok_status();
  }

  Status write_json_key(const Value& key, const JsonStyle& style) {
    if (key.is_string()) return write_json(key, style, 0);
    if (!key.is_number() && !key.is_none()) {
      return invalid_argument("keys must be str, int, float, bool or None, not " + std::string(key.type_name()));
    }
    out.push_back('"');
    PARE_RETURN_IF_ERROR(write_json(key, style, 0));
    out.push_back('"');
    return ok_status();
  }

  Runtime& rt_;
  int namespaces_ = 0;
};

}  // namespace

Expected<std::string> to_text(Runtime& rt, const Value& value) {
  if (value.is_undefined()) return std::string();
  if (value.is_string()) {
    PARE_RETURN_IF_ERROR(rt.step(value.text().size()));
    return value.text();
  }
  return to_repr(rt, value);
}

Expected<std::string> to_repr(Runtime& rt, const Value& value) {
  Writer writer(&rt);
  PARE_RETURN_IF_ERROR(writer.write_repr(value));
  return std::move(writer.out);
}

Expected<std::string> to_json(Runtime& rt, const Value& value, const JsonStyle& style) {
  PARE_RETURN_IF_ERROR(rt.reserve_product(style.indent.size(), static_cast<uint64_t>(kMaxValueDepth)));
  Writer writer(&rt);
  PARE_RETURN_IF_ERROR(writer.write_json(value, style, 0));
  return std::move(writer.out);
}

}  // namespace pare::jinja
