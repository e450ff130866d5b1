#!/usr/bin/env bash
# Losses of pairs and of sets on ranked responses, as the Swepo paper has them; every key stands with a comment in
# experiments/ranked.yaml
# usage: bash experiments/ranked.sh [key=value ...]     MODEL=... DATASET=... as in train_scripts/run.sh
# Ctrl-C stops it; the same command goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source train_scripts/setup.sh
exec "$PYTHON" -m experiments.ranked "$@"
