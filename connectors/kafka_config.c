/*
 * What the user wants of a Kafka source, copied and checked when the graph is built, and the
 * client's settings that follow from it.
 *
 * Everything that can be wrong without asking a broker is refused here, by name: what is read must
 * be said in exactly one way, names must be names, no partition twice. Of the client's settings we
 * own those on which the promises rest (offsets, isolation, checksums); the rest (security, sizes,
 * time-outs) is the user's.
 */
#include "connectors/kafka_source.h"

#include <stdio.h>

#define GROUP_MAX 200

/* ---- copies ---- */

static bool copy_places(const struct levee_kafka_partition *set, size_t n, struct kafka_place **ret,
                        size_t *ret_count)
{
    *ret = n ? mem_zalloc(n * sizeof **ret) : NULL;
    while (*ret && *ret_count < n) {
        struct kafka_place *p = &(*ret)[*ret_count];
        *p = (struct kafka_place){mem_strdup(set[*ret_count].topic), set[*ret_count].partition, 0};
        if (!p->topic) {
            return false;
        }
        (*ret_count)++;
    }
    return *ret || !n;
}

static bool copy_offsets(const struct levee_kafka_offset *list, size_t n, struct kafka_place **ret,
                         size_t *ret_count)
{
    *ret = n ? mem_zalloc(n * sizeof **ret) : NULL;
    while (*ret && *ret_count < n) {
        const struct levee_kafka_offset *o = &list[*ret_count];
        struct kafka_place *p = &(*ret)[*ret_count];
        *p = (struct kafka_place){mem_strdup(o->topic), o->partition, o->offset};
        if (!p->topic) {
            return false;
        }
        (*ret_count)++;
    }
    return *ret || !n;
}

static void free_places(struct kafka_place *places, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        mem_free(places[i].topic);
    }
    mem_free(places);
}

void kafka_config_release(struct kafka_config *c)
{
    if (c->pattern) {
        regfree(&c->regex);
    }
    kafka_free_strings(c->topics, c->topic_count);
    kafka_free_strings(c->properties, c->property_count);
    free_places(c->set, c->set_count);
    free_places(c->offsets, c->offset_count);
    mem_free(c->pattern);
    mem_free(c->brokers);
    mem_free(c->group);
    *c = (struct kafka_config){0};
}

const struct kafka_place *kafka_place_find(const struct kafka_place *places, size_t count,
                                           const char *topic, int32_t partition)
{
    for (size_t i = 0; i < count; i++) {
        if (places[i].partition == partition && strcmp(places[i].topic, topic) == 0) {
            return &places[i];
        }
    }
    return NULL;
}

/* ---- what is read ---- */

static bool is_topic_name(const char *name)
{
    size_t n = name ? strlen(name) : 0;
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789._-";

    return n > 0 && n <= KAFKA_TOPIC_MAX && strspn(name, allowed) == n && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static int check_topics(const char *const *topics, struct levee_error *err)
{
    for (size_t i = 0; topics[i]; i++) {
        if (!is_topic_name(topics[i])) {
            return err_set(err, LEVEE_EINVALID, "\"%.60s\" is no name for a topic", topics[i]);
        }
        for (size_t k = 0; k < i; k++) {
            if (strcmp(topics[i], topics[k]) == 0) {
                return err_set(err, LEVEE_EINVALID, "topic %s is named twice", topics[i]);
            }
        }
    }
    return topics[0] ? LEVEE_OK : err_set(err, LEVEE_EINVALID, "the list of topics is empty");
}

static int check_place(const char *topic, int32_t partition, struct levee_error *err)
{
    if (!is_topic_name(topic)) {
        return err_set(err, LEVEE_EINVALID, "\"%.60s\" is no name for a topic",
                       topic ? topic : "(null)");
    }
    if (partition < 0) {
        return err_set(err, LEVEE_EINVALID, "topic %s has no partition %d", topic, (int)partition);
    }
    return LEVEE_OK;
}

static int check_places(const struct levee_kafka_options *o, struct levee_error *err)
{
    int code = LEVEE_OK;

    for (size_t i = 0; i < o->partition_count && code == LEVEE_OK; i++) {
        const struct levee_kafka_partition *p = &o->partitions[i];
        code = check_place(p->topic, p->partition, err);
        for (size_t k = 0; k < i && code == LEVEE_OK; k++) {
            if (p->partition == o->partitions[k].partition &&
                strcmp(p->topic, o->partitions[k].topic) == 0) {
                code = err_set(err, LEVEE_EINVALID, "partition %d of topic %s is named twice",
                               (int)p->partition, p->topic);
            }
        }
    }
    for (size_t i = 0; i < o->offset_count && code == LEVEE_OK; i++) {
        const struct levee_kafka_offset *p = &o->offsets[i];
        code = check_place(p->topic, p->partition, err);
        if (code == LEVEE_OK && p->offset < 0) {
            code = err_set(err, LEVEE_EINVALID, "partition %d of topic %s cannot start at %lld",
                           (int)p->partition, p->topic, (long long)p->offset);
        }
        for (size_t k = 0; k < i && code == LEVEE_OK; k++) {
            if (p->partition == o->offsets[k].partition &&
                strcmp(p->topic, o->offsets[k].topic) == 0) {
                code = err_set(err, LEVEE_EINVALID, "partition %d of topic %s has two offsets",
                               (int)p->partition, p->topic);
            }
        }
    }
    return code;
}

/* The topics of an explicit set, each once. */
static bool topics_of_set(const struct kafka_place *set, size_t n, char ***ret, size_t *ret_count)
{
    const char **names = mem_zalloc((n + 1) * sizeof(char *));
    size_t count = 0;

    for (size_t i = 0; names && i < n; i++) {
        size_t k = 0;
        while (k < count && strcmp(names[k], set[i].topic) != 0) {
            k++;
        }
        names[k] = set[i].topic;
        count = k == count ? count + 1 : count;
    }
    bool done = names && kafka_copy_strings(names, ret, ret_count);
    mem_free(names);
    return done;
}

/* The whole name must match: "a|b" is "^(a|b)$". */
static int compile(const char *pattern, struct kafka_config *c, struct levee_error *err)
{
    struct buf whole = {0};
    char text[128];

    buf_printf(&whole, "^(%s)$", pattern);
    buf_u8(&whole, 0);
    char *copy = mem_strdup(pattern);
    if (whole.failed || !copy) {
        mem_free(copy);
        buf_release(&whole);
        return err_nomem(err, strlen(pattern));
    }
    int wrong = regcomp(&c->regex, (const char *)whole.data, REG_EXTENDED | REG_NOSUB);
    buf_release(&whole);
    if (wrong) {
        mem_free(copy);
        (void)regerror(wrong, &c->regex, text, sizeof text);
        return err_set(err, LEVEE_EINVALID, "topic_pattern \"%s\": %s", pattern, text);
    }
    c->pattern = copy; /* from here on the regex is to be freed */
    return LEVEE_OK;
}

static int copy_subject(const struct levee_kafka_options *o, struct kafka_config *c,
                        struct levee_error *err)
{
    const char *const single[] = {o->topic, NULL};
    const char *const *topics = o->topic ? single : o->topics;
    bool copied = true;
    int code = LEVEE_OK;

    if ((o->topic != NULL) + (o->topics != NULL) + (o->topic_pattern != NULL) +
            (o->partitions != NULL) !=
        1) {
        return err_set(err, LEVEE_EINVALID,
                       "exactly one of topic, topics, topic_pattern and partitions is required");
    }
    if (topics) {
        code = check_topics(topics, err);
        copied = code || kafka_copy_strings(topics, &c->topics, &c->topic_count);
    } else if (o->topic_pattern) {
        code = compile(o->topic_pattern, c, err);
    } else if (o->partition_count == 0) {
        code = err_set(err, LEVEE_EINVALID, "the list of partitions is empty");
    } else {
        copied = copy_places(o->partitions, o->partition_count, &c->set, &c->set_count) &&
                 topics_of_set(c->set, c->set_count, &c->topics, &c->topic_count);
    }
    return copied ? code : err_nomem(err, 0);
}

/* ---- all of it ---- */

static int check_values(const struct levee_kafka_options *o, struct levee_error *err)
{
    if (!o->brokers || !o->brokers[0]) {
        return err_set(err, LEVEE_EINVALID, "brokers is required");
    }
    if ((o->partition_count && !o->partitions) || (o->offset_count && !o->offsets)) {
        return err_set(err, LEVEE_EINVALID, "a count without a list");
    }
    if ((unsigned)o->start > LEVEE_KAFKA_TIMESTAMP || (unsigned)o->on_gap > LEVEE_KAFKA_SKIP) {
        return err_set(err, LEVEE_EINVALID, "start or on_gap has no such value");
    }
    if ((unsigned)o->mode > LEVEE_KAFKA_POSITIONS) {
        return err_set(err, LEVEE_EINVALID, "mode has no such value");
    }
    if (o->start_time_ms < 0) {
        return err_set(err, LEVEE_EINVALID, "start_time_ms lies before 1970");
    }
    if (o->group && (!o->group[0] || strlen(o->group) > GROUP_MAX)) {
        return err_set(err, LEVEE_EINVALID, "group is empty or longer than %d bytes", GROUP_MAX);
    }
    return check_places(o, err);
}

int kafka_config_copy(const struct levee_kafka_options *o, struct kafka_config *ret,
                      struct levee_error *err)
{
    *ret = (struct kafka_config){
        .start = o->start,
        .start_time_ms = o->start_time_ms,
        .on_gap = o->on_gap,
        .envelope = o->envelope,
        .adopt = o->adopt,
        .positions = o->mode == LEVEE_KAFKA_POSITIONS,
        .rate = o->max_rate_per_partition,
        .commit_ns = (uint64_t)(o->commit_ms ? o->commit_ms : 5000) * 1000000u,
        .look_ns = (uint64_t)(o->look_ms ? o->look_ms : 5000) * 1000000u,
        .fetch_wait_ms = o->fetch_wait_ms ? o->fetch_wait_ms : 10,
    };
    int code = check_values(o, err);
    if (code == LEVEE_OK) {
        code = copy_subject(o, ret, err);
    }
    if (code) {
        return code;
    }
    ret->brokers = mem_strdup(o->brokers);
    ret->group = o->group ? mem_strdup(o->group) : NULL;
    bool copied = ret->brokers && (ret->group || !o->group) &&
                  copy_offsets(o->offsets, o->offset_count, &ret->offsets, &ret->offset_count) &&
                  kafka_copy_strings(o->properties, &ret->properties, &ret->property_count);
    return copied ? LEVEE_OK : err_nomem(err, 0);
}

/* ---- the client ---- */

/* Each of these would let the client, not our log, decide what is read or acknowledged, or hide
 * topics and damage. */
static const char *const refused[] = {
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id", /* there is an option for it */
    "group.instance.id",
    "enable.auto.commit",
    "auto.commit.enable",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "offset.store.method",
    "check.crcs",
    "isolation.level",
    "enable.partition.eof",
    "allow.auto.create.topics",
    "topic.blacklist",
    "partition.assignment.strategy",
    "max.poll.interval.ms",
    "consume.callback.max.messages",
    NULL,
};

int kafka_source_conf(const struct kafka_config *c, const char *uid, rd_kafka_conf_t **ret,
                      struct levee_error *err)
{
    char group[80], wait[16];
    const struct kafka_setting ours[] = {
        {"bootstrap.servers", c->brokers},
        {"group.id", c->group ? c->group : group}, /* the client asks for one */
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
        /* The client's queue is memory beside buffer_bytes, whatever the number of partitions.
         * Since kafka_flow.c keeps it from running dry, more of it is no faster. */
        {"queued.min.messages", "100000"},
        {"queued.max.messages.kbytes", "16384"},
        {"fetch.message.max.bytes", "2097152"}, /* a larger message comes alone */
        {"fetch.max.bytes", "16777216"},
        {"receive.message.max.bytes", "134217728"}, /* the largest message */
        {"max.poll.interval.ms", "86400000"},       /* we do not poll while the buffer is full */
        {"reconnect.backoff.max.ms", "1000"},
    };
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    (void)snprintf(group, sizeof group, "levee-%s", uid);
    (void)snprintf(wait, sizeof wait, "%u", c->fetch_wait_ms);
    int code = kafka_set_list(conf, ours, ARRAY_LEN(ours), err);
    /* A full queue stops fetching for a second in clients that do not know this one. */
    (void)rd_kafka_conf_set(conf, "fetch.queue.backoff.ms", "10", NULL, 0);
    for (size_t i = 0; i < c->property_count && code == LEVEE_OK; i++) {
        code = kafka_set_user(conf, c->properties[i], refused, err);
    }
    if (code) {
        rd_kafka_conf_destroy(conf);
        return code;
    }
    kafka_set_quiet(conf);
    *ret = conf;
    return LEVEE_OK;
}
