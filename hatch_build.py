"""What a release says of itself on a package index: the addresses of the project, and a README whose links lead there.

The repository's address is given when a release is built, as EVENTWAGON_REPOSITORY=https://github.com/OWNER/NAME (or
another forge with `/blob/TAG/path` and `/raw/TAG/path`). Without it a build has no addresses, and README's own links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?\[[^\]]*\])\((?!https?:|mailto:|#)([^)\s]+)\)")
_IN_PAGE = re.compile(r"(\[[^\]]*\])\((#[^)\s]+)\)")


class Addresses(MetadataHookInterface):
    """See https://hatch.pypa.io/latest/plugins/metadata-hook/custom/."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        readme = Path(self.root, "README.md").read_text("utf-8")
        repository = os.environ.get("EVENTWAGON_REPOSITORY", "").rstrip("/")
        if repository:
            metadata["urls"] = urls(repository, metadata["version"])
            readme = absolute(readme, repository, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def urls(repository: str, version: str) -> dict[str, str]:
    """The project's addresses, by the labels that package indexes know."""
    at = f"{repository}/blob/v{version}"
    return {
        "Documentation": f"{at}/docs/index.md",
        "Changelog": f"{at}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
        "Source": repository,
    }


def absolute(text: str, repository: str, version: str) -> str:
    """The Markdown text with links and images that lead to the files of this version in the repository."""

    def moved(found: re.Match[str]) -> str:
        kind = "raw" if found[1].startswith("!") else "blob"
        return f"{found[1]}({repository}/{kind}/v{version}/{found[2]})"

    text = _LINK.sub(moved, text)
    return _IN_PAGE.sub(rf"\1({repository}/blob/v{version}/README.md\2)", text)
