#include "text/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/limits.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex_digit(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name_byte(char c) { return is_name_start(c) || is_digit(c); }

constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                         "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                         ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

// "\r\n" and "\r" become "\n"; one newline at the end goes.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
      continue;
    }
    out.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  Expected<std::vector<Token>> run() {
    while (offset_ < source_.size()) PARE_RETURN_IF_ERROR(lex_root());
    push(TokenType::kEnd, offset_);
    return std::move(tokens_);
  }

 private:
  // Positions are asked for in ascending order of offset.
  Position position_of(size_t offset) {
    for (; scanned_ < offset; ++scanned_) {
      if (source_[scanned_] == '\n') {
        ++line_;
        line_start_ = scanned_ + 1;
      }
    }
    return {line_, static_cast<int>(offset - line_start_) + 1};
  }

  Token& push(TokenType type, size_t offset) {
    Token& token = tokens_.emplace_back();
    token.type = type;
    token.position = position_of(offset);
    return token;
  }

  Status fail(size_t offset, std::string_view message) { return error_at(position_of(offset), message); }

  bool at(std::string_view what) const { return std::string_view(source_).substr(offset_).starts_with(what); }
  char peek(size_t ahead = 0) const { return offset_ + ahead < source_.size() ? source_[offset_ + ahead] : '\0'; }

  void skip_space() {
    while (offset_ < source_.size()) {
      size_t next = offset_;
      if (!is_space(next_code_point(source_, &next))) return;
      offset_ = next;
    }
  }

  void push_text(size_t begin, size_t end) {
    if (begin == end) return;
    push(TokenType::kText, begin).text = source_.substr(begin, end - begin);
  }

  // Text before a tag at `end`, with the white space that its sign and lstrip_blocks remove taken off.
  size_t trimmed_end(size_t begin, size_t end, char sign, bool print) const {
    const std::string_view text = std::string_view(source_).substr(begin, end - begin);
    if (sign == '-') return begin + strip_right(text).size();
    if (sign == '+' || print) return end;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    if (line == 0 && !line_starting_) return end;
    return strip_left(text.substr(line)).empty() ? begin + line : end;
  }

  // `{% raw %}` at offset_: bytes up to the end of the tag, 0 where it is none.
  size_t match_raw_tag(std::string_view name, bool closing) const {
    const std::string_view source = source_;
    size_t i = offset_ + 2;
    if (i < source.size() && (source[i] == '-' || source[i] == '+')) ++i;
    const auto skip = [&] { i = source.size() - strip_left(source.substr(i)).size(); };
    skip();
    if (!source.substr(i).starts_with(name)) return 0;
    i += name.size();
    skip();
    const bool minus = source.substr(i).starts_with("-%}");
    const bool plus = closing && source.substr(i).starts_with("+%}");
    if (minus || plus) {
      i += 3;
    } else if (source.substr(i).starts_with("%}")) {
      i += 2;
    } else {
      return 0;
    }
    if (minus) {
      skip();
    } else if (closing && !plus && i < source.size() && source[i] == '\n') {
      ++i;
    }
    return i - offset_;
  }

  void finish_tag(size_t end) {
    offset_ = end;
    line_starting_ = end > 0 && source_[end - 1] == '\n';
  }

  Status lex_root() {
    const size_t begin = offset_;
    size_t tag = begin;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        push_text(begin, source_.size());
        offset_ = source_.size();
        return ok_status();
      }
      const char kind = source_[tag + 1];
      if (kind == '{' || kind == '%' || kind == '#') break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    const char after = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char sign = after == '-' || after == '+' ? after : '\0';
    push_text(begin, trimmed_end(begin, tag, sign, kind == '{'));
    offset_ = tag;
    if (kind == '%') {
      if (const size_t length = match_raw_tag("raw", false); length != 0) return lex_raw(length);
    }
    line_starting_ = false;
    offset_ += sign ? 3 : 2;
    if (kind == '#') return lex_comment(tag);
    push(kind == '{' ? TokenType::kPrintBegin : TokenType::kBlockBegin, tag);
    return lex_code(kind == '{');
  }

  Status lex_raw(size_t open_length) {
    const size_t open = offset_;
    finish_tag(open + open_length);
    const size_t begin = offset_;
    while (true) {
      offset_ = source_.find("{%", offset_);
      if (offset_ == std::string::npos) return fail(open, "raw block has no endraw");
      if (const size_t length = match_raw_tag("endraw", true); length != 0) {
        const char after = source_[offset_ + 2];
        push_text(begin, trimmed_end(begin, offset_, after == '-' || after == '+' ? after : '\0', false));
        finish_tag(offset_ + length);
        return ok_status();
      }
      ++offset_;
    }
  }

  Status lex_comment(size_t open) {
    const size_t end = source_.find("#}", offset_);
    if (end == std::string::npos) return fail(open, "comment has no end");
    const char sign = end > offset_ ? source_[end - 1] : '\0';
    offset_ = end + 2;
    skip_after_tag(sign);
    return ok_status();
  }

  // After "%}" or "#}": "-" takes all white space, "+" none, otherwise one newline goes (trim_blocks).
  void skip_after_tag(char sign) {
    if (sign == '-') {
      skip_space();
#ifndef PARE_FAULT_TEMPLATE_TRIM_BLOCKS
    } else if (sign != '+' && peek() == '\n') {
      ++offset_;
#endif
    }
    finish_tag(offset_);
  }

  Status lex_code(bool print) {
    std::vector<char> open;
    while (true) {
      if (open.empty() && lex_tag_end(print)) return ok_status();
      const size_t before = offset_;
      skip_space();
      if (offset_ != before) continue;
      if (offset_ >= source_.size()) {
        return fail(offset_,
                    print ? "unexpected end of template, expected '}}'" : "unexpected end of template, expected '%}'");
      }
      PARE_RETURN_IF_ERROR(lex_token(&open));
    }
  }

  bool lex_tag_end(bool print) {
    const std::string_view end = print ? "}}" : "%}";
    const char sign = peek();
    const bool is_signed =
        (sign == '-' || (sign == '+' && !print)) && std::string_view(source_).substr(offset_ + 1).starts_with(end);
    if (!is_signed && !at(end)) return false;
    push(print ? TokenType::kPrintEnd : TokenType::kBlockEnd, offset_);
    offset_ += end.size() + (is_signed ? 1 : 0);
    if (print && !is_signed) {
      finish_tag(offset_);
    } else {
      skip_after_tag(is_signed ? sign : '\0');
    }
    return true;
  }

  Status lex_token(std::vector<char>* open) {
    const char c = peek();
    if (is_digit(c)) return lex_number();
    if (is_name_start(c)) {
      const size_t begin = offset_;
      while (is_name_byte(peek())) ++offset_;
      if (static_cast<unsigned char>(peek()) >= 0x80) return fail(offset_, "names outside ASCII are not supported");
      push(TokenType::kName, begin).text = source_.substr(begin, offset_ - begin);
      return ok_status();
    }
    if (c == '\'' || c == '"') return lex_string(c);
    for (std::string_view op : kOperators) {
      if (!at(op)) continue;
      if (op == "(" || op == "[" || op == "{") open->push_back(op == "(" ? ')' : op == "[" ? ']' : '}');
      if (op == ")" || op == "]" || op == "}") {
        if (open->empty()) return fail(offset_, "unexpected '" + std::string(op) + "'");
        if (open->back() != op[0]) {
          return fail(offset_, "unexpected '" + std::string(op) + "', expected '" + std::string(1, open->back()) + "'");
        }
        open->pop_back();
      }
      push(TokenType::kOperator, offset_).text = op;
      offset_ += op.size();
      return ok_status();
    }
    size_t end = offset_;
    next_code_point(source_, &end);
    return fail(offset_,
                "unexpected character " + quote_python(std::string_view(source_).substr(offset_, end - offset_)));
  }

  // End of digits with single underscores between them, from `i`; `i` itself where there is none.
  template <typename IsDigit>
  size_t digits_end(size_t i, IsDigit is_valid) const {
    size_t end = i;
    while (end < source_.size()) {
      const size_t digit = source_[end] == '_' && end > i ? end + 1 : end;
      if (digit >= source_.size() || !is_valid(source_[digit])) break;
      end = digit + 1;
    }
    return end;
  }

  Status lex_number() {
    const size_t begin = offset_;
    const bool after_dot = begin > 0 && source_[begin - 1] == '.';
    if (const size_t end = after_dot ? begin : float_end(begin); end != begin) {
      offset_ = end;
      const auto value = parse_real(std::string_view(source_).substr(begin, end - begin));
      if (!value.ok()) return fail(begin, value.status().message());
      push(TokenType::kFloat, begin).real = *value;
      return ok_status();
    }
    const char mark = static_cast<char>(peek(1) | 0x20);
    size_t end = begin;
    if (peek() == '0' && (mark == 'x' || mark == 'o' || mark == 'b')) {
      const size_t first = begin + 2 + (peek(2) == '_' ? 1 : 0);
      const auto is_valid = [&](char c) {
        return mark == 'x' ? is_hex_digit(c) : c >= '0' && c <= (mark == 'o' ? '7' : '1');
      };
      const size_t last = digits_end(first, is_valid);
      if (last != first) end = last;
    }
    if (end == begin)
      end = peek() == '0' ? digits_end(begin, [](char c) { return c == '0'; }) : digits_end(begin, is_digit);
    offset_ = end;
    const auto value = parse_integer(std::string_view(source_).substr(begin, end - begin), 0);
    if (!value.ok()) return fail(begin, value.status().message());
    push(TokenType::kInteger, begin).integer = *value;
    return ok_status();
  }

  size_t float_end(size_t begin) const {
    size_t i = digits_end(begin, is_digit);
    bool real = false;
    if (i + 1 < source_.size() && source_[i] == '.' && is_digit(source_[i + 1])) {
      i = digits_end(i + 1, is_digit);
      real = true;
    }
    if (i < source_.size() && (source_[i] | 0x20) == 'e') {
      size_t exponent = i + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      const size_t end = digits_end(exponent, is_digit);
      if (end != exponent) return end;
    }
    return real ? i : begin;
  }

  Status lex_string(char quote) {
    const size_t begin = offset_++;
    std::string text;
    while (peek() != quote || offset_ >= source_.size()) {
      if (offset_ >= source_.size()) return fail(begin, "string has no closing quote");
      if (peek() == '\\') {
        PARE_RETURN_IF_ERROR(lex_escape(&text));
      } else {
        text.push_back(source_[offset_++]);
      }
    }
    ++offset_;
    push(TokenType::kString, begin).text = std::move(text);
    return ok_status();
  }

  // Python's escapes; an unknown one stays as it is written.
  Status lex_escape(std::string* out) {
    const size_t begin = offset_++;
    if (offset_ >= source_.size()) return fail(begin, "string has no closing quote");
    const char c = source_[offset_];
    if (static_cast<unsigned char>(c) >= 0x80) {
      // Jinja decodes the text as ASCII with escapes, so that a backslash before such a character escapes the
      // character's own escape: '\é' is a backslash and 'xe9'.
      const char32_t code = next_code_point(source_, &offset_);
      const int digits = code < 0x100 ? 2 : code < 0x10000 ? 4 : 8;
      *out += code < 0x100 ? "\\x" : code < 0x10000 ? "\\u" : "\\U";
      for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4)
        out->push_back("0123456789abcdef"[(code >> shift) & 0xf]);
      return ok_status();
    }
    ++offset_;
    switch (c) {
      case '\n': return ok_status();
      case '\\':
      case '\'':
      case '"': out->push_back(c); return ok_status();
      case 'a': out->push_back('\a'); return ok_status();
      case 'b': out->push_back('\b'); return ok_status();
      case 'f': out->push_back('\f'); return ok_status();
      case 'n': out->push_back('\n'); return ok_status();
      case 'r': out->push_back('\r'); return ok_status();
      case 't': out->push_back('\t'); return ok_status();
      case 'v': out->push_back('\v'); return ok_status();
      case 'x': return lex_code_point(begin, 2, out);
      case 'u': return lex_code_point(begin, 4, out);
      case 'U': return lex_code_point(begin, 8, out);
      case 'N': return fail(begin, "named characters (\\N{...}) are not supported");
      default: break;
    }
    if (c < '0' || c > '7') {
      out->push_back('\\');
      out->push_back(c);
      return ok_status();
    }
    char32_t code = static_cast<char32_t>(c - '0');
    for (int i = 0; i < 2 && peek() >= '0' && peek() <= '7'; ++i)
      code = code * 8 + static_cast<char32_t>(source_[offset_++] - '0');
    append_utf8(out, code);
    return ok_status();
  }

  Status lex_code_point(size_t begin, int digits, std::string* out) {
    const char* first = source_.data() + offset_;
    uint32_t code = 0;
    for (int i = 0; i < digits; ++i, ++offset_) {
      if (!is_hex_digit(peek())) return fail(begin, "truncated escape in a string");
    }
    std::from_chars(first, source_.data() + offset_, code, 16);
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return fail(begin, "escape in a string is no character");
    append_utf8(out, code);
    return ok_status();
  }

  std::string source_;
  size_t offset_ = 0, scanned_ = 0, line_start_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the last match ended with a newline
  std::vector<Token> tokens_;
};

}  // namespace

Status error_at(Position position, std::string_view message) {
  return invalid_argument("line " + std::to_string(position.line) + ", column " + std::to_string(position.column) +
                          ": " + std::string(message));
}

Expected<std::vector<Token>> tokenize(std::string_view source) { return Lexer(normalize_newlines(source)).run(); }

}  // namespace pare::jinja
