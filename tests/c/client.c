/* Submits a job and fetches a file with ZeroMQ and the generated header alone.
 *
 * Usage: client MASTER STORAGE JOB_UUID TASKS DESCRIPTION FILE_UUID
 * UUIDs and the description as hexadecimal digits. Prints "accepted", then the file's bytes. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "remuda.h"

static void fail(const char *what) {
    fprintf(stderr, "client: %s\n", what);
    exit(1);
}

static size_t unhex(const char *text, uint8_t *bytes, size_t room) {
    size_t length = strlen(text) / 2;
    if (length > room) fail("too many digits");
    for (size_t at = 0; at < length; at++) {
        unsigned byte;
        if (sscanf(text + 2 * at, "%2x", &byte) != 1) fail("not hexadecimal");
        bytes[at] = (uint8_t)byte;
    }
    return length;
}

static void uuid(const char *text, uint64_t *upper, uint64_t *lower) {
    uint8_t bytes[16];
    if (unhex(text, bytes, sizeof bytes) != 16) fail("not a UUID");
    *upper = *lower = 0;
    for (int at = 0; at < 8; at++) {
        *upper = *upper << 8 | bytes[at];
        *lower = *lower << 8 | bytes[at + 8];
    }
}

static void *dial(void *context, const char *address) {
    void *socket = zmq_socket(context, ZMQ_DEALER);
    int patience = 20000, linger = 0;
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof patience);
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    if (zmq_connect(socket, address) != 0) fail("connect");
    return socket;
}

static struct generic_message header(uint8_t type, size_t length) {
    struct generic_message head = {
        .message_type = type, .node_uuid_upper = 0xc, .node_uuid_lower = 1, .header_length = length};
    return head;
}

/* Waits for a frame whose first record has the given type. */
static size_t await(void *socket, uint8_t type, uint8_t *frame, size_t room) {
    for (;;) {
        int length = zmq_recv(socket, frame, room, 0);
        if (length < (int)sizeof(struct generic_message)) fail("no answer");
        if ((size_t)length > room) fail("the answer is too long");
        if (frame[0] == type) return (size_t)length;
        if (frame[0] == REMUDA_ERROR_REPLY) fail("refused");
    }
}

int main(int count, char **arguments) {
    static uint8_t frame[1 << 20], description[4096];
    if (count != 7) fail("usage: client MASTER STORAGE JOB TASKS DESCRIPTION FILE");
    void *context = zmq_ctx_new();
    void *master = dial(context, arguments[1]);

    struct hello hello = {
        .header = header(REMUDA_HELLO, sizeof hello),
        .envelope = {.generation = 1, .sequence = 1},
        .protocol_version = 1,
        .role = 0};
    zmq_send(master, &hello, sizeof hello, 0);
    await(master, REMUDA_HELLO_REPLY, frame, sizeof frame);
    struct hello_reply welcome;
    memcpy(&welcome, frame, sizeof welcome);

    size_t described = unhex(arguments[5], description, sizeof description);
    struct job_submit submit = {
        .header = header(REMUDA_JOB_SUBMIT, sizeof submit),
        .envelope = {.body_length = described, .request_id = 1, .generation = 1, .sequence = 2},
        .session_index = welcome.applied_index,
        .task_count = strtoull(arguments[4], NULL, 10),
        .program_kind = 1,
        .description_length = described};
    uuid(arguments[3], &submit.job_uuid_upper, &submit.job_uuid_lower);
    memcpy(frame, &submit, sizeof submit);
    memcpy(frame + sizeof submit, description, described);
    zmq_send(master, frame, sizeof submit + described, 0);
    await(master, REMUDA_JOB_ACCEPTED, frame, sizeof frame);
    struct job_accepted accepted;
    memcpy(&accepted, frame, sizeof accepted);
    if (accepted.job_uuid_lower != submit.job_uuid_lower || accepted.envelope.request_id != 1)
        fail("the answer is of another job");
    printf("accepted\n");

    /* As given: no envelope, no hello. */
    void *storage = dial(context, arguments[2]);
    struct file_request request = {.header = header(REMUDA_FILE_REQUEST, sizeof request)};
    uuid(arguments[6], &request.file_uuid_upper, &request.file_uuid_lower);
    zmq_send(storage, &request, sizeof request, 0);
    size_t length = await(storage, REMUDA_FILE_RESPONSE, frame, sizeof frame);
    struct file_response response;
    memcpy(&response, frame, sizeof response);
    size_t head = response.header.header_length;
    if (head + response.file_length != length) fail("the file is cut short");
    fwrite(frame + head, 1, response.file_length, stdout);

    zmq_close(master);
    zmq_close(storage);
    zmq_ctx_term(context);
    return 0;
}
