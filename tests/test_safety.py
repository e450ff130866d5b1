"""Safety: secrets stay out of files, names inside the output folder, and code in files is not run."""

import contextlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from helpers import DEVICE, save_tiny, tiny_policy

import models
import train
from utils import UserError


def test_secrets_are_in_no_file_of_a_run(bench, monkeypatch):
    for name in ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, f"secret-{name}-0123456789")
    run = bench.go("run", "n_examples=8")
    files = [path for path in run.rglob("*") if path.is_file()]
    assert not [path for path in files if b"secret-" in path.read_bytes()]
    with pytest.raises(UserError, match="config key wandb.entity: holds the value of .WANDB_API_KEY"):
        bench.go("other", "wandb.entity=${oc.env:WANDB_API_KEY}")
    assert not (bench.out / "other").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "...", "a/b", "/etc/x", "../../x", "a\nb", "null"])
def test_names_cannot_lead_out_of_the_output_folder(bench, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    config = bench.config("run")
    config.exp_name = None if name == "null" else name
    with pytest.raises(UserError, match="must be a plain folder name"):
        train.main(config)
    assert sorted(tmp_path.rglob("*")) == before


def test_code_beside_a_model_runs_only_when_asked(tmp_path):
    folder = Path(save_tiny(tmp_path / "tiny"))
    trace = tmp_path / "owned"
    code = f"open({str(trace)!r}, 'w')\nfrom transformers import LlamaForCausalLM as X\n"
    (folder / "modeling_x.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "modeling_x.XConfig", "AutoModelForCausalLM": "modeling_x.X"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "x", "auto_map": classes}))
    with pytest.raises(UserError, match="cannot be loaded"):
        models.load_policy(models.PolicySpec(str(folder)), DEVICE)
    with contextlib.suppress(UserError):
        models.load_tokenizer(str(folder))
    assert not trace.exists()
    with contextlib.suppress(Exception):
        models.load_policy(models.PolicySpec(str(folder), trust_remote_code=True), DEVICE)
    assert trace.exists()  # so it would have run


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/owned",))

    (tmp_path / "policy.pt").write_bytes(pickle.dumps({"state": Evil()}))
    torch.save({"state": Evil()}, tmp_path / "zip.pt")
    for name in ("policy.pt", "zip.pt"):
        with pytest.raises(UserError, match="not a checkpoint of plain tensors") as refused:
            models.load_archive(tiny_policy().model, tmp_path / name)
        assert "`False`" not in str(refused.value)  # torch tells how to read it all the same
    assert not (tmp_path / "owned").exists()
    torch.save({"state": {}}, tmp_path / "empty.pt")
    with pytest.raises(UserError, match="missing or has another shape"):
        models.load_archive(tiny_policy().model, tmp_path / "empty.pt")
