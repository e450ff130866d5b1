"""Every block of code in README.md, CONTRIBUTING.md and docs/ is run.

- bash: the block goes through bash, and zsh where it is installed, with stand-ins for python, bash, torchrun
  and the like that note their words; both shells must say the same. Each command that was noted is then
  checked as its door does it, up to the data: the config composes, its keys and values are allowed, and the
  loss is bound.
- README's tasks are trained, evaluated and exported for real, in order, on a tiny model in place of the
  embedded one; of plan=true the tiny model's plan is printed.
- json: parsed; rows of data go through the loader. python: compiled; the example of an own loss trains in
  test_objectives_page.py, the judge of docs/judges.md judges here. yaml: composed, or parsed.
- The tutorial's cells run in order on a tiny model.
"""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from data_helpers import write
from helpers import ROOT, compose, evaluation, save_tiny
from omegaconf import OmegaConf
from page_helpers import PAGES, SHELLS, Block, blocks, blocks_of, noted

import doorway
import evaluate
import export
import losses
import preference_datasets as data
import report
import settings
import synthesize
import train
from commented import keys_of
from handoff.config import export_settings
from synthesis.config import synthesis_settings

DOORS = {
    "train.py": (train.DOOR, settings.train_settings),
    "evaluate.py": (evaluate.DOOR, settings.evaluation_settings),
    "synthesize.py": (synthesize.DOOR, synthesis_settings),
    "export.py": (export.DOOR, export_settings),
}
SCRIPTS_OF_TRAINING = re.compile(r"train_scripts/(run|slurm)\w*\.(sh|sbatch)")
MADE_BY_TESTS = {"ranked_means": "dpo"}  # a loss whose file a page says to write: test_objectives_page.py


def shells():
    return [shell for shell in SHELLS if shutil.which(shell)]


# --- what a block asks for ----------------------------------------------------------------------------------


def check_call(words, monkeypatch):
    """A command with its words, as its door would take it."""
    name, *arguments = words
    if name == "torchrun":
        arguments = arguments[arguments.index("train.py") :]
    if name in ("pip", "lm_eval", "pre-commit", "mkdocs") or "-c" in arguments[:1]:
        return
    if arguments[0] == "-m":
        module, *arguments = arguments[1:]
        assert module == "torch.distributed.run" or (ROOT / f"{module.replace('.', '/')}.py").is_file(), (
            module
        )
        return
    script, *arguments = [word for word in arguments if not word.startswith("--nodes")]
    assert (ROOT / script).is_file(), f"{script}: no such file"
    if script in DOORS:
        check_overrides(script, arguments)
    elif SCRIPTS_OF_TRAINING.fullmatch(script):
        assert not [word for word in arguments if not re.match(r"[\w.]+=|\w+$", word)]
        own = ("rounds=", "prompts=", "samples=") if "iterative" in script else ()  # of that script itself
        check_overrides("train.py", [word for word in arguments if "=" in word and not word.startswith(own)])
    elif script.startswith("experiments/"):
        known = keys_of((ROOT / script).with_suffix(".yaml"))
        assert {word.partition("=")[0] for word in arguments} <= set(known)
    elif script == "preference_datasets.py":
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        data._asked(data._parse_arguments())
    elif script == "report.py":
        assert arguments and {word for word in arguments if word.startswith("-")} <= {"--output"}
    else:
        text = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
        assert all(f'"{word}"' in text for word in arguments if word.startswith("--")), script


def check_overrides(script, arguments):
    """The overrides compose, and the record takes every value."""
    door, record_of = DOORS[script]
    if script == "export.py":
        arguments = export.with_ckpt(arguments)
    typed = doorway.as_hydra_reads(arguments, door.settings)
    if "--multirun" in typed:  # the first of each
        typed = [re.sub(r"=([^\[{,']+),.*", r"=\1", word) for word in typed]
    for name, stands_in in MADE_BY_TESTS.items():
        typed = [word.replace(f"loss={name}", f"loss={stands_in}") for word in typed]
    overrides = [word for word in typed if not word.startswith("--")]
    config = OmegaConf.to_container(compose(*overrides, name=door.config), resolve=True)
    chosen = record_of(config)
    if script == "train.py":
        losses.bind(chosen.loss.name, chosen.loss.keys)


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_a_block_of_commands_is_the_same_in_every_shell_and_its_commands_are_allowed(
    block, tmp_path, monkeypatch
):
    assert not re.search(r"(^|\s)#", block.text, re.M), "zsh takes no comments at its prompt"
    calls = {}
    for shell in shells():
        (tmp_path / shell).mkdir()
        calls[shell] = noted(block.text, shell, tmp_path / shell)
    assert len({json.dumps(words) for words in calls.values()}) == 1
    for words in calls["bash"]:
        check_call(words, monkeypatch)


def test_pages_have_blocks_of_the_languages_that_are_run():
    found = {block.language for path in PAGES for block in blocks_of(path)}
    assert found <= {"bash", "json", "python", "yaml", "text"}
    assert len(blocks("bash")) > 20


# --- README's tasks, for real -------------------------------------------------------------------------------


def in_process(words):
    """Do what a command says, in this process and in this folder."""
    script, *arguments = words[1:]
    if script == "export.py":
        arguments = export.with_ckpt(arguments)
    if script in DOORS:
        door, _ = DOORS[script]
        typed = doorway.as_hydra_reads(arguments, door.settings)
        sys.modules[script.removesuffix(".py")].main(compose(*typed, name=door.config))
    else:
        sys.argv[:] = [script, *arguments]
        (data if script == "preference_datasets.py" else report).main()


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A folder to work in, with a tiny model at path/to/model; its name takes that of the embedded one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command"])
    save_tiny("path/to/model", max_position_embeddings=4096)
    return tmp_path


def on_tiny(words):
    """A command with the tiny model in place of the one that it trains."""
    words = [word for word in words if not word.startswith("model=")]
    if words[1] == "train.py":
        words = [word for word in words if not word.startswith("model.name_or_path=")]
        words += ["model.name_or_path=path/to/model", "wandb.enabled=false"]
    return words


def test_the_tasks_of_the_readme_run_one_after_the_other(somewhere, capsys):
    text = (ROOT / "README.md").read_text()
    begin, end = (text[: text.index(title)].count("\n") for title in ("## Five tasks", "## The papers'"))
    tasks = [b for b in blocks_of(ROOT / "README.md") if b.language == "bash" and begin < b.line < end]
    calls = [words for block in tasks for words in noted(block.text, "bash", somewhere)]
    assert len(calls) == 7
    for words in calls:
        in_process(on_tiny(words))
    shown = capsys.readouterr().out
    assert "trl-preference" in shown and "GPU" in shown
    for made in ("outputs/mine/best", "outputs/mine-2/report/report.html", "exported/mine/README.md"):
        assert Path(made).exists(), made


def test_the_judge_of_its_page_judges(somewhere):
    (block,) = [block for block in blocks("python") if block.page == "judges.md"]
    Path("my_judge.py").write_text(block.text)
    Path("mine.txt").write_text("Name a colour.\n")
    (line,) = [line for line in command_lines("judges.md") if "my_judge:brevity" in line]
    (words,) = noted(line, "bash", somewhere)
    overrides = [word for word in words[2:] if not word.startswith("ckpt=")]
    evaluation("ckpt=path/to/model", *overrides, "max_new_tokens=4", "output=report", "nproc=1")
    assert json.loads(Path("report/report.json").read_text())["checkpoints"]["model"]["score"]["value"] <= 0


def command_lines(page):
    return [line for block in blocks("bash") if block.page == page for line in block.text.splitlines()]


# --- other languages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_a_block_of_json_is_read(block, tmp_path):
    rows = json_values(block)
    if all({"prompt", "responses"} <= set(row) or "option_class" in row for row in rows):
        assert data.load_groups(write(tmp_path / "rows.jsonl", *map(json.dumps, rows)), "all")


def json_values(block: Block):
    """The values of a block: one over several lines, or one a line."""
    try:
        return [json.loads(block.text)]
    except ValueError:
        return [json.loads(line) for line in block.text.splitlines()]


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_block_of_python_compiles(block):
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_block_of_yaml_sets_keys_that_exist(block):
    given = yaml.safe_load(block.text)
    known = {*keys_of(ROOT / "config" / "config.yaml"), "name_or_path", "compute_dtype"}
    assert set(given) <= known


# --- the tutorial -------------------------------------------------------------------------------------------


def test_the_tutorial_runs_from_its_table_to_its_report(somewhere, capsys):
    Path("train.py").touch()  # the tutorial looks for it: this is the project's folder
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
    space = {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if text.startswith("!"):
            words = noted(text[1:].format(**space), "bash", somewhere)
            in_process(words[0])
            continue
        tree = ast.parse(text)
        exec(compile(tree, "tutorial", "exec"), space)
        if "MODEL" in text and "embedded:" in text:
            space["MODEL"] = "path/to/model"
    (row,) = json_lines_of("outputs/tutorial/report/distributions.jsonl")[:1]
    assert set(row["checkpoints"]) == {"model", "calibrated"}
    assert Path("outputs/tutorial/report/report.html").is_file()
    measured = json.loads(Path("outputs/tutorial/report/report.json").read_text())["checkpoints"]
    before, after = (measured[name]["js_distance_probability"]["value"] for name in ("model", "calibrated"))
    assert after < before
    assert "options" in capsys.readouterr().out


def json_lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
