/*
 * Which topics and partitions there are, and which of them are ours to read.
 *
 * Named topics are known from the start and waited for; with a pattern, topics become known as they
 * show up. A partition is ours if its topic is read whole, or if the explicit set has it; at
 * stop_at_end only if it belongs to the run. Partitions that are not ours (any more) may still have
 * facts in our log, which are kept.
 *
 * An unreachable broker is no failure: every question is asked again until it is answered or the
 * source is stopped. A topic that a reachable broker does not know for `look_ms` is one; the
 * patience is for topics just created, which show up late.
 */
#include "connectors/kafka_source.h"

#include <stdio.h>

#define FOREVER_NS   (UINT64_MAX / 4)
#define LOOKS_FAILED 3 /* in a row: trouble; one may just have been too short */

/* ---- knowing ---- */

/* Producer ids are shorter than topic names may be: a long name is cut and told apart by its hash.
 */
void kafka_topic_key(const char *name, char key[KAFKA_KEY_MAX])
{
    size_t len = strlen(name), keep = KAFKA_KEY_MAX - 18;

    if (len < KAFKA_KEY_MAX) {
        memcpy(key, name, len + 1);
    } else {
        memcpy(key, name, keep);
        (void)snprintf(key + keep, KAFKA_KEY_MAX - keep, "~%016llx",
                       (unsigned long long)hash64(name, len, 0));
    }
}

static void topic_free(struct kafka_topic *t)
{
    for (size_t i = 0; i < t->cap; i++) {
        if (t->by_id[i]) {
            mem_free((void *)(uintptr_t)t->by_id[i]->producer.data);
            mem_free(t->by_id[i]);
        }
    }
    if (t->rkt) {
        rd_kafka_topic_destroy(t->rkt);
    }
    mem_free(t->by_id);
    mem_free(t->name);
    mem_free(t);
}

void kafka_topics_release(struct kafka_source *s)
{
    for (size_t i = 0; i < s->topic_count; i++) {
        topic_free(s->topics[i]);
    }
    mem_free(s->topics);
    mem_free(s->partitions);
    s->topics = NULL;
    s->partitions = NULL;
    s->newest_topic = NULL;
    s->topic_count = s->topic_cap = s->count = s->cap = 0;
    s->at_end_count = s->resting_count = 0;
}

static int topic_add(struct kafka_source *s, const char *name, struct kafka_topic **ret,
                     struct levee_error *err)
{
    struct kafka_topic *t = mem_zalloc(sizeof *t);

    if (!t) {
        return err_nomem(err, sizeof *t);
    }
    t->name = mem_strdup(name);
    if (!t->name || !mem_grow((void **)&s->topics, &s->topic_cap, s->topic_count + 1,
                              sizeof(struct kafka_topic *))) {
        topic_free(t);
        return err_nomem(err, sizeof *t);
    }
    kafka_topic_key(t->name, t->key);
    t->first_input = (uint32_t)(hash64(name, strlen(name), 0) % KAFKA_INPUTS);
    t->rkt = rd_kafka_topic_new(s->rk, name, NULL);
    if (!t->rkt) {
        topic_free(t);
        return err_set(err, LEVEE_EINVALID, "source %s: %s is no name for a topic",
                       levee_inlet_uid(s->inlet), name);
    }
    s->topics[s->topic_count++] = t;
    *ret = t;
    return kafka_facts_recall(s, t, err);
}

struct kafka_partition *kafka_partition_get(struct kafka_topic *t, int32_t id)
{
    size_t old = t->cap;
    char name[LEVEE_PRODUCER_MAX];

    if (!mem_grow((void **)&t->by_id, &t->cap, (size_t)id + 1, sizeof(struct kafka_partition *))) {
        return NULL;
    }
    memset(t->by_id + old, 0, (t->cap - old) * sizeof(struct kafka_partition *));
    if (t->by_id[id]) {
        return t->by_id[id];
    }
    struct kafka_partition *p = mem_zalloc(sizeof *p);
    (void)snprintf(name, sizeof name, "%s/%d", t->key, (int)id);
    char *copy = mem_strdup(name);
    if (!p || !copy) {
        mem_free(p);
        mem_free(copy);
        return NULL;
    }
    *p = (struct kafka_partition){
        .topic = t, .id = id, .producer = slice_str(copy), .until = KAFKA_NEVER};
    t->by_id[id] = p;
    return p;
}

static struct kafka_topic *topic_find(const struct kafka_source *s, const char *name)
{
    for (size_t i = 0; i < s->topic_count; i++) {
        if (strcmp(s->topics[i]->name, name) == 0) {
            return s->topics[i];
        }
    }
    return NULL;
}

int kafka_topics_begin(struct kafka_source *s, struct levee_error *err)
{
    int code = LEVEE_OK;

    for (size_t i = 0; i < s->config.topic_count && code == LEVEE_OK; i++) {
        struct kafka_topic *t;
        code = topic_add(s, s->config.topics[i], &t, err);
    }
    return code;
}

int kafka_topic_expect(struct kafka_source *s, struct levee_slice name, struct levee_error *err)
{
    char text[KAFKA_TOPIC_MAX + 1];
    struct kafka_topic *t;

    if (name.len >= sizeof text) {
        return err_set(err, LEVEE_EWAL_CORRUPT, "source %s: a remembered topic has no name",
                       levee_inlet_uid(s->inlet));
    }
    memcpy(text, name.data, name.len);
    text[name.len] = 0;
    return topic_find(s, text) ? LEVEE_OK : topic_add(s, text, &t, err);
}

struct kafka_partition *kafka_partition_of(struct kafka_source *s, const rd_kafka_message_t *m)
{
    struct kafka_topic *t = s->newest_topic;

    if (!m->rkt || m->partition < 0) {
        return NULL;
    }
    if (UNLIKELY(!t || t->rkt != m->rkt)) {
        t = topic_find(s, rd_kafka_topic_name(m->rkt));
        if (!t) {
            return NULL;
        }
        s->newest_topic = t->rkt == m->rkt ? t : NULL;
    }
    struct kafka_partition *p = (size_t)m->partition < t->cap ? t->by_id[m->partition] : NULL;
    return p && p->ours ? p : NULL;
}

/* ---- looking ---- */

static bool matches(const struct kafka_source *s, const char *name)
{
    return s->config.pattern && strncmp(name, "__", 2) != 0 &&
           regexec(&s->config.regex, name, 0, NULL, 0) == 0;
}

static int note(struct kafka_source *s, const struct rd_kafka_metadata_topic *told,
                struct levee_error *err)
{
    struct kafka_topic *t = topic_find(s, told->topic);
    int code = LEVEE_OK;

    if (!t && (told->err || told->partition_cnt == 0 || !matches(s, told->topic))) {
        return LEVEE_OK;
    }
    if (!t && (code = topic_add(s, told->topic, &t, err)) != LEVEE_OK) {
        return code;
    }
    ASSERT(t != NULL);
    t->code = told->err;
    if (!told->err && told->partition_cnt > t->count) { /* they never become fewer */
        t->count = told->partition_cnt;
    }
    for (int i = 0; i < told->partition_cnt; i++) {
        const struct rd_kafka_metadata_partition *m = &told->partitions[i];
        struct kafka_partition *p = m->id >= 0 ? kafka_partition_get(t, m->id) : NULL;
        if (!p) {
            return err_nomem(err, sizeof *p);
        }
        p->leader = m->leader;
    }
    return LEVEE_OK;
}

static int look(struct kafka_source *s, int timeout_ms, rd_kafka_resp_err_t *ret_code,
                struct levee_error *err)
{
    const struct rd_kafka_metadata *md = NULL;
    int code = LEVEE_OK;

    s->looked_ns = kafka_now(s);
    *ret_code = rd_kafka_metadata(s->rk, s->config.pattern != NULL, NULL, &md, timeout_ms);
    if (*ret_code) {
        return LEVEE_OK;
    }
    for (size_t i = 0; i < s->topic_count; i++) { /* a list of all leaves out what is not there */
        s->topics[i]->code = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    }
    for (int i = 0; i < md->topic_cnt && code == LEVEE_OK; i++) {
        code = note(s, &md->topics[i], err);
    }
    rd_kafka_metadata_destroy(md);
    for (size_t i = 0; i < s->topic_count; i++) {
        struct kafka_topic *t = s->topics[i];
        uint64_t since = t->missing_since ? t->missing_since : s->looked_ns;
        t->missing_since = kafka_unknown(t->code) ? since : 0;
    }
    return code;
}

/* Nothing more comes of it in this life, even if there is a topic of its name again. */
static int give_up(struct kafka_source *s, struct kafka_topic *t, struct levee_error *err)
{
    int code = LEVEE_OK;

    t->given_up = true;
    for (size_t i = 0; i < t->cap && code == LEVEE_OK; i++) {
        struct kafka_partition *p = t->by_id[i];
        if (p && p->ours && !p->resting) {
            code = kafka_rest(s, p, FOREVER_NS, err);
        }
        if (p && p->ours && p->until != KAFKA_NEVER) {
            kafka_reached(s, p, p->until);
        }
    }
    return code;
}

/* A topic that is deleted just falls silent: only a look shows it. */
static int check_gone(struct kafka_source *s, struct kafka_topic *t, struct levee_error *err)
{
    struct levee_error gone = {0};

    if (!t->missing_since || t->given_up || t->count == 0 ||
        kafka_now(s) < t->missing_since + s->config.look_ns) {
        return LEVEE_OK;
    }
    err_set(&gone, LEVEE_ETOPIC, "source %s: Kafka topic %s was deleted while it was read",
            levee_inlet_uid(s->inlet), t->name);
    err_where(&gone, "brokers %s", s->config.brokers);
    err_found(&gone, "%s", rd_kafka_err2str(t->code));
    if (s->config.on_gap == LEVEE_KAFKA_STOP) {
        err_copy(err, &gone);
        return LEVEE_ETOPIC;
    }
    levee_inlet_report(s->inlet, &gone);
    return give_up(s, t, err);
}

int kafka_topics_look(struct kafka_source *s, struct levee_error *err)
{
    rd_kafka_resp_err_t answer;
    int code = look(s, KAFKA_ASK_FIRST_MS, &answer, err);

    s->looks_failed = answer ? s->looks_failed + 1 : 0;
    if (s->looks_failed >= LOOKS_FAILED) {
        kafka_report(s, rd_kafka_err2str(answer)); /* the client itself says so once */
    }
    for (size_t i = 0; i < s->topic_count && code == LEVEE_OK && !answer; i++) {
        code = check_gone(s, s->topics[i], err);
    }
    return code;
}

/* ---- waiting ---- */

/* What is still missing; LEVEE_OK: nothing. */
static int missing(const struct kafka_source *s, struct levee_error *err)
{
    const struct kafka_config *c = &s->config;
    const char *uid = levee_inlet_uid(s->inlet);

    for (size_t i = 0; i < s->topic_count; i++) { /* of a pattern: those of the run */
        const struct kafka_topic *t = s->topics[i];
        if (t->count > 0) {
            continue;
        }
        if (kafka_forbidden(t->code)) {
            err_set(err, LEVEE_EACCESS, "source %s: no permission to read Kafka topic %s", uid,
                    t->name);
        } else {
            err_set(err, LEVEE_ETOPIC, "source %s: Kafka knows no topic %s", uid, t->name);
        }
        err_where(err, "brokers %s", c->brokers);
        err_found(err, "%s", rd_kafka_err2str(t->code));
        return err->code;
    }
    for (size_t i = 0; i < c->set_count; i++) {
        const struct kafka_topic *t = topic_find(s, c->set[i].topic);
        ASSERT(t != NULL); /* the set's topics are known from the start */
        if (c->set[i].partition >= t->count) {
            err_set(err, LEVEE_ETOPIC, "source %s: Kafka topic %s has no partition %d", uid,
                    t->name, (int)c->set[i].partition);
            err_where(err, "brokers %s", c->brokers);
            err_found(err, "%d partitions", (int)t->count);
            return LEVEE_ETOPIC;
        }
    }
    if (c->pattern && s->topic_count == 0) {
        err_set(err, LEVEE_ETOPIC, "source %s: no Kafka topic matches %s", uid, c->pattern);
        err_where(err, "brokers %s", c->brokers);
        return LEVEE_ETOPIC;
    }
    return LEVEE_OK;
}

/* Errors reach us inside a poll; nothing is assigned yet, so there is nothing else. */
static void run_callbacks(struct kafka_source *s)
{
    rd_kafka_message_t *m = rd_kafka_consumer_poll(s->rk, 0);

    if (m) {
        rd_kafka_message_destroy(m);
    }
}

int kafka_topics_wait(struct kafka_source *s, struct levee_error *err)
{
    bool may_be_none = s->config.pattern && !levee_inlet_stop_at_end(s->inlet);
    uint64_t missing_since = 0;
    int timeout_ms = KAFKA_ASK_FIRST_MS;

    while (!atomic_load(&s->stop)) {
        rd_kafka_resp_err_t answer;
        struct levee_error what = {0};
        int code = look(s, timeout_ms, &answer, err);
        if (code) {
            return code;
        }
        run_callbacks(s);
        timeout_ms = kafka_ask_longer(timeout_ms, answer);
        uint64_t now = kafka_now(s);
        code = answer ? LEVEE_OK : missing(s, &what);
        if (!answer && (!code || may_be_none)) {
            return LEVEE_OK;
        }
        if (answer) {
            missing_since = 0;
            kafka_report(s, rd_kafka_err2str(answer));
        } else if (!missing_since) {
            missing_since = now;
        } else if (now >= missing_since + s->config.look_ns) {
            err_copy(err, &what);
            return code;
        }
        (void)kafka_sleep(s, answer ? KAFKA_SECOND_NS : KAFKA_SECOND_NS / 4);
    }
    return kafka_stopped(s, err);
}

/* ---- taking ---- */

static bool wanted(const struct kafka_source *s, struct kafka_topic *t, int32_t id)
{
    const struct kafka_config *c = &s->config;

    if (c->set && !kafka_place_find(c->set, c->set_count, t->name, id)) {
        return false;
    }
    if (levee_inlet_stop_at_end(s->inlet) && s->run_complete) {
        const struct kafka_partition *p = (size_t)id < t->cap ? t->by_id[id] : NULL;
        return p && p->run == s->run; /* later ones are not part of that end */
    }
    return true;
}

static int take(struct kafka_source *s, struct kafka_topic *t, int32_t id, struct levee_error *err)
{
    struct kafka_partition *p = kafka_partition_get(t, id);

    if (!p || !mem_grow((void **)&s->partitions, &s->cap, s->count + 1,
                        sizeof(struct kafka_partition *))) {
        return err_nomem(err, sizeof *p);
    }
    p->ours = true;
    s->partitions[s->count++] = p;
    return LEVEE_OK;
}

int kafka_partitions_take(struct kafka_source *s, struct levee_error *err)
{
    int code = LEVEE_OK;

    pthread_mutex_lock(&s->group.mutex); /* the group's thread walks the list */
    for (size_t i = 0; i < s->topic_count && code == LEVEE_OK; i++) {
        struct kafka_topic *t = s->topics[i];
        for (int32_t id = 0; id < t->count && code == LEVEE_OK; id++) {
            bool ours = (size_t)id < t->cap && t->by_id[id] && t->by_id[id]->ours;
            if (!ours && wanted(s, t, id)) {
                code = take(s, t, id, err);
            }
        }
    }
    pthread_mutex_unlock(&s->group.mutex);
    return code;
}
