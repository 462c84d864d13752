"""config.xml as what it says: what Jenkins rewrites means nothing, what people change does, secrets are not shown."""

import random
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thems_jobs.core.job_xml import differences, field, meaning

CONCURRENT = "org.jenkinsci.plugins.workflow.job.properties.DisableConcurrentBuildsJobProperty"
TRIGGERS = "org.jenkinsci.plugins.workflow.job.properties.PipelineTriggersJobProperty"
JOB = """<?xml version="1.0" encoding="utf-8"?>
<flow-definition plugin="workflow-job">
  <definition class="org.jenkinsci.plugins.workflow.cps.CpsScmFlowDefinition" plugin="workflow-cps">
    <sandbox>false</sandbox>
    <scm class="hudson.plugins.git.GitSCM"><submoduleCfg class="list"/><remotePoll>false</remotePoll>
      <userRemoteConfigs><hudson.plugins.git.UserRemoteConfig><url>https://git/x.git</url>
      </hudson.plugins.git.UserRemoteConfig></userRemoteConfigs></scm>
    <scriptPath>Jenkinsfile</scriptPath>
  </definition>
  <actions/>
  <description>Erste Zeile
zweite &lt;Zeile&gt;</description>
  <disabled>false</disabled>
  <properties>
    <org.jenkinsci.plugins.workflow.job.properties.DisableConcurrentBuildsJobProperty/>
    <hudson.model.ParametersDefinitionProperty><parameterDefinitions>
      <hudson.model.StringParameterDefinition><name>B</name><defaultValue/></hudson.model.StringParameterDefinition>
      <hudson.model.BooleanParameterDefinition><name>A</name></hudson.model.BooleanParameterDefinition>
    </parameterDefinitions></hudson.model.ParametersDefinitionProperty>
  </properties>
</flow-definition>"""


def root() -> Xml.Element:
    return Xml.fromstring(JOB.partition("\n")[2])  # noqa: S314 - it is above


def shuffled(element: Xml.Element, chance: random.Random) -> None:
    """Put everything whose order means nothing into another order, with versions and whitespace."""
    element.attrib = dict(
        chance.sample([*element.attrib.items(), ("plugin", f"x@{chance.random()}")], len(element.attrib) + 1)
    )
    if len(element):
        element.text = " " * chance.randrange(4)
    if element.tag != "parameterDefinitions":
        element[:] = chance.sample(list(element), len(element))
    for child in element:
        child.tail = "\n" * chance.randrange(3)
        shuffled(child, chance)


@given(st.randoms(use_true_random=False))
def test_order_versions_and_whitespace_mean_nothing(chance: random.Random) -> None:
    other = root()
    shuffled(other, chance)
    assert meaning("<?xml version='1.1' encoding='UTF-8'?>\n" + Xml.tostring(other, encoding="unicode")) == meaning(JOB)


@given(st.randoms(use_true_random=False))
def test_any_text_that_changes_is_seen(chance: random.Random) -> None:
    other = root()
    parents = {child: parent for parent in other.iter() for child in parent}
    leaf = chance.choice([e for e in other.iter() if e.text and e.text.strip() and not len(e) and e.tag != "sandbox"])
    leaf.text = f"{leaf.text}x"
    assert meaning(Xml.tostring(other, encoding="unicode")) != meaning(JOB), (leaf.tag, parents[leaf].tag)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<actions/>", "<actions><org.X.DeclarativeJobAction plugin='p@1'/></actions>"),
        ("<sandbox>false</sandbox>", ""),
        ("<actions/>", "<triggers/><keepDependencies>false</keepDependencies>"),
        (f"<{CONCURRENT}/>", f"<{CONCURRENT}><abortPrevious>false</abortPrevious></{CONCURRENT}>"),
        ('<submoduleCfg class="list"/>', '<submoduleCfg class="empty-list"/><configVersion>2</configVersion>'),
        ("<name>B</name><defaultValue/>", "<name>B</name><trim>false</trim>"),
        ("Erste Zeile\n", "Erste Zeile&#xd;\n"),
        ("<properties>", f"<properties><{TRIGGERS}><triggers/></{TRIGGERS}>"),
    ],
)
def test_what_jenkins_adds_by_itself_means_nothing(old: str, new: str) -> None:
    assert old in JOB
    assert meaning(JOB.replace(old, new)) == meaning(JOB)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<disabled>false</disabled>", "<disabled>true</disabled>"),
        (f"<{CONCURRENT}/>", ""),
        ("<actions/>", "<quietPeriod>5</quietPeriod>"),
        ("<actions/>", "<authToken>x</authToken>"),
        ("<name>B</name><defaultValue/>", "<name>B</name><defaultValue>x</defaultValue>"),
        ("CpsScmFlowDefinition", "CpsFlowDefinition"),
    ],
)
def test_what_people_change_means_something(old: str, new: str) -> None:
    assert old in JOB
    assert meaning(JOB.replace(old, new)) != meaning(JOB)


@pytest.mark.parametrize(
    "text",
    ["", "<a>", "not XML", "<!DOCTYPE html><html></html>", '<!DOCTYPE x [<!ENTITY e "e">]><x>&e;</x>', "<a/><b/>"],
)
def test_what_is_no_config_xml_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it "):
        meaning(text)


def test_control_characters_of_xml_1_1_are_read() -> None:
    text = "<?xml version='1.1' encoding='UTF-8'?><x><description>bell &#x7; and &#27;[0m</description></x>"
    assert field(text, "description") == "bell \N{REPLACEMENT CHARACTER} and \N{REPLACEMENT CHARACTER}[0m"


@pytest.mark.parametrize(
    "secret",
    [
        "<authToken>s3cr3t</authToken>",
        "<x><apiToken>s3cr3t</apiToken></x>",
        "<defaultValue>{AQAAABAAAAAQs3cr3tAAAAAAAAAA=}</defaultValue>",
        "<url>https://me:s3cr3t@git.example.com/x.git</url>",
        "<org.x.Password>s3cr3t</org.x.Password>",
    ],
)
def test_secrets_are_not_shown(secret: str) -> None:
    shown = differences(meaning(JOB.replace("<actions/>", secret)), meaning(JOB))
    assert "s3cr3t" not in shown
    assert "********" in shown


def test_a_difference_in_a_secret_alone_is_said() -> None:
    before, after = (meaning(JOB.replace("<actions/>", f"<authToken>{token}</authToken>")) for token in ("a", "b"))
    assert differences(before, after) == "(a secret differs, which is not shown)"
    assert differences(before, before) == ""
