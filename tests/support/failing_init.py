"""Makes one step of the INIT exchange fail, in a daemon that runs as it always does.

`site(directory, step)` writes a ``sitecustomize.py``; with the directory in PYTHONPATH it wraps the one
call that the step makes to the system, for the first time it is made. Only the system misbehaves.
"""

from __future__ import annotations

from pathlib import Path

_BEGINNING = """
import errno, os, socket
once = [True]
def first(condition):
    return bool(condition and once and once.pop())
"""

STEPS = {
    # No descriptors left.
    "socketpair": """
real = socket.socketpair
def socketpair(family=None, type=socket.SOCK_STREAM, proto=0):
    if first(type == socket.SOCK_SEQPACKET):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return real(family, type, proto)
socket.socketpair = socketpair
""",
    # A kernel that begins with something else: kind 99 for INIT.
    "request": """
real = os.read
def read(fd, n):
    message = real(fd, n)
    return message[:4] + bytes([99]) + message[5:] if first(n > 1 << 20) else message
os.read = read
""",
    # A kernel of another major version.
    "version": """
real = os.read
def read(fd, n):
    message = real(fd, n)
    return message[:40] + bytes([8]) + message[41:] if first(n > 1 << 20) else message
os.read = read
""",
    # A kernel that cannot look up side by side; nothing fails.
    "offer": """
real = os.read
def read(fd, n):
    message = real(fd, n)
    return message[:54] + bytes([message[54] & ~4]) + message[55:] if first(n > 1 << 20) else message
os.read = read
""",
    # A kernel before 5.17: a shorter request, without INIT_EXT; nothing fails.
    "older": """
real = os.read
def read(fd, n):
    message = real(fd, n)
    if first(n > 1 << 20):
        return bytes([56]) + message[1:44] + bytes([34]) + message[45:55] + bytes([message[55] & ~64])
    return message
os.read = read
""",
    # libfuse never sees the request.
    "silence": """
real = socket.socket.send
def send(self, data, *flags):
    return len(data) if first(self.type == socket.SOCK_SEQPACKET) else real(self, data, *flags)
socket.socket.send = send
""",
    # libfuse answers in another layout.
    "reply": """
real = socket.socket.recv
def recv(self, *args):
    message = real(self, *args)
    return message[:24] if first(self.type == socket.SOCK_SEQPACKET) else message
socket.socket.recv = recv
""",
    # The kernel does not take the answer.
    "write": """
real = os.write
def write(fd, message):
    if first(len(message) == 80):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return real(fd, message)
os.write = write
""",
    # The kernel has its answer, and then the device does not get to libfuse.
    "dup2": """
real = os.dup2
def dup2(fd, fd2, inheritable=True):
    if first(not inheritable):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    return real(fd, fd2, inheritable)
os.dup2 = dup2
""",
}

HARMLESS = ("offer", "older")


def site(directory: Path, step: str) -> str:
    """The PYTHONPATH under which that step fails."""
    path = directory / f"failing-{step}"
    path.mkdir()
    (path / "sitecustomize.py").write_text(_BEGINNING + STEPS[step])
    return str(path)
