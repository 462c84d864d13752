"""Reads a platform file and the secrets it points to. Whatever is wrong with it is said at once, all of it."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from thems_jobs.core.platform import Mistake, Platform, mistakes
from thems_jobs.documents import Place, read_document, read_text, typed
from thems_jobs.errors import UsageError

TOKEN_VARIABLE = "THEMS_PROXMOX_TOKEN_FILE"  # noqa: S105 - the name of a variable that holds a path
KEY_VARIABLE = "THEMS_SSH_KEY_FILE"
SECRET_LIMIT = 64 * 1024  # bytes; a token has 36, a long RSA key about 4,000


def read_platform(path: Path, environment: Mapping[str, str] = os.environ) -> Platform:
    """Given a platform file, return it with absolute paths. Raise UsageError with all of its mistakes.

    Secrets that Jenkins binds to files win over those the platform file names.
    """
    document = read_document(path, "platform file")
    platform = typed(document, TypeAdapter(Platform), Platform)
    found = mistakes(platform)
    if found:
        raise document.wrong([document.where(mistake, _place(mistake)) for mistake in found])
    home = path.resolve().parent
    proxmox, ssh, reach = platform.proxmox, platform.ssh, platform.reach
    return replace(
        platform,
        proxmox=replace(
            proxmox,
            token_file=environment.get(TOKEN_VARIABLE) or str(home / proxmox.token_file),
            ca_file=str(home / proxmox.ca_file) if proxmox.ca_file else None,
        ),
        ssh=replace(ssh, key_file=environment.get(KEY_VARIABLE) or str(home / ssh.key_file)),
        reach=replace(reach, netns=str(home / reach.netns) if reach.netns else None),
    )


def _place(mistake: Mistake) -> Place:
    """Given a mistake of the rules, return its place; an index is written name[2] there."""
    place: list[str | int] = []
    for part in mistake.path.split("."):
        name, bracket, index = part.partition("[")
        place.append(name)
        if bracket:
            place.append(int(index.rstrip("]")))
    return tuple(place)


def check_files(platform: Platform) -> None:
    """Given a platform, read every file it points to. Raise UsageError with each that cannot be used."""
    wrong = []
    files = [(platform.proxmox.token_file, "API token"), (platform.ssh.key_file, "SSH key")]
    files += [(platform.proxmox.ca_file, "CA certificate")] if platform.proxmox.ca_file else []
    for path, what in files:
        try:
            if not read_text(Path(path), what, SECRET_LIMIT).strip():
                wrong.append(f"{path}: the {what} file is empty.")
        except UsageError as error:
            wrong += [f"{path}: {sentence}" for sentence in error.mistakes]
    if wrong:
        raise UsageError("unreadable-file", "secrets", wrong, "Nothing was changed.")
