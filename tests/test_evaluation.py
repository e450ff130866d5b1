"""Evaluation: few-shot prompts, rewards, and what a report says."""

import json

import hydra
import pytest
import torch
from helpers import ROOT, byte_tokenizer, save_tiny, tiny_policy
from omegaconf import OmegaConf

import evaluate
import forest
import models
from evaluation import report
from evaluation.checkpoints import find_checkpoints
from settings import evaluation_settings
from utils import UserError


def evaluation(*overrides):
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        evaluate.main(hydra.compose("evaluate", overrides=list(overrides)))


def test_few_shot_prompting(tmp_path, capsys):
    folder = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    evaluation(
        f"ckpt={folder}",
        "few_shot=2",
        "n_prompts=3",
        "n_samples=1",
        "max_new_tokens=4",
        f"output={tmp_path}/report",
    )
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (
        found["settings"]["few_shot"] == 2
        and found["checkpoints"]["tiny"]["js_distance_probability"]["n"] == 3
    )
    rows = [json.loads(line) for line in (tmp_path / "report" / "predictions.jsonl").read_text().splitlines()]
    assert all(row["prompt"].count("<Q>") == 3 and "\n\n" not in row["response"] for row in rows)


def test_evaluation_by_rewards(tmp_path, capsys):
    rows = [
        {
            "id": str(i),
            "prompt": f"Say {i}",
            "responses": [{"text": f"It is {j}.", "reward": j} for j in (1, 3, 2)],
        }
        for i in range(6)
    ]
    rows.append({"prompt": "Equal", "responses": [{"text": "a", "reward": 1}, {"text": "b", "reward": 1}]})
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    folder, other = save_tiny(tmp_path / "tiny"), tiny_policy(seed=1)
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        config = hydra.compose(
            "config",
            overrides=["loss=swepo", f"model.name_or_path={folder}", f"datasets=[{tmp_path}/ranked.jsonl]"],
        )
    run = tmp_path / "out" / "run"
    other.model.save_pretrained(run / "step-000001")
    byte_tokenizer().save_pretrained(run / "step-000001")
    (run / "best").symlink_to("step-000001")
    OmegaConf.save(config, run / "config.yaml", resolve=True)
    evaluation(f"ckpt=[{folder},{run}]", "split=all")
    found = json.loads((run / "report" / "report.json").read_text())["checkpoints"]
    assert set(found["tiny"]) == {"logp_best", "logp_others"}  # belongs to no run, so it has no reference
    predicted = [json.loads(line) for line in (run / "report" / "predictions.jsonl").read_text().splitlines()]
    mine = [row for row in predicted if row["checkpoint"] == "run"]
    assert len(mine) == 6 and all(row["rewards"] == [3, 2, 1] for row in mine)
    implied = [[0.1 * (p - r) for p, r in zip(row["logps"], row["reference_logps"])] for row in mine]
    assert found["run"]["set_accuracy"]["value"] == pytest.approx(sum(v[0] > max(v[1:]) for v in implied) / 6)
    assert found["run"]["kl_reference"]["value"] == pytest.approx(
        -sum(map(sum, implied)) / 0.1 / 18, rel=1e-4
    )
    base = models.Scorer(tiny_policy().model, "sdpa")
    tree = forest.TokenTree(
        tuple(byte_tokenizer()("Say 0")["input_ids"]),
        (),
        (tuple(byte_tokenizer()("It is 3.")["input_ids"]) + (257,),),
    )
    row = next(r for r in mine if r["id"] == "0")
    assert row["reference_logps"][0] == pytest.approx(models.score_one_by_one(base, tree)[0], rel=1e-4)
    assert "set accuracy" in capsys.readouterr().out


def test_evaluating_a_policy_pt_needs_its_base_model(tmp_path):
    base = save_tiny(tmp_path / "base")
    torch.save({"state": tiny_policy(seed=3).model.state_dict()}, tmp_path / "policy.pt")

    def found(*overrides):
        with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
            config = hydra.compose("evaluate", overrides=[f"ckpt={tmp_path}/policy.pt", *overrides])
        return find_checkpoints(evaluation_settings(OmegaConf.to_container(config, resolve=True)))

    with pytest.raises(UserError, match="set base_model"):
        found()
    (checkpoint,) = found(f"base_model={base}")
    assert checkpoint.source.endswith("policy.pt") and checkpoint.model.name_or_path == base


def test_the_markdown_table_lines_up():
    cell = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    table = report.markdown_table(
        {"a": {"cbc": cell}, "(uniform)": {"js_distance_probability": cell}}, 8
    ).splitlines()
    assert len({len(line) for line in table}) == 1 and "0.500 [0.400, 0.600]" in table[2]
