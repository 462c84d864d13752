"""A server that answers as a Jenkins controller does where jobs are read and written, and is as unkind as one.

It saves a job as Jenkins does: versions of plugins, fields of its own, another order, XML 1.1, unknown fields lost.
"""

import base64
import json
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as Xml

USER, TOKEN = "jobs", "11c0ffee11c0ffee11c0ffee11c0ffee11"
FOLDER = "com.cloudbees.hudson.plugins.folder.Folder"
VERSIONS = {
    "flow-definition": "workflow-job@1571.vb_423c255d6d9", "definition": "workflow-cps@4331.v9d06ed4658ff",
    "scm": "git@5.7.0", FOLDER: "cloudbees-folder@6.1053.vd62fb_b_f7367b_",
}  # fmt: skip
LOST = {  # fields that the class of today does not have any more
    "definition": ("sandbox",),
    "scm": ("disableSubmodules", "recursiveSubmodules", "remotePoll", "gitConfigName", "gitConfigEmail", "reference"),
}
ADDED = {
    "org.jenkinsci.plugins.workflow.job.properties.DisableConcurrentBuildsJobProperty": ("abortPrevious", "false"),
    "strategy": ("removeLastBuild", "false"),
}
TRACKER = "org.jenkinsci.plugins.pipeline.modeldefinition.actions.DeclarativeJobPropertyTrackerAction"
PROPERTIES = "org.jenkinsci.plugins.workflow.job.properties."
LOGIN = "<html><body>Authentication required</body>"
OOPS = "<!DOCTYPE html><html><head><title>Jenkins</title><style>p {}</style></head><body><h2>Oops!</h2><p>{}</p></body>"


def read(xml: str) -> Xml.Element:
    """Given a config.xml of either version of XML, return its root."""
    return Xml.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", xml))  # noqa: S314 - our own test posted it


@dataclass
class Fault:
    """What goes wrong with requests whose method and path match, so many times.

    `status` and `body` answer instead of Jenkins; `cut` ends the connection "before" or "after" the effect; `slow_s`
    is waited first; `act` is called "before" or "after" the effect, whichever `cut` says.
    """

    match: str
    times: int = 1
    status: int = 0
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: str = ""
    slow_s: float = 0.0
    act: Callable[[], None] | None = None


class JenkinsServer:
    """One controller; its items are config.xml texts by path, as saved."""

    def __init__(self) -> None:
        self.items: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # method and path
        self.hidden: set[str] = set()  # items that the user may not see
        self.missing_plugins: set[str] = set()  # tags that mean nothing here
        self.denied: set[str] = set()  # permissions that the user lacks: read, create, configure
        self.crumbs_required = False
        self.crumb = secrets.token_hex(16)
        self.url = ""
        self.lock = threading.Lock()

    @property
    def writes(self) -> list[str]:
        return [request for request in self.requests if request.startswith("POST")]

    def save(self, name: str, xml: str) -> None:
        """Given what was posted, keep it as Jenkins would write it. Raise ValueError if it would not load it."""
        root = read(xml)
        if root.tag not in ("flow-definition", "project", FOLDER):
            raise ValueError(f"com.thoughtworks.xstream.mapper.CannotResolveClassException: {root.tag}")
        old = self.items.get(name)
        if old and read(old).tag != root.tag:
            raise ValueError(f"Expecting class WorkflowJob but got class {root.tag} instead")
        self._rewrite(root)
        if root.tag == "flow-definition":
            actions = root.find("actions")
            if actions is None:
                actions = Xml.SubElement(root, "actions")
            Xml.SubElement(Xml.SubElement(actions, TRACKER, plugin="pipeline-model-definition@2.2"), "options")
            Xml.SubElement(root, "triggers")
        root[:] = reversed(list(root))  # the order of fields is that of the class, not of who posted
        self.items[name] = "<?xml version='1.1' encoding='UTF-8'?>\n" + Xml.tostring(root, encoding="unicode")

    def _rewrite(self, element: Xml.Element) -> None:
        for child in list(element):
            if child.tag in LOST.get(element.tag, ()) or child.tag in self.missing_plugins:
                element.remove(child)
            else:
                self._rewrite(child)
        if element.tag in VERSIONS:
            element.set("plugin", VERSIONS[element.tag])
        if element.tag in ADDED:
            tag, text = ADDED[element.tag]
            if element.find(tag) is None:
                Xml.SubElement(element, tag).text = text
        if element.tag == "submoduleCfg":
            element.set("class", "empty-list")
        if not element.text and not len(element):
            element.text = ""  # <description></description>, not <description/>
            element.tail = "\n  "

    def edit(self, name: str, old: str, new: str) -> None:
        """Let somebody change a job by hand."""
        assert old in self.items[name], f"{old} is not in {self.items[name]}"
        self.items[name] = self.items[name].replace(old, new)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    jenkins: JenkinsServer

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, *_: object) -> None:
        """A test's output is not a log."""

    def _handle(self) -> None:
        jenkins, body = self.jenkins, self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        key = f"{self.command} {unquote(self.path)}"
        with jenkins.lock:
            jenkins.requests.append(key)
            fault = next((fault for fault in jenkins.faults if fault.times > 0 and re.search(fault.match, key)), None)
            if fault:
                fault.times -= 1
        if fault is None:
            self._reply(*self._answer(body))
            return
        time.sleep(fault.slow_s)
        if fault.cut == "before" or fault.status:
            if fault.act:
                fault.act()
            if fault.status:
                self._reply(fault.status, fault.body, "text/html;charset=utf-8", fault.headers)
            else:
                self._cut()
            return
        answer = self._answer(body)
        if fault.act:
            fault.act()
        if fault.cut == "after":
            self._cut()
        else:
            self._reply(*answer)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset
        self.connection.shutdown(socket.SHUT_RDWR)

    def _reply(self, status: int, text: str, kind: str = "", headers: dict[str, str] | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        sent = {
            "X-Jenkins": "2.516.3",
            "Content-Type": kind or "text/html;charset=utf-8",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in (sent | (headers or {})).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, body: str) -> tuple[int, str, str, dict[str, str]]:
        """Return status, text, content type and headers for what is asked."""
        jenkins, page = self.jenkins, "text/html;charset=utf-8"
        expected = "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
        given = self.headers.get("Authorization")
        if given is None:
            return 403, LOGIN, page, {}
        if given != expected:
            return 401, OOPS.replace("{}", "Invalid password/token for user: jobs"), page, {}
        if self.command == "POST" and jenkins.crumbs_required and self.headers.get("Jenkins-Crumb") != jenkins.crumb:
            return 403, OOPS.replace("{}", "No valid crumb was included in the request"), page, {}
        parts = urlsplit(self.path)
        path, query = unquote(parts.path).strip("/"), parse_qs(parts.query)
        if path == "me/api/json":
            return self._json({"_class": "hudson.model.User", "id": USER})
        if path == "crumbIssuer/api/json":
            if not jenkins.crumbs_required:
                return 404, OOPS.replace("{}", "Not Found"), page, {}
            return self._json({"crumb": jenkins.crumb, "crumbRequestField": "Jenkins-Crumb"})
        names, rest = [], path.split("/")
        while len(rest) > 1 and rest[0] == "job":
            names.append(rest[1])
            rest = rest[2:]
        return self._of_item("/".join(names), "/".join(rest), query, body)

    def _of_item(
        self, name: str, action: str, query: dict[str, list[str]], body: str
    ) -> tuple[int, str, str, dict[str, str]]:
        jenkins, page = self.jenkins, "text/html;charset=utf-8"
        if name and (name not in jenkins.items or name in jenkins.hidden):
            return 404, OOPS.replace("{}", "Not Found"), page, {}
        needed = {"config.xml": "configure" if self.command == "POST" else "read", "createItem": "create"}.get(action)
        if needed in jenkins.denied:
            said = f"{USER} is missing the Job/{str(needed).title()} permission"
            return 403, OOPS.replace("{}", said), page, {"X-You-Are-Authenticated-As": USER}
        if action == "api/json" and query.get("tree") == ["name"]:
            return self._json({"_class": "x", "name": name.split("/")[-1]})
        if action == "api/json":
            inside = [key for key in jenkins.items if key.rpartition("/")[0] == name and key not in jenkins.hidden]
            return self._json(
                {"_class": FOLDER, "jobs": [{"_class": "x", "name": key.split("/")[-1]} for key in inside]}
            )
        try:
            with jenkins.lock:
                return self._of_config(name, action, query, body)
        except (ValueError, Xml.ParseError) as error:
            return 500, OOPS.replace("{}", f"java.io.IOException: Unable to read {error}"), page, {}

    def _of_config(
        self, name: str, action: str, query: dict[str, list[str]], body: str
    ) -> tuple[int, str, str, dict[str, str]]:
        jenkins, page = self.jenkins, "text/html;charset=utf-8"
        if action == "config.xml" and self.command == "GET":
            return 200, jenkins.items[name], "application/xml", {}
        if action == "config.xml":
            jenkins.save(name, body)
            return 200, "", "", {}
        if action == "createItem":
            new = f"{name}/{query['name'][0]}".strip("/")
            if new in jenkins.items:
                said = f"A job already exists with the name ‘{query['name'][0]}’"
                return 400, OOPS.replace("{}", said), page, {"X-Error": said.encode().decode("latin-1")}
            jenkins.save(new, body)
            return 200, "", "", {}
        if action == "disable":
            text = jenkins.items[name]
            jenkins.items[name] = re.sub("<disabled>false</disabled>", "<disabled>true</disabled>", text)
            return 302, "", "", {"Location": f"{jenkins.url}job/{'/job/'.join(name.split('/'))}/"}
        if not action:
            return 200, "<html>a job's page</html>", page, {}
        return 404, OOPS.replace("{}", "Not Found"), page, {}

    def _json(self, value: object) -> tuple[int, str, str, dict[str, str]]:
        return 200, json.dumps(value), "application/json;charset=utf-8", {}


@contextmanager
def serving(jenkins: JenkinsServer, tls: ssl.SSLContext | None = None) -> Iterator[JenkinsServer]:
    """Let a controller listen on a port of this machine while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"jenkins": jenkins}))
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    jenkins.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield jenkins
    finally:
        server.shutdown()
        server.server_close()
