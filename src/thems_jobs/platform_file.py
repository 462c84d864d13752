"""Reads a platform file and the secrets it points to. Whatever is wrong with it is said at once, all of it."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from thems_jobs.core.platform import Database, DatabaseCluster, Mistake, Platform
from thems_jobs.core.platform_rules import mistakes
from thems_jobs.documents import Place, read_document, read_text, typed
from thems_jobs.errors import UsageError

TOKEN_VARIABLE = "THEMS_PROXMOX_TOKEN_FILE"  # noqa: S105 - the name of a variable that holds a path
KEY_VARIABLE = "THEMS_SSH_KEY_FILE"
DATABASE_CA_VARIABLE = "THEMS_DATABASE_CA_KEY_FILE"
DATABASE_VARIABLE = "THEMS_DATABASE_PASSWORD_FILE"
PROXYSQL_VARIABLE = "THEMS_PROXYSQL_PASSWORD_FILE"
APPLICATION_VARIABLE = "THEMS_SHOP_DATABASE_PASSWORD_FILE"
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
        database=_database(platform.database, home, environment),
    )


def _database(database: Database | None, home: Path, environment: Mapping[str, str]) -> Database | None:
    """Given what the file says of the database, return it with absolute paths."""
    if not database or not database.cluster:
        return database
    cluster, application = database.cluster, database.cluster.application
    admin = environment.get(PROXYSQL_VARIABLE) or cluster.proxysql_password_file
    return replace(
        database,
        cluster=replace(
            cluster,
            ca_file=str(home / cluster.ca_file),
            ca_key_file=environment.get(DATABASE_CA_VARIABLE) or str(home / cluster.ca_key_file),
            password_file=environment.get(DATABASE_VARIABLE) or str(home / cluster.password_file),
            proxysql_password_file=str(home / admin) if admin else None,
            backup=replace(cluster.backup, folder=str(home / cluster.backup.folder)) if cluster.backup else None,
            application=replace(
                application,
                password_file=environment.get(APPLICATION_VARIABLE) or str(home / application.password_file),
            ),
        ),
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
    files += _database_files(platform.database.cluster) if platform.database and platform.database.cluster else []
    for path, what in files:
        try:
            if not read_text(Path(path), what, SECRET_LIMIT).strip():
                wrong.append(f"{path}: the {what} file is empty.")
        except UsageError as error:
            wrong += [f"{path}: {sentence}" for sentence in error.mistakes]
    if wrong:
        raise UsageError("unreadable-file", "secrets", wrong, "Nothing was changed.")


def _database_files(cluster: DatabaseCluster) -> list[tuple[str, str]]:
    """Given the database cluster, return the path and the name of every file it needs."""
    files = [
        (cluster.ca_file, "database CA certificate"),
        (cluster.ca_key_file, "database CA key"),
        (cluster.password_file, "database password"),
        (cluster.application.password_file, "shop's database password"),
    ]
    if cluster.proxy == "proxysql" and cluster.proxysql_password_file:
        files.append((cluster.proxysql_password_file, "ProxySQL password"))
    return files
