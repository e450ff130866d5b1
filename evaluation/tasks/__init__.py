"""Tasks: instruction-following benchmarks, and a user's own prompts.

`prompts` reads the questions and `baselines` what wins are counted against, both with `hub`; `answering`
asks, `forms` writes the answer files, `judging` has them judged, `measures` and `results` make the report;
`running` does all of it in order.

Contract: `record` says what they hand on.
"""

from evaluation.tasks.running import answering, check_task, evaluate_task, plan, scope_of

__all__ = ["answering", "check_task", "evaluate_task", "plan", "scope_of"]
