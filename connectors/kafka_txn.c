/*
 * The sink's producers and their transactions.
 *
 * A transactional call of the client has four kinds of answers, told apart by flags of the error
 * and by a few codes (ksink_outcome_of): try again, abort, fatal, fenced. Only "try again" is safe
 * to act upon directly: the call had no effect. Everything else ends in the same way, because a
 * second way would hardly ever run and never be trusted: the producer is destroyed, a new one is
 * initialised (which aborts what the old one left open, and fences whoever still uses it), and the
 * token is read back to learn whether the transaction went through.
 *
 * Two producers, used in turn. The broker answers a commit before the markers of the transaction
 * are written, and lets the same transactional id begin the next only afterwards: with one id every
 * transaction waits for the one before. Order is kept because commit is waited for before the other
 * begins; and since either may have the newest token, both are initialised before it is read.
 *
 * Times. A transaction that stays open longer than transaction.timeout.ms is aborted by the broker,
 * which then refuses our epoch in the same words as if another process had fenced us; who it was
 * is told apart by the epoch in the token. Until it times out, an open transaction hides everything
 * behind it from read_committed readers, so the time is short.
 */
#include <stdio.h>

#include "connectors/kafka_sink.h"

#define STEP_MS      500 /* longest wait inside one call of the client */
#define INIT_STEP_MS 50

/* ---- settings ---- */

/* Each of these would let the client break what the sink promises. */
static const char *const refused[] = {
    "bootstrap.servers",
    "metadata.broker.list",
    "transactional.id",
    "enable.idempotence",
    "acks",
    "request.required.acks",
    "isolation.level",
    "group.id",
    "enable.auto.commit",
    "enable.gapless.guarantee",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "transaction.timeout.ms",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "partitioner",
    "group.instance.id",
    "allow.auto.create.topics",
    "delivery.report.only.error",
    NULL,
};

static void keep_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    struct kafka_sink *s = opaque;

    (void)rk;
    (void)snprintf(s->client_error, sizeof s->client_error, "%s: %s",
                   rd_kafka_err2name((rd_kafka_resp_err_t)code), reason);
}

/* id: the transactional id, for a producer that has one. */
static int set_producer(const struct kafka_sink *s, rd_kafka_conf_t *conf, const char *id,
                        struct levee_error *err)
{
    char timeout[16];
    /* Without transactional.id this is a plain idempotent producer. The backoff decides how long
     * the client waits while the markers of the transaction before are written: with its default of
     * 100 ms that is the time of a small batch. */
    const struct kafka_setting settings[] = {{"enable.idempotence", "true"},
                                             {"partitioner", "murmur2_random"},
                                             {"allow.auto.create.topics", "false"},
                                             {"retry.backoff.ms", "2"},
                                             {"linger.ms", "2"},
                                             {"queue.buffering.max.messages", "2000000"},
                                             {"queue.buffering.max.kbytes", "1048576"},
                                             {"message.timeout.ms", timeout},
                                             {"transactional.id", id},
                                             {"transaction.timeout.ms", timeout}};

    (void)snprintf(timeout, sizeof timeout, "%u", s->timeout_ms);
    return kafka_set_list(conf, settings, ARRAY_LEN(settings) - (id ? 0 : 2), err);
}

static int set_reader(const struct kafka_sink *s, rd_kafka_conf_t *conf, struct levee_error *err)
{
    const struct kafka_setting settings[] = {
        {"group.id", s->group},
        {"enable.auto.commit", "false"},
        {"enable.auto.offset.store", "false"},
        {"enable.partition.eof", "true"},
        {"auto.offset.reset", "error"},
        {"check.crcs", "true"},
        {"isolation.level", s->stable ? "read_committed" : "read_uncommitted"}};

    return kafka_set_list(conf, settings, ARRAY_LEN(settings), err);
}

int ksink_conf(const struct kafka_sink *s, enum ksink_client which, rd_kafka_conf_t **ret,
               struct levee_error *err)
{
    const struct kafka_setting both[] = {{"bootstrap.servers", s->brokers},
                                         {"client.id", "levee"},
                                         {"socket.nagle.disable", "true"},
                                         {"reconnect.backoff.max.ms", "1000"}};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    int code = kafka_set_list(conf, both, ARRAY_LEN(both), err);

    if (code == LEVEE_OK) {
        const char *id = s->at_least_once ? NULL : s->transactional_id[which % KSINK_PRODUCERS];
        code = which == KSINK_READER ? set_reader(s, conf, err) : set_producer(s, conf, id, err);
    }
    for (size_t i = 0; i < s->property_count && code == LEVEE_OK; i++) {
        code = kafka_set_user(conf, s->properties[i], refused, err);
    }
    if (code == LEVEE_OK && s->probing && which != KSINK_READER) {
        code = kafka_set(conf, "batch.num.messages", "1", err);
    }
    if (code) {
        rd_kafka_conf_destroy(conf);
        return code;
    }
    *ret = conf;
    return LEVEE_OK;
}

/* ---- answers ---- */

enum ksink_outcome ksink_outcome_of(rd_kafka_resp_err_t code, bool fatal, bool retriable,
                                    bool requires_abort)
{
    switch ((int)code) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        return KSINK_OK;
    case RD_KAFKA_RESP_ERR__FENCED:
    case RD_KAFKA_RESP_ERR_PRODUCER_FENCED:
    case RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH:
        return KSINK_FENCED;
    case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
    case RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT:
    case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
        return KSINK_REFUSED;
    default:
        return retriable && !fatal && !requires_abort ? KSINK_AGAIN : KSINK_UNCLEAR;
    }
}

/* Takes the error. */
static enum ksink_outcome take(rd_kafka_error_t *e, char text[256])
{
    if (!e) {
        return KSINK_OK;
    }
    enum ksink_outcome o =
        ksink_outcome_of(rd_kafka_error_code(e), rd_kafka_error_is_fatal(e),
                         rd_kafka_error_is_retriable(e), rd_kafka_error_txn_requires_abort(e));
    (void)snprintf(text, 256, "%s: %s", rd_kafka_error_name(e), rd_kafka_error_string(e));
    rd_kafka_error_destroy(e);
    return o;
}

int ksink_error(const struct kafka_sink *s, enum ksink_outcome outcome, const char *doing,
                const char *text, struct levee_error *err)
{
    static const int codes[] = {[KSINK_OK] = LEVEE_OK,
                                [KSINK_AGAIN] = LEVEE_EBROKER,
                                [KSINK_UNCLEAR] = LEVEE_EBROKER,
                                [KSINK_FENCED] = LEVEE_EBROKER, /* settle tells by whom */
                                [KSINK_REFUSED] = LEVEE_ESINK_FAILED};

    if (s->anew.partition >= 0) { /* nothing else matters then */
        err_set(err, LEVEE_ESINK_BEHIND,
                "partition %d is shorter than it was: topic made anew, or truncated",
                (int)s->anew.partition);
        err_where(err, "topic %s, brokers %s", s->topic, s->brokers);
        err_expected(err, "offset %lld or higher", (long long)s->ends[s->anew.partition] - 1);
        err_found(err, "offset %lld for a record of batch %llu", (long long)s->anew.offset,
                  (unsigned long long)s->anew.batch);
        return LEVEE_ESINK_BEHIND;
    }
    if (s->clock_refused) { /* passes when the clock is set */
        err_set(err, LEVEE_EBROKER,
                "Kafka topic %s does not take records of this time: is this machine's clock right?",
                s->topic);
        err_where(err, "brokers %s", s->brokers);
        err_expected(err, "a time that is less than the topic's message.timestamp limits away "
                          "from the broker's");
        err_found(err, "%s; the wall clock here says %lld ms", text,
                  (long long)s->io->ops->wall_ms(s->io));
        return LEVEE_EBROKER;
    }
    err_set(err, codes[outcome], "Kafka topic %s: %s failed", s->topic, doing);
    err_where(err, "brokers %s", s->brokers);
    err_found(err, "%s%s%s", text, s->client_error[0] ? "; " : "", s->client_error);
    return codes[outcome];
}

/* ---- clients ---- */

static int client_new(struct kafka_sink *s, enum ksink_client which, rd_kafka_t **ret,
                      struct levee_error *err)
{
    rd_kafka_type_t type = which == KSINK_READER ? RD_KAFKA_CONSUMER : RD_KAFKA_PRODUCER;
    rd_kafka_conf_t *conf = NULL;
    int code = ksink_conf(s, which, &conf, err);

    if (code) {
        return code;
    }
    rd_kafka_conf_set_opaque(conf, s);
    kafka_set_quiet(conf);
    rd_kafka_conf_set_error_cb(conf, keep_error);
    if (type == RD_KAFKA_PRODUCER) {
        rd_kafka_conf_set_dr_msg_cb(conf, ksink_delivered);
    }
    return kafka_client_new(type, conf, ret, err);
}

int ksink_reader_open(struct kafka_sink *s, struct levee_error *err)
{
    if (s->reader) {
        return LEVEE_OK;
    }
    s->client_error[0] = 0;
    s->reader_denied = RD_KAFKA_RESP_ERR_NO_ERROR;
    int code = client_new(s, KSINK_READER, &s->reader, err);
    if (code == LEVEE_OK) {
        (void)rd_kafka_poll_set_consumer(s->reader);
    }
    return code;
}

void ksink_reader_close(struct kafka_sink *s)
{
    if (s->reader) {
        rd_kafka_destroy_flags(s->reader, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        s->reader = NULL;
    }
}

static void close_one(struct ksink_producer *p)
{
    if (p->rkt) {
        rd_kafka_topic_destroy(p->rkt);
    }
    if (p->rk) {
        (void)rd_kafka_purge(p->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
                                        RD_KAFKA_PURGE_F_NON_BLOCKING);
        rd_kafka_destroy(p->rk);
    }
    *p = (struct ksink_producer){NULL, NULL};
}

void ksink_producer_close(struct kafka_sink *s)
{
    s->has_held = false;
    s->active = NULL;
    for (unsigned i = 0; i < KSINK_PRODUCERS; i++) {
        close_one(&s->producers[i]);
    }
}

static uint64_t deadline_of(const struct kafka_sink *s)
{
    return s->io->ops->now_ns(s->io) + (uint64_t)s->timeout_ms * 1000000u;
}

static bool expired(const struct kafka_sink *s, uint64_t deadline)
{
    return s->io->ops->now_ns(s->io) >= deadline;
}

/* All at once: each takes the broker half a second if a predecessor's transaction is open. */
static int init_transactions(struct kafka_sink *s, unsigned n, struct levee_error *err)
{
    uint64_t deadline = deadline_of(s);
    bool ready[KSINK_PRODUCERS] = {false};
    enum ksink_outcome o = KSINK_OK;
    unsigned left = n;
    char text[256] = "";

    while (left && (o == KSINK_OK || (o == KSINK_AGAIN && !expired(s, deadline)))) {
        for (unsigned i = 0; i < n; i++) {
            if (ready[i]) {
                continue;
            }
            o = take(rd_kafka_init_transactions(s->producers[i].rk, INIT_STEP_MS), text);
            (void)rd_kafka_poll(s->producers[i].rk, 0);
            ready[i] = o == KSINK_OK;
            left -= ready[i];
            if (o != KSINK_OK && o != KSINK_AGAIN) {
                break;
            }
        }
    }
    return left == 0 ? LEVEE_OK : ksink_error(s, o, "initialising transactions", text, err);
}

/* Asked once ahead: the first record for a topic that the producer does not know waits a second. */
static int ask_partitions(struct kafka_sink *s, const struct ksink_producer *p,
                          struct levee_error *err)
{
    rd_kafka_resp_err_t code = kafka_ask_topic(p->rk, s->topic, KSINK_ASK_MS, &s->partition_count);

    if (!code && s->partition_count > KSINK_PARTITIONS) {
        err_set(err, LEVEE_EUNSUPPORTED, "Kafka topic %s has too many partitions", s->topic);
        err_expected(err, "at most %d", KSINK_PARTITIONS);
        err_found(err, "%d", (int)s->partition_count);
        return LEVEE_EUNSUPPORTED;
    }
    if (code || s->partition_count < 1) {
        return ksink_error(s, KSINK_AGAIN, "asking for its partitions", rd_kafka_err2str(code),
                           err);
    }
    return LEVEE_OK;
}

static int open_topic(struct kafka_sink *s, struct ksink_producer *p, struct levee_error *err)
{
    p->rkt = rd_kafka_topic_new(p->rk, s->topic, NULL);
    return p->rkt ? ask_partitions(s, p, err)
                  : err_set(err, LEVEE_EINVALID, "%s is no name for a topic", s->topic);
}

int ksink_producer_open(struct kafka_sink *s, struct levee_error *err)
{
    unsigned n = s->at_least_once ? 1 : KSINK_PRODUCERS;
    int code = LEVEE_OK;

    ksink_producer_close(s);
    s->client_error[0] = 0;
    for (unsigned i = 0; i < n && code == LEVEE_OK; i++) {
        code = client_new(s, (enum ksink_client)i, &s->producers[i].rk, err);
    }
    /* Before a token is read: any of them may have held the newest transaction. */
    if (code == LEVEE_OK && !s->at_least_once) {
        code = init_transactions(s, n, err);
        crash_at(s->io, CP_KSINK_AFTER_INIT);
    }
    for (unsigned i = 0; i < n && code == LEVEE_OK; i++) {
        code = open_topic(s, &s->producers[i], err);
    }
    if (code) {
        ksink_producer_close(s);
        return code;
    }
    s->producer_probes = s->probing;
    s->active = &s->producers[0];
    return LEVEE_OK;
}

/* ---- a transaction ---- */

int ksink_begin(struct kafka_sink *s, struct levee_error *err)
{
    char text[256] = "";

    s->delivery_error = RD_KAFKA_RESP_ERR_NO_ERROR;
    s->suspect = s->clock_refused = false;
    s->bytes = 0;
    s->began_ns = s->io->ops->now_ns(s->io);
    s->marked = 0;
    s->mark_now = s->mark;
    if (s->at_least_once) {
        return LEVEE_OK;
    }
    s->active =
        s->active == s->producers ? s->active + 1 : s->producers; /* in turn: there are two */
    enum ksink_outcome o = take(rd_kafka_begin_transaction(s->active->rk), text);
    if (o) {
        return ksink_error(s, o, "beginning a transaction", text, err);
    }
    crash_at(s->io, CP_KSINK_AFTER_BEGIN);
    return LEVEE_OK;
}

static int send_token(struct kafka_sink *s, const struct levee_token *token, uint64_t deadline,
                      struct levee_error *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *p = rd_kafka_topic_partition_list_add(list, s->topic, 0);
    rd_kafka_consumer_group_metadata_t *group = rd_kafka_consumer_group_metadata_new(s->group);
    char metadata[KSINK_TOKEN_TEXT], text[256] = "";
    enum ksink_outcome o;

    ksink_token_text(token, metadata);
    p->offset = (int64_t)token->batch;
    p->metadata = metadata;
    p->metadata_size = strlen(metadata);
    do {
        o = take(rd_kafka_send_offsets_to_transaction(s->active->rk, list, group, STEP_MS), text);
    } while (o == KSINK_AGAIN && !expired(s, deadline));
    p->metadata = NULL; /* ours, not the list's */
    p->metadata_size = 0;
    rd_kafka_consumer_group_metadata_destroy(group);
    rd_kafka_topic_partition_list_destroy(list);
    return o ? ksink_error(s, o, "putting the token into the transaction", text, err) : LEVEE_OK;
}

int ksink_flush(struct kafka_sink *s, struct levee_error *err)
{
    uint64_t deadline = deadline_of(s);
    rd_kafka_resp_err_t code;

    do {
        code = rd_kafka_flush(s->active->rk, STEP_MS);
    } while (code == RD_KAFKA_RESP_ERR__TIMED_OUT && !s->delivery_error && !expired(s, deadline));
    code = s->delivery_error ? s->delivery_error : code;
    return code ? ksink_error(s, KSINK_UNCLEAR, "delivering records", rd_kafka_err2str(code), err)
                : LEVEE_OK;
}

int ksink_commit(struct kafka_sink *s, const struct levee_token *token, struct levee_error *err)
{
    uint64_t deadline = deadline_of(s);
    char text[256] = "";
    enum ksink_outcome o;
    int code = send_token(s, token, deadline, err);

    if (code == LEVEE_OK) {
        crash_at(s->io, CP_KSINK_AFTER_SEND_OFFSETS);
        code = ksink_flush(s, err);
    }
    if (code) {
        return code;
    }
    do {
        o = take(rd_kafka_commit_transaction(s->active->rk, STEP_MS), text);
    } while (o == KSINK_AGAIN && !expired(s, deadline));
    if (o) {
        return ksink_error(s, o, "committing", text, err);
    }
    crash_at(s->io, CP_KSINK_AFTER_COMMIT);
    s->there = *token;
    return LEVEE_OK;
}
