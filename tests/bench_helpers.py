"""What the tests of the benchmarks share: the scripts on the path, a file of responses, command lines."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))  # behind the root, where a package has the name of a benchmark


def save_ranked(path):
    """Write five prompts, one of two responses only, one of two equal rewards; give the path as a string."""
    rows = []
    for i in range(5):
        responses = []
        for k in range(2 if i == 2 else 4):
            text = f"Answer {k} of {i}" + " and so on" * (k * i % 4)
            responses.append({"text": text, "reward": float((3 * k + i) % 5)})
        rows.append({"prompt": f"Say something about number {i}. " * (1 + i), "responses": responses})
    rows[3]["responses"][1]["reward"] = rows[3]["responses"][0]["reward"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def last_object(main, options, capsys, monkeypatch):
    """Run a script in this process with the options, words of one text; the JSON that it prints last."""
    monkeypatch.setattr(sys, "argv", ["script.py", *options.split()])
    main()
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def call(*command):
    """Run Python in a process of its own."""
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=120)
