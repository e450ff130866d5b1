"""Handoff: a checkpoint as others take it, in a folder or on the hub.

`config` holds the keys; `story` is what a run says of itself, `card` tells it, `papers` are cited; `weights`
writes the model or its adapters, `place` is the folder that appears whole; `gguf` and `hub` are what others
keep, llama.cpp's converter and the hub's client.

Contract: nothing of the training state, no path of this machine (adapters kept here excepted, which must find
their base) and no secret goes along. Nothing is imported here: a door checks its config first.
"""
