#!/usr/bin/env bash
# One model for several groups of people: is it steered by their names? Every key stands with a comment in experiments/groups.yaml
# usage: bash experiments/groups.sh [key=value ...]     MODEL=... as in train_scripts/run.sh
# Ctrl-C stops it; the same command goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in *" --help "* | *" -h "*) exec "${GROVE_PYTHON:-python3}" commented.py experiments/groups.yaml ;; esac
source train_scripts/setup.sh
exec "$PYTHON" -m experiments.groups "$@"
