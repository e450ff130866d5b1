"""What a user calls a checkpoint: folders that are damaged, of another program, or of adapters alone."""

from pathlib import Path

import pytest
from helpers import compose, evaluation, run_of, save_tiny
from omegaconf import OmegaConf

import utils
from evaluation.checkpoints import fill_settings, find_checkpoints
from settings import evaluation_settings
from utils import UserError


@pytest.fixture
def tiny(tmp_path):
    return save_tiny(tmp_path / "tiny")


def settings_of(*overrides):
    return evaluation_settings(OmegaConf.to_container(compose(*overrides, name="evaluate"), resolve=True))


def found_checkpoints(*overrides):
    return find_checkpoints(settings_of(*overrides))


# --- a run's config -----------------------------------------------------------------------------------------

DAMAGED_CONFIGS = [
    "[1, 2]",
    "model: [",
    "just text",
    "",
    "a: 1",
    "model: {name_or_path: x}",
    "loss: {name: dpo}",
    "model: 3\nloss: {name: dpo}",
    "model: {}\nloss: {name: dpo}",
    "model: {name_or_path: [3]}\nloss: {name: dpo}",
    "model: {name_or_path: x, policy_dtype: float8}\nloss: {name: dpo}",
    "model: {name_or_path: x}\nloss: {name: dpo, beta: much}",
    "model: {name_or_path: x}\nloss: {name: dpo, beta: -1}",
    "model: {name_or_path: x}\nloss: {name: dpo}\ndatasets: 3",
    "model: {name_or_path: x}\nloss: {name: dpo}\ndatasets: null",
    "model: {name_or_path: x}\nloss: {name: dpo}\nmax_length: long",
    "model: {name_or_path: x}\nloss: {name: dpo}\nbelief_classes: {a: b}",
    "model: {name_or_path: x}\nloss: {name: dpo}\nicf_shots: many",
]


@pytest.mark.parametrize("text", DAMAGED_CONFIGS)
@pytest.mark.parametrize("given", ["run", "run/step-000001"])
def test_a_config_that_no_run_saved_is_named(tmp_path, tiny, text, given):
    run = run_of(tmp_path / "run", tiny)
    (run / "config.yaml").write_text(text)
    with pytest.raises(
        UserError, match="run/config.yaml: is no config that train.py saved .*; restore"
    ) as caught:
        evaluation(f"ckpt={tmp_path}/{given}")
    assert "\n" not in utils.one_line(caught.value)


def test_a_config_of_an_older_run_is_completed(tmp_path, tiny):
    run = run_of(tmp_path / "run", tiny)
    (run / "config.yaml").write_text(
        f"model: {{name_or_path: {tiny}, more: 1}}\nloss: {{name: dpo, beta: 0.3}}"
    )
    (checkpoint,) = found_checkpoints(f"ckpt={run}")
    assert checkpoint.beta == 0.3
    assert checkpoint.model.policy_dtype == "float32"
    (run / "config.yaml").write_text(
        f"model: {{name_or_path: {tiny}}}\nloss: {{name: dpo}}\nmax_prompt_length: null"
    )
    settings = settings_of(f"ckpt={run}")
    assert fill_settings(settings, find_checkpoints(settings)).max_prompt_length is None


def test_a_config_of_another_program_above_a_model_is_no_runs(tmp_path, tiny):
    (tmp_path / "config.yaml").write_text("window: {width: 3}")
    (checkpoint,) = found_checkpoints(f"ckpt={tiny}")
    assert checkpoint.run is None


# --- a model's folder ---------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def garble(path):
    path.write_text("{]")


def as_list(path):
    path.write_text("[1, 2]")


DAMAGES = [cut, empty, garble, as_list, Path.unlink]


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_damaged_model_folder_is_one_line(tmp_path, tiny, name):
    whole = {path.name: path.read_bytes() for path in Path(tiny).iterdir()}
    for damage in DAMAGES:
        damage(Path(tiny) / name)
        try:
            evaluation(f"ckpt={tiny}", "n_prompts=1", "n_samples=0", f"output={tmp_path}/report")
            assert name == "tokenizer_config.json", damage  # a tokenizer may do without
        except UserError as error:
            assert tiny in str(error), damage
            assert "\n" not in utils.one_line(error)
        for other, content in whole.items():
            (Path(tiny) / other).write_bytes(content)


def test_a_folder_of_adapters_says_which_folder_to_give(tmp_path, tiny):
    own = Path(tiny) / "adapter"
    foreign = tmp_path / "elsewhere" / "adapter"
    for folder in (own, foreign):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    with pytest.raises(UserError, match=f"holds adapters alone, without their model; give {tiny}, where"):
        found_checkpoints(f"ckpt={own}")
    with pytest.raises(
        UserError, match="merge them first, and give the folder of the result: .*merge_and_unload"
    ):
        found_checkpoints(f"ckpt={foreign}")
