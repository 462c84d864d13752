"""The few API calls the lab's own command line makes, as root@pam over HTTPS, with nothing but the standard library."""

import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from thems_jobs.lab.errors import LabError
from thems_jobs.lab.layout import LabLayout

TIMEOUT_S = 30.0
TASK_TIMEOUT_S = 60.0


class RootClient:
    """A session of root@pam at the lab's API, through the host's loopback."""

    def __init__(self, layout: LabLayout, endpoint: str) -> None:
        """Log in. Raise LabError when the API does not answer."""
        self._endpoint = endpoint
        self._tls = ssl.create_default_context(cafile=str(layout.authority))
        self._headers: dict[str, str] = {}
        password = layout.root_password.read_text().strip()
        ticket = self.call("POST", "/access/ticket", username="root@pam", password=password)
        self._headers = {
            "Cookie": f"PVEAuthCookie={urllib.parse.quote(ticket['ticket'])}",
            "CSRFPreventionToken": ticket["CSRFPreventionToken"],
        }

    def call(self, method: str, path: str, /, **params: str | int) -> Any:
        """Return the `data` of the answer. Raise LabError with the API's own text when it refuses."""
        data = urllib.parse.urlencode(params)
        url = f"{self._endpoint}/api2/json{path}"
        body = None if method == "GET" else data.encode()
        if method == "GET" and data:
            url += f"?{data}"
        request = urllib.request.Request(url, body, self._headers, method=method)  # noqa: S310 (https, ours)
        # No proxy of the environment: the lab is on this machine.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)
        )
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise LabError(f"the lab's API refused {method} {path}: {error.code} {error.reason}") from error
        except (OSError, ValueError) as error:
            raise LabError(f"the lab's API at {self._endpoint} does not answer: {error}") from error

    def finish(self, upid: str) -> None:
        """Wait for a task's end. Raise LabError with its text when it failed."""
        node = upid.split(":")[1]
        deadline = time.monotonic() + TASK_TIMEOUT_S
        while (task := self.call("GET", f"/nodes/{node}/tasks/{upid}/status"))["status"] == "running":
            if time.monotonic() > deadline:
                raise LabError(f"task {upid} did not end within {TASK_TIMEOUT_S:g} s")
            time.sleep(0.02)
        if task["exitstatus"] != "OK":
            raise LabError(f"task {upid} failed: {task['exitstatus']}")
