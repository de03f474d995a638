/*
 * The envelope: how a message's topic, partition, offset and headers reach functions.
 *
 * Records travel through the log as key, value and time. With the option `envelope` the value is
 * the message's value behind a head that holds the rest:
 *
 *     u8 'K', u8 version (1), u8 flags (1: there is a value, 2: time is the broker's), u32
 *     partition, u64 offset, topic, varint number of headers, per header name and value; then the
 *     message's value to the end of the record's.
 *
 * Integers are little-endian; topic, names and header values are varint(length + 1) and bytes, 0 =
 * absent. The encoding is part of what users have in their logs: a new version gets a new number.
 * The same message gives the same bytes whenever it is read, so a re-read record hashes the same.
 */
#include "connectors/kafka_source.h"

#define ENVELOPE_MAGIC   'K'
#define ENVELOPE_VERSION 1u
#define HAS_VALUE        1u
#define BROKER_TIME      2u

/* An empty payload is not the same as none (a tombstone), whatever pointer the client gives. */
static struct levee_slice slice_from(const void *data, size_t len, bool present)
{
    return present ? slice_of(data ? data : base_nothing, len) : slice_of(NULL, 0);
}

void kafka_record_of(const rd_kafka_message_t *m, struct levee_record *ret)
{
    int64_t time_ms = rd_kafka_message_timestamp(m, NULL);

    ret->key = slice_from(m->key, m->key_len, m->key != NULL);
    ret->value = slice_from(m->payload, m->len, m->payload != NULL);
    ret->time_ms = time_ms > 0 ? time_ms : 0;
}

static void put_head(struct buf *buf, unsigned flags, int32_t partition, int64_t offset,
                     const char *topic, size_t headers)
{
    buf_u8(buf, ENVELOPE_MAGIC);
    buf_u8(buf, ENVELOPE_VERSION);
    buf_u8(buf, (uint8_t)flags);
    buf_u32(buf, (uint32_t)partition);
    buf_u64(buf, (uint64_t)offset);
    buf_slice(buf, slice_str(topic));
    buf_varint(buf, headers);
}

bool kafka_envelope_put(const rd_kafka_message_t *m, const char *topic, struct buf *buf)
{
    rd_kafka_timestamp_type_t type = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    rd_kafka_headers_t *headers = NULL;
    const char *name;
    const void *value;
    size_t len;

    (void)rd_kafka_message_timestamp(m, &type);
    bool any = rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR;
    size_t n = any ? rd_kafka_header_cnt(headers) : 0;
    put_head(buf,
             (m->payload ? HAS_VALUE : 0) |
                 (type == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME ? BROKER_TIME : 0),
             m->partition, m->offset, topic, n);
    for (size_t i = 0; i < n; i++) {
        if (rd_kafka_header_get_all(headers, i, &name, &value, &len)) {
            buf->failed = true; /* the client cannot read its own message: no memory */
            break;
        }
        buf_slice(buf, slice_str(name));
        buf_slice(buf, slice_from(value, len, value != NULL));
    }
    buf_put(buf, m->payload, m->payload ? m->len : 0);
    return !buf->failed;
}

/* ---- the public side ---- */

int levee_emit_kafka(levee_output *out, const struct levee_kafka_outgoing *m)
{
    struct buf b = {0};

    put_head(&b, m->value.data ? HAS_VALUE : 0, m->has_partition ? m->partition : -1, -1, "",
             m->header_count);
    for (size_t i = 0; i < m->header_count; i++) {
        buf_slice(&b, m->headers[i].name);
        buf_slice(&b, m->headers[i].value);
    }
    buf_put(&b, m->value.data, m->value.len);
    uint8_t *copy = b.failed ? NULL : levee_alloc(out, b.len);
    if (!copy) {
        buf_release(&b);
        return LEVEE_ENOMEM;
    }
    memcpy(copy, b.data, b.len);
    struct levee_record r = {.key = m->key, .value = slice_of(copy, b.len), .time_ms = m->time_ms};
    buf_release(&b);
    return levee_emit_record(out, &r);
}

static int not_an_envelope(void)
{
    return LEVEE_EINVALID;
}

int levee_kafka_record(const struct levee_record *record, struct levee_kafka_message *ret)
{
    struct levee_kafka_message m = {0};

    if (!record || !ret || !record->value.data) {
        return not_an_envelope();
    }
    struct cursor c = cursor_of(record->value);
    if (cur_u8(&c) != ENVELOPE_MAGIC || cur_u8(&c) != ENVELOPE_VERSION) {
        return not_an_envelope();
    }
    uint8_t flags = cur_u8(&c);
    m.partition = (int32_t)cur_u32(&c);
    m.offset = (int64_t)cur_u64(&c);
    m.topic = cur_slice(&c);
    uint64_t n = cur_varint(&c);
    const uint8_t *headers = c.p;
    for (uint64_t i = 0; i < n && !c.bad; i++) { /* ends at the first that does not parse */
        struct levee_slice name = cur_slice(&c);
        (void)cur_slice(&c);
        c.bad = c.bad || !name.data;
    }
    if (c.bad || !m.topic.data) {
        return not_an_envelope();
    }
    m.headers = slice_of(headers, (size_t)(c.p - headers));
    m.header_count = (size_t)n;
    m.log_append_time = (flags & BROKER_TIME) != 0;
    m.time_ms = record->time_ms;
    m.key = record->key;
    m.value = flags & HAS_VALUE ? slice_of(c.p, cur_left(&c)) : slice_of(NULL, 0);
    *ret = m;
    return LEVEE_OK;
}

bool levee_kafka_header_at(const struct levee_kafka_message *message, size_t i,
                           struct levee_slice *ret_name, struct levee_slice *ret_value)
{
    if (i >= message->header_count) {
        return false;
    }
    struct cursor c = cursor_of(message->headers);
    struct levee_slice name = {0}, value = {0};
    for (size_t k = 0; k <= i; k++) {
        name = cur_slice(&c);
        value = cur_slice(&c);
    }
    if (c.bad) {
        return false;
    }
    *ret_name = name;
    *ret_value = value;
    return true;
}

bool levee_kafka_header(const struct levee_kafka_message *message, const char *name,
                        struct levee_slice *ret_value)
{
    struct cursor c = cursor_of(message->headers);
    bool found = false;

    for (size_t i = 0; i < message->header_count && !c.bad; i++) {
        struct levee_slice n = cur_slice(&c), value = cur_slice(&c);
        if (!c.bad && slice_eq(n, slice_str(name))) {
            *ret_value = value;
            found = true;
        }
    }
    return found;
}
