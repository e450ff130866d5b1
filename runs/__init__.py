"""A run at work: its folder, its checkpoints, its logs.

`run` keeps a run going, `state` is what it remembers, `folder` knows names and damage, `checkpoint` saves and
loads, `shards` brings tensors of all ranks to files and back, `logs` writes lines, `meters` sums metrics up,
`plan` says what a run would take. Nothing is imported here: `folder` must answer before torch is there.
"""
