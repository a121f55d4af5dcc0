"""What runs in a session: one command at a time, its output in pieces, as a cluster's agent hands it on.

Here it is a process of this machine, started in a directory that stands for ``/home/work``.
Source: contract 3.10; Backend.AI agent ``kernel.py`` (`get_next_result`, `aggregate_console`), kernel
``base.py`` (`_execute`).
"""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLUSH_S = 0.5  # after which a reply is sent with what there is; the real one waits for 2 s
_QUEUED = 128  # records; then the command waits for who follows it, as with the real one
_PIECE = 8192

Record = tuple[str, Any]

# Code of query mode runs in Python, the only image there is. Its questions go to a pipe of their own.
_QUERY = """
import builtins, getpass, os, sys
code, asks = sys.argv[1], int(sys.argv[2])
def ask(prompt="", kind=b"i"):
    sys.stdout.write(str(prompt)); sys.stdout.flush(); sys.stderr.flush()
    os.write(asks, kind)
    line = sys.stdin.readline()
    if not line: raise EOFError
    return line.rstrip("\\n")
builtins.input = ask
getpass.getpass = lambda prompt="Password: ", stream=None: ask(prompt, b"p")
exec(compile(code, "<input>", "exec"), {"__name__": "__main__"})
"""


@dataclass(slots=True)
class Run:
    """One run: what it has said and nobody has fetched yet."""

    id: str
    records: asyncio.Queue[Record] = field(default_factory=lambda: asyncio.Queue(_QUEUED))
    process: asyncio.subprocess.Process | None = None


class Kernel:
    """The processes of one session."""

    def __init__(self, home: Path, environ: Mapping[str, str]) -> None:
        self._home = home
        self._environ = environ
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def execute(self, run_id: str, mode: str, code: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Begin, continue or answer a run; its next piece as the API has it."""
        run = self._runs.setdefault(run_id, Run(run_id))
        if mode == "batch":
            self._start(self._batch(run, options))
        elif mode == "query":
            self._start(self._query(run, code))
        elif mode == "input" and run.process is not None and run.process.stdin is not None:
            run.process.stdin.write(code.encode() + b"\n")
        return await self._next(run)

    async def bootstrap(self, script: str) -> None:
        """Run what a session runs before anything else; how it ends does not matter."""
        process = await self._spawn("/bin/sh", "-c", script, stdin=asyncio.subprocess.DEVNULL)
        await process.communicate()

    async def close(self) -> None:
        """End whatever runs."""
        for run in self._runs.values():
            if run.process is not None and run.process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(run.process.pid, signal.SIGKILL)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _batch(self, run: Run, options: Mapping[str, Any]) -> None:
        """Clean, build, execute; an empty step is skipped, and succeeds."""
        for step, end in (("clean", "clean-finished"), ("build", "build-finished"), ("exec", "finished")):
            line = options.get(step)
            status = await self._shell(run, line) if line not in (None, "", "*") else 0
            await run.records.put((end, {"exitCode": status}))

    async def _shell(self, run: Run, line: Any) -> int:
        return await self._follow(run, "/bin/sh", "-c", str(line), stdin=asyncio.subprocess.DEVNULL)

    async def _query(self, run: Run, code: str) -> None:
        read_end, write_end = os.pipe()
        words = (sys.executable, "-c", _QUERY, code, str(write_end))
        asking = asyncio.ensure_future(self._questions(run, read_end))
        try:
            await self._follow(run, *words, stdin=asyncio.subprocess.PIPE, pass_fds=(write_end,))
        finally:
            os.close(write_end)  # which ends the questions
            await asking
        # An exception of the code is text on stderr; the runner itself did well.
        await run.records.put(("finished", {"exitCode": 0}))

    async def _questions(self, run: Run, read_end: int) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(read_end, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while kind := await reader.read(1):
                await asyncio.sleep(0.05)  # the prompt comes by another pipe
                await run.records.put(("waiting-input", {"is_password": kind == b"p"}))
        finally:
            transport.close()

    async def _follow(self, run: Run, *words: str, **options: Any) -> int:
        """Run a process and queue its output; its exit status, negative for a signal."""
        process = run.process = await self._spawn(*words, **options)
        assert process.stdout is not None and process.stderr is not None
        await asyncio.gather(
            _copy(process.stdout, run.records, "stdout"), _copy(process.stderr, run.records, "stderr")
        )
        return await process.wait()

    async def _spawn(self, *words: str, **options: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *words,
            cwd=self._home,
            # Nothing of the server's own environment, where its keys may be.
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(self._home), **self._environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            **options,
        )

    async def _next(self, run: Run) -> dict[str, Any]:
        """What came until a step ended, the command wants input, or time was up."""
        console: list[list[str]] = []
        status, told = "continued", {}
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                while True:
                    kind, content = await run.records.get()
                    if kind not in ("stdout", "stderr"):
                        status, told = kind, content
                        break
                    if console and console[-1][0] == kind:
                        console[-1][1] += content
                    else:
                        console.append([kind, content])
        if status == "finished":
            self._runs.pop(run.id, None)
        return {
            "status": status,
            "runId": run.id,
            "exitCode": told.get("exitCode"),
            "options": told if status == "waiting-input" else None,
            "files": None,
            "console": console,
        }


async def _copy(source: asyncio.StreamReader, records: asyncio.Queue[Record], kind: str) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while piece := await source.read(_PIECE):
        if text := decoder.decode(piece):
            await records.put((kind, text))
    if text := decoder.decode(b"", final=True):
        await records.put((kind, text))
