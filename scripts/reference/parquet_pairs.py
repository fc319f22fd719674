"""Parquet files as other programs write them, for the reader's tests.

    python parquet_pairs.py OUT_FOLDER     (pyarrow 26.0.1)

text.parquet: snappy, dictionary, two row groups, extra columns. messages.parquet: zstd, lists of structs, as Hugging Face
datasets has them. ultrafeedback.parquet: gzip, a text prompt beside whole conversations. mistakes.parquet: nulls, numbers,
bytes that are no UTF-8. plain.parquet: binary columns without a text annotation, data page version 2, no compression.
"""
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TEXT = {
    "id": [1, 2, 3],
    "question": ["What is 1+1?", "NA", "Emoji 🤦🏼‍♂️?"],
    "better": ["2", "null", "Yes\r\nindeed"],
    "worse": ["3", "007", "No"],
    "score": [0.5, None, 1.0],
}


def message(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(TEXT), out / "text.parquet", row_group_size=2)
    conversations = {
        "prompt": [[message("user", "Hi")], [message("system", "Be brief."), message("user", "Why?")]],
        "chosen": [[message("assistant", "Hello!")], [message("assistant", "Because.")]],
        "rejected": [[message("assistant", "What?")], [message("assistant", "It depends.")]],
    }
    pq.write_table(pa.table(conversations), out / "messages.parquet", compression="zstd")
    shared = [message("user", "What is the tallest mountain?")]
    ultra = {
        "prompt": ["What is the tallest mountain?"],
        "chosen": [shared + [message("assistant", "Mount Everest.")]],
        "rejected": [shared + [message("assistant", "I do not know.")]],
    }
    pq.write_table(pa.table(ultra), out / "ultrafeedback.parquet", compression="gzip")
    mistakes = {
        "prompt": pa.array([b"fine", b"\xff\xfe", None, b"ok"], pa.binary()),
        "chosen": pa.array(["a", "b", "c", "d"]),
        "rejected": pa.array([1, 2, 3, None], pa.int64()),
    }
    pq.write_table(pa.table(mistakes), out / "mistakes.parquet")
    plain = {name: pa.array([b"p1", b"p2"] if name == "prompt" else [name.encode(), b"x" + name.encode()], pa.binary())
             for name in ("prompt", "chosen", "rejected")}
    pq.write_table(pa.table(plain), out / "plain.parquet", compression="none", data_page_version="2.0", use_dictionary=False)


main(Path(sys.argv[1]))
