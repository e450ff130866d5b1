#!/usr/bin/env bash
# KTO on the embedded model and data, or MODEL=... DATASET=...; see run.sh
exec bash "$(dirname "$0")/run.sh" kto "$@"
