#!/usr/bin/env bash
# The same as opinions.sh on movie reviews; every key stands with a comment in experiments/reviews.yaml
# usage: bash experiments/reviews.sh [key=value ...]     MODEL=... DATASET=... as in train_scripts/run.sh
# Ctrl-C stops it; the same command goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source train_scripts/setup.sh
exec "$PYTHON" -m experiments.reviews "$@"
