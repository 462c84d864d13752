"""Files that secrets and trusted authorities come in: they are named to us, their contents never are."""

import ssl
from pathlib import Path

from thems_jobs.errors import UsageError


def read_token(path: Path) -> str:
    """Given a token file, return the secret in it. Raise UsageError if it is not there, empty or open to everybody."""
    remedy = "Write the token's secret there and: chmod 600 it."
    try:
        if path.stat().st_mode & 0o007:
            raise UsageError("token-file", str(path), ["every user of this host can use it."], f"chmod 600 {path}")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:  # no text, or a path that cannot be
        raise UsageError("token-file", str(path), [f"it cannot be read: {_reason(error)}."], remedy) from error
    if not token or token.split() != [token]:
        raise UsageError("token-file", str(path), ["it holds no secret: one line is expected."], remedy)
    return token


def check_authority(path: Path, remedy: str) -> Path:
    """Given a CA file, return it. Raise UsageError if no certificate can be read from it."""
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ValueError) as error:  # ssl.SSLError is the one, a path that cannot be the other
        sentence = f"no CA certificate can be read from it: {_reason(error)}."
        raise UsageError("ca-file", str(path), [sentence], remedy) from error
    return path


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
