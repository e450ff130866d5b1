#!/usr/bin/env bash
# Do the lower bounds of requirements.txt still hold? Installs the lowest of all that it lists into .venv-lowest
# (VENV=...) and runs the fast tests there. Arguments go to pytest: bash train_scripts/test_lowest.sh tests/test_losses.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "train_scripts/test_lowest.sh"; exit ;; esac
source train_scripts/torch.sh

VENV=${VENV:-.venv-lowest}
BASE=${BASE:-python3.11}  # the oldest Python that is supported
embedded=$(grep '^embedded=' train_scripts/setup.sh | cut -d'"' -f2)
FAST="tests/test_settings.py tests/test_losses.py tests/test_ranked_losses.py tests/test_metrics.py tests/test_forest.py
tests/test_scorer.py tests/test_head.py tests/test_families.py tests/test_adapters.py tests/test_gdpo.py
tests/test_loading.py tests/test_embedded.py tests/test_training.py tests/test_resume.py tests/test_evaluation.py
tests/test_report_page.py tests/test_export.py tests/test_packaging.py"

command -v "$BASE" >/dev/null || { echo "error: $BASE: not found; set BASE=<the oldest Python that is supported>" >&2; exit 2; }
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$BASE" -m venv "$VENV"
install_torch "$VENV/bin/python" "$(grep '^torch' requirements.txt | sed -E 's/>=([^,]+).*/==\1/')"
"$VENV/bin/python" -m pip install --quiet "uv>=0.7"
# lowest of what is listed, newest of what that needs: bounds that contradict one another are refused
again=$(sed -nE '/^torch/d; s/^([A-Za-z0-9_-]+).*/--reinstall-package \1/p' requirements.txt requirements-test.txt)  # torch brought newer ones
torch=$("$VENV/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))')
"$VENV/bin/python" -m uv pip install --quiet --python "$VENV/bin/python" --resolution lowest-direct $again "$torch" \
  ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} -r requirements.txt -r requirements-test.txt
"$VENV/bin/python" -m pip install --quiet --no-deps $embedded
[ $# -gt 0 ] || set -- $FAST
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@"
