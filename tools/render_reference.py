#!/usr/bin/env python3
"""Renders chat templates with Jinja2 in the environment of transformers' apply_chat_template, and records the results.

  render_reference.py golden DIR         all DIR/*.jinja over the matrix of conversations below
  render_reference.py snippets FILE      the templates of FILE (blocks separated by lines of ====)
  render_reference.py random COUNT SEED  COUNT random templates

Each writes one JSON document to stdout, which tests/unit/text/chat_template_golden_test.cc replays: the committed
tests/data/templates/golden.json and snippets.json, and any file named by PARE_TEMPLATE_CASES. A case has "text",
or "raised" (the message of raise_exception), or "error" (the class of any other failure).
"""

import copy
import hashlib
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox


class Raised(Exception):
    pass


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks what the assistant said; transparent to the text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise Raised(str(message))


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def make_environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: "<" + format + ">"
    return env


ENV = make_environment()
BOS, EOS = "<s>", "</s>"


def render(source, case, inputs):
    """The case with its result filled in; `inputs` hold what its template reads besides the defaults."""
    variables = {
        "messages": [],
        "tools": None,
        "documents": None,
        "add_generation_prompt": case.get("add_generation_prompt", True),
        "bos_token": BOS,
        "eos_token": EOS,
    }
    # A wrong template can change its inputs: "list|indent" extends the list before it fails.
    variables.update(copy.deepcopy(inputs))
    out = dict(case)
    try:
        text = ENV.from_string(source).render(**variables)
        text.encode()
        out["text"] = text
    except Raised as e:
        out["raised"] = str(e)
    except Exception as e:  # whatever Python makes of a wrong template is an error to record
        out["error"] = type(e).__name__
    return out


def document(cases, hashes, **named):
    """`named`: the inputs that cases refer to by name, each as the JSON text that pare is given."""
    versions = {"jinja2": jinja2.__version__, "python": sys.version.split()[0]}
    out = {"versions": versions, "sha256": hashes, "bos": BOS, "eos": EOS}
    for group, members in named.items():
        out[group] = {name: json.dumps(value, ensure_ascii=False) for name, value in members.items()}
    return out | {"cases": cases}


# ---- conversations

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather <now> in a place's \"centre\"",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Ort, z. B. Zürich"},
                "days": {"type": ["integer", "number"], "description": "how many"},
                "options": {"type": "object", "additionalProperties": {"type": "number"}, "description": "more"},
                "tags": {"type": "array", "items": {"type": "string"}, "description": "labels"},
            },
            "required": ["place"],
        },
        "return": {"type": "string", "description": "a sentence"},
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": "Time", "parameters": {"type": "object", "properties": {}, "required": []}},
}
# The type "null" sends two templates into endless recursion.
ENDLESS = {"type": "function", "function": {"name": "nothing", "description": "Nothing", "parameters": {"type": "object", "properties": {"x": {"type": "null", "description": "-"}}, "required": []}}}
INTERPRETER = {"type": "code_interpreter", "function": {"name": "python", "description": "", "parameters": {"type": "object", "properties": {}}}}
OLD_TOOL = {
    "name": "search",
    "description": "Search",
    "parameter_definitions": {
        "query": {"type": "str", "required": True, "description": "what"},
        "limit": {"type": "int", "required": False, "description": "how many"},
    },
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def call(name, arguments, content=None, id="abcdefghi"):
    message = {"role": "assistant", "tool_calls": [{"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}]}
    message["content"] = content
    return message


def result(text, id="abcdefghi"):
    return {"role": "tool", "name": "get_weather", "tool_call_id": id, "content": text}


UNICODE = "Grüße, 世界! 👩‍🚀 \u200b \u2028 é\u0301 <|im_end|> {{ x }} \\ \" ' \t\r\n end "
CONVERSATIONS = {
    "empty": [],
    "user": [user("Hello")],
    "system": [system("Be brief."), user("Hello")],
    "system only": [system("Be brief.")],
    "turns": [user("Hi"), assistant("Hello!"), user("How are you?")],
    "system and turns": [system("  Be kind. \n"), user("Hi"), assistant("Hello!"), user("Bye"), assistant("Bye."), user("Again")],
    "ends with assistant": [user("Hi"), assistant("The answer is")],
    "empty content": [system(""), user(""), assistant(""), user(" ")],
    "null content": [user("Hi"), assistant(None), user("?")],
    "missing content": [{"role": "user"}],
    "unicode": [system(UNICODE), user(UNICODE), assistant(UNICODE), user("\n\nlines\n\n")],
    "html": [user("<b>&'\"</b>"), assistant("a < b && c > d"), user("{% raw %}")],
    "thinking": [user("1+1?"), assistant("<think>\nwell\n</think>\n\n2"), user("2+2?"), assistant("</think></think>4"), user("ok")],
    "two users": [user("a"), user("b")],
    "starts with assistant": [assistant("a"), user("b")],
    "late system": [user("a"), system("now"), user("b")],
    "odd role": [user("a"), {"role": "critic", "content": "no"}],
    "upper role": [{"role": "User", "content": "a"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}],
    "number": [user(3), assistant(1.5), user(True)],
    "call": [user("Weather?"), call("get_weather", {"place": "Zürich", "days": 2, "f": 1e-7, "n": None, "b": True})],
    "call and result": [user("Weather?"), call("get_weather", {"place": "Bern"}, ""), result('{"t": 3.0}'), assistant("3 degrees."), user("Thanks")],
    "call, text arguments": [user("Weather?"), call("get_weather", '{"place": "Bern"}'), result("cold")],
    "call with text": [system("s"), user("Weather?"), call("get_weather", {"place": "Bern"}, "Let me look."), result("cold"), result("colder"), user("And?")],
    "python call": [user("1+1"), call("python", "print(1+1)", "Running."), {"role": "ipython", "content": {"out": [2, "x"]}}],
    "two calls": [
        user("Weather?"),
        {"role": "assistant", "content": None, "tool_plan": "I will ask twice.", "tool_calls": [
            {"id": "aaaaaaaa1", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "A", "tags": []}}},
            {"id": "aaaaaaaa2", "type": "function", "function": {"name": "clock", "arguments": {}}}]},
        result({"content": "nested"}, "aaaaaaaa1"),
        result([1, "two", None, 3.0], "aaaaaaaa2"),
        assistant("done"),
        user("more"),
    ],
    "two calls, text arguments": [
        user("Weather?"),
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "aaaaaaaa1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
            {"id": "aaaaaaaa2", "type": "function", "function": {"name": "clock", "arguments": '{"a": 1}'}}]},
        result("one", "aaaaaaaa1"),
        result("two", "aaaaaaaa2"),
    ],
    "short call id": [user("Weather?"), call("get_weather", {}, None, "x"), result("cold", "x"), user("?")],
    "bare call": [user("Weather?"), {"role": "assistant", "tool_calls": [{"name": "clock", "arguments": {"zone": "UTC"}}]}],
    "no calls": [user("Weather?"), {"role": "assistant", "content": "none", "tool_calls": []}],
    "null calls": [user("Weather?"), {"role": "assistant", "content": "none", "tool_calls": None}],
}
TOOLS = {"empty": [], "one": [WEATHER], "endless": [ENDLESS], "three": [WEATHER, CLOCK, INTERPRETER], "old": [OLD_TOOL]}
EXTRAS = {
    "llama": {"custom_tools": [CLOCK], "tools_in_user_message": False, "date_string": "1 Jan 2030", "builtin_tools": ["brave_search", "code_interpreter"]},
    "firefunction": {"functions": "[{\"name\": \"f\"}]", "datetime": "2030-01-01"},
    "documents": {"documents": [{"title": "A", "text": "<x> \"y\" é"}, {"title": "B", "n": 1}], "enable_citations": True},
    "builtin": {"builtin_tools": ["get_weather"]},
}


# Pairs that only some templates tell apart are tried with a few conversations.
FEW = ("user", "system and turns", "call and result", "two calls", "two calls, text arguments", "odd role")


def golden(folder):
    cases, hashes = [], {}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        source = path.read_bytes()
        hashes[path.name] = hashlib.sha256(source).hexdigest()

        def add(conversation, prompt=True, **names):
            case = {"template": path.name, "messages": conversation} | names
            if not prompt:
                case["add_generation_prompt"] = False
            inputs = {"messages": CONVERSATIONS[conversation]}
            if "tools" in names:
                inputs["tools"] = TOOLS[names["tools"]]
            inputs |= EXTRAS[names["extra"]] if "extra" in names else {}
            cases.append(render(source.decode(), case, inputs))

        for conversation in CONVERSATIONS:
            add(conversation)
            add(conversation, tools="one")
            if "firefunction" in path.name:
                add(conversation, extra="firefunction")
            if conversation not in FEW:
                continue
            add(conversation, prompt=False)
            add(conversation, prompt=False, tools="one")
            for tools in TOOLS:
                if tools != "one":
                    add(conversation, tools=tools)
            for extra in EXTRAS:
                if "firefunction" in path.name and extra == "firefunction":
                    continue
                add(conversation, extra=extra)
    return document(cases, hashes, messages=CONVERSATIONS, tools=TOOLS, extra=EXTRAS)


VARIABLES = {
    "s": "Hello World", "e": "", "u": "Grüße ß ΑΣ İ ŉ 世界", "n": 7, "neg": -3, "f": 2.5, "z": 0, "t": True, "no": None,
    "l": [3, 1, 2], "words": ["b", "A", "c", "a"], "d": {"b": 1, "a": 2, "items": 3}, "nested": [{"k": 1, "n": {"x": "p"}}, {"k": 2, "n": {"x": "q"}}],
    "lines": "one\n\n two\r\nthree", "html": "<a href='x'>\"&\"</a>", "big": 9007199254740993, "flo": [0.1, 1e16, 1e-5, 123456789.125, -0.0, 1e300],
}


def sources_document(sources, hashes):
    cases = [render(source, {"source": source, "extra": "variables"}, VARIABLES) for source in sources]
    return document(cases, hashes, extra={"variables": VARIABLES})


def snippets(path):
    text = pathlib.Path(path).read_text()
    sources = [s.removeprefix("\n").removesuffix("\n") for s in text.split("\n====\n")]
    return sources_document(sources, {pathlib.Path(path).name: hashlib.sha256(text.encode()).hexdigest()})


def main():
    if sys.argv[1] == "golden":
        out = golden(sys.argv[2])
    elif sys.argv[1] == "snippets":
        out = snippets(sys.argv[2])
    else:
        import random_templates

        count, seed = int(sys.argv[2]), int(sys.argv[3])
        out = sources_document(random_templates.generate(count, seed), {"seed": str(seed)})
    json.dump(out, sys.stdout, ensure_ascii=False, indent=0)
    sys.stdout.write("\n")


main()
