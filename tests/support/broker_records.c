/*
 * Records into a real broker and out of it again, for tests.
 *
 * In: with or without a transaction, which can also be aborted, or left open as by a producer that
 * was killed. Nothing counts as sent before the broker has said so of every record. Out: all that a
 * reader sees, from the beginning of each partition to its end at that time; a reader of committed
 * records ends at the last stable offset.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/broker_internal.h"

#define PROPERTIES_MAX 32u

/* ---- in ---- */

struct delivery {
    size_t done;
    rd_kafka_resp_err_t first_failure;
};

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    struct delivery *d = opaque;

    (void)rk;
    if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR && m->offset >= 0) {
        d->done++; /* without an offset: see broker_send */
    } else if (d->first_failure == RD_KAFKA_RESP_ERR_NO_ERROR) {
        d->first_failure = m->err;
    }
}

/* An error of a transactional call: what to do next. Takes the error; true: ask again. */
static bool again(struct broker *b, rd_kafka_error_t *error, const char *doing, int64_t end,
                  enum broker_code *ret_code)
{
    bool retry = error && rd_kafka_error_is_retriable(error) && broker_now_ms() < end;

    *ret_code = error && !retry ? broker_refused(b, rd_kafka_error_code(error), doing,
                                                 rd_kafka_error_string(error))
                                : BROKER_OK;
    if (error) {
        rd_kafka_error_destroy(error);
    }
    return retry;
}

static enum broker_code begin(struct broker *b, rd_kafka_t *rk)
{
    int64_t end = broker_now_ms() + BROKER_PATIENCE_MS;
    enum broker_code code;

    while (again(b, rd_kafka_init_transactions(rk, BROKER_PATIENCE_MS), "init_transactions", end,
                 &code)) {
    }
    if (code == BROKER_OK) {
        (void)again(b, rd_kafka_begin_transaction(rk), "begin_transaction", 0, &code);
    }
    return code;
}

static enum broker_code finish(struct broker *b, rd_kafka_t *rk, enum broker_end how)
{
    int64_t end = broker_now_ms() + BROKER_PATIENCE_MS;
    enum broker_code code = BROKER_OK;

    if (how == BROKER_COMMIT) {
        while (again(b, rd_kafka_commit_transaction(rk, BROKER_PATIENCE_MS), "commit_transaction",
                     end, &code)) {
        }
    } else if (how == BROKER_ABORT) {
        while (again(b, rd_kafka_abort_transaction(rk, BROKER_PATIENCE_MS), "abort_transaction",
                     end, &code)) {
        }
    }
    return code;
}

static rd_kafka_headers_t *headers_of(const struct broker_message *m)
{
    rd_kafka_headers_t *headers = m->header_count ? rd_kafka_headers_new(m->header_count) : NULL;

    for (size_t i = 0; i < m->header_count; i++) {
        const struct broker_header *h = &m->headers[i];
        MUST(!rd_kafka_header_add(headers, h->name, -1, h->value.data, (ssize_t)h->value.len));
    }
    return headers;
}

/* librdkafka copies key and value; its types for them are older than const. */
static enum broker_code produce_one(struct broker *b, rd_kafka_t *rk, const char *topic,
                                    const struct broker_message *m)
{
    rd_kafka_headers_t *headers = headers_of(m);
    const rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = topic},
        {.vtype = RD_KAFKA_VTYPE_PARTITION,
         .u.i32 = m->partition < 0 ? RD_KAFKA_PARTITION_UA : m->partition},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)m->key.data, m->key.len}},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t)m->value.data, m->value.len}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = m->timestamp_ms},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers}, /* the last: taken on success */
    };
    const size_t count = sizeof parts / sizeof *parts - (headers ? 0 : 1);
    enum broker_code code = BROKER_OK;
    rd_kafka_error_t *error;

    while ((error = rd_kafka_produceva(rk, parts, count)) != NULL &&
           rd_kafka_error_code(error) == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
        rd_kafka_error_destroy(error);
        (void)rd_kafka_poll(rk, 100);
    }
    if (error) {
        code =
            broker_refused(b, rd_kafka_error_code(error), "produce", rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
        if (headers) {
            rd_kafka_headers_destroy(headers);
        }
    }
    (void)rd_kafka_poll(rk, 0);
    return code;
}

static enum broker_code produce_all(struct broker *b, rd_kafka_t *rk, const char *topic,
                                    const struct broker_message *messages, size_t count,
                                    const struct delivery *d)
{
    for (size_t i = 0; i < count; i++) {
        enum broker_code code = produce_one(b, rk, topic, &messages[i]);
        if (code != BROKER_OK) {
            return code;
        }
    }
    (void)rd_kafka_flush(rk, BROKER_PATIENCE_MS); /* what it did is in d */
    if (d->first_failure != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return broker_refused(b, d->first_failure, "deliver", NULL);
    }
    if (d->done != count) {
        return broker_fail(b, BROKER_TIMEOUT, RD_KAFKA_RESP_ERR__TIMED_OUT,
                           "topic %s: %zu of %zu records delivered", topic, d->done, count);
    }
    return BROKER_OK;
}

enum broker_code broker_send(struct broker *b, const char *topic,
                             const struct broker_message *messages, size_t count,
                             const struct broker_how *how)
{
    static const struct broker_how plain;
    struct delivery d = {0};
    char id[128];
    /* One request at a time: docs/kafka.md, "Delivered" without an offset. */
    const char *properties[PROPERTIES_MAX + 1] = {"enable.idempotence=true", "linger.ms=0",
                                                  "retry.backoff.ms=5", "max.in.flight=1"};
    size_t n = 4;

    how = how ? how : &plain;
    if (how->transaction) {
        (void)snprintf(id, sizeof id, "transactional.id=%s", how->transaction);
        properties[n++] = id;
    }
    for (const char *const *p = how->properties; p && *p; p++) {
        MUST(n < PROPERTIES_MAX);
        properties[n++] = *p;
    }
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    rd_kafka_conf_set_opaque(conf, &d);
    rd_kafka_t *rk = broker_client(b, RD_KAFKA_PRODUCER, conf, properties);
    if (!rk) {
        return b->failure.code;
    }
    broker_meet_topic(rk, topic);
    enum broker_code code = how->transaction ? begin(b, rk) : BROKER_OK;
    if (code == BROKER_OK) {
        code = produce_all(b, rk, topic, messages, count, &d);
    }
    if (code == BROKER_OK && how->transaction) {
        code = finish(b, rk, how->end);
    }
    rd_kafka_destroy(rk);
    return code;
}

enum broker_code broker_send_numbers(struct broker *b, const char *topic, int32_t partition,
                                     uint64_t first, size_t count, const struct broker_how *how)
{
    struct broker_message *messages = calloc(count + 1, sizeof *messages);
    char(*digits)[24] = calloc(count + 1, sizeof *digits);

    MUST(messages && digits);
    for (size_t i = 0; i < count; i++) {
        int n = snprintf(digits[i], sizeof digits[i], "%" PRIu64, first + i);
        messages[i].partition = partition;
        messages[i].value =
            (struct levee_slice){.data = (const uint8_t *)digits[i], .len = (size_t)n};
    }
    enum broker_code code = broker_send(b, topic, messages, count, how);
    free(digits);
    free(messages);
    return code;
}

/* ---- out ---- */

static void keep(struct broker_log *log, size_t *cap, rd_kafka_message_t *m)
{
    if (log->count == *cap) {
        *cap = *cap ? *cap * 2 : 256;
        rd_kafka_message_t **more = realloc(log->records, *cap * sizeof *more);
        MUST(more);
        log->records = more;
    }
    log->records[log->count++] = m;
}

static int by_place(const void *x, const void *y)
{
    const rd_kafka_message_t *a = *(rd_kafka_message_t *const *)x;
    const rd_kafka_message_t *b = *(rd_kafka_message_t *const *)y;

    if (a->partition != b->partition) {
        return a->partition < b->partition ? -1 : 1;
    }
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Whether a reader may go on after this: brokers that are away come back. */
static bool passes(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN ||
           code == RD_KAFKA_RESP_ERR__RESOLVE || code == RD_KAFKA_RESP_ERR__TIMED_OUT;
}

/* Until each partition has said once that it has no more. */
static enum broker_code drain(struct broker *b, const char *topic, int partitions,
                              struct broker_log *log)
{
    int64_t end = broker_now_ms() + BROKER_PATIENCE_MS;
    enum broker_code code = BROKER_OK;
    size_t cap = 0;
    int left = partitions;
    bool *ended = calloc((size_t)partitions, sizeof *ended);

    MUST(ended);
    while (left > 0 && code == BROKER_OK) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(log->consumer, 100);
        if (m && m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            keep(log, &cap, m);
            continue;
        }
        if (m && m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            left -= !ended[m->partition];
            ended[m->partition] = true;
        } else if (m && !passes(m->err)) {
            code = broker_refused(b, m->err, "read", rd_kafka_message_errstr(m));
        } else if (broker_now_ms() > end) {
            code = broker_fail(b, BROKER_TIMEOUT, RD_KAFKA_RESP_ERR__TIMED_OUT,
                               "topic %s: %zu records read, but not to the end of %d partitions",
                               topic, log->count, left);
        }
        if (m) {
            rd_kafka_message_destroy(m);
        }
    }
    free(ended);
    return code;
}

static enum broker_code read_from(struct broker *b, const char *topic, const char *isolation,
                                  struct broker_log *ret)
{
    char level[64];
    /* A broker waits so long before it says that there is no more. */
    const char *const properties[] = {level,
                                      "group.id=reader",
                                      "enable.auto.commit=false",
                                      "enable.partition.eof=true",
                                      "check.crcs=true",
                                      "fetch.wait.max.ms=10",
                                      NULL};
    int partitions;

    (void)snprintf(level, sizeof level, "isolation.level=%s", isolation);
    *ret = (struct broker_log){
        .consumer = broker_client(b, RD_KAFKA_CONSUMER, rd_kafka_conf_new(), properties)};
    if (!ret->consumer) {
        return b->failure.code;
    }
    enum broker_code code =
        broker_await_topic(b, ret->consumer, topic, BROKER_TOPIC_ANY, &partitions);
    if (code == BROKER_OK) {
        rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(partitions);
        for (int p = 0; p < partitions; p++) {
            rd_kafka_topic_partition_list_add(all, topic, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
        }
        (void)rd_kafka_poll_set_consumer(ret->consumer);
        MUST(rd_kafka_assign(ret->consumer, all) == RD_KAFKA_RESP_ERR_NO_ERROR);
        rd_kafka_topic_partition_list_destroy(all);
        code = drain(b, topic, partitions, ret);
    }
    if (code != BROKER_OK) {
        broker_log_release(ret);
    } else if (ret->count > 1) {
        qsort(ret->records, ret->count, sizeof *ret->records, by_place);
    }
    return code;
}

enum broker_code broker_read_committed(struct broker *b, const char *topic, struct broker_log *ret)
{
    return read_from(b, topic, "read_committed", ret);
}

enum broker_code broker_read_all(struct broker *b, const char *topic, struct broker_log *ret)
{
    return read_from(b, topic, "read_uncommitted", ret);
}

void broker_log_release(struct broker_log *log)
{
    for (size_t i = 0; i < log->count; i++) {
        rd_kafka_message_destroy(log->records[i]);
    }
    free(log->records);
    if (log->consumer) {
        rd_kafka_destroy(log->consumer);
    }
    *log = (struct broker_log){0};
}
