"""``python licences.py sbom.cdx.json``: each package of a CycloneDX list with its version and licences, a line each."""

import json
import sys
from pathlib import Path
from typing import Any


def licences(component: dict[str, Any]) -> str:
    """As its author declares them; an SPDX expression, names or identifiers."""
    names = set()
    for entry in component.get("licenses", ()):
        licence = entry.get("license", {})
        names.add(
            entry.get("expression")
            or licence.get("id")
            or licence["name"].removeprefix("License :: ").split(" :: ")[-1]
        )
    return ", ".join(sorted(names)) or "not declared: see the package"


if __name__ == "__main__":
    for component in json.loads(Path(sys.argv[1]).read_text())["components"]:
        print(f"{component['name']} {component['version']}: {licences(component)}")
