"""Submits a job and fetches a file with pyzmq and `struct` alone, as docs/protocol.md says.

Usage: client.py MASTER STORAGE JOB_UUID TASKS DESCRIPTION FILE_UUID
UUIDs and the description as hexadecimal digits. Prints "accepted", then the file's bytes.
"""

import struct
import sys

import zmq

HEADER = "<BQQQ"
ENVELOPE = "QQQQ"
NODE = (0xD, 1)

FILE_REQUEST, FILE_RESPONSE = 0x03, 0x04
HELLO, HELLO_REPLY, ERROR_REPLY = 0x08, 0x09, 0x0A
JOB_SUBMIT, JOB_ACCEPTED = 0x10, 0x11


def halves(uuid):
    """Upper and lower half of a UUID."""
    number = int(uuid, 16)
    return number >> 64, number & (2**64 - 1)


def record(kind, layout, values, body=b"", request=0, sequence=0):
    """A record of our own: header, envelope, fields, body."""
    layout = HEADER + ENVELOPE + layout
    length = struct.calcsize(layout)
    envelope = (len(body), request, 1, sequence)
    return struct.pack(layout, kind, *NODE, length, *envelope, *values) + body


def dial(context, address):
    """A socket that gives up after a while."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.RCVTIMEO, 20_000)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(address)
    return socket


def wait_for(socket, kind):
    """The next frame that begins with a record of this kind."""
    while True:
        frame = socket.recv()
        if frame[0] == kind:
            return frame
        assert frame[0] != ERROR_REPLY, f"refused: {frame!r}"


def main(master, storage, job, tasks, description, file):
    context = zmq.Context()
    to_master = dial(context, master)
    to_master.send(record(HELLO, "IBQQQQQ", (1, 0, 0, 0, 0, 0, 0), sequence=1))
    welcome = wait_for(to_master, HELLO_REPLY)
    at = struct.calcsize(HEADER + ENVELOPE + "IBQQQ")
    (applied_index,) = struct.unpack_from("<Q", welcome, at)

    description = bytes.fromhex(description)
    values = (*halves(job), applied_index, 0, 0, int(tasks), 1, 0, 0, len(description))
    submit = record(JOB_SUBMIT, "QQQQQQBQQQ", values, description, request=1, sequence=2)
    to_master.send(submit)
    accepted = wait_for(to_master, JOB_ACCEPTED)
    answered = struct.unpack_from("<QQ", accepted, struct.calcsize(HEADER + ENVELOPE))
    assert answered == halves(job), "the answer is of another job"
    sys.stdout.buffer.write(b"accepted\n")

    # As given: no envelope, no hello.
    to_storage = dial(context, storage)
    layout = HEADER + "QQ"
    length = struct.calcsize(layout)
    to_storage.send(struct.pack(layout, FILE_REQUEST, *NODE, length, *halves(file)))
    response = wait_for(to_storage, FILE_RESPONSE)
    (_, _, _, head, _, _, file_length) = struct.unpack_from("<BQQQQQQ", response)
    assert head + file_length == len(response), "the file is cut short"
    sys.stdout.buffer.write(response[head:])
    context.destroy(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
