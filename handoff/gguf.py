"""A GGUF file beside the weights, by the converter that llama.cpp keeps.

Contract: nothing is converted here. The package `gguf` has no converter of HF folders, so it is the script of
a llama.cpp that is installed; where there is none, the error says how to do it by hand.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from utils import UserError

CONVERTER = "convert_hf_to_gguf.py"


def check(kind: str, shown: str) -> None:
    """Raises UserError, before any work, where the converter is not there. shown: the folder to be."""
    if shutil.which(CONVERTER) is None:
        raise UserError(
            f"config key gguf={kind}: {CONVERTER} of llama.cpp is not on the PATH; install llama.cpp, or "
            f"export without gguf and run: python llama.cpp/{CONVERTER} {shown} --outtype {kind}"
        )


def convert(folder: Path, kind: str, name: str) -> None:
    """Write model-KIND.gguf into a model's folder. name: of the model, in the file's own header.

    Raises UserError with the converter's last line where it fails.
    """
    script = shutil.which(CONVERTER)
    out = folder / f"model-{kind}.gguf"
    command = [sys.executable, script, str(folder), "--outfile", str(out), "--outtype", kind]
    done = subprocess.run([*command, "--model-name", name], capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UserError(
            f"config key gguf={kind}: {script} failed ({said}); export without gguf to keep the model"
        )
