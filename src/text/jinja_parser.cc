#include "text/jinja_parser.h"

#include <algorithm>
#include <initializer_list>

#include "text/jinja_expressions.h"

namespace pare::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

class Parser : ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  Expected<Block> run() {
    PARE_ASSIGN_OR_RETURN(Block block, parse_block({}));
    if (!unknown_.empty()) return unknown_.front();
    return block;
  }

 private:
  // Up to a tag whose name is in `ends`; that tag's name is current afterwards. No ends: the whole template.
  Expected<Block> parse_block(Names ends) {
    const Nesting nesting(&nesting_);
    PARE_RETURN_IF_ERROR(check_nesting());
    Block block;
    while (!at(TokenType::kEnd)) {
      auto statement = std::make_unique<Statement>();
      statement->position = current().position;
      if (at(TokenType::kText)) {
        statement->text = advance().text;
      } else if (at(TokenType::kPrintBegin)) {
        advance();
        statement->kind = StatementKind::kPrint;
        PARE_ASSIGN_OR_RETURN(statement->expr, parse_tuple());
        PARE_RETURN_IF_ERROR(expect(TokenType::kPrintEnd, "'}}'"));
      } else {
        PARE_RETURN_IF_ERROR(expect(TokenType::kBlockBegin, "a tag"));
        if (at(TokenType::kName) && std::find(ends.begin(), ends.end(), current().text) != ends.end()) return block;
        PARE_RETURN_IF_ERROR(parse_statement(statement.get(), &block));
        PARE_RETURN_IF_ERROR(expect(TokenType::kBlockEnd, "'%}'"));
        if (statement->kind == StatementKind::kText) continue;
      }
      block.push_back(std::move(statement));
    }
    if (ends.size() != 0) return unexpected(quoted(*std::prev(ends.end())));
    return block;
  }

  // The rest of an opening tag, then its body.
  Expected<Block> parse_body(Names ends) {
    skip_op(":");
    PARE_RETURN_IF_ERROR(expect(TokenType::kBlockEnd, "'%}'"));
    return parse_block(ends);
  }

  Expected<Block> parse_scoped_body(std::string_view end, Context context) {
    const Context saved = std::exchange(context_, context);
    auto body = parse_body({end});
    context_ = saved;
    if (body.ok()) advance();
    return body;
  }

  Context inner_scope() const { return Context{.in_loop = context_.in_loop, .conditional = false}; }

  // Leaves `out` a kText where the tag made no statement of its own ({% print %} adds its own to `block`).
  Status parse_statement(Statement* out, Block* block) {
    if (!at(TokenType::kName)) return unexpected("the name of a tag");
    const Token tag = advance();
    if (tag.text == "if") return parse_if(out);
    if (tag.text == "for") return parse_for(out);
    if (tag.text == "set") return parse_set(out);
    if (tag.text == "macro") return parse_macro(out);
    if (tag.text == "call") return parse_call_block(out);
    if (tag.text == "with") return parse_with(out);
    if (tag.text == "print") return parse_print(tag.position, block);
    if (tag.text == "filter") {
      out->kind = StatementKind::kFilterBlock;
      PARE_ASSIGN_OR_RETURN(out->expr, parse_filter(nullptr));
      PARE_ASSIGN_OR_RETURN(out->expr, parse_filters(std::move(out->expr)));
      PARE_ASSIGN_OR_RETURN(out->body, parse_scoped_body("endfilter", inner_scope()));
      return ok_status();
    }
    if (tag.text == "generation") {
      out->kind = StatementKind::kScope;
      PARE_ASSIGN_OR_RETURN(out->body, parse_scoped_body("endgeneration", Context{}));
      return ok_status();
    }
    if (tag.text == "break" || tag.text == "continue") {
      if (!context_.in_loop) return error_at(tag.position, quoted(tag.text) + " outside a loop");
      out->kind = tag.text == "break" ? StatementKind::kBreak : StatementKind::kContinue;
      return ok_status();
    }
    for (std::string_view known : {"block", "extends", "include", "import", "from", "autoescape", "do", "trans"}) {
      if (tag.text == known)
        return unsupported(std::string(error_at(tag.position, "tag '" + tag.text + "' is not supported").message()));
    }
    return error_at(tag.position, "unknown tag '" + tag.text + "'");
  }

  Status parse_if(Statement* out) {
    out->kind = StatementKind::kIf;
    const Context saved = context_;
    context_.conditional = true;
    while (true) {
      Branch& branch = out->branches.emplace_back();
      PARE_ASSIGN_OR_RETURN(branch.condition, parse_tuple(false));
      PARE_ASSIGN_OR_RETURN(branch.body, parse_body({"elif", "else", "endif"}));
      const std::string end = advance().text;
      if (end == "elif") continue;
      if (end == "else") {
        PARE_ASSIGN_OR_RETURN(out->branches.emplace_back().body, parse_body({"endif"}));
        advance();
      }
      break;
    }
    context_ = saved;
    return ok_status();
  }

  Status parse_for(Statement* out) {
    out->kind = StatementKind::kFor;
    PARE_ASSIGN_OR_RETURN(out->target, parse_target());
    PARE_RETURN_IF_ERROR(expect_name("in"));
    PARE_ASSIGN_OR_RETURN(out->expr, parse_tuple(false));
    if (skip_name("if")) {
      PARE_ASSIGN_OR_RETURN(out->condition, parse_expression());
    }
    if (at_name("recursive")) {
      return unsupported(std::string(error_at(current().position, "recursive loops are not supported").message()));
    }
    const Context saved = std::exchange(context_, Context{.in_loop = true});
    ++loop_depth_;
    PARE_RETURN_IF_ERROR(check_not_loop(*out->target));
    PARE_ASSIGN_OR_RETURN(out->body, parse_body({"endfor", "else"}));
    --loop_depth_;
    context_ = Context{.in_loop = saved.in_loop};
    if (advance().text == "else") {
      PARE_ASSIGN_OR_RETURN(out->otherwise, parse_body({"endfor"}));
      advance();
    }
    context_ = saved;
    return ok_status();
  }

  Status parse_set(Statement* out) {
    PARE_ASSIGN_OR_RETURN(out->target, parse_target(true));
    if (loop_depth_ > 0) PARE_RETURN_IF_ERROR(check_not_loop(*out->target));
    if (skip_op("=")) {
      out->kind = StatementKind::kSet;
      PARE_ASSIGN_OR_RETURN(out->expr, parse_tuple());
      return ok_status();
    }
    out->kind = StatementKind::kSetBlock;
    PARE_ASSIGN_OR_RETURN(out->expr, parse_filters(nullptr));
    PARE_ASSIGN_OR_RETURN(out->body, parse_scoped_body("endset", inner_scope()));
    return ok_status();
  }

  Status parse_print(Position position, Block* block) {
    bool first = true;
    while (!at(TokenType::kBlockEnd)) {
      if (!first) PARE_RETURN_IF_ERROR(expect_op(","));
      first = false;
      auto print = std::make_unique<Statement>();
      print->kind = StatementKind::kPrint;
      print->position = position;
      PARE_ASSIGN_OR_RETURN(print->expr, parse_expression());
      block->push_back(std::move(print));
    }
    return ok_status();
  }

  Status parse_with(Statement* out) {
    out->kind = StatementKind::kWith;
    while (!at(TokenType::kBlockEnd)) {
      if (!out->assignments.empty()) PARE_RETURN_IF_ERROR(expect_op(","));
      PARE_ASSIGN_OR_RETURN(ExprPtr target, parse_target());
      PARE_RETURN_IF_ERROR(expect_op("="));
      PARE_ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
      out->assignments.emplace_back(std::move(target), std::move(value));
    }
    PARE_ASSIGN_OR_RETURN(out->body, parse_scoped_body("endwith", inner_scope()));
    return ok_status();
  }

  Status parse_macro(Statement* out) {
    out->kind = StatementKind::kMacro;
    PARE_ASSIGN_OR_RETURN(out->text, expect_identifier());
    PARE_RETURN_IF_ERROR(parse_signature(out));
    return parse_macro_body(out, "endmacro");
  }

  Status parse_call_block(Statement* out) {
    out->kind = StatementKind::kCallBlock;
    out->text = "caller";
    if (at_op("(")) PARE_RETURN_IF_ERROR(parse_signature(out));
    PARE_ASSIGN_OR_RETURN(out->expr, parse_expression());
    if (out->expr->kind != ExprKind::kCall) return error_at(out->expr->position, "expected a call");
    return parse_macro_body(out, "endcall");
  }

  Status parse_signature(Statement* out) {
    PARE_RETURN_IF_ERROR(expect_op("("));
    while (!at_op(")")) {
      if (!out->parameters.empty()) PARE_RETURN_IF_ERROR(expect_op(","));
      const Position position = current().position;
      Parameter parameter;
      PARE_ASSIGN_OR_RETURN(parameter.name, expect_identifier());
      if (skip_op("=")) {
        PARE_ASSIGN_OR_RETURN(parameter.default_value, parse_expression());
      } else if (!out->parameters.empty() && out->parameters.back().default_value) {
        return error_at(position, "parameter '" + parameter.name + "' without a default follows one with a default");
      }
      if (parameter.name == "caller" && !parameter.default_value) {
        return error_at(position, "the special parameter 'caller' must be omitted or be given a default");
      }
      for (const Parameter& other : out->parameters) {
        if (other.name == parameter.name) return error_at(position, "parameter '" + parameter.name + "' twice");
      }
      out->parameters.push_back(std::move(parameter));
    }
    advance();
    return ok_status();
  }

  Status parse_macro_body(Statement* out, std::string_view end) {
    macros_.push_back(out);
    const int loops = std::exchange(loop_depth_, 0);
    auto body = parse_scoped_body(end, Context{});
    loop_depth_ = loops;
    macros_.pop_back();
    PARE_ASSIGN_OR_RETURN(out->body, std::move(body));
    return ok_status();
  }

  // ---- assignment targets
  Expected<ExprPtr> parse_target(bool with_namespace = false) {
    const Position position = current().position;
    ExprPtr tuple;
    ExprPtr single;
    while (true) {
      if (tuple && at(TokenType::kBlockEnd)) break;
      PARE_ASSIGN_OR_RETURN(ExprPtr item, parse_primary(with_namespace));
      const bool more = skip_op(",");
      if (!tuple && !more) {
        single = std::move(item);
        break;
      }
      if (!tuple) tuple = make(ExprKind::kTuple, position);
      PARE_RETURN_IF_ERROR(adopt(tuple.get(), std::move(item)));
      if (!more) break;
    }
    ExprPtr target = tuple ? std::move(tuple) : std::move(single);
    PARE_RETURN_IF_ERROR(check_assignable(*target));
    return target;
  }

  static Status check_assignable(const Expr& target) {
    if (target.kind == ExprKind::kName || target.kind == ExprKind::kNamespaceTarget) return ok_status();
    if (target.kind != ExprKind::kTuple) return error_at(target.position, "cannot assign to this expression");
    for (const ExprPtr& item : target.args) PARE_RETURN_IF_ERROR(check_assignable(*item));
    return ok_status();
  }

  static Status check_not_loop(const Expr& target) {
    if (target.kind == ExprKind::kName && target.name == "loop") {
      return error_at(target.position, "cannot assign to the special variable 'loop' in a loop");
    }
    if (target.kind != ExprKind::kTuple) return ok_status();
    for (const ExprPtr& item : target.args) PARE_RETURN_IF_ERROR(check_not_loop(*item));
    return ok_status();
  }

  int loop_depth_ = 0;
};

}  // namespace

Expected<Block> parse_template(std::string_view source) {
  PARE_ASSIGN_OR_RETURN(std::vector<Token> tokens, tokenize(source));
  return Parser(std::move(tokens)).run();
}

}  // namespace pare::jinja
