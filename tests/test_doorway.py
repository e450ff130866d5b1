"""How a command begins: lists without brackets, what a mistyped key meant, help, and a short audit."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from data_helpers import GOOD, write
from helpers import ROOT, compose, save_tiny
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

import checking
import doorway
import elsewhere
import evaluate
import export
import losses
import preference_datasets as data
import settings
import synthesize
import train
from commented import keys_of, read_parts
from experiments.keys import Common, read_keys
from synthesis.config import synthesis_settings
from utils import UserError

DOORS = [train.DOOR, evaluate.DOOR, synthesize.DOOR, export.DOOR]


def plain(*overrides, name="config"):
    return OmegaConf.to_container(compose(*overrides, name=name), resolve=True)


# --- lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed,read",
    [
        ("ckpt=a,b", "ckpt=[a,b]"),
        ("ckpt=outputs/sft", "ckpt=outputs/sft"),
        ("ckpt=[a,b]", "ckpt=[a,b]"),
        ("ckpt='a,b'", "ckpt='a,b'"),
        ("ckpt='a','b'", "ckpt=['a','b']"),
        (
            "datasets={name: a, weight: 1},{name: b, weight: 2}",
            "datasets=[{name: a, weight: 1},{name: b, weight: 2}]",
        ),
        ("datasets=choice(a,b)", "datasets=choice(a,b)"),
        ("output=a,b", "output=a,b"),
        ("judge=x", "judge=x"),
        ("belief_classes=1,2", "belief_classes=['1','2']"),
    ],
)
def test_lists_may_be_typed_with_commas(typed, read):
    assert doorway.as_hydra_reads([typed], settings.EvaluationSettings) == [read]


def test_commas_sweep_where_a_sweep_is_asked_for():
    typed = ["--multirun", "datasets=a,b", "lr=1,2"]
    assert doorway.as_hydra_reads(typed, settings.TrainSettings) == typed


def test_a_lone_text_is_a_list_of_one():
    chosen = settings.train_settings(
        plain("datasets=opinions/democrat", "eval_datasets=a.jsonl", "trackers=x")
    )
    assert settings.names_of(chosen.datasets) == ["opinions/democrat"]
    assert settings.names_of(chosen.eval_datasets) == ["a.jsonl"]
    assert chosen.trackers == ["x"]
    assert settings.train_settings(plain("lora.targets=all-linear")).lora.targets == "all-linear"
    made = synthesis_settings(plain("sources=goqa", "country=Chile", name="synthesize"))
    assert (settings.names_of(made.sources), made.country) == (["goqa"], ["Chile"])
    asked = settings.evaluation_settings(plain("ckpt=a", "decoding=greedy", name="evaluate"))
    assert (asked.ckpt, asked.decoding) == (["a"], ["greedy"])


def test_experiments_take_lists_with_commas(tmp_path):
    file = write(tmp_path / "e.yaml", "name: e", "output_dir: o", "results_dir: r", "docs_dir: d", "jobs: 1")
    path = tmp_path / "e.yaml"
    path.write_text(
        path.read_text() + "plan: false\ntables: false\noverwrite: false\ntrain: null\nevaluate: null\n"
    )
    keys = read_keys(Common, path, ["train=lr=1,seed=2", "evaluate=n_samples=1"], {})
    assert read_keys(Common, path, ["train=3"], {}).train == ["3"]
    assert file and (keys.train, keys.evaluate) == (["lr=1", "seed=2"], ["n_samples=1"])


# --- what was meant -----------------------------------------------------------------------------------------


def said(door, *arguments):
    """What a door answers to an override that hydra refuses."""
    with pytest.raises(Exception) as caught:
        compose(*arguments, name=door.config)
    return doorway.explained(caught.value, door, arguments)


@pytest.mark.parametrize(
    "door,arguments,words",
    [
        (
            train.DOOR,
            ["batch_sise=3"],
            "config key batch_sise: unknown; did you mean batch_size? the keys stand",
        ),
        (train.DOOR, ["los=dpo"], "did you mean loss?"),
        (
            train.DOOR,
            ["loss=dpo", "loss.betta=1"],
            "did you mean loss.beta? the keys stand in config/loss/dpo.yaml",
        ),
        (train.DOOR, ["loss=swepo", "loss.aplha=1"], "did you mean loss.alpha?"),
        (
            train.DOOR,
            ["loss.betta=1"],
            "config key loss.betta: unknown; the keys stand in config/loss/sft.yaml",
        ),
        (
            train.DOOR,
            ["loss.beta=1"],
            "loss.beta: unknown; it is a key of loss=dpo, gdpo, infonca, ..., and the loss is sft; the keys",
        ),
        (train.DOOR, ["loss=cdpo", "loss.betta=1"], "did you mean loss.beta?"),
        (train.DOOR, ["loss=orpo", "loss.gamma=1"], "it is a key of loss=simpo, and the loss is orpo;"),
        (
            train.DOOR,
            ["loss=gdpo", "loss.preference_keys={label_smoothing: 0.1}"],
            "write +loss.preference_keys.NAME=VALUE",
        ),
        (train.DOOR, ["model.name=x"], "config key model.name: unknown; did you mean model.name_or_path?"),
        (train.DOOR, ["model_name=x"], "did you mean model.name_or_path?"),
        (train.DOOR, ["learningrate=1"], "here lr;"),
        (train.DOOR, ["LR=1"], "did you mean lr?"),
        (train.DOOR, ["warmup=1"], "did you mean warmup_steps?"),
        (train.DOOR, ["batch=1"], "did you mean batch_size?"),
        (train.DOOR, ["rank=4"], "did you mean lora.rank?"),
        (evaluate.DOOR, ["gradient_accumulation_steps=4"], "a key of other repositories, of training alone;"),
        (train.DOOR, ["betas=1"], "did you mean optimizer_keys={betas: [0.9, 0.95]}?"),
        (evaluate.DOOR, ["checkpoint=x"], "did you mean ckpt?"),
        (evaluate.DOOR, ["model=x"], "did you mean ckpt?"),
        (evaluate.DOOR, ["beta=1"], "a key of other repositories, in train.py loss.beta;"),
        (evaluate.DOOR, ["loss.beta=1"], "the keys stand in config/evaluate.yaml"),
        (evaluate.DOOR, ["dataset_name=x"], "here datasets;"),
        (train.DOOR, ["loss=foo"], "there is no config/loss/foo.yaml; choose one of"),
        (train.DOOR, ["model=tiny"], "there is no config/model/tiny.yaml; choose one of"),
        (train.DOOR, ["loss=NCA"], "did you mean loss=nca?"),
        (train.DOOR, ["loss=InfoNCA"], "did you mean loss=infonca?"),
        (
            train.DOOR,
            ["model=/a/folder"],
            "model=/a/folder: a folder or a hub name is given as model.name_or_path=",
        ),
        (train.DOOR, ["model=org/name"], "model.name_or_path=org/name"),
        (train.DOOR, ["loss=dop"], "loss=dop: there is no config/loss/dop.yaml; did you mean loss=dpo?"),
        (train.DOOR, ["model=blank_model"], "a key of other repositories, here model.name_or_path=FOLDER"),
        (train.DOOR, ["loss=mpo"], "here loss=gdpo"),
        (train.DOOR, ["zzz=1"], "config key zzz: unknown; the keys stand in config/config.yaml"),
        (evaluate.DOOR, ["n_sample=3"], "did you mean n_samples? the keys stand in config/evaluate.yaml"),
        (synthesize.DOOR, ["source=a"], "did you mean sources?"),
        (export.DOOR, ["dtyp=x"], "did you mean dtype?"),
    ],
)
def test_a_mistyped_key_names_its_nearest(door, arguments, words):
    assert words in said(door, *arguments)
    assert "\n" not in said(door, *arguments)


@pytest.mark.parametrize("override", ["lr", "1e-4", "datasets=[a,", "lr=[1"])
def test_an_override_in_pieces_is_told_to_be_one_word(override):
    words = said(train.DOOR, override)
    assert f"{override} is not read as key=value; write it as one word" in words and "\n" not in words


@pytest.mark.parametrize(
    "door,arguments,words",
    [
        (train.DOOR, ["--lr=1e-4"], "option --lr: keys are written key=value, without dashes; write lr=1e-4"),
        (train.DOOR, ["loss=dpo", "--batch-size", "8"], "write batch_size=VALUE"),
        (train.DOOR, ["--loss", "dpo"], "write loss=VALUE"),
        (train.DOOR, ["--loss.beta=0.2"], "write loss.beta=0.2"),
        (train.DOOR, ["--learning_rate=1e-4"], "here lr; they stand in config/config.yaml"),
        (train.DOOR, ["-lr=1"], "option -lr: keys are written key=value, without dashes; write lr=1"),
        (train.DOOR, ["-seed", "1"], "write seed=VALUE"),
        (train.DOOR, ["--exp-nam=a"], "did you mean exp_name?"),
        (evaluate.DOOR, ["--ckpt=outputs/a"], "write ckpt=outputs/a"),
        (export.DOOR, ["--zzz"], "they stand in config/export.yaml"),
    ],
)
def test_a_key_typed_as_an_option_is_told_how_it_is_written(door, arguments, words):
    with pytest.raises(UserError, match=re.escape(words)):
        doorway.check_dashes(arguments, door)


def test_the_options_that_are_let_through_are_those_of_hydra():
    parser = get_args_parser()
    theirs = {option for option in parser._option_string_actions if option.startswith("--")}
    assert set(doorway.HYDRA_OPTIONS) == theirs
    short = {option for option in parser._option_string_actions if not option.startswith("--")}
    assert set(doorway.SHORT_OPTIONS) == short
    doorway.check_dashes([*theirs, *short, "--config-dir=a", "--multi", "loss=dpo", "-1"], train.DOOR)


@pytest.mark.parametrize("key", [*elsewhere.DPO, *elsewhere.NCA])
def test_a_key_of_another_repository_is_told_what_stands_here(key):
    known = keys_of(ROOT / "config" / "config.yaml")
    assert elsewhere.hint(key, known) in said(train.DOOR, f"{key}=1")
    assert "in train.py" not in elsewhere.hint(key, known)


def test_added_keys_and_keys_of_losses_name_their_nearest():
    with pytest.raises(UserError, match="config key batch_sise: unknown; did you mean batch_size?"):
        settings.train_settings(plain("+batch_sise=3"))
    with pytest.raises(ValueError, match="dpo takes no such key; did you mean beta?"):
        losses.bind("dpo", {"betta": 1})
    assert checking.meant("colour", ["lora", "loss"]) == ""


# --- files of one's own -------------------------------------------------------------------------------------

OWN = """# @package _global_
responses: pairs
loss:
  name: dpo
  beta: 0.1
  gimma: 3
"""


@pytest.fixture
def own(tmp_path):
    """A folder for --config-dir: a loss, files that are no YAML, and a loss without its first line."""
    for name, text in {
        "loss/mine": OWN,
        "loss/bare": OWN.partition("\n")[2],
        "loss/bad": "# @package _global_\nloss: {name: [dpo\n",
        "model/bad": "name_or_path: [x\n",
    }.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_files_of_ones_own_folder_count_too(own):
    for option in ([f"--config-dir={own}"], ["--config-dir", str(own)], ["-cd", str(own)]):
        words = doorway._unknown_choice("loss", "min", option)
        assert "did you mean loss=mine?" in words and "mine, nca" in words
        words = doorway._unknown_key("loss.gimmma", train.DOOR, [*option, "loss=mine"])
        assert f"did you mean loss.gimma? the keys stand in {own}/loss/mine.yaml" in words
        words = doorway._unknown_key("loss.gimma", train.DOOR, [*option, "loss=dpo"])
        assert "it is a key of loss=bare, mine, and the loss is dpo" in words


@pytest.mark.parametrize(
    "override,words",
    [
        ("loss=bad", "loss/bad.yaml, line 3: no YAML, "),
        ("model=bad", "model/bad.yaml, line 2: no YAML, "),
        ("loss=bare", "loss/bare.yaml: its first line must be `# @package _global_`"),
        ("exp_name=${foo}", "Interpolation key 'foo' not found"),
    ],
)
def test_a_file_that_cannot_be_composed_is_named_on_one_line(own, override, words):
    line = [sys.executable, ROOT / "train.py", f"--config-dir={own}", override]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and words in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# --- help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.config)
def test_help_has_the_purpose_ten_keys_and_where_the_rest_stand(door):
    text = doorway.help_of(door)
    assert text.startswith(door.purpose) and len(door.keys) == 10
    for key in door.keys:
        assert f"\n  {key}=" in text
    known = keys_of(ROOT / "config" / f"{door.config}.yaml")
    assert f"The other {len(known) - 10} stand" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.config)
def test_the_keys_of_a_file_are_those_of_its_config(door):
    composed = OmegaConf.load(ROOT / "config" / f"{door.config}.yaml")
    flat = settings.flatten(OmegaConf.to_container(composed))
    leaves = {key for key in flat if not key.startswith(("hydra", "defaults"))}
    read = set(keys_of(ROOT / "config" / f"{door.config}.yaml"))
    assert leaves <= read
    assert {key.split(".")[0] for key in read} - {"model", "loss"} == {
        key.split(".")[0] for key in leaves
    } - {"model"}


def test_comments_that_go_on_and_notes_stand_where_they_belong():
    (first, *_, last) = read_parts(ROOT / "config" / "evaluate.yaml")
    assert first.notes[0].startswith("Every key of an evaluation")
    assert last.notes == ["null: from the run's saved config; datasets: its eval_datasets, where it has some"]
    assert "where it states some" in keys_of(ROOT / "config" / "evaluate.yaml")["reward"].comment


@pytest.mark.parametrize(
    "script",
    sorted([*(ROOT / "train_scripts").glob("*.s[hb]*"), *(ROOT / "experiments").glob("*.sh")]),
    ids=lambda p: p.name,
)
def test_scripts_say_what_they_do_and_do_nothing(script, tmp_path):
    if script.name == "torch.sh":  # sourced by others
        return
    env = {"PATH": "/usr/bin:/bin", "GROVE_PYTHON": sys.executable, "HOME": str(tmp_path)}
    done = subprocess.run(["bash", script, "--help"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 8 and not done.stderr
    assert "SBATCH" not in done.stdout
    is_of_training = script.name.startswith("run_") and "run.sh" in script.read_text()
    assert not is_of_training or "python train.py --help; all keys: config/config.yaml" in done.stdout


@pytest.mark.parametrize("tool", [["-m", "docs.make"], ["commented.py"]], ids=str)
def test_tools_say_what_they_do_and_do_nothing(tool):
    pages = [ROOT / "docs" / "configuration.md", ROOT / "docs" / "from_dpo.md"]
    before = [path.stat().st_mtime_ns for path in pages]
    for argument, code in (("--help", 0), ("/nowhere", 2)):
        line = [sys.executable, *tool, argument]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == code and "Traceback" not in done.stderr
        assert ("usage:" in done.stdout) == (code == 0)
    assert [path.stat().st_mtime_ns for path in pages] == before


# --- the end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "debug,words", [(True, "debug=true: nothing was written"), (False, "checkpoint: x/best")]
)
def test_the_last_line_names_no_checkpoint_that_was_not_written(monkeypatch, debug, words):
    said = []
    monkeypatch.setattr(train.log, "info", lambda text, *values: said.append(text % values))
    chosen = settings.train_settings(plain(f"debug={debug}"))
    train.say_end(SimpleNamespace(examples=64, best=0.5), chosen, Path("x"))
    assert said == [f"finished 64 examples; best loss/eval 0.5000; {words}"]


# --- model files --------------------------------------------------------------------------------------------


def test_a_model_file_with_a_name_alone_is_enough(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "mine.yaml").write_text(f"name_or_path: {folder}\n")
    chosen = settings.train_settings(plain(f"hydra.searchpath=[file://{tmp_path}/configs]", "model=mine"))
    assert chosen.model == settings.ModelSettings(folder, None, None, "float32", "float32", False, None)


# --- the audit ----------------------------------------------------------------------------------------------


def test_the_audit_is_a_short_table_and_what_was_left_out(tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD, {**GOOD, "id": "b"})
    groups = data.load_groups(path, "all")
    audit = data.audit_groups(groups, data.view(groups, "pairs"))
    audit["dropped"] = {"empty responses": 3}
    head, row, *reasons = data.audit_lines({"mine": {"train": audit}})
    assert re.split(r"\s{2,}", head)[:6] == ["data", "split", "rows", "prompts", "responses", "examples"]
    assert row.split()[:4] == ["mine", "train", "2", "2"]
    assert reasons == ["mine, train: 3 empty responses; 1 duplicate prompts"]
    assert max(map(len, [head, row, *reasons])) < 110
