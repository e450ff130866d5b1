"""Configs: every YAML file composes, and a loss's keys fit its signature."""

import pytest
from helpers import ROOT, compose

import losses

FILES = sorted((ROOT / "config").glob("*/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_yaml_composes_and_binds(path):
    config = compose(f"{path.parent.name}={path.stem}")
    keys = {key: value for key, value in config.loss.items() if key != "name"}
    losses.bind(config.loss.name, keys)
    assert config.model.name_or_path
