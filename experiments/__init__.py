"""Experiments of many runs: cells (one training run or one evaluation each) in order of need, results in one
file, tables and figures from that file alone.

Contract: everything is run as the commands that a user would type; no door is imported.
"""

import sys

import environment

if sys.argv[0] == "-m":  # python -m experiments.NAME, whose own imports come next
    environment.end_in_one_line()
