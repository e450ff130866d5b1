"""Bad input by the hundred: any row, file or config is read, or refused on one line."""

import contextlib
import copy
import dataclasses
import json
import string

from data_helpers import write
from helpers import byte_tokenizer, compose
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import forest
import optimization
import preference_datasets as data
import settings as config
import train
import utils
from utils import UserError

FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=8),
)


def containers(inner):
    """Lists and objects of values."""
    return st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4))


JSON = st.recursive(LEAVES, containers, max_leaves=8)
GOOD = {
    "id": "1",
    "prompt": "Say",
    "responses": [
        {"text": "a", "reward": 1, "belief": {"class": "1", "text": "b"}},
        {"text": "c", "reward": 2, "belief": {"class": "2", "text": "d"}},
    ],
    "pairs": [[0, 1]],
    "belief_probs": [0, 0.5, 0.5, 0, 0, 0],
}
GOOD_LINE = json.dumps(GOOD)
TOKENIZER = byte_tokenizer()


def only_user_errors(job):
    """`job` works, or says what is wrong on one line."""
    try:
        return job()
    except UserError as error:
        assert str(error)
        assert "\n" not in utils.one_line(error)


def read_and_view(path, view):
    """The whole way of a file to token trees, and its audit; the file stays as it is."""
    before = path.read_bytes()

    def job():
        groups = data.load_groups(str(path), "all")
        examples = data.view(groups, view)
        trees = data.tokenize(groups, examples, TOKENIZER, data.Limits(64, 32)) if examples else []
        json.dumps(data.audit_groups(groups, examples, trees))
        for tree in trees:
            forest.pack([tree], [[0]], 0)

    only_user_errors(job)
    assert path.read_bytes() == before


# --- rows ---------------------------------------------------------------------------------------------------


@st.composite
def damaged_rows(draw):
    """A good row with one to three values replaced, removed or added anywhere in it."""
    damaged = json.loads(GOOD_LINE)
    for _ in range(draw(st.integers(1, 3))):
        place, key = draw_place(draw, damaged)
        if isinstance(place, dict) or len(place):
            place[key] = draw(JSON)
    return damaged


def draw_place(draw, value):
    """A container anywhere in a value, and a key of it, or a new one."""
    place, key = value, draw(st.sampled_from([*GOOD, "extra"]))
    while isinstance(at(place, key), dict | list) and draw(st.booleans()):
        place = place[key]
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
    return place, key


def at(place, key):
    return place.get(key) if isinstance(place, dict) else place[key]


NEEDED = {column for known in data.FORMATS for column in known.columns}
COLUMNS = sorted(NEEDED | {"id", "context", "reject_choice_id"})
FOREIGN_ROWS = st.dictionaries(st.sampled_from(COLUMNS), JSON, min_size=3, max_size=6)
ROWS = st.lists(st.one_of(damaged_rows(), JSON, FOREIGN_ROWS), min_size=1, max_size=3)


@settings(max_examples=250, **FUZZ)
@given(ROWS, st.sampled_from([".jsonl", ".json"]), st.sampled_from(sorted(data.VIEWS)))
def test_any_row_is_read_or_refused_on_one_line(tmp_path_factory, rows, suffix, view):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        write(path, *map(json.dumps, rows))
    read_and_view(path, view)


# --- files --------------------------------------------------------------------------------------------------

HOSTILE = (
    b"[" * 100_000,
    b'{"prompt":' * 50_000,
    b"PAR1" + bytes(40) + b"PAR1",
    b"1" * 5000,
    b"\xef\xbb\xbf{}",
    b"\0\n\r,\"'",
    GOOD_LINE.encode() * 2,
    GOOD_LINE.replace("Say", "\\ud800").encode(),
    b"prompt,responses\na,b,c\n",
)


def overwrite(change):
    """A good row with some bytes written over others."""
    start, content = change
    good = (GOOD_LINE + "\n").encode()
    return good[:start] + content + good[start + len(content) :]


PRINTABLE = st.text(alphabet=string.printable, max_size=60).map(str.encode)
OVERWRITTEN = st.tuples(st.integers(0, 400), st.binary(max_size=4)).map(overwrite)
CONTENTS = st.one_of(
    st.binary(max_size=60),
    PRINTABLE,
    OVERWRITTEN,
    st.sampled_from(range(len(HOSTILE))).map(HOSTILE.__getitem__),
)


@settings(max_examples=150, **FUZZ)
@given(CONTENTS, st.sampled_from(data.SUFFIXES))
def test_any_file_is_read_or_refused_on_one_line(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(content)
    read_and_view(path, "target")


# --- configs ------------------------------------------------------------------------------------------------

PLAIN = compose("loss=dpo")
SUSPICIOUS = [-1, 0, 1, 1e308, float("nan"), float("inf"), "auto", "${lr}", "a/b", "", [], {}, ["x"], True]
VALUES = st.one_of(JSON, st.sampled_from(SUSPICIOUS))
KEYS = sorted(
    {
        *(field.name for field in dataclasses.fields(config.TrainSettings)),
        "wandb.enabled",
        "wandb.entity",
        "model.name_or_path",
        "model.archive",
        "model.policy_dtype",
        "model.tokenizer_name_or_path",
        "model.trust_remote_code",
        "model.extra",
        "loss.name",
        "loss.beta",
        "loss.extra",
        "extra",
        *(key for key in PLAIN if not key.startswith("hydra")),
    }
)


def with_changes(changes):
    """The plain config with other values under some keys."""
    values = OmegaConf.to_container(PLAIN)
    for key, value in changes.items():
        section, _, last = key.rpartition(".")
        place = values[section] if section else values
        if isinstance(place, dict):
            place[last] = copy.deepcopy(value)  # one that was drawn twice is one object
    return values


@settings(max_examples=250, **FUZZ)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_any_config_is_taken_or_refused_on_one_line(changes):
    values = with_changes(changes)

    def job():
        chosen = config.train_settings(OmegaConf.to_container(OmegaConf.create(values), resolve=True))
        train.import_data()
        needs = train.bind_loss(chosen)
        if chosen.datasets == ["opinions/republican"]:
            data.read_splits(dataclasses.replace(chosen, eval_datasets=None), needs)
        optimization.check_optimizer(chosen)
        optimization.learning_rates(chosen, 9)

    with contextlib.suppress(OmegaConfBaseException):  # run_entry makes one line of these
        only_user_errors(job)
