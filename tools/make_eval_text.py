#!/usr/bin/env python3
"""Makes the prose that perplexities are measured on, from a document that Debian ships.

  tools/make_eval_text.py [--out FOLDER]      default ${XDG_CACHE_HOME:-~/.cache}/pare/eval-text

Writes handbook.txt (the English paragraphs and headings of the Debian Administrator's Handbook, in
reading order) and handbook_64k.txt (its first 65,536 bytes, cut at a line). The package is fetched with
apt-get at a pinned version and checksum, and unpacked, not installed. The handbook is under GPL-2+ or
CC-BY-SA-3.0, which is why its text is made here and never kept in this repository.
"""

import argparse
import hashlib
import html.parser
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "debian-handbook"
VERSION = "11.20220922"
PACKAGE_SHA256 = "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa"
TEXT_SHA256 = {
    "handbook.txt": "916300c1dc291e90b3456641d2c83eae1d3c8629ddb12b33c7e1677d286adee8",
    "handbook_64k.txt": "1b7cf2187dbee539c5805571af7b7662b30c5d9e13cbe461ccaf615d44902785",
}
PAGES = "./usr/share/doc/debian-handbook/html/en-US/"
FIRST_PAGE = "foreword.html"


class Page(html.parser.HTMLParser):
    """Collects the text of paragraphs and headings in the order in which they open, and the next page."""

    def __init__(self):
        super().__init__()
        self.next_page = None
        self._blocks = []
        self._open = []  # one entry an open div, p or heading: where its text goes, or None

    def blocks(self):
        joined = (" ".join("".join(parts).split()) for parts in self._blocks)
        return [text for text in joined if text]

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "link" and attributes.get("rel") == "next":
            self.next_page = attributes["href"].split("#")[0]
        if tag in {"div", "p", "pre", "h1", "h2", "h3", "h4"}:
            is_text = tag[0] == "h" or attributes.get("class") in {"para", "title"}
            self._open.append([] if is_text else None)
            if is_text:
                self._blocks.append(self._open[-1])

    def handle_endtag(self, tag):
        if self._open and tag in {"div", "p", "pre", "h1", "h2", "h3", "h4"}:
            self._open.pop()

    def handle_data(self, data):
        if self._open and self._open[-1] is not None:
            self._open[-1].append(data)


def fetch_package(folder):
    subprocess.run(["apt-get", "download", "-qq", f"{PACKAGE}={VERSION}"], cwd=folder, check=True)
    (package,) = pathlib.Path(folder).glob("*.deb")
    found = hashlib.sha256(package.read_bytes()).hexdigest()
    if found != PACKAGE_SHA256:
        sys.exit(f"{package.name}: SHA-256 {found}, expected {PACKAGE_SHA256}")
    return package


def read_pages(package):
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
    pages = {}
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(PAGES) and member.name.endswith(".html"):
                pages[member.name.removeprefix(PAGES)] = archive.extractfile(member).read().decode("utf-8")
    return pages


def extract(pages):
    lines, name, seen = [], FIRST_PAGE, set()
    while name in pages and name not in seen:
        seen.add(name)
        page = Page()
        page.feed(pages[name])
        lines += page.blocks()
        name = page.next_page
    return "\n\n".join(lines) + "\n"


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=cache / "pare" / "eval-text")
    folder = parser.parse_args().out

    with tempfile.TemporaryDirectory() as scratch:
        text = extract(read_pages(fetch_package(scratch))).encode()
    head = text[:65536]
    texts = {"handbook.txt": text, "handbook_64k.txt": head[: head.rindex(b"\n") + 1]}

    folder.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        found = hashlib.sha256(content).hexdigest()
        if found != TEXT_SHA256[name]:
            sys.exit(f"{name}: SHA-256 {found}, expected {TEXT_SHA256[name]}")
        (folder / name).write_bytes(content)
        print(f"{folder / name}: {len(content)} bytes, SHA-256 {found}")


if __name__ == "__main__":
    main()
