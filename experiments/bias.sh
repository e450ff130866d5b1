#!/usr/bin/env bash
# Theorem 3 of Swepo and DPO's collapse, on a tiny model trained from scratch; every key stands with a comment in
# experiments/bias.yaml
# usage: bash experiments/bias.sh [key=value ...]
# Ctrl-C stops it; the same command goes on with the seed where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source train_scripts/setup.sh
exec "$PYTHON" -m experiments.bias "$@"
