"""Configs: every YAML composes, every mistake is one line."""

import hydra
import pytest
from helpers import ROOT

import losses
from utils import UserError


@pytest.mark.parametrize(
    "overrides,message",
    [
        (
            ["loss=dpo", "responses=target"],
            "responses=target: loss.name=dpo compares two responses; set responses=pairs",
        ),
        (["loss=gdpo", "responses=own_belief"], "set responses=conditioned"),
        (["datasets=[opinions/whig]"], "no such group"),
        (["+colour=red"], "config key colour: unknown"),
        (["loss=dpo", "+loss.gamma=1"], "loss.gamma: dpo takes no such key"),
        (["batch_size=0"], "batch_size=0: must be a whole number, 1 or more"),
        (["seed=-1"], "seed=-1: must be a whole number, 0 or more"),
        (["n_epochs=abc"], "n_epochs=abc: must be"),
        (["datasets=foo"], "must be a list"),
        (["exp_name=null"], "plain folder name"),
        (["wandb=3"], "wandb must be a section"),
        (["optimizer=null"], "optimizer=None: must be a name"),
        (["loss=gdpo", "responses=pairs"], "responses=pairs: gdpo's answers"),
        (
            ["loss=dpo", "responses=binary"],
            "responses=binary: loss.name=dpo compares two responses; set responses=pairs",
        ),
        (
            ["loss=kto", "responses=target"],
            "loss.name=kto compares responses to like with others to avoid; set responses=binary",
        ),
        (
            ["loss=swepo", "responses=pairs"],
            "loss.name=swepo needs rewards, and responses=pairs carries none; set responses=ranked",
        ),
        (
            ["loss=gdpo_swepo", "responses=conditioned"],
            "needs rewards, and responses=conditioned carries none; set responses=conditioned.all",
        ),
        (
            ["loss=gdpo", "responses=conditioned.all"],
            "loss.name=gdpo compares two responses; set responses=conditioned",
        ),
        (["icf_shots=-1"], "icf_shots=-1: must be a whole number, 0 or more"),
        (["icf_shots=500"], "500 shots need more than 500"),
        (["truncation=middle"], "choose one of null, keep_start, keep_end"),
        (["exp_name=../x"], "must be a plain folder name"),
        (["optimizer=Adamm"], "no such class in torch.optim"),
        (["resume=must"], "holds no checkpoint"),
        (["attention=eager"], "choose auto, sdpa, segments or flex_attention"),
        (["attention=flex_attention"], "needs a CUDA device"),
        (["model.name_or_path=/nowhere"], "cannot be loaded"),
        (["max_length=20", "max_prompt_length=null"], "leave no room for a response"),
        (["model.archive=/nowhere"], "no such folder or file"),
        (["max_tokens=50"], "the largest example has"),
        (["eval_metric=loss/evil"], "eval_metric=loss/evil: validation does not write it"),
    ],
)
def test_bad_configs_are_one_line_errors(run, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        run(*overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_every_yaml_composes_and_binds(path):
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        config = hydra.compose("config", overrides=[f"{path.parent.name}={path.stem}"])
    losses.bind(config.loss.name, {k: v for k, v in config.loss.items() if k != "name"})
    assert config.model.name_or_path
