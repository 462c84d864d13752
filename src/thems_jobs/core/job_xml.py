"""A Jenkins job's config.xml as what it says: two of them are compared without what Jenkins adds, drops or reorders."""

import difflib
import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree as Xml
from xml.sax.saxutils import escape, quoteattr

PIPELINE_TRIGGERS = "org.jenkinsci.plugins.workflow.job.properties.PipelineTriggersJobProperty"
# Fields that Jenkins or its plugins write with these values by themselves, or drop when they save, by what holds them
# (its class attribute, or its tag). Gathered from config.xml files that Jenkins 2.4xx to 2.5xx with git 5, workflow-job
# 1400 to 1571 and workflow-cps 3800 to 4331 wrote. None stands for any value. What is not here and differs is drift.
OF_NO_MEANING: Mapping[str, Mapping[str, str | None]] = {
    "flow-definition": {"actions": None, "keepDependencies": "false", "disabled": "false"},
    "org.jenkinsci.plugins.workflow.cps.CpsScmFlowDefinition": {"sandbox": None, "lightweight": "false"},
    "hudson.plugins.git.GitSCM": {
        "configVersion": "2", "doGenerateSubmoduleConfigurations": "false", "submoduleCfg": None, "gitTool": "Default",
        "disableSubmodules": "false", "recursiveSubmodules": "false", "remotePoll": "false",
    },
    "org.jenkinsci.plugins.workflow.libs.SCMSourceRetriever": {"clone": "false"},
    "hudson.model.StringParameterDefinition": {"trim": "false"},
    "hudson.model.BooleanParameterDefinition": {"defaultValue": "false"},
    "org.jenkinsci.plugins.workflow.job.properties.DisableConcurrentBuildsJobProperty": {"abortPrevious": "false"},
    "properties": {PIPELINE_TRIGGERS: "", "hudson.model.ParametersDefinitionProperty": ""},
    "hudson.tasks.LogRotator": {
        "daysToKeep": "-1", "numToKeep": "-1", "artifactDaysToKeep": "-1", "artifactNumToKeep": "-1",
        "removeLastBuild": "false",
    },
}  # fmt: skip
IN_ORDER = ("parameterDefinitions",)  # the order of these children is what people see; of others it means nothing
SECRET_FIELD = re.compile(r"(<[\w.]*(?:token|password|passphrase|secret|apikey)\b[^>]*>)[^<]+", re.IGNORECASE)
SECRET_TEXT = re.compile(r"\{A[A-Za-z0-9+/]{15,}={0,2}\}|(?<=://)[^/@\s<]+(?=@)")  # as Jenkins encrypts them; in URLs
HIDDEN = "********"
AROUND = 2  # lines shown before and after a difference

_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_CONTROL = re.compile(r"&#(?:x0*(?:[0-8bcef]|1[0-9a-f])|0*(?:[0-8]|1[124-9]|2\d|3[01]));", re.IGNORECASE)


def read_xml(text: str) -> Xml.Element:
    """Given a config.xml, return its root. Raise ValueError if it is none.

    Jenkins writes XML 1.1, which the parser refuses for its number alone, and may hold control characters.
    """
    body = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _DECLARATION.sub("", text))
    if "<!DOCTYPE" in body or "<!ENTITY" in body:
        raise ValueError("it declares entities, which Jenkins never does")
    try:
        return Xml.fromstring(body)  # noqa: S314 - no entities can be declared, see above
    except Xml.ParseError as error:
        raise ValueError(f"it is not XML ({error})") from error


def meaning(text: str) -> tuple[str, ...]:
    """Given a config.xml, return its lines in the one form that everything of the same meaning has."""
    return tuple(_lines(read_xml(text), 0))


def differences(live: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """Given two meanings, return what would change, as a unified diff in which no secret can be read."""
    before, after = ([_hidden(line) for line in lines] for lines in (live, wanted))
    shown = "\n".join(difflib.unified_diff(before, after, "in Jenkins", "in git", n=AROUND, lineterm=""))
    return shown or ("" if live == wanted else "(a secret differs, which is not shown)")


def field(text: str, name: str) -> str:
    """Given a config.xml, return the text of a field of its root, "" if it has none."""
    return read_xml(text).findtext(name, "").strip()


def part(text: str, tag: str) -> tuple[str, ...]:
    """Given a config.xml, return the meaning of the first element of a tag in it, () if there is none."""
    try:
        found = next(read_xml(text).iter(tag), None)
    except ValueError:
        return ()
    return () if found is None else tuple(_lines(found, 0))


def _lines(element: Xml.Element, depth: int) -> Iterator[str]:
    """Yield an element's lines, its children in an order of our own unless theirs means something."""
    indent, opening = "  " * depth, _opening(element)
    children = _children(element)
    text = (element.text or "").replace("\r\n", "\n").strip() if not len(element) else ""
    if children:
        yield f"{indent}<{opening}>"
        for child in children:
            yield from _lines(child, depth + 1)
        yield f"{indent}</{element.tag}>"
    elif text:
        first, *more = escape(text).split("\n")
        yield f"{indent}<{opening}>{first}" + ("" if more else f"</{element.tag}>")
        yield from (line.rstrip() for line in more[:-1])
        if more:
            yield f"{more[-1]}</{element.tag}>"
    else:
        yield f"{indent}<{opening}/>"


def _opening(element: Xml.Element) -> str:
    """The attribute `plugin` names a version that Jenkins fills in: it means nothing."""
    attributes = (f" {key}={quoteattr(value)}" for key, value in sorted(element.attrib.items()) if key != "plugin")
    return element.tag + "".join(attributes)


def _children(element: Xml.Element) -> list[Xml.Element]:
    kept = [child for child in element if not _means_nothing(element, child)]
    return kept if element.tag in IN_ORDER else sorted(kept, key=lambda child: child.tag)


def _means_nothing(parent: Xml.Element, child: Xml.Element) -> bool:
    """True for fields that Jenkins adds or drops by itself, and for empty ones. An empty object means something."""
    known = OF_NO_MEANING.get(parent.get("class", parent.tag), {})
    text, inner = (child.text or "").strip(), _children(child)
    if child.tag in known and (known[child.tag] is None or (known[child.tag] == text and not inner)):
        return True
    is_object = "." in child.tag or parent.tag in IN_ORDER or parent.tag == "a"  # <a> holds an array's entries
    return not text and not inner and not set(child.attrib) - {"plugin"} and not is_object


def _hidden(line: str) -> str:
    """Given a line, return it without the secrets that may be in it."""
    return SECRET_TEXT.sub(HIDDEN, SECRET_FIELD.sub(rf"\1{HIDDEN}", line))
