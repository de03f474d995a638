/*
 * A batch on its way to Kafka: begin · produce · (cut) · token · commit.
 *
 * Values are handed to the client without copying: they are views into the batch, which is kept
 * until commit or abort has returned, and both leave nothing in the client.
 *
 * Held back. The last record of every transaction carries the token as a header: the second
 * evidence for the case that the broker forgets the first (kafka_token.c). Which one is last shows
 * when no other follows, so one record is always held back.
 *
 * Parts. A transaction must end before its time is up, and its records wait in the client until it
 * does. A batch larger than `transaction_bytes`, or slower than half the time-out, is cut: the part
 * is committed with a token that counts the batch's records so far. Whoever takes the batch up
 * again passes over that many; a resumed batch need not be cut where the first try was.
 *
 * Refusals. The client itself refuses a record above its message.max.bytes. The broker judges a
 * whole request, which holds many records, so after its refusal the batch is tried once more with
 * one record per request (`probing`), and then it is clear which one is meant. Unless values are
 * compressed, every longer record of the batch is refused along with one that was too long.
 */
#include "connectors/kafka_sink.h"

#include <stdio.h>

#define FULL_POLL_MS  10
#define REGISTER_NS   20000000u
#define BLAME_MS      200  /* until the reports of a failed transaction are in */
#define CUT_EVERY     1024 /* records between two looks at the clock */
#define OVERHEAD      70u  /* of a record in the client, roughly */
#define NOT_AN_OBJECT RD_KAFKA_RESP_ERR__INVALID_ARG

/* ---- refusals ---- */

static bool is_refusal(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
           code == RD_KAFKA_RESP_ERR_INVALID_RECORD ||
           code == RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP || code == NOT_AN_OBJECT;
}

static void add_refusal(struct kafka_sink *s, uint64_t index, rd_kafka_resp_err_t code)
{
    void *all = s->refusals;

    if (!mem_grow(&all, &s->refusal_cap, s->refusal_count + 1, sizeof *s->refusals)) {
        s->delivery_error = RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE; /* tried again */
        return;
    }
    s->refusals = all;
    s->refusals[s->refusal_count++] = (struct levee_refusal){index, (int)code};
}

/* The private pointer of a message is its number in the batch, from 1, and whether its time is its
 * own: else it is this machine's clock that the broker refuses, and not the record. */
#define OWN_TIME ((uint64_t)1 << 63)

static bool is_the_clock(const rd_kafka_message_t *m)
{
    return m->err == RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP &&
           !((uint64_t)(uintptr_t)m->_private & OWN_TIME);
}

void ksink_delivered(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    struct kafka_sink *s = opaque;
    uint64_t number = (uint64_t)(uintptr_t)m->_private & ~OWN_TIME;

    (void)rk;
    /* "Delivered" without an offset was DUPLICATE_SEQUENCE_NUMBER. A leader that has refused a
     * producer's first request and taken the second, which was on its way, says so of the first
     * when it comes again: it lies nowhere. */
    rd_kafka_resp_err_t code =
        m->err || m->offset >= 0 ? m->err : RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
    if (code) {
        s->delivery_error = s->delivery_error ? s->delivery_error : code;
        if (is_the_clock(m)) {
            s->clock_refused = true;
            return;
        }
        if (is_refusal(code) && s->probing) {
            size_t size = m->len + m->key_len;
            s->limit = s->limit && s->limit < size ? s->limit : size;
            add_refusal(s, number - 1, code);
        }
        s->suspect = s->suspect || is_refusal(code);
    }
    /* This batch is written again: nothing is to be learnt from it. The client numbers what follows
     * a record without an offset, from 0. */
    if (s->delivery_error) {
        return;
    }
    if (m->partition < s->ends_cap && m->offset + 1 < s->ends[m->partition]) {
        s->anew = (struct ksink_position){m->partition, m->offset, s->now.batch};
        s->delivery_error = RD_KAFKA_RESP_ERR__INCONSISTENT; /* ksink_error says it better */
        return;
    }
    if (m->partition < s->ends_cap && s->ends[m->partition] < m->offset + 2) {
        s->ends[m->partition] = m->offset + 2; /* behind it lies the transaction's marker */
    }
    if (number == s->marked) {
        s->mark_now = (struct ksink_position){m->partition, m->offset, s->now.batch};
    }
}

static int refused(const struct kafka_sink *s, struct levee_error *err)
{
    const struct levee_refusal *first = &s->refusals[0];

    err_set(err, LEVEE_ESINK_REFUSED, "Kafka topic %s does not take %zu record%s of batch %llu",
            s->topic, s->refusal_count, s->refusal_count == 1 ? "" : "s",
            (unsigned long long)s->now.batch);
    err_where(err, "record %llu of the batch, for one", (unsigned long long)first->index);
    err_found(err, "%s", rd_kafka_err2str((rd_kafka_resp_err_t)first->code));
    return LEVEE_ESINK_REFUSED;
}

/* A transaction has failed with `code`: because of a record? */
static int blame(struct kafka_sink *s, int code, struct levee_error *err)
{
    if (s->active && !s->suspect && s->refusal_count == 0) {
        (void)rd_kafka_flush(s->active->rk, BLAME_MS); /* the reports tell */
    }
    if (s->refusal_count) {
        return refused(s, err);
    }
    s->probing = s->probing || s->suspect;
    return code;
}

size_t ksink_refused(void *self, struct levee_refusal *out, size_t cap)
{
    const struct kafka_sink *s = self;

    for (size_t i = 0; i < s->refusal_count && i < cap; i++) {
        out[i] = s->refusals[i];
    }
    return s->refusal_count;
}

/* ---- one record ---- */

struct message {
    struct levee_slice key, value;
    int flags;
    int32_t partition;
    int64_t time_ms;
    rd_kafka_headers_t *headers; /* ours until produced; NULL: none */
};

static bool add_header(struct message *m, const char *name, size_t name_len, struct levee_slice v)
{
    m->headers = m->headers ? m->headers : rd_kafka_headers_new(8);
    return rd_kafka_header_add(m->headers, name, (ssize_t)name_len, v.data, (ssize_t)v.len) ==
           RD_KAFKA_RESP_ERR_NO_ERROR;
}

static bool add_number(struct message *m, const char *name, int64_t n)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%lld", (long long)n);
    return add_header(m, name, strlen(name), slice_str(text));
}

static bool from_letter(const struct levee_record *r, struct message *m)
{
    struct levee_dead_letter d;

    if (!levee_dead_letter_of(r, &d)) {
        return false;
    }
    m->key = d.key;
    m->value = d.value;
    if (d.source[0] &&
        (!add_header(m, "levee.source", strlen("levee.source"), slice_str(d.source)) ||
         !add_header(m, "levee.producer", strlen("levee.producer"), d.producer) ||
         !add_number(m, "levee.first", (int64_t)d.first) ||
         !add_number(m, "levee.last", (int64_t)d.last))) {
        return false;
    }
    return add_header(m, "levee.uid", strlen("levee.uid"), slice_str(d.uid)) &&
           add_number(m, "levee.code", d.code) && add_number(m, "levee.attempts", d.attempts) &&
           add_number(m, "levee.batch", (int64_t)d.batch) &&
           add_number(m, "levee.partition", d.partition) &&
           add_number(m, "levee.index", (int64_t)d.index);
}

static bool from_envelope(const struct kafka_sink *s, const struct levee_record *r,
                          struct message *m)
{
    struct levee_kafka_message e;
    bool ok = levee_kafka_record(r, &e) == LEVEE_OK;
    bool chosen = ok && e.topic.len == 0 && e.partition >= 0; /* not where it came from */

    if (!ok || (chosen && e.partition >= s->partition_count)) {
        return false;
    }
    m->key = e.key;
    m->value = e.value;
    m->time_ms = e.time_ms;
    m->partition = chosen ? e.partition : m->partition;
    for (size_t i = 0; i < e.header_count && ok; i++) {
        struct levee_slice name = {0}, value = {0};
        ok = levee_kafka_header_at(&e, i, &name, &value) &&
             add_header(m, (const char *)name.data, name.len, value);
    }
    return ok;
}

/* Numbers as text lie in scratch and must be copied. */
static void as_text(struct kafka_sink *s, struct message *m)
{
    char text[64];
    int n = -1;

    if (s->value == LEVEE_VALUE_I64 && m->value.data && m->value.len == 8) {
        n = snprintf(text, sizeof text, "%lld", (long long)levee_i64(m->value));
    } else if (s->value == LEVEE_VALUE_F64 && m->value.data && m->value.len == 8) {
        n = snprintf(text, sizeof text, "%.17g", levee_f64(m->value));
    }
    if (n >= 0) {
        buf_clear(&s->scratch);
        buf_put(&s->scratch, text, (size_t)n);
        m->flags = RD_KAFKA_MSG_F_COPY;
        m->value = buf_view(&s->scratch);
    }
}

/* With a key Java's murmur2 chooses the partition; without one the records go round, so that the
 * same batch gives the same places. false: it is no record of the promised form. */
static bool message_of(struct kafka_sink *s, const struct levee_record *r, uint64_t index,
                       struct message *ret)
{
    bool ok = true;

    *ret = (struct message){.key = r->key, .value = r->value, .partition = RD_KAFKA_PARTITION_UA};
    if (s->letters) {
        ok = from_letter(r, ret);
    } else if (s->envelope) {
        ok = from_envelope(s, r, ret);
    } else {
        as_text(s, ret);
    }
    if (!ret->key.data && ret->partition == RD_KAFKA_PARTITION_UA) {
        ret->partition = (int32_t)(index % (uint64_t)s->partition_count);
    }
    return ok && !s->scratch.failed;
}

/* The client takes a NULL key for "none" and a NULL value for a tombstone. */
static const uint8_t *pointer_of(struct levee_slice s)
{
    return s.data && !s.len ? base_nothing : s.data;
}

static rd_kafka_resp_err_t produce_once(struct kafka_sink *s, struct message *m, uint64_t number)
{
    void *value = (void *)(uintptr_t)pointer_of(m->value);
    const uint8_t *key = pointer_of(m->key);
    void *opaque = (void *)(uintptr_t)(number | (m->time_ms ? OWN_TIME : 0));

    if (!m->headers && !m->time_ms) {
        return rd_kafka_produce(s->active->rkt, m->partition, m->flags, value, m->value.len, key,
                                m->key.len, opaque) == 0
                   ? RD_KAFKA_RESP_ERR_NO_ERROR
                   : rd_kafka_last_error();
    }
    rd_kafka_vu_t vus[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = s->active->rkt},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = m->partition},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = m->flags},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {value, m->value.len}},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)key, m->key.len}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = m->time_ms}, /* 0: now */
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = opaque},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = m->headers}, /* last: there may be none */
    };
    rd_kafka_error_t *e =
        rd_kafka_produceva(s->active->rk, vus, ARRAY_LEN(vus) - (m->headers ? 0 : 1));
    rd_kafka_resp_err_t code = e ? rd_kafka_error_code(e) : RD_KAFKA_RESP_ERR_NO_ERROR;
    if (e) {
        rd_kafka_error_destroy(e);
    } else {
        m->headers = NULL; /* the client's now */
    }
    return code;
}

static rd_kafka_resp_err_t produce_message(struct kafka_sink *s, struct message *m, uint64_t number)
{
    uint64_t deadline = s->io->ops->now_ns(s->io) + (uint64_t)s->timeout_ms * 1000000u;
    rd_kafka_resp_err_t code;

    if (s->limit && !s->compresses && !m->headers && m->key.len + m->value.len >= s->limit) {
        return RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    }
    while ((code = produce_once(s, m, number)) == RD_KAFKA_RESP_ERR__QUEUE_FULL &&
           !s->delivery_error && s->io->ops->now_ns(s->io) < deadline) {
        (void)rd_kafka_poll(s->active->rk, FULL_POLL_MS);
    }
    return code;
}

/* The record that was held back. token: it is the last of its transaction. */
static int produce_held(struct kafka_sink *s, const struct levee_token *token,
                        struct levee_error *err)
{
    char header[KSINK_TOKEN_TEXT];
    struct message m;
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

    if (!s->has_held) {
        return LEVEE_OK;
    }
    s->has_held = false;
    bool ok = message_of(s, &s->held, s->held_index, &m);
    if (ok && token) {
        ksink_token_text(token, header);
        s->marked = s->held_index + 1;
        ok = add_header(&m, KSINK_HEADER, strlen(KSINK_HEADER), slice_str(header));
    }
    code = ok ? produce_message(s, &m, s->held_index + 1) : NOT_AN_OBJECT;
    s->bytes += m.key.len + m.value.len + OVERHEAD;
    if (m.headers) {
        rd_kafka_headers_destroy(m.headers);
    }
    if (is_refusal(code)) {
        add_refusal(s, s->held_index, code); /* and on, to find all of them */
        return LEVEE_OK;
    }
    code = s->delivery_error && !s->refusal_count ? s->delivery_error : code;
    return code ? ksink_error(s, ksink_outcome_of(code, false, false, true), "producing a record",
                              rd_kafka_err2str(code), err)
                : LEVEE_OK;
}

/* ---- the batch ---- */

int ksink_batch_begin(void *self, const struct levee_token *token, struct levee_error *err)
{
    struct kafka_sink *s = self;
    int code = LEVEE_OK;

    if (s->now.batch != token->batch) {
        s->probing = false;
        s->limit = 0;
    }
    s->now = *token;
    s->now.records = 0;
    s->taken = 0;
    s->skip = s->there.batch == token->batch ? s->there.records : 0;
    s->has_held = false;
    s->refusal_count = 0;
    if (!s->active || s->probing != s->producer_probes) {
        code = ksink_reopen(s, err);
    }
    return code ? code : ksink_begin(s, err);
}

/* Everything up to the record held back becomes visible, and the next transaction begins. Another
 * record follows, so the batch's end has one to carry its token. */
static int cut(struct kafka_sink *s, struct levee_error *err)
{
    struct levee_token part = s->now;
    int code;

    part.records = s->held_index + 1;
    if ((code = produce_held(s, &part, err)) != LEVEE_OK) {
        return code;
    }
    if (s->refusal_count) {
        return refused(s, err);
    }
    if ((code = ksink_commit(s, &part, err)) != LEVEE_OK) {
        return code;
    }
    s->mark = s->mark_now;
    crash_at(s->io, CP_KSINK_AFTER_PART);
    return ksink_begin(s, err);
}

static bool cut_due(const struct kafka_sink *s)
{
    if (s->at_least_once) {
        return false;
    }
    return s->bytes >= s->transaction_bytes ||
           (s->taken % CUT_EVERY == 0 &&
            s->io->ops->now_ns(s->io) - s->began_ns > (uint64_t)s->timeout_ms * 1000000u / 2);
}

int ksink_batch_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                      struct levee_error *err)
{
    struct kafka_sink *s = self;
    int code = LEVEE_OK;

    (void)partition;
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        if (s->taken++ < s->skip) {
            continue; /* there since an earlier try */
        }
        code = s->has_held && cut_due(s) ? cut(s, err) : produce_held(s, NULL, err);
        s->held = records[i];
        s->held_index = s->taken - 1;
        s->has_held = true;
    }
    (void)rd_kafka_poll(s->active->rk, 0);
    return code ? blame(s, code, err) : LEVEE_OK;
}

int ksink_batch_commit(void *self, struct levee_error *err)
{
    struct kafka_sink *s = self;
    int code = produce_held(s, &s->now, err);

    crash_at(s->io, CP_KSINK_AFTER_PRODUCE);
    if (code == LEVEE_OK && s->refusal_count) {
        return refused(s, err);
    }
    if (code == LEVEE_OK) {
        code = s->at_least_once ? ksink_flush(s, err) : ksink_commit(s, &s->now, err);
    }
    if (code) {
        return blame(s, code, err);
    }
    s->mark = s->mark_now;
    s->probing = false;
    return LEVEE_OK;
}

/* librdkafka 2.0.2 ends the process when a producer is destroyed in the very moment in which its
 * main thread registers a partition: it counts the request only after it has queued it, and a
 * broker thread that is ending answers it at once (rdkafka_txnmgr.c, lines 1178 and 1007). Once
 * nothing is produced any more, that moment passes. */
static void let_registrations_pass(struct kafka_sink *s)
{
    rd_kafka_t *rk = s->active ? s->active->rk : NULL;
    uint64_t end = s->io->ops->now_ns(s->io) + REGISTER_NS, now;

    if (!rk || s->at_least_once) {
        return;
    }
    (void)rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE);
    while ((now = s->io->ops->now_ns(s->io)) < end) {
        (void)rd_kafka_poll(rk, (int)((end - now) / 1000000u) + 1);
    }
}

void ksink_batch_abort(void *self)
{
    let_registrations_pass(self);
    ksink_producer_close(self); /* settle, or the next begin, makes a new one */
}
