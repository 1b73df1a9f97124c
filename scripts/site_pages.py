"""A hook of MkDocs: pages keep their paths in the repository, so a link that works there works here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """All of docs/, with its own addresses, and the pages elsewhere that `nav` names."""
    root = Path(config.config_file_path).parent
    folder = Path(config.docs_dir).relative_to(root)

    def file(path: str, to: str | None = None) -> File:
        return File(path, str(root), config.site_dir, config.use_directory_urls, dest_uri=to)

    inside = [one for one in files if one.generated_by is None and one.src_dir == config.docs_dir]
    others = [one for one in files if one not in inside]
    moved = [file(str(folder / one.src_uri), one.dest_uri) for one in inside]
    known = {one.src_uri for one in moved}
    outside = [file(path) for path in _paths(config.nav) if path not in known and (root / path).is_file()]
    return Files([*others, *moved, *outside])


def _paths(nav: Any) -> Iterator[str]:
    """The leaves of the navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _paths(part)
