"""Reads with pyarrow what the project writes with parquetjs-lite, and says whether it is whole.

    python check_parquet.py DATA_FOLDER [SOURCE_CSV]     (pyarrow 26.0.1)

DATA_FOLDER is a run's `data/`. Every split's token ids must agree with its pairs in number and rows; with SOURCE_CSV
(columns prompt, chosen, rejected) every pair must equal its row there, byte for byte.
"""
import csv
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def main(folder: Path, source: Path | None) -> None:
    records = None
    if source is not None:
        with open(source, encoding="utf-8-sig", newline="") as file:
            records = [None] + list(csv.DictReader(file))
    for name in ("train", "validation", "test"):
        if not (folder / f"{name}.parquet").exists():
            continue
        table = pq.read_table(folder / f"{name}.parquet")
        pairs = table.to_pylist()
        assert table.schema.names == ["row", "prompt", "chosen", "rejected", "form"], table.schema
        if records is not None:
            for pair in pairs:
                record = records[pair["row"]]
                assert all(pair[k] == record[k] for k in ("prompt", "chosen", "rejected")), pair["row"]
        print(f"{name}: {len(pairs)} pairs, {pq.ParquetFile(folder / f'{name}.parquet').num_row_groups} row groups")
        tokens_path = folder / f"tokens-{name}.parquet"
        if tokens_path.exists():
            tokens = pq.read_table(tokens_path).to_pylist()
            assert {t["row"] for t in tokens} <= {p["row"] for p in pairs}
            lengths = []
            for t in tokens:
                for side in ("chosen", "rejected"):
                    ids = np.frombuffer(t[side], dtype="<i4")
                    assert 0 < t[f"{side}_prompt_length"] < len(ids) and ids.min() >= 0
                    lengths.append(len(ids))
            print(f"  tokens: {len(tokens)} pairs, {sum(lengths)} ids, longest {max(lengths)}")


main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
