"""Every reference by which a refusal or an error is known has a page for the operator, and no page is left over."""

import ast
import re
from pathlib import Path

import pytest

from thems_jobs.core.gate_list import GATES
from thems_jobs.core.plan import Action

ROOT = Path(__file__).parents[2]
FIRST = {
    "Condition",
    "_each",
    "Refusal",
    "Refused",
    "UsageError",
    "ThemsError",
}  # the reference is their first argument
LAST = {"Unreachable", "EffectFailed"}  # the reference is their last one
BY_ENDING = {
    "-deadline": [action for action in Action if action.startswith("await-")],
    "-failed": [Action.BAKE, Action.SEAL],
}
SECTIONS = ("## Look at", "## Do", "## What happens next")


def references() -> set[str]:
    """Return every reference that the sources (but the lab's) can produce."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        if "lab" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found |= {text for value in given(node) for text in texts(value)}
            if isinstance(node, ast.FunctionDef) and node.name == "__init__" and path.name == "errors.py":
                found |= {text for value in node.args.defaults for text in texts(value) if text}
    return found


def given(call: ast.Call) -> list[ast.expr]:
    """Given a call, return the expressions in the place of a reference."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    by_name = [keyword.value for keyword in call.keywords if keyword.arg == "reference"]
    if name in FIRST and call.args:
        return [*by_name, call.args[0]]
    if name in LAST and len(call.args) == 4:
        return [*by_name, call.args[3]]
    inherited = isinstance(call.func, ast.Attribute) and call.func.attr == "__init__" and call.args
    return [*by_name, call.args[0]] if inherited else by_name


def texts(value: ast.expr) -> list[str]:
    """Given an expression, return the references it can be: one may begin with the action that failed."""
    if isinstance(value, ast.Constant):
        return [str(value.value)]
    if isinstance(value, ast.JoinedStr) and isinstance(value.values[-1], ast.Constant):
        ending = str(value.values[-1].value)
        return [f"{action}{ending}" for action in BY_ENDING[ending]]
    return []


def test_every_reference_has_a_page_and_every_page_a_reference() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")}
    used = references()
    assert len(used) > 30, "too few were found: this test looks for the wrong thing"
    assert used - pages == set(), "references without a page in docs/runbooks"
    assert pages - used == set(), "pages that no refusal or error leads to"


def test_references_are_kebab_case() -> None:
    assert [ref for ref in references() if not re.fullmatch(r"[a-z]+(-[a-z]+)*", ref)] == []


def test_every_gate_of_the_report_is_one_that_can_close() -> None:
    assert set(GATES) - references() == set()


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "runbooks").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_says_what_to_do(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}: ")
    assert [section for section in SECTIONS if section not in text] == []
