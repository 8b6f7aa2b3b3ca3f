"""docs/security.md promises nothing that no test holds."""

import ast
import re

import pytest

from tests.tiny import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| it tries", "| where"))]


def functions(name: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / name).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip()[:40])
def test_each_line_names_a_test_that_exists(line):
    held = line.rstrip(" |").rpartition("|")[2].strip()
    found = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", held)

    assert found, held
    assert found[2] in functions(found[1])


def test_every_kind_of_attacker_has_its_lines():
    tables = re.findall(r"^## (.+)\n\n\| ", PAGE, re.MULTILINE)

    assert tables == [
        "A hostile model repository",
        "A hostile dataset",
        "A hostile chat template",
        "A hostile URI",
        "A hostile store",
        "Leaked credentials",
        "A hostile environment or neighbour",
    ]
    assert len(LINES) > 50
