#!/usr/bin/env bash
# IPO on the embedded model and data, or MODEL=... DATASET=...; see run.sh
exec bash "$(dirname "$0")/run.sh" ipo "$@"
