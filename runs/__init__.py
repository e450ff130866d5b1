"""A run at work: its folder, its checkpoints, its logs.

`run` keeps a run going, `folder` knows names and damage, `checkpoint` saves and loads, `logs` writes lines,
`meters` sums metrics up, `plan` says what a run would take, `state` is what a run remembers.
"""
