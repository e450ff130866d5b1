"""Files of the tasks' own data sets on the hub, fetched once into its cache.

Contract: what cannot be fetched is a UserError of one line that names the key for a local file.
"""

from __future__ import annotations

from pathlib import Path

from groups import read_rows
from groups.kinds import is_finite_number
from groups.values import parsed
from metrics import Gamed
from utils import UserError, log

ALPACA = "tatsu-lab/alpaca_eval"
ARENA = "lmarena-ai/arena-hard-auto"
QUESTIONS = {  # of a task: a data set, or a file of one
    "alpaca_eval": (ALPACA, "alpaca_eval.json"),
    "mt_bench": ("HuggingFaceH4/mt_bench_prompts", ""),
    "arena_hard": (ARENA, "data/arena-hard-v2.0/question.jsonl"),
}
DIFFICULTY, GAMED = "instruction_difficulty.csv", "df_gamed.csv"
GAMED_COLUMNS = ("std_delta_len", "preference", "instruction_difficulty")


def questions_of(task: str) -> tuple[str, str]:
    """A task's own questions: their name on the hub, and the path of their file or the name of their data
    set."""
    repo, name = QUESTIONS[task]
    if not name:
        return repo, repo
    return f"{repo}/{name}", fetch(repo, name, f"task={task}", "prompts=<file>")


def fetch(repo: str, name: str, what: str, remedy: str) -> str:
    """The path of a data set's file in the hub's cache. what, remedy: for the error where there is none."""
    import huggingface_hub

    try:
        return huggingface_hub.hf_hub_download(repo, name, repo_type="dataset")
    # no network, no such file, no access; httpx raises its own where a host is not known
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        raise UserError(f"{what}: {name} of {repo} cannot be fetched ({reason}); give {remedy}") from error


def beside(questions: str, name: str, is_default: bool) -> Path | None:
    """A file of AlpacaEval 2's: beside the questions, or, where those are the task's own, on the hub. None
    where there is none."""
    path = Path(questions).parent / name
    if path.is_file():
        return path
    if not is_default:
        return None
    try:
        return Path(fetch(ALPACA, name, "task=alpaca_eval", "the file beside the questions"))
    except UserError as error:
        log.warning("%s; LC-WR goes without it", error)
        return None


def read_difficulty(path: Path) -> dict[int, float]:
    """The difficulty of each instruction, by its number from 0 on. Raises UserError for what is no number."""
    values: dict[int, float] = {}
    for number, row in enumerate(read_rows(path)):
        value = parsed(row.get("instruction_difficulty"))
        index = parsed(row.get("", row.get("index", number)))
        if not is_finite_number(value) or not isinstance(index, int):
            raise UserError(
                f"{path}, row {number + 1}: field instruction_difficulty: needs a number and the index of "
                "its instruction; correct the file or remove it"
            )
        values[index] = float(value)
    return values


def read_gamed(path: Path) -> Gamed:
    """The judged answers of the baselines that were told to be concise or verbose. Raises UserError where a
    value is no number."""
    columns: dict[str, list[float]] = {name: [] for name in GAMED_COLUMNS}
    for number, row in enumerate(read_rows(path), 1):
        for name, values in columns.items():
            if not is_finite_number(row.get(name)):
                raise UserError(f"{path}, row {number}: field {name}: needs a number; fetch the file again")
            values.append(float(parsed(row[name])))
    outside = next((n for n, share in enumerate(columns["preference"], 1) if not 0 <= share <= 1), None)
    if outside is not None:
        raise UserError(
            f"{path}, row {outside}: field preference: is no share from 0 to 1; fetch the file again"
        )
    return Gamed(*columns.values())
