/*
 * Positions mode: reading again what was received once, and what the broker says about how long
 * that will be possible.
 *
 * The lane that reads again has a client of its own, with one queue for each partition (the
 * client's older interface): ranges of different partitions alternate, and each goes on where its
 * queue is. It is made when a restart first needs it and lives as long as the source.
 *
 * Only what is found is judged here as far as it concerns Kafka: an offset out of range is the
 * missing range, by name; whether the records are the same ones is the runtime's question. A topic
 * that ends before the range does is given as it is, after some patience: a broker that has just
 * come back may not yet know where its stable end is.
 */
#include "connectors/kafka_source.h"

#include <stdio.h>
#include <stdlib.h>

#define POLL_MS     100
#define PATIENCE_NS ((uint64_t)2 * KAFKA_SECOND_NS) /* for the next message of a range */
#define HASH_TAIL   17 /* "~" and 16 digits end the key of a long name: kafka_topics.c */

/* ---- the client ---- */

struct kafka_tail { /* one partition */
    char *topic;
    int32_t id;
    rd_kafka_topic_t *rkt;
    int64_t next; /* offset of the next message it gives; -1: not consuming */
};

static int open_client(struct kafka_source *s, const char *uid, struct levee_error *err)
{
    rd_kafka_conf_t *conf = NULL;

    if (s->again.rk) {
        return LEVEE_OK;
    }
    int code = kafka_source_conf(&s->config, uid, &conf, err);
    if (code) {
        return code;
    }
    if ((code = kafka_client_new(RD_KAFKA_CONSUMER, conf, &s->again.rk, err)) != LEVEE_OK) {
        err_context(err, "source %s", uid);
    }
    return code;
}

static void stop_tail(struct kafka_tail *t)
{
    if (t->next >= 0) {
        (void)rd_kafka_consume_stop(t->rkt, t->id);
        t->next = -1;
    }
}

void kafka_reread_close(struct kafka_source *s)
{
    for (size_t i = 0; i < s->again.count; i++) {
        struct kafka_tail *t = &s->again.tails[i];
        stop_tail(t);
        rd_kafka_topic_destroy(t->rkt);
        mem_free(t->topic);
    }
    mem_free(s->again.tails);
    buf_release(&s->again.scratch);
    if (s->again.rk) {
        (void)kafka_destroy(s->io, s->again.rk);
    }
    memset(&s->again, 0, sizeof s->again);
}

/* ---- from a producer id to its partition ---- */

/* "topic/id"; a long name is in the key only as a beginning and a hash. */
static bool name_of(const struct kafka_source *s, struct levee_slice producer, char topic[256],
                    int32_t *ret_id)
{
    char text[LEVEE_PRODUCER_MAX + 1], key[LEVEE_PRODUCER_MAX];

    memcpy(text, producer.data, producer.len);
    text[producer.len] = '\0';
    char *slash = strrchr(text, '/');
    if (!slash) {
        return false;
    }
    *slash = '\0';
    *ret_id = (int32_t)strtol(slash + 1, NULL, 10);
    size_t len = strlen(text);
    if (len < KAFKA_KEY_MAX - 1 || text[len - HASH_TAIL] != '~') {
        (void)snprintf(topic, 256, "%s", text);
        return true;
    }
    for (size_t i = 0; i < s->config.topic_count; i++) {
        kafka_topic_key(s->config.topics[i], key);
        if (strcmp(key, text) == 0) {
            (void)snprintf(topic, 256, "%s", s->config.topics[i]);
            return true;
        }
    }
    return false;
}

static int find_tail(struct kafka_source *s, const char *uid, struct levee_slice producer,
                     struct kafka_tail **ret, struct levee_error *err)
{
    void *all = s->again.tails;
    char topic[256];
    int32_t id = 0;

    if (!name_of(s, producer, topic, &id)) {
        err_set(err, LEVEE_ETOPIC, "source %s: which topic is meant is not known any more", uid);
        err_found(err, "producer %.*s", (int)producer.len, (const char *)producer.data);
        return LEVEE_ETOPIC;
    }
    for (size_t i = 0; i < s->again.count; i++) {
        struct kafka_tail *t = &s->again.tails[i];
        if (t->id == id && strcmp(t->topic, topic) == 0) {
            *ret = t;
            return LEVEE_OK;
        }
    }
    if (!mem_grow(&all, &s->again.cap, s->again.count + 1, sizeof *s->again.tails)) {
        return err_nomem(err, sizeof *s->again.tails);
    }
    s->again.tails = all;
    struct kafka_tail t = {mem_strdup(topic), id, rd_kafka_topic_new(s->again.rk, topic, NULL), -1};
    if (!t.topic || !t.rkt) {
        mem_free(t.topic);
        return err_nomem(err, sizeof t);
    }
    s->again.tails[s->again.count] = t;
    *ret = &s->again.tails[s->again.count++];
    return LEVEE_OK;
}

/* ---- a range ---- */

static int out_of_range(struct kafka_source *s, const char *uid, const struct kafka_tail *t,
                        int64_t first, struct levee_error *err)
{
    int64_t low = 0, high = 0;
    rd_kafka_resp_err_t rc =
        rd_kafka_query_watermark_offsets(s->again.rk, t->topic, t->id, &low, &high, KAFKA_ASK_MS);

    if (rc) {
        return err_set(err, LEVEE_EBROKER, "Kafka at %s: %s", s->config.brokers,
                       rd_kafka_err2str(rc));
    }
    err_set(err, LEVEE_EOFFSET_RANGE,
            "source %s: records that were received and not yet processed are gone from topic %s",
            uid, t->topic);
    err_where(err, "partition %d; positions mode: the log holds only where they were", (int)t->id);
    err_expected(err, "offset %lld", (long long)first);
    err_found(err, "offsets %lld to below %lld", (long long)low, (long long)high);
    return LEVEE_EOFFSET_RANGE;
}

static int refused(struct kafka_source *s, const char *uid, const struct kafka_tail *t,
                   int64_t first, rd_kafka_resp_err_t code, struct levee_error *err)
{
    if (code == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE ||
        code == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET) {
        return out_of_range(s, uid, t, first, err);
    }
    if (kafka_forbidden(code)) {
        err_set(err, LEVEE_EACCESS, "source %s: no permission to read Kafka topic %s", uid,
                t->topic);
    } else if (kafka_unknown(code)) {
        err_set(err, LEVEE_ETOPIC, "source %s: Kafka knows no topic %s any more", uid, t->topic);
    } else {
        err_set(err, LEVEE_EBROKER, "Kafka at %s", s->config.brokers);
    }
    err_where(err, "partition %d of %s, offset %lld", (int)t->id, t->topic, (long long)first);
    err_found(err, "%s", rd_kafka_err2str(code));
    return err->code;
}

/* The message as it was appended the first time (kafka_receive.c). */
static int give(struct kafka_source *s, const struct kafka_tail *t, const rd_kafka_message_t *m,
                levee_reread_fn add, void *arg)
{
    struct levee_record r;

    kafka_record_of(m, &r);
    if (s->config.envelope) {
        buf_clear(&s->again.scratch);
        if (!kafka_envelope_put(m, t->topic, &s->again.scratch)) {
            return LEVEE_ENOMEM;
        }
        r.value = buf_view(&s->again.scratch);
    }
    return add(arg, &r, (uint64_t)m->offset + 1);
}

/* One answer of the client. *ret_done: the range is over, with all its records or without. */
static int take(struct kafka_source *s, struct kafka_tail *t, const rd_kafka_message_t *m,
                int64_t last, levee_reread_fn add, void *arg, bool *ret_done)
{
    if (m->offset > last) { /* and lost to the next range, which begins anew */
        stop_tail(t);
        *ret_done = true;
        return LEVEE_OK;
    }
    t->next = m->offset + 1;
    *ret_done = m->offset == last;
    return give(s, t, m, add, arg);
}

int kafka_read_again(void *self, levee_inlet *inlet, const struct levee_range *range,
                     levee_reread_fn add, void *arg, struct levee_error *err)
{
    struct kafka_source *s = self;
    const char *uid = levee_inlet_uid(inlet);
    int64_t first = (int64_t)range->first - 1, last = (int64_t)range->last - 1;
    struct kafka_tail *t = NULL;
    bool done = false, ended = false;
    int code = open_client(s, uid, err);

    if (code == LEVEE_OK) {
        code = find_tail(s, uid, range->producer, &t, err);
    }
    if (code || !t) {
        return code;
    }
    if (t->next != first) {
        stop_tail(t);
        if (rd_kafka_consume_start(t->rkt, t->id, first)) {
            return refused(s, uid, t, first, rd_kafka_last_error(), err);
        }
        t->next = first;
    }
    uint64_t quiet_since = kafka_now(s);
    while (code == LEVEE_OK && !done) {
        rd_kafka_message_t *m = rd_kafka_consume(t->rkt, t->id, POLL_MS);
        bool patient = kafka_now(s) < quiet_since + PATIENCE_NS;
        (void)rd_kafka_poll(s->again.rk, 0);
        if (m && !m->err) {
            code = take(s, t, m, last, add, arg, &done);
            quiet_since = kafka_now(s);
        } else if (m && m->err != RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            code = refused(s, uid, t, first, m->err, err);
        } else if (!patient && ended) {
            done = true; /* it is shorter than it was: the runtime compares */
        } else if (!patient) {
            code = refused(s, uid, t, first, RD_KAFKA_RESP_ERR__TIMED_OUT, err);
        }
        ended = ended || (m && m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF);
        if (m) {
            rd_kafka_message_destroy(m);
        }
    }
    if (code || t->next != last + 1) {
        stop_tail(t); /* the next attempt begins at its beginning */
    }
    return code;
}
