"""A Jenkins controller: its jobs read, created, updated, disabled. Only here is python-jenkins known.

Reads are repeated. A write is sent once: when its answer is lost it ends in Transient, and the caller looks.
"""

import html
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

import jenkins
from thems_jobs.errors import EffectFailed, Refused, ThemsError, Transient, Unreachable, UsageError

log = logging.getLogger(__name__)

# The whole retry policy: of reads, and of a write that was refused for an old crumb.
READ_ATTEMPTS = 3
READ_PAUSE = wait_exponential(multiplier=0.3, max=3)

CONNECT_S = 5.0  # to open a connection, TLS included
TIMEOUT_S = 30.0  # for an answer; a busy controller stops for its garbage collector for seconds
SAID_LIMIT = 200  # characters of what Jenkins said that are passed on

T = TypeVar("T")


class _NotSentError(Exception):
    """No connection could be made: Jenkins knows nothing of the request."""


class _LostError(Exception):
    """The request was sent, the answer never came: it may have been carried out."""


class _MissingError(Exception):
    """Jenkins knows nothing by that name, or does not show it to us."""


class _BrokenError(Exception):
    """Jenkins is there and fails at what was asked; mostly it will again."""


class _OldCrumbError(Exception):
    """The crumb, which proves that a form is Jenkins' own, is of a session that has ended."""


class Jenkins:
    """One controller, as one user with an API token."""

    def __init__(
        self, url: str, user: str, token: str, ca_file: Path | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Given where it is and who we are, connect when first asked. Raise UsageError if the URL is none."""
        self.url, self._user = _checked(url), user
        self._api = jenkins.Jenkins(self.url, user, token, timeout=(min(CONNECT_S, timeout_s), timeout_s))
        session = self._api._session
        session.trust_env = False  # no proxy, no other CA, no .netrc
        session.verify = str(ca_file) if ca_file else True  # whatever PYTHONHTTPSVERIFY says
        session.hooks["response"].append(self._inspect)

    def user_id(self) -> str:
        """Return who Jenkins takes us for; a first question that shows whether it is there and knows us."""
        return str(self._read("", self._api.get_whoami).get("id", ""))

    def jobs_in(self, folder: str) -> list[str] | None:
        """Given a folder's name, return the full names of what is in it; None if there is no such folder."""
        path = "/".join(f"job/{part}" for part in folder.split("/"))
        try:
            found = self._read(folder, self._api.get_info, path, "?tree=jobs[name]")
        except _MissingError:
            return None
        return [f"{folder}/{job['name']}" for job in found.get("jobs", ())]

    def config(self, name: str) -> str | None:
        """Given a job's full name, return its config.xml; None if it is not there."""
        try:
            text: str = self._read(name, self._api.get_job_config, name)
        except _MissingError:
            return None
        if re.match(r"\s*<(!doctype\s+)?html", text, re.IGNORECASE):
            raise _not_jenkins(self.url, "a page for people where config.xml was asked for")
        return text

    def create(self, name: str, xml: str) -> None:
        """Given a job's full name, or a folder's, make it. Raise Transient if it may have been made all the same."""
        self._write(name, self._api.create_job, name, xml)

    def update(self, name: str, xml: str) -> None:
        """Given a job's full name, replace its config.xml; its builds stay."""
        self._write(name, self._api.reconfig_job, name, xml)

    def disable(self, name: str) -> None:
        """Given a job's full name, let it start no builds any more; its builds stay."""
        self._write(name, self._api.disable_job, name)

    def _read(self, name: str, call: Callable[..., Any], *arguments: object) -> Any:
        """Ask something that changes nothing, again if there is no answer. Raise _MissingError for a 404."""
        tries = Retrying(
            retry=retry_if_exception_type((_NotSentError, _LostError, _BrokenError, Transient)),
            stop=stop_after_attempt(READ_ATTEMPTS), wait=READ_PAUSE, reraise=True,
        )  # fmt: skip
        try:
            return tries(self._ask, name, call, *arguments)
        except (_NotSentError, _LostError) as error:
            raise self._unanswered(error) from error
        except Transient as error:
            raise Unreachable(error.subject, error.detail, "Look whether Jenkins is up and has time.") from error
        except _BrokenError as error:
            raise EffectFailed(name or self.url, str(error), "Jenkins' own log says why.") from error

    def _write(self, name: str, call: Callable[..., Any], *arguments: object) -> None:
        """Ask for a change, once; a second time only if Jenkins refused it for its crumb alone."""
        try:
            try:
                self._ask(name, call, *arguments)
            except _OldCrumbError:
                self._api.crumb = None
                self._ask(name, call, *arguments)
        except _OldCrumbError as error:
            raise EffectFailed(name, "Jenkins takes none of the crumbs that it gives.") from error
        except _MissingError as error:
            raise EffectFailed(name, "it, or its folder, is not there, or is not shown to us.") from error
        except _NotSentError as error:
            raise self._unanswered(error) from error
        except (_LostError, _BrokenError) as error:  # the second: of what is looked at before and after it
            raise Transient(name, f"{error} It may have been carried out all the same.") from error

    def _ask(self, name: str, call: Callable[..., T], *arguments: object) -> T:
        """Send one request. Every exception of python-jenkins and requests ends here."""
        try:
            return call(*arguments)
        except jenkins.TimeoutException as error:
            raise _never_came(error) from error
        except (jenkins.JenkinsException, requests.exceptions.HTTPError) as error:
            raise self._translated(name, error) from error
        except requests.exceptions.RequestException as error:
            raise _never_came(error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # JSON, but not as Jenkins writes it
            raise _not_jenkins(self.url, "something that makes no sense") from error

    def _translated(self, name: str, error: Exception) -> Exception:
        """Given an error that Jenkins answered, return what it means."""
        response = _response_of(error)
        subject = name or self.url
        if response is None:
            if "parse JSON" in str(error):
                return _not_jenkins(self.url, "a page for people where data was asked for")
            taken = "already exists" in str(error)
            return Transient(subject, "it has appeared meanwhile.") if taken else EffectFailed(subject, f"{error}.")
        code, said = response.status_code, _said(response)
        if code == 401:
            return Unreachable(
                self.url, f"it does not accept the API token of {self._user}.",
                "Make a new one in Jenkins (user menu, Security, API Token) and put it into THEMS_JENKINS_TOKEN_FILE.",
                "jenkins-token-refused",
            )  # fmt: skip
        if code == 403 and "crumb" in said.lower():
            return _OldCrumbError()
        if code == 403:
            return Refused(
                "jenkins-permission-missing", subject, f"{self._user} may not do this: {said}.",
                "Give that user the permissions of docs/runbooks/jenkins-permission-missing.md.",
            )  # fmt: skip
        if code == 404:
            return _MissingError()
        if code == 500 and response.request.method == "GET":
            return _BrokenError(f"Jenkins answers 500: {said}.")
        if code in (429, 502, 503, 504):
            return Transient(subject, f"Jenkins answers {code}: {said}.")
        hint = " It may be there, but not shown to us: give Job/Read." if "already exists" in said else ""
        return EffectFailed(subject, f"Jenkins answers {code}: {said}.{hint}")

    def _inspect(self, response: requests.Response, **_: object) -> None:
        """Given any answer, see that it is our Jenkins' and will be read as it was written."""
        response.encoding = "utf-8"  # requests would guess where Jenkins does not say
        if response.is_redirect:
            there = urljoin(response.url, response.headers["location"])
            if urlsplit(there)[:2] != urlsplit(self.url)[:2]:
                where = "{0.scheme}://{0.netloc}".format(urlsplit(there))
                raise _not_jenkins(self.url, f"that it is at {where}", "Give the address that Jenkins has.")
        elif response.status_code < 500 and response.status_code != 401 and "X-Jenkins" not in response.headers:
            raise _not_jenkins(self.url, f"{response.status_code}, and not as Jenkins does")

    def _unanswered(self, error: Exception) -> ThemsError:
        if "certificate" in str(error):
            remedy = "Renew it, or name the authority that signed it with --ca-file."
            return Unreachable(self.url, str(error), remedy, "certificate-invalid")
        return Unreachable(self.url, str(error), "Look whether Jenkins is up, then run the same command again.")


def _checked(url: str) -> str:
    """Given a URL, return it with one slash at its end. Raise UsageError if it is none that we can use."""
    subject = "--jenkins-url"
    try:
        parts = urlsplit(url.strip())
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or bool(parts.query or parts.fragment)
        named = parts.username is not None
        _ = parts.port
    except ValueError:
        wrong, named = True, False
    if named:
        raise UsageError("usage", subject, ["it has a name or a password in it: they come as THEMS_JENKINS_…."])
    if wrong:
        raise UsageError("usage", subject, [f"found {url!r}, expected for example https://jenkins.example.com/."])
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        log.warning("%s is not https: anybody on the way can read the API token.", url)
    return url.strip().rstrip("/") + "/"


def _response_of(error: BaseException | None) -> requests.Response | None:
    """Given an error of python-jenkins, return the answer that it was made from: that is further down its chain."""
    while error is not None:
        if isinstance(error, requests.exceptions.HTTPError):
            return error.response
        error = error.__context__
    return None


def _said(response: requests.Response) -> str:
    """Given an answer, return what Jenkins says in it, in one line: X-Error, or the words of the page."""
    headers: Mapping[str, str] = response.headers
    text = headers.get("X-Error") or re.sub(r"(?s)<(script|style|head)\b.*?</\1>|<[^>]*>", " ", response.text)
    words = " ".join(html.unescape(text).split()).rstrip(".")
    return words[:SAID_LIMIT] or response.reason or "nothing"


def _not_jenkins(url: str, answer: str, remedy: str = "") -> Unreachable:
    remedy = remedy or "Look at the address in a browser: with its path, and without a login page in between."
    return Unreachable(url, f"it answers {answer}.", remedy, "not-jenkins")


def _never_came(error: Exception) -> Exception:
    """Given why no answer came, return whether the request can have been carried out."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = re.search(r"certificate verify failed: ([^()]*)", text)
        return _NotSentError(f"it shows a certificate that is not valid: {why.group(1).strip() if why else 'unknown'}.")
    cause = error.__context__ if isinstance(error, jenkins.TimeoutException) else error
    if isinstance(cause, requests.exceptions.ConnectTimeout | requests.exceptions.SSLError):
        return _NotSentError("no connection can be made.")
    reason = getattr(cause.args[0] if cause and cause.args else None, "reason", None)
    if type(reason).__name__ in ("NewConnectionError", "NameResolutionError"):
        return _NotSentError(f"it cannot be reached ({str(reason).rpartition(': ')[2].strip()}).")
    if isinstance(cause, requests.exceptions.Timeout):
        return _LostError("it did not answer in time.")
    return _LostError("it broke the connection off.")
