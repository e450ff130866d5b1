"""A Python that has imported what takes seconds, for tests of commands that start many Pythons.

`python tests/warm.py SOCKET` imports, then forks a process for each command that comes. `CLIENT`, which a
test writes into a file, takes the place of the interpreter: it sends its arguments, folder, environment and
open files, and ends with the exit code of the command. Each command is a process of its own and begins as
`python` would begin it, but for the imports.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINE = 1 << 20  # bytes; a command and its environment
CLIENT = """#!{python} -ISE
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
command = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [json.dumps(command).encode() + b"\\n"], [0, 1, 2])
child, code = json.loads(server.recv(64)), b""
for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(stop, lambda number, frame: os.kill(child, number))
while not code:
    code = server.recv(64) or b"1"
sys.exit(json.loads(code))
"""


@contextlib.contextmanager
def warm_python(folder: Path) -> Iterator[str]:
    """The path of a program that does what `python` does, without its imports."""
    address, client = folder / "socket", folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(address)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert server.stdout.readline() == b"ready\n"
        yield str(client)
    finally:
        server.kill()
        server.wait()


def serve(address: str) -> None:
    """Fork a process for each command that comes."""
    import torch

    import evaluate
    import train

    train.import_data()
    train.import_models()
    evaluate.import_all()
    torch.set_num_threads(1)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    print("ready", flush=True)
    while True:
        client, _ = listening.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            answer(client)
        client.close()


def answer(client: socket.socket) -> None:
    """Run a client's command in a process of its own, and send its number and its exit code."""
    sent, files, _, _ = socket.recv_fds(client, LINE, 3)
    while not sent.endswith(b"\n"):
        sent += client.recv(LINE)
    child = os.fork()
    if not child:
        client.close()
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        become(**json.loads(sent))
    for file in files:
        os.close(file)
    client.sendall(f"{child:<64}".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    client.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def become(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be `python ARGUMENTS`, which is a file, `-m MODULE` or `-c CODE`, to the end of the process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    code = 1
    try:
        run(*arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):  # nobody reads, or the command closed them
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run(kind: str, *rest: str) -> None:
    """Run a file, a module or code as the main program."""
    if kind == "-m":
        sys.argv[:], sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv[:], sys.path[0] = ["-c", *rest[1:]], os.getcwd()
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv[:], sys.path[0] = [kind, *rest], str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
