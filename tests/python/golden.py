"""Reads the golden bytes of the five given structs with Python's `struct` alone, both ways.

Usage: golden.py GOLDEN_FILE. Prints how many records were compared.
"""

import struct
import sys

HEADER = ["message_type", "node_uuid_upper", "node_uuid_lower", "header_length"]
JOB = ["job_uuid_upper", "job_uuid_lower"]
FILE = ["file_uuid_upper", "file_uuid_lower"]

# Packed and little-endian ("<"), as docs/protocol.md gives them.
RECORDS = {
    "generic_message": ("<BQQQ", HEADER),
    "worker_request": ("<BQQQQQQQ", HEADER + JOB + ["program_length", "num_input_files"]),
    "worker_status": ("<BQQQQQB", HEADER + JOB + ["state"]),
    "file_request": ("<BQQQQQ", HEADER + FILE),
    "file_response": ("<BQQQQQQ", HEADER + FILE + ["file_length"]),
}


def compare(record, values, body, golden):
    """Compares one record; `values` are its fields in order, as (name, value)."""
    layout, names = RECORDS[record]
    assert [name for name, _ in values] == names, f"{record}: other fields"
    numbers = tuple(value for _, value in values)
    length = struct.calcsize(layout)
    assert values[3][1] == length, f"{record}: header_length is not {length}"
    assert struct.unpack_from(layout, golden) == numbers, f"{record}: other values"
    assert struct.pack(layout, *numbers) + body == golden, f"{record}: other bytes"


def main(path):
    compared = set()
    record, values, body = "", [], b""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            word, *rest = line.split() or [""]
            if word == "record":
                record, values = rest[0], []
            elif word == "field":
                values.append((rest[0], int(rest[1], 16)))
            elif word == "body":
                body = bytes.fromhex("".join(rest))
            elif word == "bytes":
                compare(record, values, body, bytes.fromhex(rest[0]))
                compared.add(record)
    assert compared == set(RECORDS), f"only {compared} were compared"
    print(f"{len(compared)} records")


if __name__ == "__main__":
    main(sys.argv[1])
