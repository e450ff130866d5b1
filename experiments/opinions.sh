#!/usr/bin/env bash
# Table 2 of the GDPO paper and its figures; every key stands with a comment in experiments/opinions.yaml
# usage: bash experiments/opinions.sh [key=value ...]     MODEL=... DATASET=... as in train_scripts/run.sh
# Ctrl-C stops it; the same command goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source train_scripts/setup.sh
exec "$PYTHON" -m experiments.opinions "$@"
