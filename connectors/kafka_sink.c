/*
 * The Kafka sink: a batch's records and its token become visible in one transaction, once.
 *
 *   open        the topic is there, and can be reached             read-only
 *   last_token  the group's committed offset for partition 0       read-only
 *   settle      is nobody newer there? init_transactions (whatever was open is aborted, older
 *               producers are fenced), then a first transaction with the token alone, so that
 *               processes of an older epoch see whom they have to give way to
 *   batch       begin · produce · token · commit                kafka_batch.c
 */
#include <stdio.h>

#include "connectors/kafka_sink.h"

#define TIMEOUT_MS        10000u
#define REFRESH_MS        3600000u
#define TRANSACTION_BYTES (64u << 20)

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
    for (unsigned i = 0; i < KSINK_PRODUCERS; i++) {
        (void)snprintf(s->transactional_id[i], sizeof s->transactional_id[i], "levee-%s-%s%s",
                       identity->context, identity->uid, i ? "-2" : "");
    }
    if ((code = ksink_reader_open(s, err)) != LEVEE_OK) {
        return code;
    }
    rd_kafka_resp_err_t rc =
        kafka_ask_topic(s->reader, s->topic, KSINK_ASK_MS, &s->partition_count);
    ksink_reader_listen(s);
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
    err_where(err, "group %s, transactional id %s", s->group, s->transactional_id[0]);
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
    if (state == LEVEE_TOKEN_FOUND && ksink_token_newer(&t, &mine)) {
        /* Something was committed since it was judged: by our own earlier life, or by one that we
         * have just fenced and that knows more than we do. A token of ours here would lock that one
         * out as well, so it waits until this one is judged: the next batch carries our epoch. */
        return LEVEE_OK;
    }
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
        /* What failed may have left a transaction open, and a stable answer would wait for its end,
         * until it times out; initialising, below, ends it at once. */
        ksink_reader_close(s);
        s->stable = false;
        code = newer_life(s, err);
    }
    if (code == LEVEE_OK) {
        code = ksink_producer_open(s, err);
    }
    if (code == LEVEE_OK && !s->at_least_once && s->there.batch) {
        code = ksink_still_there(s, err);
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

int ksink_reopen(struct kafka_sink *s, struct levee_error *err)
{
    struct levee_token before = s->there;

    if (s->at_least_once) {
        return ksink_producer_open(s, err);
    }
    before.epoch = s->identity.epoch;
    int code = ksink_settle(s, &before, err);
    if (code == LEVEE_OK && ksink_token_newer(&s->there, &before)) {
        ksink_producer_close(s); /* somebody was faster: the runtime settles and judges again */
        code = ksink_error(s, KSINK_UNCLEAR, "opening it again", "a newer token is there", err);
    }
    return code;
}

/* The token again in a transaction of its own, before the broker forgets it. */
static int sink_refresh(void *self, struct levee_error *err)
{
    struct kafka_sink *s = self;
    struct levee_token token = s->there;
    int code = s->active ? ksink_begin(s, err) : LEVEE_OK;

    token.epoch = s->identity.epoch;
    if (s->active && code == LEVEE_OK) {
        code = ksink_commit(s, &token, err);
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
    kafka_free_strings(s->properties, s->property_count);
    mem_free(s->refusals);
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
    .begin = ksink_batch_begin,
    .write = ksink_batch_write,
    .commit = ksink_batch_commit,
    .abort = ksink_batch_abort,
    .close = sink_close,
    .refused = ksink_refused,
    .destroy = sink_destroy,
};
static const struct levee_sink_ops plain_ops = {
    .version = 1,
    .kind = LEVEE_SINK_AT_LEAST_ONCE,
    .open = ksink_open,
    .settle = ksink_settle,
    .begin = ksink_batch_begin,
    .write = ksink_batch_write,
    .commit = ksink_batch_commit,
    .abort = ksink_batch_abort,
    .close = sink_close,
    .refused = ksink_refused,
    .destroy = sink_destroy,
};

static bool copy_strings(struct kafka_sink *s, const struct levee_kafka_sink_options *o)
{
    char group[280];

    (void)snprintf(group, sizeof group, "levee-sink-%s", o->topic);
    s->brokers = mem_strdup(o->brokers);
    s->topic = mem_strdup(o->topic);
    s->group = mem_strdup(group);
    return s->brokers && s->topic && s->group &&
           kafka_copy_strings(o->properties, &s->properties, &s->property_count);
}

static bool compresses(const struct kafka_sink *s)
{
    for (size_t i = 0; i < s->property_count; i++) {
        if (strncmp(s->properties[i], "compression.", strlen("compression.")) == 0) {
            return true;
        }
    }
    return false;
}

static struct kafka_sink *sink_new(levee_stream *stream, const struct levee_kafka_sink_options *o)
{
    struct kafka_sink *s = mem_zalloc(sizeof *s);

    if (!s) {
        return NULL;
    }
    s->io = rt_context_io(rt_stream_context(stream));
    s->value = o->value;
    s->envelope = o->envelope;
    s->letters = stream->kind == RT_LETTERS;
    s->transaction_bytes = o->transaction_bytes ? o->transaction_bytes : TRANSACTION_BYTES;
    s->adopt = o->adopt;
    s->at_least_once = o->at_least_once;
    s->create_partitions = o->create_partitions;
    s->timeout_ms = o->transaction_timeout_ms ? o->transaction_timeout_ms : TIMEOUT_MS;
    s->ops = o->at_least_once ? plain_ops : transactional_ops;
    s->ops.refresh_ms = o->refresh_ms ? o->refresh_ms : REFRESH_MS;
    s->mark = s->mark_now = s->anew = (struct ksink_position){-1, -1, 0};
    if (!copy_strings(s, o)) {
        sink_destroy(s);
        return NULL;
    }
    s->compresses = compresses(s);
    return s;
}

/* A wrong property shows when the graph is built, by name. */
static int check_properties(const struct kafka_sink *s, struct levee_error *err)
{
    int code = LEVEE_OK;

    for (int which = KSINK_PRODUCER; which <= KSINK_READER && code == LEVEE_OK; which++) {
        rd_kafka_conf_t *conf = NULL;
        code = ksink_conf(s, (enum ksink_client)which, &conf, err);
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
