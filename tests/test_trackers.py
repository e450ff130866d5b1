"""Trackers through accelerate: each line once, at the steps that were asked for; none stops training."""

import importlib.util

import pytest
from accelerate import tracking
from helpers import json_lines, lines, state_of

from utils import UserError


class Standin(tracking.GeneralTracker):
    """A tracker that remembers what it was told, out of reach at one of its calls."""

    name = "json"  # of a module that is installed
    requires_logging_directory = False
    fails = ""
    told: list = []

    def __init__(self, project, **options):
        super().__init__(_blank=True)
        self._call("make", project)

    @tracking.on_main_process
    def start(self):
        tracking.logger.debug("as accelerate's own do")
        self._call("start", None)

    def store_init_configuration(self, values):
        assert all(isinstance(value, bool | int | float | str) for value in values.values())
        self._call("config", values["loss.name"])

    def log(self, values, step=None, **_):
        self._call("log", (step, values))

    def log_table(self, name, columns=None, data=None, step=None, **_):
        self._call("table", (step, name, columns, data))

    def finish(self):
        self._call("finish", None)

    def _call(self, what, given):
        if what == self.fails:
            raise ConnectionError("api.example: unreachable\nsecond line")
        self.told.append((what, given))


@pytest.fixture
def standin(monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "json", Standin)
    monkeypatch.setattr(Standin, "told", [])
    return Standin


def told(standin, what):
    return [given for name, given in standin.told if name == what]


@pytest.mark.parametrize("step,key", [("updates", "counters/updates"), ("examples", "counters/examples")])
def test_a_tracker_is_told_every_line_at_its_step(bench, standin, step, key):
    run = bench.go("run", "trackers=[json]", f"tracker.step={step}", "n_examples=8")
    assert told(standin, "log") == [(line[key], line) for line in lines(run)]
    assert told(standin, "make") == ["grove"]
    assert told(standin, "config") == ["dpo"]
    assert standin.told[-1] == ("finish", None)


@pytest.mark.parametrize("fails", ["make", "start", "config", "log", "table", "finish"])
def test_training_goes_on_without_a_tracker_that_fails(bench, standin, monkeypatch, fails):
    monkeypatch.setattr(standin, "fails", fails)
    monkeypatch.setattr("runs.trackers.WITH_TABLES", ("json",))
    run = bench.go("run", "trackers=[json]", "n_examples=8", "sample_during_eval=true")
    assert state_of(run)["step"] == 2
    assert (run / "train.log").read_text().count("json is off from here on") == 1


def test_sampled_responses_are_a_table_where_the_tracker_has_them(bench, standin, monkeypatch):
    monkeypatch.setattr("runs.trackers.WITH_TABLES", ("json",))
    overrides = ["sample_during_eval=true", "n_eval_model_samples=2", "n_examples=8"]
    run = bench.go("run", "trackers=[json]", *overrides)
    rows = [[line["prompt"], line["response"]] for line in json_lines(run / "samples.jsonl")]
    tables = told(standin, "table")
    assert [row for _, _, _, table in tables for row in table] == rows
    assert {(name, tuple(columns)) for _, name, columns, _ in tables} == {("samples", ("prompt", "response"))}


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["trackers=[grafana]"], "trackers: there is no grafana; choose among .*tensorboard"),
        (["trackers=[comet]"], "trackers: comet_ml is not installed; pip install comet-ml"),
        (["tracker.step=tokens"], "tracker.step=tokens: choose one of updates, examples"),
        (["tracker=3"], "so must tracker"),
    ],
)
def test_a_tracker_that_cannot_be_is_refused_at_the_start_on_one_line(bench, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        bench.go("run", *overrides)
    assert "\n" not in str(caught.value)
    assert not (bench.out / "run").exists()


def test_tensorboard_holds_the_lines_of_a_run_that_resumed_once(bench):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for count in (8, 16):
        run = bench.go("run", "trackers=[tensorboard]", f"n_examples={count}", "sample_during_eval=true")
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss/train")]
    wanted = [(line["counters/updates"], line["loss/train"]) for line in lines(run) if "loss/train" in line]
    assert logged == [(step, pytest.approx(value)) for step, value in wanted]
    assert events.Tags()["tensors"]


def test_trackio_holds_the_lines_of_a_run(bench, tmp_path, monkeypatch):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read where it is imported
    run = bench.go("run", "trackers=[trackio]", "n_examples=8")
    assert "trackio is off" not in (run / "train.log").read_text()
    assert list((tmp_path / "trackio").iterdir())
