"""One process at a time: a lock on a file that is held by a process and gone with it, however it ends."""

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Iterator

from dl.mytorch.config import UserError
from dl.mytorch.files import regular_file

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_FAR = 2**30  # the byte that is locked, after the text: on Windows nobody else could read a locked one


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock of the file `path`, made if it is missing and left where it is: to delete it would let two hold it.

    Processes that this one starts do not inherit it. Raises `UserError`, `busy` with the number of the process, if
    another one holds it.
    """
    if os.path.lexists(path):
        regular_file(path)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.lseek(handle, _FAR, os.SEEK_SET)
        _lock(handle, path, busy)
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)  # which releases the lock


def _lock(handle: int, path: Path, busy: str) -> None:
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:  # not flock: data workers would inherit that, and hold it after this process is gone
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, os.SEEK_CUR)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):  # what Windows and POSIX say of a held lock
            print(f"note: {path} cannot be locked ({error.strerror}): start no second run there", file=sys.stderr)
            return
        os.lseek(handle, 0, os.SEEK_SET)
        number = os.read(handle, 20).decode(errors="replace").strip()
        holder = f" (process {number})" if number.isdigit() else ""
        raise UserError(f"{busy}{holder}; wait for it or choose another --out") from None
