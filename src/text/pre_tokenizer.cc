#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pre_tokenizer.h"

#include <pcre2.h>

#include <algorithm>

#include "text/pre_tokenizer_patterns.h"
#include "text/utf8.h"

namespace pare {
namespace {

constexpr uint32_t kMatchLimitBase = 1'000'000;
constexpr uint32_t kHeapLimitKib = 256 << 10;

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};
template <typename T>
using Pcre = std::unique_ptr<T, CodeDeleter>;

// PCRE2's \s also matches U+180E, which stopped being white space in Unicode 6.3; the models' tools follow
// the property White_Space.
constexpr std::string_view kSpaces =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

// \s and \S spelled out as White_Space, inside and outside of classes. \S inside a class stays PCRE2's.
std::string spell_out_spaces(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out.append(in_class ? "" : "[").append(kSpaces).append(in_class ? "" : "]");
      } else if (escaped == 'S' && !in_class) {
        out.append("[^").append(kSpaces).append("]");
      } else {
        out.append({c, escaped});
      }
      continue;
    }
    if (c == '[' && !in_class) {
      in_class = true;
    } else if (c == ']') {
      in_class = false;
    }
    out.push_back(c);
  }
  return out;
}

std::string pcre_message(int code) {
  PCRE2_UCHAR text[128];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

Expected<Pcre<pcre2_code>> compile(std::string_view pattern) {
  const std::string spelled = spell_out_spaces(pattern);
  int error;
  PCRE2_SIZE error_at;
  Pcre<pcre2_code> code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(),
                                      PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C, &error,
                                      &error_at, nullptr));
  if (!code) {
    return data_loss("pre-tokenizer pattern '" + std::string(pattern) + "': " + pcre_message(error) + " at offset " +
                     std::to_string(error_at));
  }
  // Without a just-in-time compiler for this machine the interpreter runs the same code.
  (void)pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

// The text itself when it is valid UTF-8, else a copy in *storage of the same length, in which each byte
// outside a code point is a control character.
std::string_view with_stray_bytes_as_controls(std::string_view text, std::string* storage) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (!step.valid) {
      if (storage->empty()) storage->assign(text);
      (*storage)[at] = '\x01';
    }
    at += step.size;
  }
  return storage->empty() ? text : std::string_view(*storage);
}

}  // namespace

struct PreTokenizer::Impl {
  std::string name;
  std::vector<Pcre<pcre2_code>> stages;

  // Cuts text[begin, end) by one stage and appends the ends of the pieces.
  Status cut(const pcre2_code* code, std::string_view text, uint32_t begin, uint32_t end, pcre2_match_data* data,
             pcre2_match_context* context, std::vector<uint32_t>* ends) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() + begin);
    const size_t size = end - begin;
    size_t done = 0;   // pieces up to here are out
    size_t start = 0;  // the next match is searched from here
    while (start < size) {
      int found = pcre2_match(code, subject, size, start, PCRE2_NO_UTF_CHECK, data, context);
      if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
        found = pcre2_match(code, subject, size, start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
      }
      if (found == PCRE2_ERROR_NOMATCH) break;
      if (found < 0) {
        return limit_exceeded("pre-tokenizer '" + name + "' at byte " + std::to_string(begin + start) + ": " +
                              pcre_message(found));
      }
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
      // A pattern may match nothing, or with \K something odd: then it cuts nothing here.
      if (range[1] <= start || range[0] >= range[1] || range[0] < start) {
        start += utf8_step(text, begin + start).size;
        continue;
      }
      if (range[0] > done) ends->push_back(begin + static_cast<uint32_t>(range[0]));
      ends->push_back(begin + static_cast<uint32_t>(range[1]));
      done = start = range[1];
    }
    if (done < size) ends->push_back(end);
    return ok_status();
  }
};

PreTokenizer::PreTokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

std::string_view PreTokenizer::name() const { return impl_->name; }

Expected<PreTokenizer> PreTokenizer::from_name(std::string_view name) {
  const KnownPreTokenizer* known = find_pre_tokenizer(name);
  if (known == nullptr) {
    std::string names;
    for (const std::string_view each : pre_tokenizer_names()) names.append(names.empty() ? "" : ", ").append(each);
    return unsupported("pre-tokenizer '" + std::string(name) + "' is unknown; known are " + names);
  }
  auto impl = std::make_unique<Impl>();
  impl->name = known->rules.name;
  for (const std::string_view pattern : known->patterns) {
    PARE_ASSIGN_OR_RETURN(auto code, compile(pattern));
    impl->stages.push_back(std::move(code));
  }
  return PreTokenizer(std::move(impl));
}

Expected<PreTokenizer> PreTokenizer::from_patterns(const std::vector<std::string>& patterns) {
  auto impl = std::make_unique<Impl>();
  impl->name = "custom";
  const auto same = [&patterns](std::span<const std::string_view> known) {
    return std::ranges::equal(patterns, known);
  };
  for (const KnownPreTokenizer& known : known_pre_tokenizers()) {
    if (same(known.patterns) || same(known.json_patterns)) {
      impl->name = known.rules.name;
      break;
    }
  }
  for (const std::string& pattern : patterns) {
    PARE_ASSIGN_OR_RETURN(auto code, compile(pattern));
    impl->stages.push_back(std::move(code));
  }
  return PreTokenizer(std::move(impl));
}

Status PreTokenizer::split(std::string_view text, std::vector<uint32_t>* ends) const {
  ends->clear();
  if (text.empty()) return ok_status();
  std::string storage;
  text = with_stray_bytes_as_controls(text, &storage);
  Pcre<pcre2_match_data> data(pcre2_match_data_create(1, nullptr));
  Pcre<pcre2_match_context> context(pcre2_match_context_create(nullptr));
  if (!data || !context) return resource_exhausted("pre-tokenizer: out of memory");
  // Giving back the characters of one long run costs a step each, so the limit grows with the text.
  const uint64_t limit = kMatchLimitBase + 16 * static_cast<uint64_t>(text.size());
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min<uint64_t>(limit, UINT32_MAX)));
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);

  ends->push_back(static_cast<uint32_t>(text.size()));
  std::vector<uint32_t> pieces;
  for (const auto& stage : impl_->stages) {
    pieces.swap(*ends);
    ends->clear();
    uint32_t begin = 0;
    for (const uint32_t end : pieces) {
      PARE_RETURN_IF_ERROR(impl_->cut(stage.get(), text, begin, end, data.get(), context.get(), ends));
      begin = end;
    }
  }
  return ok_status();
}

Expected<PreTokenizerRules> pre_tokenizer_rules(std::string_view name) {
  const KnownPreTokenizer* known = find_pre_tokenizer(name);
  if (known == nullptr) return unsupported("pre-tokenizer '" + std::string(name) + "' is unknown");
  return known->rules;
}

std::vector<std::string_view> pre_tokenizer_names() {
  std::vector<std::string_view> names;
  for (const KnownPreTokenizer& known : known_pre_tokenizers()) names.push_back(known.rules.name);
  return names;
}

}  // namespace pare
