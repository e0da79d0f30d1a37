"""When is which architecture enough? Trains tiny models of three kinds on three tasks and compares them.

    python benchmarks/evidence_study.py train        # until done, or --seconds; call it again to go on
    python benchmarks/evidence_study.py export
    python benchmarks/evidence_study.py compare --json benchmarks/results/evidence_study.json

The tasks differ in where the evidence stands (`examples/evidence_tasks.py`), the models in what they can see
at once (`evidence_models.py`). Everything follows from `--seed`. All steps keep their results in `--folder`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LONGSERVE = str(Path(sys.executable).with_name("longserve"))
DEFAULT_FOLDER = ROOT / "build" / "evidence_study"
ORDER = ("local", "scattered", "far")
ARCHITECTURES = ("longformer", "bigbird", "bert")


def train(folder: Path, *, seed: int, seconds: float, architectures: list[str]) -> bool:
    """Train what is not trained yet; return whether everything is.

    Args:
        folder: keeps the trained models, and the states of those that are under way.
        seed: of weights and documents.
        seconds: stop after these.
        architectures: which ones.
    """
    import transformers
    from evidence_models import BERT_WINDOW, Training, load_tokenizer

    transformers.logging.set_verbosity_error()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for architecture in architectures:
        for stage in ("base", *ORDER):
            training = Training(architecture=architecture, stage=stage, seed=seed)
            state = folder / f"{stage}-{architecture}.pt"
            if state.exists():
                training.load(state)
            elif stage != "base":
                base = Training(architecture=architecture, stage="base", seed=seed)
                base.load(folder / f"base-{architecture}.pt")
                training.begin_with(base)
            checkpoint = folder / "checkpoints" / f"{stage}-{architecture}"
            written = stage == "base" or (checkpoint / "training.json").exists()
            if training.step >= training.steps and written:
                continue
            done = training.run(seconds - (time.monotonic() - began))
            training.save(state)
            print(
                f"{architecture} {stage}: step {training.step}, {training.seconds:.0f} s, {training.losses}"
            )
            if not done:
                return False
            if stage == "base":
                continue
            training.model.save_pretrained(checkpoint)
            tokenizer = load_tokenizer(BERT_WINDOW if architecture == "bert" else 1536)
            tokenizer.save_pretrained(checkpoint)
            facts = {
                "steps": training.step,
                "seconds": round(training.seconds),
                "seed": seed,
                "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
            }
            (checkpoint / "training.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    return True


def export(folder: Path, architectures: list[str]) -> None:
    """Export every trained model that is no bundle yet, compared with PyTorch."""
    for architecture in architectures:
        for task in ORDER:
            name = f"{task}-{architecture}"
            if (folder / "bundles" / name).exists():
                continue
            command = [LONGSERVE, "export", str(folder / "checkpoints" / name)]
            command += ["--task", "text-classification", "-o", str(folder / "bundles" / name)]
            subprocess.run(command, check=True)


def compare(folder: Path, architectures: list[str], documents: int) -> dict[str, Any]:
    """Run `longserve compare` on each task's held-out documents; return what it found."""
    sys.path.insert(0, str(ROOT / "examples"))
    from evidence_tasks import held_out, write_jsonl

    found = {}
    began = time.monotonic()
    for task in ORDER:
        source, result = folder / f"{task}.jsonl", folder / f"{task}.json"
        write_jsonl(held_out(task, documents), source)
        models = [f"{name}={folder / 'bundles' / f'{task}-{name}'}" for name in architectures]
        command = [LONGSERVE, "compare", str(source), "--models", *models]
        command += ["--json", str(result), "--html", str(folder / f"{task}.html")]
        subprocess.run(command, check=True)
        found[task] = _without_paths(json.loads(result.read_text(encoding="utf-8")))
        for model in found[task]["models"]:
            facts = folder / "checkpoints" / f"{task}-{model['name']}" / "training.json"
            model["training"] = json.loads(facts.read_text(encoding="utf-8"))
    return {"seconds": round(time.monotonic() - began, 1), "tasks": found}


def _without_paths(comparison: dict[str, Any]) -> dict[str, Any]:
    """Leave of paths the last part: the rest is this machine's."""
    comparison["source"] = Path(comparison["source"]).name
    for model in comparison["models"]:
        model["bundle"] = Path(model["bundle"]).name
    return comparison


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["train", "export", "compare"])
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--seed", type=int, default=1, help="of training")
    parser.add_argument("--seconds", type=float, default=3600.0, help="end the training early after these")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--documents", type=int, default=400, help="held-out documents of each task")
    parser.add_argument("--json", type=Path, help="write what was found here")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run one step of the study."""
    chosen = parse_arguments(arguments)
    architectures = chosen.architectures.split(",")
    if chosen.step == "train":
        done = train(chosen.folder, seed=chosen.seed, seconds=chosen.seconds, architectures=architectures)
        print("done" if done else "not done yet: call it again")
    elif chosen.step == "export":
        export(chosen.folder, architectures)
    else:
        found = compare(chosen.folder, architectures, chosen.documents)
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
