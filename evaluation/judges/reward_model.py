"""A reward model as the judge: any sequence-classification model with one output.

Contract: a score is a function of the model and of the conversation's token ids; what is scored beside it
changes no more than rounding. It is kept on the disk by a hash of both. Nothing that comes with the model is
executed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

import devices
import models
from chat import Reply, Store
from evaluation.judges.record import Answered, Compared, prefer_by_score
from groups import Prompt
from network import prepare_for_hub
from utils import UserError, cache_dir, log, one_line

BATCH_TOKENS = 16 * 1024  # of one pass, padding included
POSITIONS = ("max_position_embeddings", "n_positions")  # what configs call the longest sequence
NOT_OF_SCORES = ("_name_or_path", "transformers_version", "dtype")  # entries of a config

Ids = tuple[int, ...]


class RewardModelJudge:
    """Scores responses by a reward model's scalar: a `ScoreJudge`, and a `PairJudge` that compares scalars.

    source: an HF folder or a hub name. Config and tokenizer are read at once, the weights when the first
    response is scored. device: as a config asks for it; the CPU for MPS, where nothing checks the scores.
    Raises UserError for what cannot be loaded or has other than one output.
    """

    def __init__(self, source: str, device: str = "auto"):
        self.source, self.device = source, "cpu" if device == "mps" else device
        self.name = f"reward model {Path(source).absolute().name if Path(source).is_dir() else source}"
        prepare_for_hub(source)
        with _loading(source):
            self.config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            self.tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if self.config.num_labels != 1:
            raise UserError(
                f"judge_model={source}: has {self.config.num_labels} labels, not the one of a reward model; "
                "give a sequence-classification model that was trained with num_labels=1"
            )
        self.text_config = self.config.get_text_config()
        padding_id = self.text_config.pad_token_id  # some configs say -1 where there is none
        self.padding_id = None if padding_id is None or padding_id < 0 else padding_id
        self.counted = dict.fromkeys(("asked", "cached", "truncated", "prompt_tokens"), 0)

    @functools.cached_property
    def model(self) -> PreTrainedModel:
        """The model with its weights, on the GPU where there is one. Raises UserError where some are not
        there: they would be made up."""
        device = devices.choose(self.device)
        how = {"dtype": "auto" if device.type == "cuda" else torch.float32, "trust_remote_code": False}
        with _loading(self.source):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                self.source, output_loading_info=True, **how
            )
            models.refuse_strangers(self.source, info["missing_keys"], info["unexpected_keys"])
        return model.eval().to(device)

    @functools.cached_property
    def length(self) -> float:
        """The most tokens of a conversation that the model takes."""
        positions = [n for name, n in self.text_config.to_dict().items() if name in POSITIONS and n]
        for name, table in self.model.named_modules():
            if name.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding):
                first = 0 if table.padding_idx is None else table.padding_idx + 1  # as RoBERTa counts
                positions.append(table.num_embeddings - first)
        return min(self.tokenizer.model_max_length, *positions, math.inf)

    @functools.cached_property
    def vocab_size(self) -> int:
        """How many token ids the model knows."""
        return self.model.get_input_embeddings().weight.shape[0]

    @functools.cached_property
    def store(self) -> Store:
        """The scores of these weights, as replies whose text is the number."""
        return Store(cache_dir() / "judges" / f"reward-{_fingerprint(self.model)}.jsonl")

    def scores(self, responses: Sequence[Answered | tuple[Prompt, str]]) -> list[float | None]:
        """The model's scalar for each response behind its prompt; a reference answer is not read.

        Messages go through the tokenizer's chat template, a text as one user message. Without a template, the
        prompt's texts and the response stand on lines of their own. Raises UserError for a conversation that
        the template refuses, and for a scalar that is no finite number.
        """
        given = [Answered(*response) for response in responses]
        of_responses = [self._ids(answered) for answered in given]
        distinct = list(dict.fromkeys(of_responses))
        digests = {ids: _digest(ids) for ids in distinct}
        new = [ids for ids in distinct if self.store.get(digests[ids]) is None]
        self.counted["cached"] += len(distinct) - len(new)
        with tqdm(total=len(new), desc=f"{self.name}: scores", unit="response", disable=not new) as bar:
            for batch in self._batches(new):
                for ids, value in zip(batch, self._pass(batch)):
                    self._keep(ids, digests[ids], value)
                bar.update(len(batch))
        return [float(self.store.get(digests[ids]).text) for ids in of_responses]

    def preferences(self, pairs: Sequence[Compared]) -> list[float | None]:
        """1 where the policy's response has the higher scalar, 0 where the baseline's, 0.5 where they are
        equal."""
        return prefer_by_score(self, pairs)

    def counts(self) -> Mapping[str, int]:
        """Distinct conversations that were scored now or known from before, those cut to the model's length,
        and the tokens of what was scored now."""
        return dict(self.counted)

    # --- texts ----------------------------------------------------------------------------------------------

    def _ids(self, answered: Answered) -> Ids:
        """A conversation's token ids, cut as the tokenizer cuts where they are more than the model takes."""
        text = self._text(answered)
        special = not self.tokenizer.chat_template  # which writes them itself
        ids = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        if len(ids) > self.length:
            cut = {"truncation": True, "max_length": int(self.length)}
            ids = self.tokenizer(text, add_special_tokens=special, **cut)["input_ids"]
            self._note_truncated()
        if max(ids, default=0) >= self.vocab_size:
            raise UserError(
                f"judge {self.name}: its tokenizer gives token id {max(ids)}, and the model knows "
                f"{self.vocab_size} tokens; put the tokenizer into the folder that the model was trained with"
            )
        return tuple(ids)

    def _text(self, answered: Answered) -> str:
        prompt, response = answered.prompt, answered.response
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if not self.tokenizer.chat_template:
            return "\n".join([*(message["content"] for message in messages), response])
        messages = [*messages, {"role": "assistant", "content": response}]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # templates raise what they like
            raise UserError(
                f"judge {self.name}: its chat template refuses a conversation ({one_line(error)[:160]}); "
                "correct the prompt's roles and their order"
            ) from error

    def _note_truncated(self) -> None:
        if not self.counted["truncated"]:
            log.warning("%s: what is longer than %d tokens is cut, and counted", self.name, self.length)
        self.counted["truncated"] += 1

    # --- passes ---------------------------------------------------------------------------------------------

    def _batches(self, texts: Sequence[Ids]) -> Iterator[list[Ids]]:
        """Texts of like length together, the longest first: what does not fit in memory fails at once."""
        most = BATCH_TOKENS
        if self.padding_id is None:
            most = min(most, self.text_config.vocab_size - 1)  # so that an id is left to pad with
        batch: list[Ids] = []
        for ids in sorted(texts, key=len, reverse=True):
            if batch and len(batch[0]) * (len(batch) + 1) > most:
                yield batch
                batch = []
            batch.append(ids)
        if batch:
            yield batch

    @torch.inference_mode()
    def _pass(self, batch: Sequence[Ids]) -> list[float]:
        """The scalars of a batch, padded on the right, where no token of a text sees it."""
        padding = self._padding_of(batch)
        if self.padding_id is None:  # the model reads its score at the last token that is no padding
            self.model.config.get_text_config().pad_token_id = padding
        rows = pad_sequence([torch.tensor(ids) for ids in batch], batch_first=True, padding_value=padding)
        lengths = torch.tensor(list(map(len, batch)))
        mask = (torch.arange(rows.shape[1]) < lengths[:, None]).long()
        device = self.model.device
        logits = self.model(input_ids=rows.to(device), attention_mask=mask.to(device)).logits  # (B, 1)
        return logits[:, 0].float().tolist()

    def _padding_of(self, batch: Sequence[Ids]) -> int:
        """The id to pad with: the model's, else one that no text of the batch holds."""
        if self.padding_id is not None:
            return self.padding_id
        used = set().union(*batch)
        free = (number for number in range(self.text_config.vocab_size) if number not in used)
        return next(free, 0)  # none is left where the batch is one long text: it needs none

    def _keep(self, ids: Ids, digest: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"judge {self.name}: gives {value} for {self.tokenizer.decode(ids)[-80:]!r}; its weights are "
                "damaged or overflow in their dtype: fetch or save it again in float32"
            )
        self.store.put(digest, Reply(repr(value), "stop", len(ids), 0))
        self.counted["asked"] += 1
        self.counted["prompt_tokens"] += len(ids)


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Raises UserError for whatever goes wrong: what a folder holds can be damaged in any way."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"judge_model={source}: cannot be loaded ({one_line(error)[:200]}); "
            "give an HF folder or a hub name of a sequence-classification model"
        ) from error


def _digest(ids: Ids) -> str:
    return hashlib.blake2b(json.dumps(ids).encode(), digest_size=16).hexdigest()


def _fingerprint(model: PreTrainedModel) -> str:
    """A hash of all that determines a score but the token ids: weights, config, device, versions."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_OF_SCORES}
    made_of = [config, model.device.type, models.versions()]
    digest = hashlib.blake2b(json.dumps(made_of, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
