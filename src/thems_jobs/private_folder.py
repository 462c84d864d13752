"""Folders of one process in the temporary one. Whatever ends it, even SIGKILL, the next run leaves nothing of them."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PREFIX = "thems-jobs-"  # short: the path of a socket within may have 107 bytes


class PrivateFolder:
    """A new folder that only our user may enter; it is gone after `remove`, or at the end of a `with`.

    Its process holds a lock on it as long as it lives: so `remove_left` knows the folders that nobody needs.
    """

    def __init__(self) -> None:
        self.path, self._lock = _new_folder()
        self._removed = False

    def remove(self) -> None:
        """Remove the folder with all that is in it. Twice is as good as once."""
        shutil.rmtree(self.path, ignore_errors=True)  # what is written into it meanwhile is removed by the next run
        if not self._removed:
            os.close(self._lock)
            self._removed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def remove_left() -> None:
    """Remove our user's folders whose process is gone. Another user's, and what is no folder, is not touched."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), _opened(path) as folder:  # gone, no folder, or locked: somebody lives in it
            if os.fstat(folder).st_uid == os.geteuid():
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(path, folder):
                    shutil.rmtree(path, ignore_errors=True)  # never follows a link


def _new_folder() -> tuple[Path, int]:
    """Make a folder and lock it; another one if `remove_left` of another run came between the two."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError), _opened(path) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if _is_at(path, folder):
                return path, os.dup(folder)  # it shares the lock


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield folder
    finally:
        os.close(folder)


def _is_at(path: Path, folder: int) -> bool:
    """Return whether the open folder is still the one at the path."""
    return os.path.samestat(path.lstat(), os.fstat(folder))
