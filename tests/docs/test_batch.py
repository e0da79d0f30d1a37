"""The page on bulk scoring: its commands and its Python run as they stand, in one directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="bulk scoring needs the extra [batch]")
pq = pytest.importorskip("pyarrow.parquet", reason="bulk scoring needs the extra [batch]")

PAGE = Path(__file__).parents[2] / "docs" / "batch.md"
BLOCK = re.compile(r"^(<!-- not run here: [^\n]* -->\n)?```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_spark(code: str, names: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Run the part that needs Spark, where Spark and Java are installed."""
    assert "pyspark" in code
    if find_spec("pyspark") is None or find_spec("pandas") is None or shutil.which("java") is None:
        return
    from pyspark.sql import SparkSession

    pq.write_table(pa.Table.from_pylist(rows), "letters.parquet")
    with SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate() as session:
        exec(compile(code, str(PAGE), "exec"), {**names, "spark": session})
    made = pq.read_table("by-spark.parquet").to_pylist()
    assert len(made) == len(rows)
    assert all(row["result"]["label"] and not row["result"]["error"] for row in made)


def test_the_page_runs(
    classification_bundle: Path, qa_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "topics").symlink_to(classification_bundle)
    (tmp_path / "bundles" / "qa").symlink_to(qa_bundle)
    rows = [{"id": index, "text": f"the fox counted {index} lanterns"} for index in range(5)]
    for name in ("letters", "contracts"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    names: dict[str, Any] = {}
    for skipped, language, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if "--engine ray" in code and find_spec("ray") is None:
            continue
        if skipped:
            run_spark(code, names, rows)
            continue
        if language == "sh":
            subprocess.run(["bash", "-ec", code], check=True, timeout=120)
        else:
            exec(compile(code, str(PAGE), "exec"), names)
    assert pq.read_table("labels.parquet").column("id").to_pylist() == ["0", "1", "2", "3", "4"]
    assert pq.read_table("answers.parquet").column("error").null_count == 5
    assert len(pq.read_table("top3.parquet").column("scores")[0]) == 3
    spark = names["make_predict"]()(np.array(["the fox", ""], dtype=object))
    assert spark["label"][0] and not spark["label"][1] and "empty" in spark["error"][1]
