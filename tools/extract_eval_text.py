#!/usr/bin/env python3
"""Makes texts to calibrate and to test methods on, from documents that Debian ships.

  tools/extract_eval_text.py [--out FOLDER]      default ${XDG_CACHE_HOME:-~/.cache}/pare/eval-text

Writes four files of UTF-8 text, paragraphs between empty lines:

  prose_calibration.txt, prose_test.txt          the Debian Administrator's Handbook, English
  technical_calibration.txt, technical_test.txt  tutorial, how-tos and language reference of Python 3.11, with code

Chapters go to calibration and test in turns, in reading order (Python: by name), so that no chapter is in both.
The packages are fetched with apt-get at pinned versions and checksums, and unpacked, not installed. The handbook is
under GPL-2+ or CC-BY-SA-3.0, Python's documentation under the PSF license: texts are made here and never kept in this
repository.
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

HANDBOOK = ("debian-handbook", "11.20220922", "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa")
PYTHON = ("python3.11-doc", "3.11.2-6+deb12u9", "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be")
HANDBOOK_PAGES = "./usr/share/doc/debian-handbook/html/en-US/"
PYTHON_PAGES = "./usr/share/doc/python3.11/html/"
PYTHON_PARTS = ("tutorial/", "howto/", "reference/")
TEXT_SHA256 = {
    "prose_calibration.txt": "01498d90e183333ca5d240b998cdd27c7d0b7a6dbff741b6ae66f97a688d8639",
    "prose_test.txt": "256de3f7665eb28b9909fa4b772c1a58318d443e285c6eb0af469598a2e284cb",
    "technical_calibration.txt": "2a5293ead9267515cb697383d65f0f5c24d31305985664aba823a4cc05b73d9e",
    "technical_test.txt": "8795766258fa09294aaebde4df6cd503a42608feb418eac3567961639ffc67a9",
}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
HEADINGS = {"h1", "h2", "h3", "h4", "h5"}


class Page(html.parser.HTMLParser):
    """Collects paragraphs, headings and listings in reading order, and the name of the next page.

    is_root says with which element the text begins (tag, attributes); without it, the whole page is text. Tags that
    are never closed end with the element around them.
    """

    def __init__(self, is_root, is_block):
        super().__init__()
        self.next_page = None
        self._is_root, self._is_block = is_root, is_block
        self._open = []  # (tag, whether it opened a block, whether it opened the root)
        self._blocks = []  # (is listing, parts)
        self._current = []  # blocks that are open, innermost last
        self._inside = is_root is None

    def blocks(self):
        texts = []
        for listing, parts in self._blocks:
            text = "".join(parts).replace("\u00b6", "")
            if listing:
                texts.append("\n".join(line.rstrip() for line in text.strip("\n").split("\n")))
            else:
                texts.append(" ".join(text.split()))
        return [text for text in texts if text.strip()]

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "link" and attributes.get("rel") == "next":
            self.next_page = attributes["href"].split("#")[0]
        if tag in VOID:
            return
        root = not self._inside and self._is_root(tag, attributes)
        self._inside = self._inside or root
        block = self._inside and self._is_block(tag, attributes)
        if block:
            self._blocks.append((tag == "pre", []))
            self._current.append(self._blocks[-1])
        self._open.append((tag, block, root))

    def handle_endtag(self, tag):
        if tag not in (entry[0] for entry in self._open):
            return
        while True:
            name, block, root = self._open.pop()
            if block:
                self._current.pop()
            if root:
                self._inside = False
            if name == tag:
                return

    def handle_data(self, data):
        if self._current:
            self._current[-1][1].append(data)


def fetch_package(pin, folder):
    name, version, sha256 = pin
    subprocess.run(["apt-get", "download", "-qq", f"{name}={version}"], cwd=folder, check=True)
    (package,) = pathlib.Path(folder).glob(f"{name}_*.deb")
    found = hashlib.sha256(package.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{package.name}: SHA-256 {found}, expected {sha256}")
    return package


def read_pages(package, root):
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
    pages = {}
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(root) and member.name.endswith(".html"):
                pages[member.name.removeprefix(root)] = archive.extractfile(member).read().decode("utf-8")
    return pages


def handbook_chapters(pages):
    """Lists of blocks, one a chapter, in reading order. A chapter begins with a page that is no section."""

    def is_block(tag, attributes):
        return tag in HEADINGS or tag in {"div", "p"} and attributes.get("class") in {"para", "title"}

    chapters, name, seen = [], "foreword.html", set()
    while name in pages and name not in seen:
        seen.add(name)
        page = Page(None, is_block)
        page.feed(pages[name])
        if not name.startswith("sect.") or not chapters:
            chapters.append([])
        chapters[-1] += page.blocks()
        name = page.next_page
    return chapters


def python_chapters(pages):
    def is_root(tag, attributes):
        return tag == "div" and attributes.get("role") == "main"

    def is_block(tag, _):
        return tag in HEADINGS or tag in {"p", "pre", "dt"}

    chapters = []
    for name in sorted(pages):
        if not name.startswith(PYTHON_PARTS) or name.endswith("/index.html"):
            continue
        page = Page(is_root, is_block)
        page.feed(pages[name])
        chapters.append(page.blocks())
    return chapters


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=cache / "pare" / "eval-text")
    folder = parser.parse_args().out

    with tempfile.TemporaryDirectory() as scratch:
        sources = {
            "prose": handbook_chapters(read_pages(fetch_package(HANDBOOK, scratch), HANDBOOK_PAGES)),
            "technical": python_chapters(read_pages(fetch_package(PYTHON, scratch), PYTHON_PAGES)),
        }
    folder.mkdir(parents=True, exist_ok=True)
    for source, chapters in sources.items():
        for first, use in enumerate(("calibration", "test")):
            name = f"{source}_{use}.txt"
            blocks = [block for chapter in chapters[first::2] for block in chapter]
            content = ("\n\n".join(blocks) + "\n").encode()
            found = hashlib.sha256(content).hexdigest()
            if found != TEXT_SHA256.get(name):
                sys.exit(f"{name}: SHA-256 {found}, expected {TEXT_SHA256.get(name)}")
            temporary = folder / f".{name}.part"
            temporary.write_bytes(content)
            temporary.replace(folder / name)
            print(f"{folder / name}: {len(content)} bytes, {len(chapters[first::2])} chapters, SHA-256 {found}")


if __name__ == "__main__":
    main()
