"""Keys of a synthesis: each belongs to tasks, and is refused where it has no effect."""

from dataclasses import fields

import pytest
from data_helpers import write, write_csv
from helpers import compose
from omegaconf import OmegaConf
from servers import server
from synthesis_helpers import dialogues, writes

import synthesize
from synthesis.config import SynthesisSettings
from synthesis.keys import COMMON, FILE, KEYS, OF_HYDRA, OF_PEOPLE
from utils import UserError

SHARES = [{"question": "Good?", "option": o, "share": s} for o, s in (("Yes", 0.75), ("No", 0.25))]


def refused(*overrides):
    with pytest.raises(UserError) as caught:
        synthesize.main(compose(*overrides, name="synthesize"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_of_the_config_belongs_to_tasks():
    config = {key for key in OmegaConf.load(FILE) if key not in OF_HYDRA}
    assert config == {*COMMON, *KEYS} and not set(COMMON) & set(KEYS)
    assert {field.name for field in fields(SynthesisSettings)} == config
    assert set(OF_PEOPLE) <= set(KEYS)


@pytest.mark.parametrize(
    "task,given,message",
    [
        ("dialogues", "min_n=50", "min_n=50: is for task=survey and task=reviews, and here task=dialogues"),
        ("dialogues", "group=zork", "group=zork: is for task=survey,"),
        ("mix", "styles=[casual]", "styles=casual: is for task=dialogues, and here task=mix; leave it out"),
        ("stats", "api.base_url=http://localhost", "config key api: is for task=survey and task=dialogues"),
        ("survey", "n=4", "n=4: is for task=mix and"),
        ("survey", "group=Germany", "group=Germany: is of people's answers, whose columns question= and"),
        ("survey", "missing=[IAP]", "missing=IAP: is of people's answers"),
        ("survey", "question=q answer=a country=[Chile]", "country=Chile: is of published shares, and"),
    ],
)
def test_a_key_without_effect_is_refused(tmp_path, task, given, message):
    path = write_csv(tmp_path / "s.csv", SHARES)
    output = tmp_path / "out"
    assert message in refused(f"task={task}", f"sources=[{path}]", f"output={output}", *given.split())
    assert not output.exists()


def test_a_key_of_sources_is_refused_without_them():
    assert "min_n=50: is of a survey's sources, and none" in refused("task=survey", "min_n=50")


@pytest.mark.parametrize("task", ["survey", "reviews", "dialogues", "ranked", "mix"])
def test_a_source_is_named_once(tmp_path, task):
    path = write(tmp_path / "s.jsonl", *SHARES)
    given = [f"task={task}", f"sources=[{path},{path}]", f"output={tmp_path / 'out'}"]
    assert f"sources: {path} is named twice" in refused(*given)


# --- keys of dialogues --------------------------------------------------------------------------------------


def test_a_style_that_names_an_answer_to_another_is_refused(tmp_path):
    with pytest.raises(UserError, match="styles: casual/1 is the name of an answer to style casual; say"):
        dialogues(tmp_path / "out", "styles=[casual,casual/1]")


def test_phrasings_that_are_too_few_to_be_held_out_are_said(tmp_path, capsys):
    with server(writes) as s:
        record = dialogues(tmp_path / "out", "n=2", "eval_phrasings=2", url=s.url)
        assert record["counts"]["questions_without_all_held_out"] == 2
        assert "2 questions have too few phrasings for eval_phrasings=2" in capsys.readouterr().out
        record = dialogues(tmp_path / "out", "n=2", url=s.url)
        assert record["counts"]["questions_without_all_held_out"] == 0
        assert "too few phrasings" not in capsys.readouterr().out
