"""The commands in the documents that users read: what a test runs is what stands there."""

from __future__ import annotations

import re
from pathlib import Path


def commands(document: Path, heading: str = "") -> list[str]:
    """The `bash` blocks of a document in order, or those under one heading (its text, without the #)."""
    text = document.read_text(encoding="utf-8")
    if heading:
        match = re.search(rf"^(#+) {re.escape(heading)}\n", text, re.MULTILINE)
        if match is None:
            raise KeyError(f"{document.name} has no heading {heading!r}")
        # Up to the next heading that is not below it; the # of a comment in a block is no heading.
        parts = re.split(r"(^```.*?^```$)", text[match.end() :], flags=re.MULTILINE | re.DOTALL)
        text = ""
        for part in parts:
            text += part
            if part[:3] != "```" and re.search(rf"^#{{1,{len(match[1])}}} ", part, re.MULTILINE):
                break
    found = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise KeyError(f"{document.name} has no command under {heading or 'any heading'}")
    return found
