#!/usr/bin/env python3
"""Writes src/text/jinja_unicode_tables.h: the case mappings and classes of this Python's str, for chat templates.

usage: make_unicode_tables.py > src/text/jinja_unicode_tables.h
"""

import unicodedata

ALL = [chr(c) for c in range(0x110000)]


def runs(points):
    """[(first, last, stride)] of ascending (code, key) pairs; strides 1 and 2, one key a run."""
    out = []
    for code, key in points:
        if out and out[-1][3] == key:
            first, last, stride, _ = out[-1]
            gap = code - last
            if gap == stride or (first == last and gap in (1, 2)):
                out[-1] = (first, code, gap, key)
                continue
        out.append((code, code, 1, key))
    return out


def emit(kind, name, rows, per_line):
    print(f"inline constexpr {kind} {name}[] = {{")
    for i in range(0, len(rows), per_line):
        print("    " + " ".join(row + "," for row in rows[i : i + per_line]))
    print("};\n")


def emit_class(name, predicate):
    rows = runs((ord(c), 0) for c in ALL if predicate(c))
    emit("UnicodeRun", name, [f"{{{a:#x}, {b:#x}, {s}}}" for a, b, s, _ in rows], 4)


def emit_simple(name, convert):
    points = [(ord(c), ord(convert(c)) - ord(c)) for c in ALL if len(convert(c)) == 1 and convert(c) != c]
    emit("CaseRun", name, [f"{{{a:#x}, {b:#x}, {s}, {d}}}" for a, b, s, d in runs(points)], 4)


def emit_special(name, convert, differs_from):
    rows = []
    for c in ALL:
        to = convert(c)
        if differs_from(c, to):
            codes = [f"{ord(x):#x}" for x in to] + ["0"] * (3 - len(to))
            rows.append(f"{{{ord(c):#x}, {{{', '.join(codes)}}}}}")
    emit("CaseSpecial", name, rows, 3)


def main():
    print("// Written by tools/make_unicode_tables.py from Python's str: Unicode " + unicodedata.unidata_version + ".")
    print("// clang-format off\n#pragma once\n\n#include <cstdint>\n\nnamespace pare::jinja {\n")
    print("// Code points first, first + stride, ... last.\nstruct UnicodeRun {\n  uint32_t first, last, stride;\n};\n")
    print("// The same, each mapped to itself plus delta.\nstruct CaseRun {\n  uint32_t first, last, stride;\n  int32_t delta;\n};\n")
    print("// One code point mapped to up to three.\nstruct CaseSpecial {\n  uint32_t from, to[3];\n};\n")
    emit_simple("kToLower", str.lower)
    emit_simple("kToUpper", str.upper)
    emit_special("kUpperSpecial", str.upper, lambda c, to: len(to) != 1)
    emit_special("kTitleSpecial", str.title, lambda c, to: to != c.upper())
    emit_class("kLowercase", str.islower)
    emit_class("kUppercase", str.isupper)
    emit_class("kTitlecase", lambda c: unicodedata.category(c) == "Lt")
    emit_class("kAlphabetic", str.isalpha)
    emit_class("kDecimal", str.isdecimal)
    emit_class("kNotPrintable", lambda c: not c.isprintable())
    # str.lower looks past these for the cased letter that decides between the two small sigmas.
    emit_class("kCaseIgnorable", lambda c: ("A" + c + "\u03a3").lower().endswith("\u03c2")
               and not ("-" + c + "\u03a3").lower().endswith("\u03c2"))
    print("}  // namespace pare::jinja")


main()
