"""Trajectories of tiny runs, recorded: `python tests/recorded/record.py` writes trajectories.json anew.

Contract: five losses on one process, two of them on two as well, each a run of five steps, and evaluations,
as numbers that compare to the bit on one kind of machine. Record anew only where a change is meant to change
them, and say so in its commit.

    python tests/recorded/record.py            # write trajectories.json beside this file
    python tests/recorded/record.py out.json   # write another file, to compare two commits
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# one way to compute on every processor, where its makers allow that
os.environ |= {
    "ATEN_CPU_CAPABILITY": "default",
    "CUDA_VISIBLE_DEVICES": "",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from helpers import lines, save_tiny, weights  # noqa: E402
from worlds import run_jobs  # noqa: E402

LOSSES = ("sft", "dpo", "kto", "swepo", "gdpo")
RUNS = [*((loss, 1) for loss in LOSSES), ("kto", 2), ("gdpo", 2)]  # and on how many processes
REPORTS = [("beliefs", 1), ("order", 1), ("beliefs", 2)]
TRAINING = [
    "datasets=[opinions/republican]",
    "n_eval_examples=12",
    "pairs_per_prompt=2",
    "batch_size=6",
    "n_examples=30",
    "max_length=256",
    "max_tokens=700",
    "eval_every=12",
    "lr=1e-3",
    "warmup_steps=2",
    "log_every_seconds=0",
    "wandb.enabled=false",
]
EVALUATION = ["n_prompts=8", "n_samples=2", "max_new_tokens=6", "batch_size=5"]
EXACT = ("loss/train", "loss/eval", "grad_norm", "lr", "kl_mismatched_train", "js_distance_eval")


def calls_of(folder: Path, tiny: str, size: int) -> list[tuple[str, list[str]]]:
    """(door, overrides) of everything that a world does, each in a process group of its own."""
    calls = []
    for loss in of_size(RUNS, size):
        names = [f"model.name_or_path={tiny}", f"output_dir={folder}", f"exp_name={loss}", f"loss={loss}"]
        calls.append(("train", [*names, *TRAINING]))
    ranked = [f"datasets=[{folder.parent}/ranked.jsonl]", "split=all", "n_prompts=9", "max_length=64"]
    asked = {"beliefs": ("gdpo", EVALUATION), "order": ("swepo", ranked)}
    for kind in of_size(REPORTS, size):
        loss, own = asked[kind]
        calls.append(("evaluate", [f"ckpt=[{tiny},{folder}/{loss}]", f"output={folder}/{kind}", *own]))
    return calls


def of_size(recorded: list[tuple[str, int]], size: int) -> list[str]:
    """What is done on so many processes."""
    return [name for name, on in recorded if on == size]


def trajectory(folder: Path) -> dict:
    """What one run did."""
    logged = lines(folder)
    digest, squares = hashlib.sha256(), 0.0
    for name, tensor in sorted(weights(folder).items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
        squares += tensor.double().square().sum().item()
    return {
        "numbers": {key: [line[key] for line in logged if key in line] for key in EXACT},
        "keys": [sorted(line) for line in logged],
        "weights": digest.hexdigest(),
        "weights_norm": squares**0.5,
        "files": sorted(path.name for path in folder.iterdir()),
    }


def report(folder: Path) -> dict:
    """What one evaluation said."""
    found = json.loads((folder / "report.json").read_text())
    predictions = (folder / "predictions.jsonl").read_text().splitlines()
    of_any_version = [re.sub(r'"made_by": "[^"]*"', "", line) for line in predictions]
    return {
        "checkpoints": found["checkpoints"],
        "settings": sorted(found["settings"]),
        "predictions": len(predictions),
        "prediction_keys": sorted(json.loads(predictions[0])),
        "predictions_hash": hashlib.sha256("\n".join(of_any_version).encode()).hexdigest(),
    }


def machine() -> dict[str, str]:
    """What the bits may depend on."""
    info = Path("/proc/cpuinfo")  # Linux's; elsewhere nothing is known of the model
    text = info.read_text() if info.exists() else ""
    model = [line for line in text.splitlines() if line.startswith("model name")]
    return {"torch": torch.__version__, "architecture": platform.machine(), "cpu": model[0] if model else ""}


def record() -> dict:
    """Run all worlds in a temporary folder and say what they did."""
    torch.set_num_threads(1)
    result: dict = {"machine": machine(), "runs": {}, "reports": {}}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        os.environ["GROVE_CACHE"] = f"{base}/cache"
        tiny = save_tiny(base / "tiny", max_position_embeddings=2048)
        rows = []
        for i in range(9):
            responses = [{"text": f"It is {j}.", "reward": j} for j in range(2 + i % 3)]
            rows.append(json.dumps({"id": str(i), "prompt": f"Say {i}", "responses": responses}))
        (base / "ranked.jsonl").write_text("\n".join(rows) + "\n")
        for size in (1, 2):
            folder = base / str(size)
            folder.mkdir()
            run_jobs([[size, [call]] for call in calls_of(folder, tiny, size)])
            for loss in of_size(RUNS, size):
                result["runs"][f"{loss} on {size}"] = trajectory(folder / loss)
            for kind in of_size(REPORTS, size):
                result["reports"][f"{kind} on {size}"] = report(folder / kind)
    return result


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "trajectories.json"
    target.write_text(json.dumps(record(), indent=1) + "\n")
