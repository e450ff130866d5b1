"""A python that has its imports done: scripts that start it ten times do not wait for torch ten times.

`python_at(folder)` is a command that takes what python takes (a script, -m, -c or standard input) and runs it
in a fork of one server, which has imported what is not this project's. The server ends with the tests.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(connection, [len(asked).to_bytes(8, "big")], [0, 1, 2])
connection.sendall(asked)
sys.exit(int(connection.recv(8) or b"1"))
"""


@contextlib.contextmanager
def python_at(folder: Path) -> Iterator[str]:
    """A server of this folder; the command that uses it."""
    address = str(folder / "python.sock")
    client = folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"ready\n"
        yield str(client)
        server.terminate()


# --- the server ---------------------------------------------------------------------------------------------


def serve(address: str) -> list[str]:
    """Take requests; returns in each fork, with the words of the program that it is to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that wait
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    print("ready", flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        if not select.select([listener], [], [], 1.0)[0]:
            continue
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        words = begin(connection)
        if words is not None:
            return words
        os._exit(0)
    os._exit(0)


def begin(connection: socket.socket) -> list[str] | None:
    """Become the program that is asked for; None in the process that has waited for it."""
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(length, "big"):
        asked += connection.recv(65536)
    words, folder, environment = json.loads(asked)
    child = os.fork()
    if child:
        wait_for(child, connection)
        return None
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # the server's own streams remember what its files were
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return words


def wait_for(child: int, connection: socket.socket) -> None:
    """Say how it ended; a program whose asker is gone is killed."""
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, connection], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended in ready:
        connection.sendall(str(code if code >= 0 else 128 - code).encode())


def run(words: list[str]) -> None:
    """What python does with its words."""
    match words:
        case ["-m", module, *rest]:
            sys.argv, sys.path[0] = [module, *rest], os.getcwd()
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv, sys.path[0] = ["-c", *rest], ""
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case ["-", *rest] | ([] as rest):
            sys.argv, sys.path[0] = ["-", *rest], ""
            exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
        case [script, *rest]:
            sys.argv, sys.path[0] = [script, *rest], str(Path(script).resolve().parent)
            runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    import datasets  # noqa: F401
    import hydra  # noqa: F401
    import safetensors.torch  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    import transformers
    from torch.distributed.checkpoint import state_dict  # noqa: F401

    transformers.AutoModelForCausalLM, transformers.AutoTokenizer  # noqa: B018  # imported when looked at
    run(serve(sys.argv[1]))
