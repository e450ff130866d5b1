"""Train a language model on groups: `python train.py loss=gdpo datasets=opinions/republican exp_name=mine`.

The door: config -> data -> model -> reference -> run -> train, in this order; no loop and no maths. The
config ends here, as a checked record. Every key stands with a comment in config/config.yaml; `python train.py
--help` names the ten that matter most.
"""

from __future__ import annotations

import environment  # noqa: F401  # isort: skip  # first: it says what is missing, in one line

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from doorway import Door, enter
from provenance import own_version
from settings import TrainSettings, train_settings
from utils import Stopped, UserError, keep_freed_memory, log, setup_logging

DOOR = Door(
    config="config",
    settings=TrainSettings,
    purpose="Train a language model on groups. The same command goes on where it stopped.",
    examples=(
        "python train.py loss=NAME datasets=opinions/republican exp_name=first",
        "python train.py loss=NAME datasets=mine.jsonl exp_name=second model.archive=outputs/first",
    ),
    keys=(
        "loss",
        "model",
        "model.name_or_path",
        "model.archive",
        "datasets",
        "exp_name",
        "lr",
        "batch_size",
        "n_epochs",
        "eval_every",
    ),
)


def main(config: DictConfig) -> None:
    """Check the config and the data, then train. A user's error ends with one line, see `utils.guarded`."""
    settings = train_settings(OmegaConf.to_container(config, resolve=True))
    if settings.plan:
        settings = dataclasses.replace(settings, debug=True)  # write nothing
    import_data()
    settings = with_passes_of_this_machine(settings)
    needs = bind_loss(settings)
    if not settings.plan and ranks.run_on_ranks(settings.nproc, settings.device):
        return
    data.check_first_rows(settings, needs)
    import_models()
    optimization.check_optimizer(settings)
    optimization.check_schedule(settings)
    runs.trackers.check_trackers(settings)
    try:
        with contextlib.ExitStack() as stack:  # the run folder's lock, and open files
            train(settings, needs, stack)
    except Stopped as stopped:
        if stopped.agreed:
            ranks.leave_distributed()
        raise
    ranks.leave_distributed()


def import_data() -> None:
    """What the data needs, once the config is known to be right: torch takes a second or two to import."""
    global data, devices, forest, losses, ranks, schedule
    import devices
    import forest
    import losses
    import preference_datasets as data
    import ranks
    import schedule


def import_models() -> None:
    """What the model needs, once the data is known to be right: transformers takes as long again."""
    global metrics, models, optimization, reference, runs, trainers
    import metrics
    import models
    import optimization
    import reference
    import runs.checkpoint
    import runs.folder
    import runs.logs
    import runs.plan
    import runs.run
    import runs.start
    import runs.trackers
    import trainers


def with_passes_of_this_machine(settings: TrainSettings) -> TrainSettings:
    """`model.compute_dtype=auto` becomes what is fast here, so that the run's own config names it."""
    if settings.model.compute_dtype != "auto":
        return settings
    model = dataclasses.replace(settings.model, compute_dtype=devices.passes_dtype(settings.device))
    return dataclasses.replace(settings, model=model)


def bind_loss(settings: TrainSettings) -> losses.Needs:
    """What the loss asks of the data. Raises UserError for a key or a value that it does not take."""
    try:
        losses.bind(settings.loss.name, settings.loss.keys)
    except ValueError as error:
        raise UserError(str(error)) from error
    return losses.needs(settings.loss.name, settings.loss.keys)


def train(settings: TrainSettings, needs: losses.Needs, stack: contextlib.ExitStack) -> None:
    """From the data to the last checkpoint."""
    world = start_process(settings)
    claim = ranks.on_main(world, lambda: runs.run.open_folder(settings, stack))
    start = runs.start.start_of(claim.path, settings.model)
    spec = spec_of(settings, start)
    tokenizer = open_tokenizer(spec, settings, world)
    prepared = data.prepare(settings, needs, tokenizer, world)
    views = views_of(prepared)
    num_train = schedule.num_examples(views["train"].trees)
    say_audit(prepared.audit)
    check_rates(views["train"].trees, settings)
    if settings.plan:
        print(plan_text(settings, spec, views, tokenizer.pad_token_id))
        return

    world = on_device_that_agrees(world, spec, views, tokenizer, settings)
    attention = models.choose_attention(settings.attention, world.device)
    packing = schedule.packing_of(settings, views, attention, world.device.type, tokenizer.pad_token_id)
    terms = metrics.terms_of(settings.loss.name, settings.loss.keys)
    trainers.check_eval_metric(settings.eval_metric, views["eval"], packing, needs.reference, terms)
    policy = models.make_policy(spec, world, sharded=world.mesh is not None)
    # both before any forward: FSDP2 leaves the root's parameters gathered after one
    optimizer = optimization.make_optimizer(policy, settings)
    if not runs.folder.steps(claim.path):
        check_room(claim, policy, world, settings)
    fingerprint = models.fingerprint(policy)
    runs.start.check_fingerprint(claim.path, start, fingerprint)
    check_model(policy, views, packing, len(tokenizer), settings)
    fresh = runs.run.State(fingerprint, prepared.digests)
    if settings.compile:
        models.compile_blocks(policy)
    if needs.reference:
        views = with_references(policy, fingerprint, views, packing, world, settings)

    state = resumed(claim, policy, optimizer, world, settings)
    if state is None and world.is_main and not settings.debug:
        runs.run.write_start(claim, settings, prepared.audit)
        runs.start.write_start(claim.path, start._replace(fingerprint=fingerprint, code=own_version()))
    if state is not None:
        runs.run.check_same_start(claim.path, state, fresh, settings)
        if runs.run.is_finished(claim.path, state, settings, settings.total_examples(num_train)):
            return
        check_room(claim, policy, world, settings)
    loss_fn = loss_of(settings, policy, is_checked=needs.reference and state is None)
    beta = settings.loss.keys.get("beta", 1.0)
    dropout_seed = settings.seed if settings.lora.dropout else None
    learner = trainers.Learner(
        policy, optimizer, loss_fn, beta, packing, world, settings.max_grad_norm, terms, dropout_seed
    )
    run = runs.run.Run(claim, state or fresh, settings, tokenizer, world)
    stack.callback(run.close)
    if settings.sample_during_eval:
        run.sample_from(policy, prompts_of(views["eval"].trees, settings), settings.seed)
    final = trainers.train(learner, views["train"], views["eval"], run, settings)
    say_end(final, settings, claim.path)


def loss_of(settings: TrainSettings, policy: models.Scorer, is_checked: bool) -> Callable:
    """The config's loss; where it is checked, its first value must be that of the reference."""
    loss_fn = functools.partial(losses.loss_of(settings.loss.name), **settings.loss.keys)
    if is_checked:
        loss_fn = reference.with_step0_check(loss_fn, reference.step0_tolerance(policy))
    return loss_fn


# --- the process and its data -------------------------------------------------------------------------------


def start_process(settings: TrainSettings) -> ranks.World:
    """Join the other ranks, seed, and log from the main one."""
    world = ranks.init_distributed(settings.replicate, settings.cpu_offload, settings.device)
    ranks.seed_everything(settings.seed)
    if world.device.type == "cpu":
        keep_freed_memory()
    setup_logging(is_main=world.is_main)
    return world


def views_of(prepared: data.Prepared) -> dict[str, schedule.Data]:
    """The trees of every split, with mismatched ones where the loss asks for them."""
    pairs = prepared.mismatched or {}
    return {name: schedule.Data(trees, pairs.get(name)) for name, trees in prepared.trees.items()}


def say_audit(audit: dict) -> None:
    """What was read, as a short table; data_audit.json has all of it."""
    for line in data.audit_lines(audit):
        log.info("%s", line)


def say_end(final: runs.run.State, settings: TrainSettings, path: Path) -> None:
    """What the run came to."""
    best = float("nan") if final.best is None else final.best
    kept = "debug=true: nothing was written" if settings.debug else f"checkpoint: {path / 'best'}"
    log.info("finished %d examples; best %s %.4f; %s", final.examples, settings.eval_metric, best, kept)


def prompts_of(trees: Sequence[forest.TokenTree], settings: TrainSettings) -> Sequence[forest.Ids]:
    """The prompts to sample responses to."""
    different = list(dict.fromkeys(tree.prompt for tree in trees))
    return data.drawn(different, settings.n_eval_model_samples, settings.seed)


# --- the model and its reference ----------------------------------------------------------------------------


def spec_of(settings: TrainSettings, start: runs.start.Start) -> models.PolicySpec:
    """How to make the policy from what the run starts from."""
    model, archive = settings.model, None
    if model.archive:
        archive = start.source
    else:
        model = dataclasses.replace(model, name_or_path=start.source)
    lora = None
    if settings.lora.rank:
        lora = models.Lora(**dataclasses.asdict(settings.lora), seed=settings.seed)
    return models.spec_of(model, archive)._replace(
        attention=settings.attention,
        activation_checkpointing=settings.activation_checkpointing,
        cpu_offload=settings.cpu_offload,
        lora=lora,
    )


def open_tokenizer(spec: models.PolicySpec, settings: TrainSettings, world: ranks.World):
    """The model's tokenizer, or the one that the config names."""
    if world.size > 1 and world.is_main:
        models.resolve_name(spec.model_name)  # unpacks an embedded model before the other ranks look for it
    ranks.wait(world)
    name = settings.model.tokenizer_name_or_path or spec.model_name
    return models.load_tokenizer(name, settings.model.trust_remote_code)


def check_model(
    policy: models.Scorer,
    views: dict[str, schedule.Data],
    packing: schedule.Packing,
    num_tokens: int,
    settings: TrainSettings,
) -> None:
    """Raises UserError where this model cannot take an example, or scores a forest otherwise.

    num_tokens: of the tokenizer.
    """
    for trees in schedule.all_trees(views):
        models.check_trees(policy, trees, num_tokens)
    if settings.sample_during_eval:
        prompts = prompts_of(views["eval"].trees, settings)
        models.check_prompts(policy, prompts, (), runs.logs.SAMPLE_TOKENS)
    difference = models.parity_probe(policy, probed_of(views), packing.pad_id, packing.share)
    log.info("parity probe: packed and one-by-one log-probs agree to %.1e nats", difference)


def on_device_that_agrees(
    world: ranks.World,
    spec: models.PolicySpec,
    views: dict[str, schedule.Data],
    tokenizer,
    settings: TrainSettings,
) -> ranks.World:
    """The world, on the CPU where MPS was asked for and does not compute for this model what the CPU does."""
    sizes = len(tokenizer), tokenizer.pad_token_id
    probe = models.Probe(probed_of(views), *sizes, settings.share_prefixes, trains=True)
    return models.world_that_agrees(spec, world, probe)


def probed_of(views: dict[str, schedule.Data]) -> list[forest.TokenTree]:
    """The examples that the parity probes look at: the longest is among them."""
    return [*views["train"].trees[:2], longest_of(schedule.all_trees(views))]


def check_rates(trees: Sequence[forest.TokenTree], settings: TrainSettings) -> None:
    """Raises UserError where the config's learning rates are none for a run on these trees; says where their
    peak is not reached."""
    order = schedule.order_of(trees, settings.batch_size, settings.seed, settings.shuffle)
    num_examples = settings.total_examples(schedule.num_examples(trees))
    num_steps = order.num_steps(num_examples)
    optimization.learning_rates(settings, num_steps)
    optimization.warn_of_warmup(settings, num_steps)


def longest_of(several: list[Sequence[forest.TokenTree]]) -> forest.TokenTree:
    """The first tree of the longest path."""
    lengths = [forest.column(trees, "path_tokens") for trees in several]
    longest = max(range(len(several)), key=lambda i: lengths[i].max())
    return several[longest][int(lengths[longest].argmax())]


def with_references(
    policy: models.Scorer,
    fingerprint: str,
    views: dict[str, schedule.Data],
    packing: schedule.Packing,
    world: ranks.World,
    settings: TrainSettings,
) -> dict[str, schedule.Data]:
    """The views with the reference log-probs of all that the run will see."""
    fill = functools.partial(
        reference.reference_logps, policy, fingerprint=fingerprint, packing=packing, world=world
    )
    num_examples = settings.total_examples(schedule.num_examples(views["train"].trees))
    order = schedule.order_of(views["train"].trees, settings.batch_size, settings.seed, settings.shuffle)
    seen = {"train": order.seen(num_examples)}
    trees = {name: fill(view.trees, wanted=seen.get(name)) for name, view in views.items()}
    filled = {}
    for name, view in views.items():
        mismatched = view.mismatched and fill(view.mismatched, wanted=seen.get(name))
        filled[name] = schedule.Data(trees[name], mismatched)
    return filled


def check_room(
    claim: runs.folder.Claim, policy: models.Scorer, world: ranks.World, settings: TrainSettings
) -> None:
    """Raises UserError, before any work, where the disk cannot hold a checkpoint."""
    moments = optimization.moments_per_weight(settings)
    ranks.on_main(world, lambda: runs.run.check_room(claim, policy, moments))


def resumed(claim, policy, optimizer, world: ranks.World, settings: TrainSettings) -> runs.run.State | None:
    """The state of the run's newest checkpoint, loaded; None where the run begins."""
    if settings.resume == "never" or settings.debug:
        return None
    ranks.on_main(world, lambda: runs.run.check_claim(claim))
    return runs.checkpoint.load_latest(claim.path, policy, optimizer, world)


# --- plan=true ----------------------------------------------------------------------------------------------


def plan_text(
    settings: TrainSettings, spec: models.PolicySpec, views: dict[str, schedule.Data], pad_id: int
) -> str:
    """What the run would take, from the model's config and the data's lengths."""
    if settings.lora.quantize:
        problem = "plan=true knows no 4-bit models; set it to null, which needs more memory"
        raise UserError(f"config key lora.quantize={settings.lora.quantize}: {problem}")
    attention = "flex_attention" if settings.attention == "auto" else settings.attention  # what a GPU takes
    packing = schedule.packing_of(settings, views, attention, "cuda", pad_id)
    moments = optimization.moments_per_weight(settings)
    setup = runs.plan.setup_of(settings, attention, moments)
    policy = models.empty_policy(runs.plan.spec_for_plan(spec, attention))
    trees = views["train"].trees
    num_examples = settings.total_examples(schedule.num_examples(trees))
    order = schedule.order_of(trees, settings.batch_size, settings.seed, settings.shuffle)
    head = runs.plan.model_line(policy)
    forecast = runs.plan.forecast(policy, views["train"], order, num_examples, packing, setup)
    return head + runs.plan.plan_text(forecast, setup.world_size, settings, packing.max_tokens)


def command() -> None:
    """The command, as `python train.py` and as `grove-train`."""
    enter(DOOR, main)


if __name__ == "__main__":
    command()
