"""Secrets, names and code from outside."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from bench import BASE
from helpers import compose, save_tiny

import models
import train
from utils import UserError


def test_secrets_are_in_no_file_of_a_run(bench, monkeypatch):
    names = ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")
    for name in names:
        monkeypatch.setenv(name, f"secret-{name}-0123456789")
    run = bench.go("run", "n_examples=8")
    found = [p for p in run.rglob("*") if p.is_file() and b"secret-" in p.read_bytes()]
    assert not found
    with pytest.raises(UserError, match="config key wandb.entity: holds the value of .WANDB_API_KEY"):
        bench.go("other", "wandb.entity=${oc.env:WANDB_API_KEY}")
    assert not (bench.out / "other").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "...", "a/b", "/etc/x", "../../x", "a\nb", "null", "3"])
def test_names_cannot_lead_out_of_the_output_folder(bench, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="must be a plain folder name"):
        config = compose(
            f"model.name_or_path={bench.model}", f"output_dir={bench.out}", f"datasets=[{bench.file}]", *BASE
        )
        config.exp_name = {"null": None, "3": 3}.get(name, name)
        train.main(config)
    assert sorted(tmp_path.rglob("*")) == before


def test_code_beside_a_model_runs_only_when_asked(tmp_path):
    folder = Path(save_tiny(tmp_path / "tiny"))
    (folder / "modeling_x.py").write_text(
        f"open({str(tmp_path / 'owned')!r}, 'w')\nfrom transformers import LlamaForCausalLM as X\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "x",
        "auto_map": {"AutoConfig": "modeling_x.XConfig", "AutoModelForCausalLM": "modeling_x.X"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded"):
        models.load_policy(models.PolicySpec(str(folder)), torch.device("cpu"))
    with contextlib.suppress(UserError):
        models.load_tokenizer(str(folder))
    assert not (tmp_path / "owned").exists()
    with contextlib.suppress(Exception):
        models.load_policy(models.PolicySpec(str(folder), trust_remote_code=True), torch.device("cpu"))
    assert (tmp_path / "owned").exists()  # so it would have run
