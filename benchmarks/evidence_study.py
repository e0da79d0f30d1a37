"""When is which architecture enough? Trains tiny models of three kinds on three tasks and compares them.

    python benchmarks/evidence_study.py train        # until done, or --seconds; call it again to go on
    python benchmarks/evidence_study.py export
    python benchmarks/evidence_study.py compare --json benchmarks/results/evidence_study.json
    python benchmarks/evidence_study.py table --json benchmarks/results/evidence_study.json

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


def export(folder: Path, architectures: list[str]) -> bool:
    """Export every trained model that is no bundle yet, compared with PyTorch; return whether all are."""
    done = True
    for architecture in architectures:
        for task in ORDER:
            name = f"{task}-{architecture}"
            if (folder / "bundles" / name).exists():
                continue
            command = [LONGSERVE, "export", str(folder / "checkpoints" / name)]
            command += ["--task", "text-classification", "-o", str(folder / "bundles" / name)]
            done &= subprocess.run(command, check=False).returncode == 0
    return done


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


def tables(found: dict[str, Any]) -> str:
    """Return what the documentation shows of a study: quality and cost, one row for each task and model."""
    lines = [
        "| evidence | model | macro-F1, % | one window holds it | none does | ms, 129 to 512 tokens "
        "| ms, 1025 to 2048 | documents/s | peak MB | taken |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task, comparison in found["tasks"].items():
        advice = comparison["recommendation"]
        for model in comparison["models"]:
            reach = model["by_reach"]
            whole = [reach[name] for name in reach if name.startswith("whole")]
            taken = ("yes" if advice["firm"] else "not firmly") if model["name"] == advice["model"] else ""
            cells = [
                task,
                model["name"],
                f"{100 * model['metrics']['macro-F1']:.1f}",
                _right(whole),
                _right([reach[name] for name in reach if name.startswith("in no")]),
                *(
                    f"{1000 * model['latency'][name]['median']:.1f}"
                    for name in ("129 to 512", "1025 to 2048")
                ),
                f"{model['documents_per_second']:.0f}",
                f"{model['peak_bytes'] / 1e6:.0f}",
                taken,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _right(groups: list[dict[str, Any]]) -> str:
    """Percentage of right documents of groups together, and how many they are."""
    count = sum(group["documents"] for group in groups)
    if not count:
        return ""
    return f"{100 * sum(g['documents'] * g['score'] for g in groups) / count:.1f} % of {count}"


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
    parser.add_argument("step", choices=["train", "export", "compare", "table"])
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--seed", type=int, default=1, help="of training")
    parser.add_argument("--seconds", type=float, default=3600.0, help="end the training early after these")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--documents", type=int, default=400, help="held-out documents of each task")
    parser.add_argument("--json", type=Path, help="what was found: `compare` writes it, `table` reads it")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run one step of the study."""
    chosen = parse_arguments(arguments)
    architectures = chosen.architectures.split(",")
    if chosen.step == "train":
        done = train(chosen.folder, seed=chosen.seed, seconds=chosen.seconds, architectures=architectures)
        print("done" if done else "not done yet: call it again")
    elif chosen.step == "export":
        print("done" if export(chosen.folder, architectures) else "a model was not exported: see above")
    elif chosen.step == "table":
        print(tables(json.loads(chosen.json.read_text(encoding="utf-8"))))
    else:
        found = compare(chosen.folder, architectures, chosen.documents)
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
