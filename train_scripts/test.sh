#!/usr/bin/env bash
# Set up where needed, then lint and test. Extra arguments go to pytest: bash train_scripts/test.sh tests/test_losses.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "train_scripts/test.sh"; exit ;; esac
source train_scripts/setup.sh
"$PYTHON" -m ruff format --check --quiet .
"$PYTHON" -m ruff check .
# files are shared out over two processes: many tests wait for commands that they start
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
