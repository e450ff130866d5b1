"""Responses to the embedded instructions, sampled from a model and scored by a program.

Contract: the file is a function of (weights, prompts, sampling settings, seed), in our own format: one prompt
a row, its responses in the order of their numbers. What is written is kept beside it until all are there, so
that the same command goes on where one was stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

import devices
import models
import rewards
from generation import Decoding, Draw, Written
from generation.local import LocalGenerator
from groups import Instruction, Limits, read_instructions
from ranks import World
from runs.folder import find_model
from synthesis.config import SynthesisSettings
from utils import UserError, atomic_path, log

LIMITS = Limits(max_length=512, max_prompt_length=256)
Texts = dict[tuple[str, int], str]  # (the instruction's id, the response's number): the response


def sample_instructions(settings: SynthesisSettings, path: Path) -> dict[str, float]:
    """Sample, score and write `n_samples` responses to every instruction of the split; return what they hold.

    Raises UserError where the model cannot be loaded, the file is there already, or what was kept beside it
    is of other settings.
    """
    if path.exists():
        raise UserError(f"config key output={path}: is there already; move it away, or give another file")
    instructions = read_instructions(settings.split)
    generator = local_generator(settings, LIMITS)
    kept = _Kept(path, _key(settings, generator.identity(), instructions))
    _write_missing(generator, instructions, settings, kept)
    rows = [_row(instruction, kept.texts, settings.n_samples) for instruction in instructions]
    rows = [row for row in rows if row["responses"]]
    if len(rows) < len(instructions):
        log.warning("%d prompts have blank responses alone: left out", len(instructions) - len(rows))
    if not rows:
        raise UserError(f"ckpt={settings.ckpt}: every response is blank; give another model or temperature")
    with atomic_path(path) as temporary:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        temporary.write_text("".join(lines), encoding="utf-8")
    kept.path.unlink()
    return spread(rows)


def _write_missing(
    generator: LocalGenerator, instructions: Sequence[Instruction], settings: SynthesisSettings, kept: _Kept
) -> None:
    """Sample what is not kept yet."""
    every = itertools.product(range(len(instructions)), range(settings.n_samples))
    draws = [Draw(*of) for of in every if (instructions[of[0]].id, of[1]) not in kept.texts]
    total = len(instructions) * settings.n_samples
    with kept, tqdm(total=total, initial=total - len(draws), unit="response") as bar:

        def done(draw: Draw, written: Written) -> None:
            kept.add(instructions[draw.prompt].id, draw.number, written.text)
            bar.update()

        decoding = Decoding(f"t{settings.temperature:g}", settings.temperature)
        prompts = [instruction.group() for instruction in instructions]
        generator.write(prompts, draws, decoding, settings.seed, done)


def spread(rows: Sequence[Mapping]) -> dict[str, float]:
    """What the rewards of rows hold: how many prompts, the share of them with unequal rewards, the mean
    reward, that of the best of each, and the share of responses that meet all constraints.
    """
    of_rows = [[response["reward"] for response in row["responses"]] for row in rows]
    every = [value for values in of_rows for value in values]
    return {
        "prompts": len(rows),
        "unequal": sum(len(set(values)) > 1 for values in of_rows) / len(rows),
        "mean": sum(every) / len(every),
        "best": sum(map(max, of_rows)) / len(rows),
        "all_met": every.count(rewards.MOST) / len(every),
    }


def found_model(ckpt: str) -> str:
    """As `runs.folder.find_model`; raises UserError for weights without their model, too."""
    source = find_model(ckpt)
    if Path(source).is_file():
        raise UserError(f"config key ckpt={ckpt}: a file of weights; give a folder with its model")
    return source


def local_generator(settings: SynthesisSettings, limits: Limits) -> LocalGenerator:
    """The model of `ckpt` in this process. Raises UserError where it cannot be loaded."""
    source = found_model(settings.ckpt)
    spec = models.PolicySpec(source, attention=models.SEGMENTS)
    world = models.world_that_agrees(spec, World(0, 1, devices.choose(settings.device), None))
    policy = models.make_policy(spec, world, sharded=False)
    tokenizer = models.load_tokenizer(source)
    return LocalGenerator(
        policy, tokenizer, limits, settings.max_new_tokens, settings.batch_size, settings.ckpt
    )


def _key(
    settings: SynthesisSettings, identity: Mapping[str, object], instructions: Sequence[Instruction]
) -> str:
    """A hash of all that determines the responses."""
    prompts = [(instruction.id, instruction.prompt) for instruction in instructions]
    facts = [identity, prompts, settings.n_samples, settings.temperature, settings.seed]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _row(instruction: Instruction, texts: Texts, count: int) -> dict[str, object]:
    """A row of our own format; a blank response is none, and is left out."""
    responses = []
    for number in range(count):
        text = texts[instruction.id, number]
        if text.strip():
            responses.append({"text": text, "reward": rewards.reward(instruction.constraints, text)})
    return {"id": instruction.id, "prompt": instruction.group().prompt, "responses": responses}


def _parsed(line: str) -> tuple[str, int, str] | None:
    """A kept line: the instruction's id, the response's number and its text; None where it is damaged."""
    try:
        match json.loads(line):
            case [str(name), int(number), str(text)]:
                return name, number, text
    except ValueError:
        pass
    return None


class _Kept:
    """The responses so far, a line each, beside the file that they are for; the first line says of what."""

    def __init__(self, path: Path, key: str):
        self.path = path.with_name(f"{path.name}.unfinished")
        self.texts: Texts = {}
        self.lines = [json.dumps({"of": key})]
        if self.path.exists():
            self._read()
        self.file = None

    def _read(self) -> None:
        """Take what is there; a last line that was cut is left out. Raises UserError for other settings."""
        *lines, _cut = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        if lines[:1] != self.lines:
            raise UserError(
                f"{self.path}: holds responses of another model, other prompts or other settings; remove it, "
                "or give another output"
            )
        for number, line in enumerate(lines[1:], 2):
            response = _parsed(line)
            if response is None:
                raise UserError(f"{self.path}: line {number} is damaged; remove the line")
            self.texts[response[:2]] = response[2]
            self.lines.append(line)

    def __enter__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        self.file = self.path.open("a", encoding="utf-8")

    def add(self, name: str, number: int, text: str) -> None:
        self.texts[name, number] = text
        self.file.write(json.dumps([name, number, text]) + "\n")
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        self.file.close()
