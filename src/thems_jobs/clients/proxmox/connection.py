"""Requests to a Proxmox cluster over its endpoints, and what its errors mean. Only here is proxmoxer known.

Reads are repeated and go to the next endpoint when one does not answer. A write is sent once: only when nothing
can have reached the cluster is it sent to the next endpoint, otherwise it ends in Transient and the caller looks.
"""

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
from proxmoxer import ProxmoxAPI, ResourceException
from requests.adapters import HTTPAdapter
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from thems_jobs.core.platform import Proxmox as Settings
from thems_jobs.errors import EffectFailed, Refused, ThemsError, Transient, Unreachable
from thems_jobs.trusted_files import check_authority, read_token

# The whole retry policy. A read is tried so often, on every endpoint, but not begun again once timeout_s is over.
READ_ATTEMPTS = 3
READ_PAUSE = wait_exponential(multiplier=0.3, max=3) + wait_random(0, 0.3)

CONNECT_S = 5.0  # to open a connection, TLS included; a cluster in the same house takes milliseconds
CONNECTIONS = 16  # per endpoint; pveproxy and pvedaemon have three workers each, more would only queue there

# Proxmox answers 500 and a text to nearly everything; these are the texts that mean something to us.
_TRANSIENT = re.compile(
    r"got timeout|got lock (request )?timeout|checksum mismatch|VM is locked|cluster not ready|can't lock file"
)
_TAKEN = re.compile(r"config file already exists|already exists on node|failed: File exists")


class _NotSentError(Exception):
    """No connection could be made: the cluster knows nothing of the request."""


class _LostError(Exception):
    """The request was sent, the answer never came: it may have been carried out."""


class Connection:
    """The endpoints of one cluster and one API token; any number of threads may use it at once."""

    def __init__(self, settings: Settings, base: Path, timeout_s: float) -> None:
        """Given the folder that relative paths start from. Raise UsageError if token or CA file cannot be used."""
        self._token_id, self._token_file = settings.token_id, base / settings.token_file
        self._timeout_s = timeout_s
        token, ca_file = read_token(self._token_file), settings.ca_file
        remedy = "Copy /etc/pve/pve-root-ca.pem of a node there."
        authority = check_authority(base / ca_file, remedy) if ca_file else None
        self._apis = [_connect(url, settings.token_id, token, authority, timeout_s) for url in settings.endpoints]
        self._preferred = 0  # the endpoint that answered last
        self.requests = 0
        self._count_lock = threading.Lock()

    def read(self, path: str, /, **parameters: object) -> Any:
        return self._repeat("GET", path, parameters)

    def _repeat(self, method: str, path: str, parameters: Mapping[str, object]) -> Any:
        """Ask something that changes nothing, again and elsewhere if there is no answer."""
        tries = Retrying(
            retry=retry_if_exception_type((_NotSentError, _LostError, Transient)),
            stop=stop_after_attempt(READ_ATTEMPTS) | stop_after_delay(self._timeout_s),
            wait=READ_PAUSE,
            reraise=True,
        )
        try:
            return tries(self._ask, method, path, parameters, repeatable=True)
        except (_NotSentError, _LostError) as error:
            raise _unanswered(error) from error
        except Transient as error:
            raise Unreachable(error.subject, error.detail, error.remedy) from error

    def write(self, method: str, path: str, parameters: Mapping[str, object]) -> Any:
        """Ask for a change, once."""
        try:
            return self._ask(method, path, parameters, repeatable=False)
        except _NotSentError as error:
            raise _unanswered(error) from error
        except _LostError as error:
            raise Transient(path, f"{error} It may have been carried out all the same.") from error

    def _ask(self, method: str, path: str, parameters: Mapping[str, object], *, repeatable: bool) -> Any:
        """Send one request to the first endpoint that takes it, beginning with the one that answered last."""
        passed_on = (_NotSentError, _LostError) if repeatable else _NotSentError
        count, first, failures = len(self._apis), self._preferred, list[Exception]()
        for index in [(first + offset) % count for offset in range(count)]:
            try:
                answer = self._send(self._apis[index], method, path, parameters)
            except passed_on as error:
                failures.append(error)
                continue
            self._preferred = index
            return answer
        kind = _LostError if any(isinstance(failure, _LostError) for failure in failures) else _NotSentError
        raise kind(" ".join(str(failure) for failure in failures))

    def _send(self, api: ProxmoxAPI, method: str, path: str, parameters: Mapping[str, object]) -> Any:
        """Send one request to one endpoint and return its data. Every exception of proxmoxer and requests ends here."""
        with self._count_lock:
            self.requests += 1
        endpoint = urlsplit(api._store["base_url"]).netloc
        sent = {name: _as_sent(name, value) for name, value in parameters.items()}
        try:
            answer = getattr(api(path), method.lower())(**sent)
        except ResourceException as error:
            raise self._translated(error, endpoint, path) from error
        except requests.exceptions.RequestException as error:
            raise _translated_failure(error, endpoint) from error
        except ValueError as error:  # what stands in the platform file can be sent to nobody
            raise _LostError(f"{endpoint} cannot be asked: {error}.") from error
        except (KeyError, TypeError, AttributeError) as error:  # JSON, but not as Proxmox writes it
            raise _LostError(f"{endpoint} answers, but not as Proxmox VE does.") from error
        if isinstance(answer, dict) and isinstance(answer.get("errors"), bytes):  # proxmoxer's way to say: no JSON
            raise _LostError(f"{endpoint} broke its answer off.")
        return answer

    def _translated(self, error: ResourceException, endpoint: str, path: str) -> Exception:
        """Given an error that Proxmox answered, return what it means."""
        code, text = error.status_code, _text_of(error)
        if code == 401:
            return Unreachable(
                endpoint,
                f"it refuses the token {self._token_id}.",
                f"Check the secret in {self._token_file} and that token and user are enabled and not expired; "
                "then run: thems-jobs doctor.",
                "token-refused",
            )
        if code == 403:
            return Refused(
                "privilege-missing", path, f"{text} (token {self._token_id}).",
                "Grant it as docs/proxmox-role.md says; then run: thems-jobs doctor.",
            )  # fmt: skip
        if code in range(595, 600):  # the endpoint could not pass it on to the node, or lost the answer
            return _LostError(f"{endpoint} gets no answer for {path}: {text or code}.")
        if _TAKEN.search(text):
            return EffectFailed(path, f"{text}.", "Another id is chosen when it is tried again.", "vmid-taken")
        if _TRANSIENT.search(text):
            return Transient(path, f"{text}.")
        return EffectFailed(path, f"{text}.")


# Connecting


def _connect(url: str, token_id: str, token: str, authority: Path | None, timeout_s: float) -> ProxmoxAPI:
    """Given an endpoint and a token, return the API there; nothing is sent yet."""
    user, _, token_name = token_id.partition("!")
    api = ProxmoxAPI(
        urlsplit(url).hostname,
        port=urlsplit(url).port or 8006,
        user=user,
        token_name=token_name,
        token_value=token,
        verify_ssl=str(authority) if authority else True,
        timeout=(min(CONNECT_S, timeout_s), timeout_s),
    )
    # One session serves all threads: its pool of connections is thread-safe and nothing else of it changes.
    session = api._store["session"]
    session.trust_env = False  # no proxy and no other CA than the platform file's
    session.mount("https://", HTTPAdapter(pool_connections=1, pool_maxsize=CONNECTIONS, pool_block=True))
    return api


# Translating


def _as_sent(name: str, value: object) -> object:
    """Given an option, return it as Proxmox wants it: booleans as 1 and 0, SSH keys percent-encoded once."""
    if isinstance(value, bool):
        return int(value)
    return quote(unquote(str(value)), safe="") if name == "sshkeys" else value


def _text_of(error: ResourceException) -> str:
    """Given an error answer, return Proxmox's own words, with what it says of each parameter."""
    reason = str(error.content or "").strip()
    if isinstance(error.errors, dict):
        said = [f"{name}: {str(text).strip()}" for name, text in error.errors.items() if not isinstance(text, bytes)]
        reason = " ".join([reason, *said]).strip()
    return reason.rstrip(".")


def _translated_failure(error: requests.exceptions.RequestException, endpoint: str) -> Exception:
    """Given why no answer came, return whether the request can have been carried out."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = re.search(r"certificate verify failed: ([^()]*)", text)
        reason = why.group(1).strip() if why else "it cannot be verified"
        return _NotSentError(f"{endpoint} shows a certificate that is not valid: {reason}.")
    cause = getattr(error.args[0] if error.args else None, "reason", None)
    never_sent = isinstance(error, (requests.exceptions.ConnectTimeout, requests.exceptions.SSLError))
    if never_sent or type(cause).__name__ in ("NewConnectionError", "NameResolutionError"):
        return _NotSentError(f"{endpoint} cannot be reached ({_cause_text(cause) or type(error).__name__}).")
    if isinstance(error, requests.exceptions.Timeout):
        return _LostError(f"{endpoint} did not answer in time.")
    return _LostError(f"{endpoint} broke the connection off.")


def _cause_text(cause: object) -> str:
    return str(cause).rpartition(": ")[2].strip() if cause else ""


def _unanswered(error: Exception) -> ThemsError:
    """Given that no endpoint answered, return it as an error for people."""
    if "certificate" in str(error):
        return Unreachable(
            "Proxmox API", str(error),
            "Renew it (pvecm updatecerts), or mend ca_file in the platform file; then run: thems-jobs doctor.",
            "certificate-invalid",
        )  # fmt: skip
    return Unreachable("Proxmox API", str(error), "Check the endpoints, then run: thems-jobs doctor.")
