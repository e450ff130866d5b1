"""What tests of files need: the same rows in every kind of file, compressed or not."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
COMPRESSIONS = ("", ".gz", ".zst")


def write_rows(path, rows):
    """Write rows into a file of the kind that its name says, compressed where its name says so."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    plain = path.with_name(f"plain-{name}")
    KINDS["." + name.rpartition(".")[2]](plain, rows)
    content = plain.read_bytes()
    plain.unlink()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        with pyarrow.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
        return path
    path.write_bytes(content)
    return path


def _lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _json(path, rows):
    path.write_text(json.dumps(rows))


def _table(path, rows, delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def _tabs(path, rows):
    _table(path, rows, "\t")


def _parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=20)


def _arrow(path, rows):
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=20)


KINDS = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _tabs,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
