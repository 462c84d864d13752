"""Users, tokens, tickets, roles, access control lists and pools: everything rights are made of."""

import base64
import copy
import hashlib
import hmac
import os
import secrets
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thems_jobs.lab.api.errors import ApiError
from thems_jobs.lab.api.files import read_json, write_json
from thems_jobs.lab.api.roles import BUILT_IN, PRIVILEGES

ROOT = "root@pam"
TICKET_LIFE_S = 7200


class Access:
    """What Proxmox keeps in user.cfg, token.cfg and its keys. Read it under no lock: entries are replaced whole."""

    def __init__(self, state_dir: Path, root_password: Path) -> None:
        self._file = state_dir / "access.json"
        self._key_file = state_dir / "ticket-key"
        self._root_password = root_password
        self._lock = threading.RLock()
        self.entries: dict[str, Any] = read_json(
            self._file,
            {"users": {ROOT: {"enable": 1, "expire": 0}}, "tokens": {}, "roles": {}, "acl": {}, "pools": {}},
        )
        self._key = self._private_file(self._key_file, secrets.token_hex(32)).encode()
        self._private_file(root_password, secrets.token_urlsafe(18))
        self.refused_tokens: set[str] = set()  # by a fault

    @staticmethod
    def _private_file(path: Path, content: str) -> str:
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(content + "\n")
        return path.read_text().strip()

    @contextmanager
    def changed(self) -> Iterator[dict[str, Any]]:
        """Lend a copy of the entries; what was done to it becomes true when the block ends without an error."""
        with self._lock:
            entries = copy.deepcopy(self.entries)
            yield entries
            write_json(self._file, entries)
            self.entries = entries

    # who is it?

    def who_has_token(self, header: str) -> str:
        """Given `user@realm!id=secret`, return the token's id. Raise the bare 401 if it is not valid."""
        token_id, _, value = header.strip().partition("=")
        token = self.entries["tokens"].get(token_id)
        if (
            token is None
            or token_id in self.refused_tokens
            or not hmac.compare_digest(token["value"], value)
            or not self._alive(token)
            or not self._alive(self.entries["users"].get(token_id.partition("!")[0]))
        ):
            raise ApiError(401, "Authentication failed!", bare=True)
        return token_id

    def who_has_ticket(self, ticket: str) -> str:
        """Given a ticket, return its user. Raise the bare 401 if it is not valid."""
        user = self._ticket_user(ticket)
        if user is None:
            raise ApiError(401, "Authentication failed!", bare=True)
        return user

    def check_csrf(self, user: str, token: str | None) -> None:
        """Raise the bare 401 unless the header CSRFPreventionToken is one we gave to that user."""
        stamp, _, signature = (token or "").partition(":")
        if not hmac.compare_digest(signature, self._sign(f"{stamp}:{user}")):
            raise ApiError(401, "Permission denied - invalid csrf token", bare=True)

    def log_in(self, user: str, password: str) -> dict[str, Any]:
        """Given a user and password (or a ticket, to renew it), return ticket and CSRF token. Raise 401 with a body."""
        known = self.entries["users"].get(user)
        if not self._alive(known) or not (
            self._ticket_user(password) == user or self._password_is(user, known, password)
        ):
            raise ApiError(401, "authentication failure")
        stamp = f"{int(time.time()):08X}"
        plain = f"PVE:{user}:{stamp}"
        return {
            "username": user,
            "ticket": f"{plain}::{self._sign(plain)}",
            "CSRFPreventionToken": f"{stamp}:{self._sign(f'{stamp}:{user}')}",
            "cap": {},
        }

    def new_token(self, privsep: int, expire: int, comment: str | None) -> dict[str, Any]:
        """Return the entry of a new token; its value is shown this once."""
        token = {"value": str(uuid.uuid4()), "privsep": privsep, "expire": expire}
        return {**token, "comment": comment} if comment else token

    def hash_password(self, password: str) -> str:
        """Return salt and hash of a password."""
        salt = secrets.token_hex(8)
        return f"{salt}${hashlib.scrypt(password.encode(), salt=salt.encode(), n=4096, r=8, p=1).hex()}"

    def _password_is(self, user: str, known: dict[str, Any], password: str) -> bool:
        if user == ROOT:
            return hmac.compare_digest(self._root_password.read_text().strip().encode(), password.encode())
        salt, _, digest = known.get("password", "").partition("$")
        hashed = hashlib.scrypt(password.encode(), salt=salt.encode(), n=4096, r=8, p=1).hex()
        return bool(digest) and hmac.compare_digest(hashed, digest)

    def _ticket_user(self, ticket: str) -> str | None:
        plain, _, signature = ticket.partition("::")
        parts = plain.split(":")
        if len(parts) != 3 or parts[0] != "PVE" or not hmac.compare_digest(signature, self._sign(plain)):
            return None
        age_s = time.time() - int(parts[2], 16)
        return parts[1] if age_s < TICKET_LIFE_S and self._alive(self.entries["users"].get(parts[1])) else None

    def _sign(self, text: str) -> str:
        return base64.b64encode(hmac.digest(self._key, text.encode(), "sha256")).decode()

    @staticmethod
    def _alive(entry: dict[str, Any] | None) -> bool:
        if entry is None or not entry.get("enable", 1):
            return False
        return not entry.get("expire") or entry["expire"] > time.time()

    # what may they?

    def privileges(self, who: str, path: str) -> dict[str, int]:
        """Given a user or token and a path, return its privileges there, each with 1 if it is inherited below."""
        path = "/" + path.strip("/")
        if who == ROOT:
            return dict.fromkeys(PRIVILEGES, 1)
        user, is_token, _ = who.partition("!")
        if not is_token:
            return self._granted(who, path)
        of_user = self.privileges(user, path)
        if not self.entries["tokens"].get(who, {}).get("privsep", 1):
            return of_user
        of_token = self._granted(who, path)
        return {name: min(of_user[name], of_token[name]) for name in of_token if name in of_user}

    def _granted(self, who: str, path: str) -> dict[str, int]:
        granted = self._from_roles(who, path)
        for pool in self._pools_of(path):
            for name, propagated in self._from_roles(who, f"/pool/{pool}").items():
                granted.setdefault(name, propagated)
        return granted

    def _from_roles(self, who: str, path: str) -> dict[str, int]:
        """The deepest entry that applies replaces those above it."""
        found: dict[str, int] = {}
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            prefix = "/" + "/".join(parts[:depth])
            roles = self.entries["acl"].get(prefix, {}).get(who, {})
            applying = {role: prop for role, prop in roles.items() if prop or depth == len(parts)}
            found = applying or found
        if "NoAccess" in found:
            return {}
        granted: dict[str, int] = {}
        for role, propagated in found.items():
            for name in self.role(role) or ():
                granted[name] = max(granted.get(name, 0), propagated)
        return granted

    def role(self, name: str) -> frozenset[str] | None:
        """Return the privileges of a role, or None if there is no such role."""
        if name in BUILT_IN:
            return BUILT_IN[name]
        own = self.entries["roles"].get(name)
        return frozenset(own) if own is not None else None

    def _pools_of(self, path: str) -> list[str]:
        kind, _, name = path.strip("/").partition("/")
        member = {"vms": "vms", "storage": "storage"}.get(kind)
        if not member or not name:
            return []
        return [pool for pool, entry in self.entries["pools"].items() if name in map(str, entry[member])]

    def pool_of(self, vmid: int) -> str | None:
        """Return the pool a VM is in, or None."""
        return next(iter(self._pools_of(f"/vms/{vmid}")), None)

    def forget_vm(self, vmid: int) -> None:
        """Remove a destroyed VM from pools and access control lists."""
        with self.changed() as entries:
            entries["acl"].pop(f"/vms/{vmid}", None)
            for pool in entries["pools"].values():
                pool["vms"] = [other for other in pool["vms"] if other != vmid]

    def add_to_pool(self, pool: str, vmid: int) -> None:
        """Put a new VM into a pool, if that still exists."""
        with self.changed() as entries:
            if pool in entries["pools"]:
                entries["pools"][pool]["vms"].append(vmid)
