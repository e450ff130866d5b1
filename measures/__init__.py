"""The measures by what they are of; `metrics.py` names them all.

`distributions` compares a model's beliefs with a group's, `responses` takes sampled responses apart,
`summaries` gives means with intervals, `differences` says whether two checkpoints differ, `wins` counts
judged preferences, `examples` is what is logged of every loss.

Contract: pure functions of arrays and records; nothing here reads files or knows of a model.
"""
