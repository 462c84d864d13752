"""State on disk: JSON files that are whole at any moment."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Replace the file, readable by root only, so that a reader sees the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=1)
    Path(name).replace(path)


def read_json(path: Path, missing: Any) -> Any:
    """Return the content of the file, or `missing` if there is none."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return missing
