"""Configs: every YAML composes, a loss's keys fit its signature, names are texts, secrets stay secret."""

import datetime
import sys

import pytest
from helpers import ROOT, command, compose, state_of
from omegaconf import OmegaConf

import losses
import settings
import utils
from synthesis.config import synthesis_settings
from utils import UserError

FILES = sorted((ROOT / "config").glob("*/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_yaml_composes_and_binds(path):
    config = compose(f"{path.parent.name}={path.stem}")
    keys = {key: value for key, value in config.loss.items() if key != "name"}
    losses.bind(config.loss.name, keys)
    assert config.model.name_or_path


def plain(config):
    return OmegaConf.to_container(config, resolve=True)


# --- texts that look like something else --------------------------------------------------------------------

NAMES = [
    "2026-11-25",
    "2026_11_25",
    "20261125",
    "1",
    "007",
    "1e3",
    "1.0",
    "1_0.5",
    ".5",
    "-1",
    "true",
    "False",
]
NAMES += ["inf", "NaN", "10:30", "2026-11-25T10-30", "0x1f", "1,5", "v1.0", "3b", "no", "on"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_as_it_was_typed(name):
    if "," in name:
        name = name.replace(",", "-")
    keys = settings.text_keys(settings.TrainSettings)
    typed = [f"{key}={name}" for key in ("exp_name", "output_dir", "wandb.project", "model.name_or_path")]
    typed += [f"datasets=[{name},a/{name}]", f"belief_classes=[{name}, b]"]
    chosen = settings.train_settings(plain(compose(*utils.with_texts_quoted(typed, keys))))
    assert (chosen.exp_name, chosen.output_dir, chosen.wandb.project) == (name, name, name)
    assert chosen.model.name_or_path == name
    assert settings.names_of(chosen.datasets) == [name, f"a/{name}"]
    assert chosen.belief_classes == [name, "b"]


def test_other_arguments_stay_as_they_were_typed():
    keys = settings.text_keys(settings.TrainSettings)
    typed = [
        "--multirun",
        "lr=1e-6,2",
        "exp_name=null",
        "exp_name='1'",
        "exp_name=a b",
        "loss=dpo",
        "seed=1_0",
    ]
    typed += ["exp_name=${seed}", "+loss.beta=0.1", "datasets=[a,b]", "-m", "exp_name=range(1,3)", "plan"]
    assert utils.with_texts_quoted(typed, keys) == typed
    assert utils.with_texts_quoted(["exp_name=1,2_0"], keys) == ["exp_name='1','2_0'"]


@pytest.mark.parametrize("value", [3, 2.5, datetime.date(2026, 11, 25)])
def test_numbers_and_dates_of_a_file_are_texts_where_a_text_is_wanted(value):
    config = plain(compose())
    config |= {"exp_name": value, "belief_classes": [value, "b"], "datasets": [value]}
    chosen = settings.train_settings(config)
    assert chosen.exp_name == str(value)
    assert chosen.belief_classes == [str(value), "b"]
    assert settings.names_of(chosen.datasets) == [str(value)]
    evaluation = plain(compose(name="evaluate")) | {"ckpt": [value]}
    assert settings.evaluation_settings(evaluation).ckpt == [str(value)]
    with pytest.raises(UserError, match="seed=.*: must be a whole number"):
        settings.train_settings(plain(compose()) | {"seed": str(value)})


@pytest.mark.parametrize("name", ["2026-11-25", "2026_11_25", 3])
def test_a_run_with_a_number_for_a_name_resumes(bench, name):
    keys = settings.text_keys(settings.TrainSettings)

    def typed(number):
        (quoted,) = utils.with_texts_quoted([f"exp_name={name}"], keys)
        config = bench.config("x", quoted, f"n_examples={number}")
        if isinstance(name, int):
            config.exp_name = name
        return config

    for number in (8, 16):
        bench.train(typed(number))
    assert state_of(bench.out / str(name))["step"] == 4


# --- secrets ------------------------------------------------------------------------------------------------

SECRETS = [
    "GITHUB_PAT",
    "MYSQL_PASSWD",
    "AWS_CREDENTIALS",
    "BASIC_AUTH",
    "DB_PASSWORD",
    "DB_PASS",
    "HF_TOKEN",
]
SECRETS += [
    "OPENAI_API_KEY",
    "CLIENT_SECRET",
    "SSH_PASSPHRASE",
    "my_cred",
    "apikey",
    "PAT",
    "AUTH",
    "SMTP_PWD",
]
NO_SECRETS = {
    "PATH": "xbin:ybin:zbin",
    "PATTERN": "eight-letters",
    "AUTHOR": "Ada Lovelace",
    "PWD": "relative/x",
}
NO_SECRETS |= {"COMPASS": "north-north-east", "SSH_AUTH_SOCK": "/tmp/agent.sock", "HF_TOKEN": "short"}
SECRET = "Zx81'quoted\\and-long"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_printed_by_no_error(monkeypatch, name):
    monkeypatch.setenv(name, f"{SECRET}\n")
    places = [
        {"lr": SECRET},
        {"datasets": ["a", SECRET]},
        {"datasets": SECRET},
        {"exp_name": f"run/{SECRET}"},
        {"wandb": SECRET},
        {"wandb": {"enabled": True, "entity": [SECRET], "project": None}},
        {"loss": SECRET},
        {"loss": {"name": "sft", "beta": SECRET}},
        {SECRET: 1},
        {"unknown": SECRET},
        {"lr": "bad", "seed": f"x{SECRET}y"},
        {"belief_classes": [["a", SECRET]]},
    ]
    for changes in places:
        refuse(settings.train_settings, plain(compose()) | changes, name)
    refuse(settings.evaluation_settings, plain(compose(name="evaluate")) | {"ckpt": SECRET}, name)
    refuse(settings.evaluation_settings, plain(compose(name="evaluate")) | {"ckpt": {"a": SECRET}}, name)
    refuse(synthesis_settings, plain(compose(name="synthesize")) | {"task": SECRET}, name)


def refuse(check, config, name):
    """The check refuses the config, names the variable, and prints nothing of its value."""
    with pytest.raises(UserError, match=f"holds the value of .{name}; leave secrets") as caught:
        check(config)
    assert "Zx81" not in str(caught.value)


def test_a_url_with_a_password_is_a_secret(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://ada:hunter2@db.example/runs")
    with pytest.raises(UserError, match="holds the value of .DATABASE_URL"):
        settings.train_settings(plain(compose("wandb.project='postgres://ada:hunter2@db.example/runs'")))


@pytest.mark.parametrize("name", NO_SECRETS)
def test_what_is_no_secret_may_be_used(monkeypatch, name):
    monkeypatch.setenv(name, NO_SECRETS[name])
    config = plain(compose()) | {"datasets": [NO_SECRETS[name]]}
    assert settings.names_of(settings.train_settings(config).datasets) == [NO_SECRETS[name]]


@pytest.mark.parametrize(
    "value", ["hf_abcdefghijklmnopqrstuv", "sk-proj-0123456789abcdef", "ghp_0123456789abcdef"]
)
def test_what_looks_like_a_secret_is_printed_by_no_error(value):
    with pytest.raises(UserError, match="config key lr=.hidden.: must be a number") as caught:
        settings.train_settings(plain(compose()) | {"lr": value})
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    "argument",
    [
        "+api_token=hush-hush-hush",
        "wandb.password=hush-hush-hush",
        "lr=$",
        "loss=$",
        "+a=[$",
        "model.x=$",
        "+$=1",
    ],
)
def test_a_command_prints_no_secret(argument):
    secret = "hush-hush-hush"
    done = command(sys.executable, "train.py", argument.replace("$", secret), code=2, MY_PAT=secret)
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1
    assert "hush" not in done.stderr + done.stdout
