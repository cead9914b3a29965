/* Reads the golden bytes of the five given structs through the generated header, both ways: the
 * bytes into a struct whose fields must have the golden values, and the values into a struct that
 * must have the golden bytes.
 *
 * Usage: golden GOLDEN_FILE. Prints how many records were compared. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "remuda.h"

/* What was appended lies behind what was given. */
static_assert(offsetof(struct worker_request_extended, envelope) == sizeof(struct worker_request),
              "appended");
static_assert(offsetof(struct worker_status_extended, envelope) == sizeof(struct worker_status),
              "appended");
static_assert(offsetof(struct file_request_extended, envelope) == sizeof(struct file_request),
              "appended");
static_assert(offsetof(struct file_response_extended, envelope) == sizeof(struct file_response),
              "appended");

struct field {
    const char *record;
    const char *name;
    size_t offset;
    size_t size;
};

#define FIELD(record, path, name) \
    {#record, #name, offsetof(struct record, path), sizeof(((struct record *)0)->path)}
#define HEADER(record)                                            \
    FIELD(record, header.message_type, message_type),             \
    FIELD(record, header.node_uuid_upper, node_uuid_upper),       \
    FIELD(record, header.node_uuid_lower, node_uuid_lower),       \
    FIELD(record, header.header_length, header_length)

static const struct field FIELDS[] = {
    FIELD(generic_message, message_type, message_type),
    FIELD(generic_message, node_uuid_upper, node_uuid_upper),
    FIELD(generic_message, node_uuid_lower, node_uuid_lower),
    FIELD(generic_message, header_length, header_length),
    HEADER(worker_request),
    FIELD(worker_request, job_uuid_upper, job_uuid_upper),
    FIELD(worker_request, job_uuid_lower, job_uuid_lower),
    FIELD(worker_request, program_length, program_length),
    FIELD(worker_request, num_input_files, num_input_files),
    HEADER(worker_status),
    FIELD(worker_status, job_uuid_upper, job_uuid_upper),
    FIELD(worker_status, job_uuid_lower, job_uuid_lower),
    FIELD(worker_status, state, state),
    HEADER(file_request),
    FIELD(file_request, file_uuid_upper, file_uuid_upper),
    FIELD(file_request, file_uuid_lower, file_uuid_lower),
    HEADER(file_response),
    FIELD(file_response, file_uuid_upper, file_uuid_upper),
    FIELD(file_response, file_uuid_lower, file_uuid_lower),
    FIELD(file_response, file_length, file_length),
};
static const size_t FIELD_COUNT = sizeof FIELDS / sizeof FIELDS[0];

static const struct {
    const char *name;
    size_t size;
} RECORDS[] = {
    {"generic_message", sizeof(struct generic_message)},
    {"worker_request", sizeof(struct worker_request)},
    {"worker_status", sizeof(struct worker_status)},
    {"file_request", sizeof(struct file_request)},
    {"file_response", sizeof(struct file_response)},
};
static const size_t RECORD_COUNT = sizeof RECORDS / sizeof RECORDS[0];

enum { LINE_MAX_BYTES = 4096, FIELDS_MAX = 32 };

static void fail(const char *record, const char *what)
{
    fprintf(stderr, "error: %s: %s differs from the golden bytes\n", record, what);
    exit(1);
}

static size_t unhex(const char *text, uint8_t *bytes)
{
    size_t length = 0;
    unsigned value;
    while (sscanf(text + 2 * length, "%2x", &value) == 1)
        bytes[length++] = (uint8_t)value;
    return length;
}

static const struct field *find(const char *record, const char *name)
{
    for (size_t at = 0; at < FIELD_COUNT; at++)
        if (strcmp(FIELDS[at].record, record) == 0 && strcmp(FIELDS[at].name, name) == 0)
            return &FIELDS[at];
    fail(record, name);
    return NULL;
}

static size_t size_of(const char *record)
{
    for (size_t at = 0; at < RECORD_COUNT; at++)
        if (strcmp(RECORDS[at].name, record) == 0)
            return RECORDS[at].size;
    fail(record, "its name");
    return 0;
}

int main(int argc, char **argv)
{
    FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (file == NULL) {
        fprintf(stderr, "usage: golden GOLDEN_FILE\n");
        return 2;
    }
    static char line[LINE_MAX_BYTES], record[LINE_MAX_BYTES], name[LINE_MAX_BYTES];
    static uint8_t built[LINE_MAX_BYTES], golden[LINE_MAX_BYTES];
    const struct field *seen[FIELDS_MAX] = {0};
    uint64_t values[FIELDS_MAX] = {0};
    size_t seen_count = 0, built_length = 0, compared = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long long value;
        if (sscanf(line, "record %4095s", record) == 1) {
            memset(built, 0, sizeof built);
            built_length = size_of(record);
            seen_count = 0;
        } else if (sscanf(line, "field %4095s %llx", name, &value) == 2) {
            if (seen_count == FIELDS_MAX)
                fail(record, "the number of fields");
            const struct field *field = find(record, name);
            memcpy(built + field->offset, &value, field->size);
            seen[seen_count] = field;
            values[seen_count++] = value;
        } else if (strncmp(line, "body ", 5) == 0) {
            built_length += unhex(line + 5, built + built_length);
        } else if (strncmp(line, "bytes ", 6) == 0) {
            if (unhex(line + 6, golden) != built_length)
                fail(record, "the length");
            if (memcmp(built, golden, built_length) != 0)
                fail(record, "a struct made of the values");
            for (size_t at = 0; at < seen_count; at++) {
                uint64_t read = 0;
                memcpy(&read, golden + seen[at]->offset, seen[at]->size);
                if (read != values[at])
                    fail(record, seen[at]->name);
            }
            size_t known = 0;
            for (size_t at = 0; at < FIELD_COUNT; at++)
                known += strcmp(FIELDS[at].record, record) == 0;
            if (known != seen_count)
                fail(record, "the number of fields");
            compared++;
        }
    }
    fclose(file);
    printf("%zu records\n", compared);
    return compared == RECORD_COUNT ? 0 : 1;
}
