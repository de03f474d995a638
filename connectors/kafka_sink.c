/*
 * The Kafka sink: a batch's records and its token become visible in one transaction, once.
 *
 *   open        the topic is there, and can be reached             read-only
 *   last_token  the group's committed offset for partition 0       read-only
 *   settle      is nobody newer there? init_transactions (whatever was open is aborted, older
 *               producers are fenced), then a first transaction with the token alone, so that
 *               processes of an older epoch see whom they have to give way to
 *   batch       begin · produce · token · commit
 *
 * Records are handed to the client without copying their values: they are views into the batch,
 * which is kept until commit or abort has returned, and both leave nothing in the client.
 *
 * The last record of a batch is held back until commit, because it carries the token as a header:
 * the second evidence for the case that the broker forgets the first (kafka_token.c).
 */
#include <stdio.h>

#include "connectors/kafka_sink.h"

#define TIMEOUT_MS   10000u
#define REFRESH_MS   3600000u
#define FULL_POLL_MS 10

/* ---- open, tokens ---- */

static int create_topic(struct kafka_sink *s, struct levee_error *err)
{
    char text[256] = "";
    rd_kafka_NewTopic_t *topic =
        rd_kafka_NewTopic_new(s->topic, (int)s->create_partitions, -1, text, sizeof text);
    rd_kafka_queue_t *q = rd_kafka_queue_new(s->reader);
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR__FAIL;

    if (topic) {
        rd_kafka_CreateTopics(s->reader, &topic, 1, NULL, q);
        rd_kafka_event_t *ev = rd_kafka_queue_poll(q, KSINK_ASK_MS);
        const rd_kafka_CreateTopics_result_t *r =
            ev ? rd_kafka_event_CreateTopics_result(ev) : NULL;
        size_t n = 0;
        const rd_kafka_topic_result_t **topics =
            r ? rd_kafka_CreateTopics_result_topics(r, &n) : NULL;
        code = n ? rd_kafka_topic_result_error(topics[0]) : RD_KAFKA_RESP_ERR__TIMED_OUT;
        if (ev) {
            rd_kafka_event_destroy(ev);
        }
        rd_kafka_NewTopic_destroy(topic);
    }
    rd_kafka_queue_destroy(q);
    if (!code || code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) {
        return LEVEE_OK;
    }
    enum ksink_outcome o = ksink_outcome_of(code, false, true, false);
    return ksink_error(s, o, "creating it", text[0] ? text : rd_kafka_err2str(code), err);
}

static rd_kafka_resp_err_t ask_topic(struct kafka_sink *s)
{
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(s->reader, s->topic, NULL);
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR__INVALID_ARG;

    if (rkt) {
        code = rd_kafka_metadata(s->reader, 0, rkt, &md, KSINK_ASK_MS);
        rd_kafka_topic_destroy(rkt);
    }
    if (!code) {
        code = md->topic_cnt == 1 ? md->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
        rd_kafka_metadata_destroy(md);
    }
    (void)rd_kafka_poll(s->reader, 0); /* runs the error callback */
    return code;
}

static bool is_unknown(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
           code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC || code == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
}

static int ksink_open(void *self, const struct levee_token *identity, struct levee_error *err)
{
    struct kafka_sink *s = self;
    int code;

    s->identity = *identity;
    (void)snprintf(s->transactional_id, sizeof s->transactional_id, "levee-%s-%s",
                   identity->context, identity->uid);
    if ((code = ksink_reader_open(s, err)) != LEVEE_OK) {
        return code;
    }
    rd_kafka_resp_err_t rc = ask_topic(s);
    if (is_unknown(rc) && s->create_partitions) {
        return create_topic(s, err);
    }
    if (is_unknown(rc)) {
        err_set(err, LEVEE_ETOPIC, "Kafka knows no topic %s", s->topic);
        err_where(err, "brokers %s", s->brokers);
        err_found(err, "%s", rd_kafka_err2str(rc));
        return LEVEE_ETOPIC;
    }
    return rc ? ksink_error(s, ksink_outcome_of(rc, false, true, false), "reaching it",
                            rd_kafka_err2str(rc), err)
              : LEVEE_OK;
}

static int ksink_last_token(void *self, enum levee_token_state *ret_state,
                            struct levee_token *ret_token, struct levee_error *err)
{
    struct kafka_sink *s = self;

    if (s->at_least_once) {
        *ret_state = LEVEE_TOKEN_NEVER;
        return LEVEE_OK;
    }
    return ksink_token_read(s, ret_state, ret_token, err);
}

/* ---- settle ---- */

/* A life with a higher epoch has been here: this one is over, and must not fence that one. */
static int newer_life(struct kafka_sink *s, struct levee_error *err)
{
    enum levee_token_state state;
    struct levee_token t = {0};
    int code = ksink_token_read(s, &state, &t, err);

    if (code || state != LEVEE_TOKEN_FOUND || t.epoch <= s->identity.epoch) {
        return code;
    }
    err_set(err, LEVEE_ESINK_FENCED, "another process of this context writes to Kafka topic %s",
            s->topic);
    err_where(err, "group %s, transactional id %s", s->group, s->transactional_id);
    err_expected(err, "epoch %llu or lower", (unsigned long long)s->identity.epoch);
    err_found(err, "epoch %llu, batch %llu", (unsigned long long)t.epoch,
              (unsigned long long)t.batch);
    return LEVEE_ESINK_FENCED;
}

/* The token of this life with the newest batch that is there. */
static int first_token(struct kafka_sink *s, const struct levee_token *now, struct levee_error *err)
{
    enum levee_token_state state;
    struct levee_token t = {0}, mine = *now;
    int code;

    ksink_reader_close(s);
    s->stable = true; /* from here on: nothing of ours is open */
    if ((code = ksink_token_read(s, &state, &t, err)) != LEVEE_OK) {
        return code;
    }
    if (state == LEVEE_TOKEN_FOUND && t.epoch > mine.epoch) {
        return newer_life(s, err);
    }
    if (state == LEVEE_TOKEN_FOREIGN) {
        return LEVEE_OK; /* last_token says so again, and is judged */
    }
    if (state == LEVEE_TOKEN_FOUND && t.batch > mine.batch) {
        /* Something was committed since it was judged: by our own earlier life, or by one that we
         * have just fenced and that knows more than we do. A token of ours here would lock that one
         * out as well, so it waits until this one is judged: the next batch carries our epoch. */
        s->now = t;
        return LEVEE_OK;
    }
    s->now = mine;
    if ((code = ksink_begin(s, err)) == LEVEE_OK) {
        code = ksink_commit(s, &mine, err);
    }
    return code;
}

static int ksink_settle(void *self, const struct levee_token *now, struct levee_error *err)
{
    struct kafka_sink *s = self;
    int code = LEVEE_OK;

    s->identity.epoch = now->epoch;
    if (!s->at_least_once) {
        code = newer_life(s, err);
    }
    if (code == LEVEE_OK) {
        code = ksink_producer_open(s, err);
    }
    if (code == LEVEE_OK) {
        code = ksink_ends(s, err);
    }
    if (code == LEVEE_OK && !s->at_least_once) {
        code = first_token(s, now, err);
        crash_at(s->io, CP_KSINK_AFTER_FIRST_TOKEN);
    }
    if (code) {
        ksink_producer_close(s);
    }
    return code;
}

/* ---- a batch ---- */

static int sink_begin(void *self, const struct levee_token *token, struct levee_error *err)
{
    struct kafka_sink *s = self;
    int code = LEVEE_OK;

    s->now = *token;
    s->index = 0;
    s->has_held = false;
    if (!s->producer) { /* an abort closed it; with a token the runtime settles first */
        code = ksink_producer_open(s, err);
    }
    return code ? code : ksink_begin(s, err);
}

/* The value as it is sent. As text it lies in scratch, and *ret_flags says that it must be copied.
 */
static struct levee_slice value_of(struct kafka_sink *s, struct levee_slice v, int *ret_flags)
{
    char text[64];
    int n = -1;

    *ret_flags = 0;
    if (!v.data || s->value == LEVEE_VALUE_TEXT) {
        return v;
    }
    if (s->value == LEVEE_VALUE_I64 && v.len == 8) {
        n = snprintf(text, sizeof text, "%lld", (long long)levee_i64(v));
    } else if (s->value == LEVEE_VALUE_F64 && v.len == 8) {
        n = snprintf(text, sizeof text, "%.17g", levee_f64(v));
    }
    if (n < 0) {
        return v;
    }
    buf_clear(&s->scratch);
    buf_put(&s->scratch, text, (size_t)n);
    *ret_flags = RD_KAFKA_MSG_F_COPY;
    return buf_view(&s->scratch);
}

static rd_kafka_resp_err_t produce_once(struct kafka_sink *s, const struct levee_record *r,
                                        int32_t partition, const char *header)
{
    static const uint8_t empty;
    int flags;
    struct levee_slice v = value_of(s, r->value, &flags);
    /* The client takes a NULL key for "none" and a NULL value for a tombstone. */
    const uint8_t *key = r->key.data && !r->key.len ? &empty : r->key.data;
    const uint8_t *value = v.data && !v.len ? &empty : v.data;

    if (!header) {
        return rd_kafka_produce(s->rkt, partition, flags, (void *)(uintptr_t)value, v.len, key,
                                r->key.len, NULL) == 0
                   ? RD_KAFKA_RESP_ERR_NO_ERROR
                   : rd_kafka_last_error();
    }
    rd_kafka_vu_t vus[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = s->rkt},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = partition},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = flags},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t)value, v.len}},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)key, r->key.len}},
        {.vtype = RD_KAFKA_VTYPE_HEADER, .u.header = {KSINK_HEADER, header, -1}},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = s},
    };
    rd_kafka_error_t *e = rd_kafka_produceva(s->producer, vus, ARRAY_LEN(vus));
    rd_kafka_resp_err_t code = e ? rd_kafka_error_code(e) : RD_KAFKA_RESP_ERR_NO_ERROR;
    if (e) {
        rd_kafka_error_destroy(e);
    }
    return code;
}

/* With a key Java's murmur2 chooses the partition; without one the records go round, so that the
 * same batch gives the same places. */
static int produce(struct kafka_sink *s, const struct levee_record *r, const char *header,
                   struct levee_error *err)
{
    int32_t partition =
        r->key.data ? RD_KAFKA_PARTITION_UA : (int32_t)(s->index % (uint64_t)s->partition_count);
    uint64_t deadline = s->io->ops->now_ns(s->io) + (uint64_t)s->timeout_ms * 1000000u;
    rd_kafka_resp_err_t code;

    while ((code = produce_once(s, r, partition, header)) == RD_KAFKA_RESP_ERR__QUEUE_FULL &&
           !s->delivery_error && s->io->ops->now_ns(s->io) < deadline) {
        (void)rd_kafka_poll(s->producer, FULL_POLL_MS);
    }
    s->index++;
    code = s->delivery_error ? s->delivery_error : code;
    return code ? ksink_error(s, ksink_outcome_of(code, false, false, true), "producing a record",
                              rd_kafka_err2str(code), err)
                : LEVEE_OK;
}

static int sink_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                      struct levee_error *err)
{
    struct kafka_sink *s = self;
    int code = LEVEE_OK;

    (void)partition;
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        if (s->has_held) {
            code = produce(s, &s->held, NULL, err);
        }
        s->held = records[i];
        s->has_held = true;
    }
    (void)rd_kafka_poll(s->producer, 0);
    return code;
}

static int sink_commit(void *self, struct levee_error *err)
{
    struct kafka_sink *s = self;
    char header[KSINK_TOKEN_TEXT];
    int code = LEVEE_OK;

    ksink_token_text(&s->now, header);
    if (s->has_held) {
        code = produce(s, &s->held, header, err);
        s->has_held = false;
    }
    crash_at(s->io, CP_KSINK_AFTER_PRODUCE);
    if (code == LEVEE_OK) {
        code = s->at_least_once ? ksink_flush(s, err) : ksink_commit(s, &s->now, err);
    }
    if (code == LEVEE_OK) {
        s->mark = s->mark_now;
    }
    return code;
}

static void sink_abort(void *self)
{
    ksink_producer_close(self); /* settle, or the next begin, makes a new one */
}

/* The token again in a transaction of its own, before the broker forgets it. */
static int sink_refresh(void *self, struct levee_error *err)
{
    struct kafka_sink *s = self;
    int code = s->producer ? ksink_begin(s, err) : LEVEE_OK;

    if (s->producer && code == LEVEE_OK) {
        code = ksink_commit(s, &s->now, err);
    }
    if (code) {
        ksink_producer_close(s);
    }
    return code;
}

static void sink_close(void *self)
{
    ksink_producer_close(self);
    ksink_reader_close(self);
}

/* ---- building ---- */

static void sink_destroy(void *self)
{
    struct kafka_sink *s = self;

    sink_close(s);
    for (size_t i = 0; i < s->property_count; i++) {
        mem_free(s->properties[i]);
    }
    mem_free(s->properties);
    mem_free(s->brokers);
    mem_free(s->topic);
    mem_free(s->group);
    mem_free(s->ends);
    buf_release(&s->scratch);
    mem_free(s);
}

static const struct levee_sink_ops transactional_ops = {
    .version = 1,
    .kind = LEVEE_SINK_TRANSACTIONAL,
    .open = ksink_open,
    .last_token = ksink_last_token,
    .settle = ksink_settle,
    .note = ksink_note,
    .search = ksink_search,
    .refresh = sink_refresh,
    .begin = sink_begin,
    .write = sink_write,
    .commit = sink_commit,
    .abort = sink_abort,
    .close = sink_close,
    .destroy = sink_destroy,
};
static const struct levee_sink_ops plain_ops = {
    .version = 1,
    .kind = LEVEE_SINK_AT_LEAST_ONCE,
    .open = ksink_open,
    .settle = ksink_settle,
    .begin = sink_begin,
    .write = sink_write,
    .commit = sink_commit,
    .abort = sink_abort,
    .close = sink_close,
    .destroy = sink_destroy,
};

static bool copy_strings(struct kafka_sink *s, const struct levee_kafka_sink_options *o)
{
    size_t n = 0;
    char group[280];

    (void)snprintf(group, sizeof group, "levee-sink-%s", o->topic);
    s->brokers = mem_strdup(o->brokers);
    s->topic = mem_strdup(o->topic);
    s->group = mem_strdup(group);
    while (o->properties && o->properties[n]) {
        n++;
    }
    s->properties = mem_zalloc((n + 1) * sizeof *s->properties);
    for (size_t i = 0; s->properties && i < n; i++) {
        s->properties[i] = mem_strdup(o->properties[i]);
        if (!s->properties[i]) {
            return false;
        }
        s->property_count++;
    }
    return s->brokers && s->topic && s->group && s->properties;
}

static struct kafka_sink *sink_new(levee_stream *stream, const struct levee_kafka_sink_options *o)
{
    struct kafka_sink *s = mem_zalloc(sizeof *s);

    if (!s) {
        return NULL;
    }
    s->io = rt_context_io(rt_stream_context(stream));
    s->value = o->value;
    s->adopt = o->adopt;
    s->at_least_once = o->at_least_once;
    s->create_partitions = o->create_partitions;
    s->timeout_ms = o->transaction_timeout_ms ? o->transaction_timeout_ms : TIMEOUT_MS;
    s->ops = o->at_least_once ? plain_ops : transactional_ops;
    s->ops.refresh_ms = o->refresh_ms ? o->refresh_ms : REFRESH_MS;
    s->mark = s->mark_now = (struct ksink_position){-1, -1, 0};
    if (!copy_strings(s, o)) {
        sink_destroy(s);
        return NULL;
    }
    return s;
}

/* A wrong property shows when the graph is built, by name. */
static int check_properties(const struct kafka_sink *s, struct levee_error *err)
{
    int code = LEVEE_OK;

    for (int producer = 0; producer < 2 && code == LEVEE_OK; producer++) {
        rd_kafka_conf_t *conf = NULL;
        code = ksink_conf(s, producer == 1, &conf, err);
        if (code == LEVEE_OK) {
            rd_kafka_conf_destroy(conf);
        }
    }
    return code;
}

int levee_kafka_sink_at(levee_stream *s, const char *uid, const struct levee_kafka_sink_options *o,
                        const char *file, int line)
{
    const char *name = uid ? uid : "(no uid)";
    struct levee_error err = {0};

    if (!s) {
        return LEVEE_EINVALID;
    }
    if (!o || !o->brokers || !o->brokers[0] || !o->topic || !o->topic[0] ||
        strlen(o->topic) > 249) {
        (void)rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                            "kafka sink %s: brokers and topic are required", name);
        return LEVEE_EINVALID;
    }
    struct kafka_sink *k = sink_new(s, o);
    if (!k) {
        (void)rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "kafka sink %s", name);
        return LEVEE_ENOMEM;
    }
    int code = check_properties(k, &err);
    if (code) {
        (void)rt_graph_fail(s->graph, file, line, LEVEE_EINVALID, "kafka sink %s: %s%s%s", name,
                            err.what, err.found[0] ? ": " : "", err.found);
    } else {
        code = levee_sink_at(s, uid, &k->ops, k, file, line);
    }
    if (code) {
        sink_destroy(k);
    }
    return code;
}
