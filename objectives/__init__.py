"""The papers' objectives, each with what it needs; `losses` is their face.

Contract: `scores` has the tables that losses read, `declared` says how a loss tells what it needs, `keys`
checks a config's keys against its signature; `pairs` and `ranked` hold the losses themselves.
"""
