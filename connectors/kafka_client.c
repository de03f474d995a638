/*
 * What the Kafka source asks the broker: settings, the topic's partitions, start and end positions.
 *
 * Positions never live in the consumer group. A partition starts behind the last offset in our log;
 * if the log has none, at the low watermark found at its very first start, which is written to our
 * log before anything is fetched: a retention that deletes meanwhile is then an error that names
 * the missing range instead of a silent jump. Ends (stop_at_end) are remembered in the same way.
 *
 * An unreachable broker is no failure: every question is asked again until it is answered or the
 * source is stopped. Waits start short, so that a stop is noticed soon, and grow only when a
 * connected broker is slower than that.
 */
#include "connectors/kafka_internal.h"

#include <stdio.h>

#define ASK_FIRST_MS     150
#define ASK_MAX_MS       2400
#define UNKNOWN_PATIENCE ((uint64_t)5 * KAFKA_SECOND_NS) /* a topic just created shows up late */
#define REPORT_EVERY     (5u * (uint64_t)KAFKA_SECOND_NS)

/* ---- settings ---- */

/* Each of these would let the client, not our log, decide what is read or acknowledged. */
static const char *const refused[] = {
    "bootstrap.servers",
    "metadata.broker.list",
    "enable.auto.commit",
    "auto.commit.enable",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "offset.store.method",
    "check.crcs",
    "isolation.level",
    "enable.partition.eof",
    "allow.auto.create.topics",
    "group.instance.id",
    "partition.assignment.strategy",
    "consume.callback.max.messages",
};

static int set(rd_kafka_conf_t *conf, const char *name, const char *value, struct levee_error *err)
{
    char text[256];

    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) == RD_KAFKA_CONF_OK) {
        return LEVEE_OK;
    }
    err_set(err, LEVEE_EINVALID, "the Kafka client refuses %s=%s", name, value);
    err_found(err, "%s", text);
    return LEVEE_EINVALID;
}

static int set_user(rd_kafka_conf_t *conf, const char *property, struct levee_error *err)
{
    const char *eq = strchr(property, '=');
    char name[128];

    if (!eq || eq == property || (size_t)(eq - property) >= sizeof name) {
        return err_set(err, LEVEE_EINVALID, "Kafka property \"%s\" is not name=value", property);
    }
    memcpy(name, property, (size_t)(eq - property));
    name[eq - property] = 0;
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        if (strcmp(name, refused[i]) == 0) {
            return err_set(err, LEVEE_EINVALID,
                           "Kafka property %s may not be set: levee's promises rest on it", name);
        }
    }
    return set(conf, name, eq + 1, err);
}

int kafka_conf(const struct kafka_source *s, const char *uid, rd_kafka_conf_t **ret,
               struct levee_error *err)
{
    char group[80], wait[16];
    const char *const ours[][2] = {
        {"bootstrap.servers", s->brokers},
        {"group.id", group}, /* the client asks for one; nothing is ever committed to it */
        {"client.id", "levee"},
        {"enable.auto.commit", "false"},
        {"enable.auto.offset.store", "false"},
        {"auto.offset.reset", "error"},
        {"check.crcs", "true"},
        {"isolation.level", "read_committed"},
        {"enable.partition.eof", "true"},
        {"allow.auto.create.topics", "false"},
        {"socket.nagle.disable", "true"},
        {"fetch.wait.max.ms", wait},
        {"queued.min.messages", "100000"},
        {"queued.max.messages.kbytes", "65536"},
        {"fetch.message.max.bytes", "4194304"}, /* a start: it grows to fit the message */
        {"fetch.max.bytes", "67108864"},
        {"receive.message.max.bytes", "134217728"},
        {"max.poll.interval.ms", "86400000"}, /* we do not poll while the buffer is full */
        {"reconnect.backoff.max.ms", "1000"},
    };
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    int code = LEVEE_OK;

    (void)snprintf(group, sizeof group, "levee-%s", uid);
    (void)snprintf(wait, sizeof wait, "%u", s->fetch_wait_ms);
    for (size_t i = 0; i < ARRAY_LEN(ours) && code == LEVEE_OK; i++) {
        code = set(conf, ours[i][0], ours[i][1], err);
    }
    for (size_t i = 0; i < s->property_count && code == LEVEE_OK; i++) {
        code = set_user(conf, s->properties[i], err);
    }
    if (code) {
        rd_kafka_conf_destroy(conf);
        return code;
    }
    *ret = conf;
    return LEVEE_OK;
}

/* Instead of the client's own lines on stderr. */
static void drop_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk;
    (void)level;
    (void)facility;
    (void)text;
}

/* Runs on the receiver thread, inside a poll. */
static void keep_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    struct kafka_source *s = opaque;

    (void)rk;
    (void)snprintf(s->client_error, sizeof s->client_error, "%s: %s",
                   rd_kafka_err2name((rd_kafka_resp_err_t)code), reason);
}

int kafka_open(struct kafka_source *s, struct levee_error *err)
{
    rd_kafka_conf_t *conf = NULL;
    char text[256];
    int code = kafka_conf(s, levee_inlet_uid(s->inlet), &conf, err);

    if (code) {
        return code;
    }
    rd_kafka_conf_set_opaque(conf, s);
    rd_kafka_conf_set_log_cb(conf, drop_log);
    rd_kafka_conf_set_error_cb(conf, keep_error);
    s->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    if (!s->rk) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, LEVEE_EINVALID, "source %s: the Kafka client does not start: %s",
                       levee_inlet_uid(s->inlet), text);
    }
    (void)rd_kafka_poll_set_consumer(s->rk);
    s->rkt = rd_kafka_topic_new(s->rk, s->topic, NULL);
    if (!s->rkt) {
        kafka_close(s);
        return err_set(err, LEVEE_EINVALID, "source %s: %s is no name for a topic",
                       levee_inlet_uid(s->inlet), s->topic);
    }
    return LEVEE_OK;
}

void kafka_close(struct kafka_source *s)
{
    if (s->rkt) {
        rd_kafka_topic_destroy(s->rkt);
        s->rkt = NULL;
    }
    if (s->rk) {
        /* Nothing to commit and no group to leave: do not wait for the broker. */
        rd_kafka_destroy_flags(s->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        s->rk = NULL;
    }
}

/* ---- waiting ---- */

static bool stop_asked(void *arg)
{
    return atomic_load(&((struct kafka_source *)arg)->stop);
}

bool kafka_sleep(struct kafka_source *s, uint64_t ns)
{
    return !s->io->ops->wait(s->io, stop_asked, s, s->io->ops->now_ns(s->io) + ns);
}

void kafka_report(struct kafka_source *s, const char *what)
{
    uint64_t now = s->io->ops->now_ns(s->io);
    struct levee_error err = {0};

    if (s->reported_ns && now < s->reported_ns + REPORT_EVERY) {
        return;
    }
    s->reported_ns = now;
    err_set(&err, LEVEE_EBROKER, "Kafka at %s: %s", s->brokers, what);
    if (s->client_error[0]) {
        err_where(&err, "%s", s->client_error);
    }
    levee_inlet_report(s->inlet, &err);
}

static int stopped(const struct kafka_source *s, struct levee_error *err)
{
    return err_set(err, LEVEE_ESTOPPED, "Kafka topic %s: reading was stopped", s->topic);
}

/* ---- the topic ---- */

static rd_kafka_resp_err_t ask_topic(struct kafka_source *s, int timeout_ms, int *ret_count)
{
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_resp_err_t code = rd_kafka_metadata(s->rk, 0, s->rkt, &md, timeout_ms);

    if (code) {
        return code;
    }
    if (md->topic_cnt != 1) {
        code = RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    } else if (md->topics[0].err) {
        code = md->topics[0].err;
    } else {
        *ret_count = md->topics[0].partition_cnt;
    }
    rd_kafka_metadata_destroy(md);
    return code;
}

static bool topic_unknown(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
           code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC || code == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
}

/* A connected broker that needs longer than we waited gets longer; an unreachable one does not. */
static int longer(int timeout_ms, rd_kafka_resp_err_t code)
{
    bool slow = code == RD_KAFKA_RESP_ERR__TIMED_OUT && timeout_ms < ASK_MAX_MS;

    return slow ? timeout_ms * 2 : timeout_ms;
}

int kafka_wait_for_topic(struct kafka_source *s, int *ret_count, struct levee_error *err)
{
    uint64_t unknown_since = 0;
    int timeout_ms = ASK_FIRST_MS;

    while (!atomic_load(&s->stop)) {
        rd_kafka_resp_err_t code = ask_topic(s, timeout_ms, ret_count);
        uint64_t now = s->io->ops->now_ns(s->io);
        s->looked_ns = now;
        if (!code && *ret_count > 0) {
            return LEVEE_OK;
        }
        rd_kafka_message_t *m = rd_kafka_consumer_poll(s->rk, 0); /* runs the error callback */
        if (m) {
            rd_kafka_message_destroy(m);
        }
        timeout_ms = longer(timeout_ms, code);
        if (!topic_unknown(code)) {
            unknown_since = 0;
            kafka_report(s, rd_kafka_err2str(code));
        } else if (!unknown_since) {
            unknown_since = now;
        } else if (now >= unknown_since + UNKNOWN_PATIENCE) {
            err_set(err, LEVEE_ETOPIC, "source %s: Kafka knows no topic %s",
                    levee_inlet_uid(s->inlet), s->topic);
            err_where(err, "brokers %s", s->brokers);
            err_found(err, "%s", rd_kafka_err2str(code));
            return LEVEE_ETOPIC;
        }
        (void)kafka_sleep(s, KAFKA_SECOND_NS);
    }
    return stopped(s, err);
}

int kafka_partition_count(struct kafka_source *s)
{
    int count = 0;

    s->looked_ns = s->io->ops->now_ns(s->io);
    return ask_topic(s, ASK_FIRST_MS, &count) ? 0 : count;
}

/* ---- positions ---- */

static int watermarks(struct kafka_source *s, int32_t partition, int64_t *ret_low,
                      int64_t *ret_high, struct levee_error *err)
{
    int timeout_ms = ASK_FIRST_MS;

    while (!atomic_load(&s->stop)) {
        /* With read_committed the high end is the last stable offset. */
        rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(s->rk, s->topic, partition,
                                                                    ret_low, ret_high, timeout_ms);
        if (!code) {
            return LEVEE_OK;
        }
        timeout_ms = longer(timeout_ms, code);
        kafka_report(s, rd_kafka_err2str(code));
        (void)kafka_sleep(s, KAFKA_SECOND_NS / 10);
    }
    return stopped(s, err);
}

static bool recall(const struct kafka_source *s, const char *what, int32_t partition,
                   int64_t *ret_value)
{
    char name[KAFKA_FACT_MAX];
    uint8_t bytes[8];
    size_t len = sizeof bytes;

    (void)snprintf(name, sizeof name, "%s/%s/%d", what, s->key, (int)partition);
    if (!levee_inlet_recall(s->inlet, name, bytes, &len) || len != sizeof bytes) {
        return false;
    }
    *ret_value = (int64_t)get_le64(bytes);
    return true;
}

static int remember(const struct kafka_source *s, const char *what, int32_t partition,
                    int64_t value, struct levee_error *err)
{
    char name[KAFKA_FACT_MAX];
    uint8_t bytes[8];

    (void)snprintf(name, sizeof name, "%s/%s/%d", what, s->key, (int)partition);
    put_le64(bytes, (uint64_t)value);
    return levee_inlet_remember(s->inlet, name, slice_of(bytes, sizeof bytes), err);
}

/* Blocks until start and, if one is wanted, end of the partition are durable. */
static int resolve_one(struct kafka_source *s, struct kafka_partition *p, struct levee_error *err)
{
    bool wants_end = levee_inlet_stop_at_end(s->inlet);
    uint64_t position = levee_inlet_position(s->inlet, p->producer);
    int64_t low = 0, high = 0;
    bool has_start, has_end;
    int code;

    p->next = (int64_t)position; /* sequence = offset + 1, so this is the next offset */
    has_start = position > 0 || recall(s, "start", p->id, &p->next);
    p->end = KAFKA_NEVER;
    has_end = !wants_end || recall(s, "end", p->id, &p->end);
    if (has_start && has_end) {
        return LEVEE_OK;
    }
    if ((code = watermarks(s, p->id, &low, &high, err)) != LEVEE_OK) {
        return code;
    }
    if (has_start && (p->next < low || p->next > high)) {
        return kafka_out_of_range(s, p, err); /* or a topic made anew would look like read */
    }
    if (!has_start) {
        p->next = low;
        if ((code = remember(s, "start", p->id, low, err)) != LEVEE_OK) {
            return code;
        }
    }
    if (!has_end) {
        p->end = high;
        code = remember(s, "end", p->id, high, err);
    }
    return code;
}

/* stop_at_end reads the partitions of its first start; later ones are not part of that end. */
static int limit_to_first_start(const struct kafka_source *s, int *count, struct levee_error *err)
{
    int64_t first = 0;

    if (!levee_inlet_stop_at_end(s->inlet)) {
        return LEVEE_OK;
    }
    if (!recall(s, "partitions", 0, &first)) {
        return remember(s, "partitions", 0, *count, err);
    }
    if (first < *count) {
        *count = (int)first;
    }
    return LEVEE_OK;
}

int kafka_resolve(struct kafka_source *s, int count, struct levee_error *err)
{
    int code = limit_to_first_start(s, &count, err);

    if (code) {
        return code;
    }
    if (!mem_grow((void **)&s->partitions, &s->cap, (size_t)count, sizeof *s->partitions)) {
        return err_nomem(err, (size_t)count * sizeof *s->partitions);
    }
    while (s->count < (size_t)count) {
        struct kafka_partition *p = &s->partitions[s->count];
        char id[LEVEE_PRODUCER_MAX];
        *p = (struct kafka_partition){.id = (int32_t)s->count};
        (void)snprintf(id, sizeof id, "%s/%d", s->key, (int)p->id);
        char *copy = mem_strdup(id);
        if (!copy) {
            return err_nomem(err, sizeof id);
        }
        p->producer = slice_str(copy);
        s->count++; /* from here on the receiver frees the id */
        if ((code = resolve_one(s, p, err)) != LEVEE_OK) {
            return code;
        }
    }
    return LEVEE_OK;
}

int kafka_assign(struct kafka_source *s, bool idle, struct levee_error *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)s->count);

    for (size_t i = 0; i < s->count && !idle; i++) {
        const struct kafka_partition *p = &s->partitions[i];
        if (!p->at_end) {
            rd_kafka_topic_partition_list_add(list, s->topic, p->id)->offset = p->next;
        }
    }
    rd_kafka_resp_err_t code = rd_kafka_assign(s->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    if (code) {
        return err_set(err, LEVEE_EBROKER, "Kafka topic %s: cannot assign its partitions: %s",
                       s->topic, rd_kafka_err2str(code));
    }
    return LEVEE_OK;
}

int kafka_out_of_range(struct kafka_source *s, const struct kafka_partition *p,
                       struct levee_error *err)
{
    int64_t low = 0, high = 0;
    int code = watermarks(s, p->id, &low, &high, err);

    if (code) {
        return code;
    }
    err_set(err, LEVEE_EOFFSET_RANGE, "source %s: Kafka topic %s does not have offset %lld%s",
            levee_inlet_uid(s->inlet), s->topic, (long long)p->next,
            p->next < low ? " any more" : " yet");
    err_where(err, "partition %d of topic %s", (int)p->id, s->topic);
    err_expected(err, "offset %lld", (long long)p->next);
    err_found(err, "offsets from %lld to below %lld", (long long)low, (long long)high);
    return LEVEE_EOFFSET_RANGE;
}
