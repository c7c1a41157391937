"""Random small templates for tools/render_reference.py: expressions and statements over its variables, well-formed
more often than not, so that both the values and the errors of an implementation are compared."""

import random

NAMES = ["s", "e", "u", "n", "neg", "f", "z", "t", "no", "l", "words", "d", "nested", "lines", "html", "flo", "missing", "x", "y", "ns"]
LITERALS = ["1", "0", "-2", "3", "2.5", "0.1", "1e3", "'a'", "'b,c'", '" x "', "''", "'<'", "'é'", "'a\\nb'", "true", "false", "none", "[]", "{}", "()", "10"]
SCALARS = [literal for literal in LITERALS if literal not in ("[]", "{}", "()")]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or", "+", "~", "=="]
PLAIN_FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "list", "first", "last", "reverse|list", "sort", "unique|list",
                 "string", "int", "float", "abs", "round", "sum", "min", "max", "join", "tojson", "items|list", "safe", "e", "dictsort", "indent",
                 "wordcount", "count", "default", "map('string')|list", "select|list", "reject|list", "center"]
ARGUMENT_FILTERS = ["join({})", "default({})", "default({}, true)", "d({})", "replace({}, {})", "trim({})", "indent({})", "tojson(indent={})",
                    "round({})", "int({})", "map(attribute={})|list", "selectattr({})|list", "rejectattr({})|list", "select('equalto', {})|list",
                    "reject('in', {})|list", "selectattr('k', 'equalto', {})|list", "sort(reverse={})", "sort(attribute={})", "batch({})|list",
                    "sum(start={})", "truncate({})", "map('default', {})|list", "join({}, {})", "float({})", "format({})", "unique({})|list"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true", "false", "mapping", "sequence", "iterable",
         "odd", "even", "lower", "upper", "callable", "escaped"]
ARGUMENT_TESTS = ["eq {}", "ne {}", "in {}", "divisibleby {}", "lt({})", "ge({})", "equalto {}", "sameas none"]
METHODS = ["upper()", "lower()", "strip()", "split()", "title()", "splitlines()", "items()", "keys()|list", "values()|list", "capitalize()",
           "swapcase()", "isdigit()", "isalpha()", "istitle()", "lstrip()", "rstrip()", "copy()"]
ARGUMENT_METHODS = ["strip({})", "split({})", "split({}, {})", "rsplit({}, {})", "startswith({})", "endswith({})", "replace({}, {})", "get({})", "get({}, {})",
                    "join({})", "find({})", "rfind({})", "count({})", "index({})", "center({})", "ljust({}, {})", "zfill({})", "partition({})",
                    "removeprefix({})", "format({})", "rpartition({})", "rjust({})"]
ATTRIBUTES = ["a", "b", "k", "n", "x", "items", "0", "1"]


# Operations that succeed on a kind of value, so that most templates get past their first expression.
STRINGS, NUMBERS, LISTS = ["s", "e", "u", "lines", "html", "'a b'", "'x,y'"], ["n", "neg", "f", "z", "2", "-1.5", "t"], ["l", "words", "nested", "flo", "[1, 'a', none]", "d"]
STRING_OPS = ["{}|upper", "{}|lower", "{}|title", "{}|capitalize", "{}|trim", "{}|length", "{}|list", "{}|first", "{}|last", "{}|reverse", "{}|e", "{}|safe",
              "{}|int", "{}|float", "{}|tojson", "{}|indent(2)", "{}|indent(1, true, true)", "{}|replace('a', 'b')", "{}|replace('l', '', 1)", "{}|wordcount",
              "{}|center(9)", "{}|truncate(5)", "{}.split()", "{}.split(' ')", "{}.split('l', 1)", "{}.rsplit('e', 1)", "{}.splitlines()", "{}.strip('Hd')",
              "{}.title()", "{}.swapcase()", "{}.find('l')", "{}.count('')", "{}.startswith('H')", "{}.endswith(('d', 'b'))", "{}.partition('o')",
              "{}.rpartition(' ')", "{}.zfill(9)", "{}.center(7, '*')", "{}.isalpha()", "{}.istitle()", "{}[1:3]", "{}[::-1]", "{}[-3:]", "{} * 2", "{} ~ 1",
              "{} + 'z'", "'z' + {}", "('<b>'|safe) + {}", "{} in 'abc'", "'e' in {}", "'%s|%5s' % ({}, n)", "'{}'.format(1)", "{} < 'M'", "{}|unique|list",
              "{}|sort|join", "{}|batch(3)|list", "{}.replace('l', {})", "{}.join(['1', '2'])", "{}|map('upper')|join('-')", "{}|select('in', 'aeo')|list"]
NUMBER_OPS = ["{} + 1", "{} - 2.5", "{} * 3", "{} / 4", "{} // 2", "{} % 3", "-{}", "{}|abs", "{}|round", "{}|round(1)", "{}|round(1, 'ceil')", "{}|int", "{}|float",
              "{}|string", "{} ** 2", "7 // ({} or 1)", "7 % ({} or 3)", "-7.5 // ({} or 2)", "{} < 3", "1 < {} <= 7", "{} == 7", "{} is odd", "{}|tojson", "'%d %5.2f' % ({}, {})",
              "{} is divisibleby 3", "[{}] * 2", "{} in [7, 2.5]", "range(3)[{}|int % 3]", "{} // 0.3", "{} % 0.7", "'%e %g' % ({}, {})", "{} is integer", "{} and 'y' or 'n'"]
LIST_OPS = ["{}|length", "{}|first", "{}|last", "{}|list", "{}|reverse|list", "{}|join", "{}|join(', ')", "{}|tojson", "{}|tojson(indent=2)", "{}|string", "{}|map('string')|list",
            "{}|map('string')|sort|join(' ')", "{}|select('string')|list", "{}|reject('none')|list", "{}|select('defined')|list|length", "{}|batch(2)|list",
            "{}|map('upper')|list", "1 in {}", "'a' in {}", "{} == {}", "{} is sequence", "{} is mapping", "{}|map('length')|list", "{}|map('tojson')|list", "{}|unique|list",
            "{}|map(attribute='k')|list", "{}|selectattr('k', 'defined')|list", "{}|map(attribute='k', default=5)|list", "{}|rejectattr('k')|list", "{}|sum", "{}|sort", "{}|max", "{}|min",
            "{}|sort(reverse=true)", "{}|dictsort"]


class Generator:
    def __init__(self, seed):
        self.rng = random.Random(seed)

    def pick(self, options):
        return self.rng.choice(options)

    def fill(self, pattern, depth):
        while "{}" in pattern:
            pattern = pattern.replace("{}", self.expression(depth - 1), 1)
        return pattern

    def expression(self, depth):
        if depth <= 0 or self.rng.random() < 0.15:
            return self.pick(NAMES) if self.rng.random() < 0.6 else self.pick(LITERALS)
        sub = lambda: self.expression(depth - 1)
        if self.rng.random() < 0.6:
            names, ops = self.pick([(STRINGS, STRING_OPS), (STRINGS, STRING_OPS), (NUMBERS, NUMBER_OPS), (LISTS, LIST_OPS)])
            return "(" + self.pick(ops).replace("{}", self.pick(names)) + ")"
        kind = self.rng.randrange(17)
        if kind < 3:
            return f"{sub()} {self.pick(BINARY)} {sub()}"
        if kind == 3:
            return f"({sub()})"
        if kind < 6:
            return f"{sub()}|{self.pick(PLAIN_FILTERS)}"
        if kind == 6:
            return f"{sub()}|{self.fill(self.pick(ARGUMENT_FILTERS), depth)}"
        if kind == 7:
            test = self.pick(TESTS) if self.rng.random() < 0.7 else self.fill(self.pick(ARGUMENT_TESTS), 1)
            return f"{sub()} is {'not ' if self.rng.random() < 0.3 else ''}{test}"
        if kind == 8:
            return f"{self.pick(NAMES)}.{self.pick(METHODS)}"
        if kind == 9:
            return f"{self.pick(NAMES)}.{self.fill(self.pick(ARGUMENT_METHODS), depth)}"
        if kind == 10:
            return f"{self.pick(NAMES)}.{self.pick(ATTRIBUTES)}"
        if kind == 11:
            return f"{self.pick(NAMES)}[{sub()}]"
        if kind == 12:
            parts = [self.expression(0) if self.rng.random() < 0.6 else "" for _ in range(self.rng.choice([2, 2, 3]))]
            return f"{self.pick(NAMES)}[{':'.join(parts)}]"
        if kind == 13:
            return f"{sub()} if {sub()}" + (f" else {sub()}" if self.rng.random() < 0.8 else "")
        if kind == 14:
            return "[" + ", ".join(sub() for _ in range(self.rng.randrange(4))) + "]"
        if kind == 15:
            # Scalar keys: Jinja folds constants, so that an unhashable one is an error even where it is never reached.
            return "{" + ", ".join(f"{self.pick(SCALARS)}: {sub()}" for _ in range(self.rng.randrange(3))) + "}"
        return f"{self.pick(['not ', '-', '+', 'not '])}{sub()}"

    def tag(self, inside):
        left, right = self.pick(["", "", "", "-", "+"]), self.pick(["", "", "", "-", "+"])
        return "{%" + left + " " + inside + " " + right + "%}"

    def space(self):
        return self.pick(["", "", " ", "\n", "  \n", "\n  ", "text", " a ", "\t"])

    def statement(self, depth):
        kind = self.rng.randrange(15)
        if depth <= 0 or kind < 4:
            return "{{" + self.pick(["", "-", " "]) + self.expression(2) + self.pick([" ", " -"]) + "}}"
        body = lambda: self.body(depth - 1)
        if kind < 6:
            out = self.tag("if " + self.expression(2)) + body()
            if self.rng.random() < 0.3:
                out += self.tag("elif " + self.expression(1)) + body()
            if self.rng.random() < 0.5:
                out += self.tag("else") + body()
            return out + self.tag("endif")
        if kind < 9:
            target = self.pick(["x", "y", "x, y"])
            test = " if " + self.expression(1) if self.rng.random() < 0.2 else ""
            inner = body()
            if self.rng.random() < 0.3:
                inner += "{{ loop." + self.pick(["index", "index0", "first", "last", "length", "revindex", "previtem", "nextitem"]) + " }}"
            if self.rng.random() < 0.2:
                inner += self.tag("if " + self.expression(1)) + self.tag(self.pick(["break", "continue"])) + self.tag("endif") + body()
            out = self.tag(f"for {target} in {self.expression(1)}{test}") + inner
            if self.rng.random() < 0.2:
                out += self.tag("else") + body()
            return out + self.tag("endfor")
        if kind < 11:
            return self.tag(f"set {self.pick(['x', 'y', 'x', 'x, y'])} = {self.expression(2)}")
        if kind == 11:
            return self.tag("set x" + self.pick(["", "|upper", "|trim"])) + body() + self.tag("endset")
        if kind == 12:
            head = self.tag(f"macro m(x, y={self.expression(0)})") + body() + self.tag("endmacro")
            return head + "{{ m(" + self.expression(1) + self.pick(["", ", y=1", ", 2", ", 2, 3"]) + ") }}"
        if kind == 13:
            return self.tag("set ns = namespace(x=1)") + self.tag("for y in l") + self.tag("set ns.x = " + self.expression(1)) + self.tag("endfor") + "{{ ns.x }}"
        return self.pick(["{# c #}", "{#- c -#}", self.tag("raw") + " {{ x }} " + self.tag("endraw"),
                          self.tag("filter " + self.pick(["upper", "indent(2)", "replace('a', 'b')"])) + body() + self.tag("endfilter"),
                          self.tag("with y = " + self.expression(1)) + body() + self.tag("endwith")])

    def body(self, depth):
        return self.space() + "".join(self.statement(depth) + self.space() for _ in range(self.rng.randrange(1, 3)))


def generate(count, seed):
    generator = Generator(seed)
    return [generator.body(3) for _ in range(count)]
