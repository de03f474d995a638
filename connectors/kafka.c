/*
 * The Kafka source: one topic, read exactly once.
 *
 * One receiver thread takes messages from the client as they come, up to 256 without waiting, and
 * appends them to the inlet in runs of one partition. Each Kafka partition is a numbered producer
 * "topic/id" with sequence = offset + 1, with holes: compaction and transaction markers leave gaps.
 * A message is a copy in our log before it counts, and after any crash reading goes on behind the
 * last offset in the log. Offsets are never committed to the group.
 *
 * Failure modes. The inlet is full: the run is kept and tried again when `ready` says so; after a
 * second the client stops fetching, and later continues at our own positions, not at what it
 * remembers. The broker is away: reported, the client reconnects by itself. The wanted offset is
 * gone (retention) or lies behind the end (a topic made anew): OFFSET_RANGE stops the context, for
 * going on would lose records silently.
 *
 * Invariants: partition.next is the offset after the last message that was taken from the client,
 * and everything below it was appended or is among `held`; a partition's messages go to one input
 * partition, so that their order survives.
 */
#include "connectors/kafka_internal.h"

#include <stdio.h>

#define FULL_RETRY_NS 50000000u
#define FULL_PARK_NS  KAFKA_SECOND_NS
#define LOOK_EVERY_NS (5u * (uint64_t)KAFKA_SECOND_NS)

/* ---- appending ---- */

static bool room_or_stop(void *arg)
{
    struct kafka_source *s = arg;

    return atomic_load(&s->ready) || atomic_load(&s->stop);
}

/* Appends one run; while the inlet is full, waits. Returns STOPPED when it was stopped meanwhile.
 */
static int append_waiting(struct kafka_source *s, const struct levee_append *run,
                          struct levee_error *err)
{
    uint64_t full_since = 0, ticket = 0;
    bool parked = false;

    for (;;) {
        atomic_store(&s->ready, false); /* before the attempt: no wake-up is lost */
        int code = levee_inlet_append(s->inlet, run, &ticket, err);
        if (code != LEVEE_EFULL) {
            if (code == LEVEE_OK && parked) {
                code = kafka_assign(s, false, err);
            }
            return code;
        }
        uint64_t now = s->io->ops->now_ns(s->io);
        full_since = full_since ? full_since : now;
        if (!parked && now >= full_since + FULL_PARK_NS) {
            parked = true;
            if ((code = kafka_assign(s, true, err)) != LEVEE_OK) {
                return code;
            }
        }
        (void)s->io->ops->wait(s->io, room_or_stop, s, now + FULL_RETRY_NS);
        if (atomic_load(&s->stop)) {
            return err_set(err, LEVEE_ESTOPPED, "Kafka topic %s: reading was stopped", s->topic);
        }
    }
}

/* An empty payload is not the same as none (a tombstone), whatever pointer the client gives. */
static struct levee_slice slice_from(const void *data, size_t len, bool present)
{
    return present ? slice_of(data ? data : base_nothing, len) : slice_of(NULL, 0);
}

static int deliver(struct kafka_source *s, struct levee_error *err)
{
    size_t first = 0;

    while (first < s->held_count) {
        int32_t id = s->held[first]->partition;
        size_t n = 0;
        while (first + n < s->held_count && s->held[first + n]->partition == id) {
            const rd_kafka_message_t *m = s->held[first + n];
            rd_kafka_timestamp_type_t type;
            int64_t time_ms = rd_kafka_message_timestamp(m, &type);
            s->records[n].key = slice_from(m->key, m->key_len, m->key != NULL);
            s->records[n].value = slice_from(m->payload, m->len, m->payload != NULL);
            s->records[n].time_ms = time_ms > 0 ? time_ms : 0;
            s->sequences[n++] = (uint64_t)m->offset + 1;
        }
        const struct levee_append run = {
            .producer = s->partitions[id].producer,
            .first_sequence = s->sequences[0],
            .sequences = s->sequences,
            .partition = (uint32_t)id % KAFKA_INPUTS,
            .records = s->records,
            .count = n,
        };
        int code = append_waiting(s, &run, err);
        if (code) {
            return code;
        }
        first += n;
    }
    return LEVEE_OK;
}

static void drop_held(struct kafka_source *s)
{
    for (size_t i = 0; i < s->held_count; i++) {
        rd_kafka_message_destroy(s->held[i]);
    }
    s->held_count = 0;
}

/* ---- what the client says ---- */

static struct kafka_partition *partition_of(struct kafka_source *s, const rd_kafka_message_t *m)
{
    bool known = m->rkt && m->partition >= 0 && (size_t)m->partition < s->count;

    return known ? &s->partitions[m->partition] : NULL;
}

/* position: the next offset that can come. */
static void reached(struct kafka_source *s, struct kafka_partition *p, int64_t position)
{
    if (p->end != KAFKA_NEVER && !p->at_end && position >= p->end) {
        p->at_end = true;
        s->at_end_count++;
    }
}

static int fatal_client_error(struct kafka_source *s, struct levee_error *err)
{
    char text[200];
    rd_kafka_resp_err_t code = rd_kafka_fatal_error(s->rk, text, sizeof text);

    return err_set(err, LEVEE_EBROKER, "source %s: the Kafka client gave up: %s: %s",
                   levee_inlet_uid(s->inlet), rd_kafka_err2name(code), text);
}

/* An event without data. LEVEE_OK: reading goes on. */
static int take_event(struct kafka_source *s, const rd_kafka_message_t *m, struct levee_error *err)
{
    struct kafka_partition *p = partition_of(s, m);

    switch ((int)m->err) { /* a few of some hundred codes */
    case RD_KAFKA_RESP_ERR__PARTITION_EOF:
        if (p) {
            reached(s, p, m->offset);
        }
        return LEVEE_OK;
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
        return p ? kafka_out_of_range(s, p, err) : LEVEE_OK;
    case RD_KAFKA_RESP_ERR__FATAL:
        return fatal_client_error(s, err);
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
        err_set(err, LEVEE_ETOPIC, "source %s: Kafka topic %s is gone", levee_inlet_uid(s->inlet),
                s->topic);
        err_where(err, "partition %d", (int)m->partition);
        return LEVEE_ETOPIC;
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
        return err_set(err, LEVEE_EACCESS, "source %s: no permission to read Kafka topic %s",
                       levee_inlet_uid(s->inlet), s->topic);
    default: /* brokers down, transport, a checksum that failed: the client tries again */
        kafka_report(s, rd_kafka_message_errstr(m));
        return LEVEE_OK;
    }
}

/* Keeps m among the held messages, unless it was taken before or lies behind the wanted end. */
static bool hold(struct kafka_source *s, rd_kafka_message_t *m)
{
    struct kafka_partition *p = partition_of(s, m);

    if (!p || m->offset < p->next) {
        return false;
    }
    bool wanted = p->end == KAFKA_NEVER || m->offset < p->end;
    if (wanted) {
        s->held[s->held_count++] = m;
        p->next = m->offset + 1;
    }
    reached(s, p, m->offset + 1);
    return wanted;
}

/* Waits a little for a first message, then takes what is there. */
static int collect(struct kafka_source *s, struct levee_error *err)
{
    size_t bytes = 0;

    while (s->held_count < KAFKA_HELD_MAX && bytes < KAFKA_HELD_BYTES) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(s->rk, s->held_count ? 0 : KAFKA_POLL_MS);
        if (!m) {
            break;
        }
        if (m->err) {
            int code = take_event(s, m, err);
            rd_kafka_message_destroy(m);
            if (code) {
                return code;
            }
            break; /* the end may have been reached: look */
        }
        size_t len = m->len + m->key_len;
        if (hold(s, m)) {
            bytes += len;
        } else {
            rd_kafka_message_destroy(m);
        }
    }
    return LEVEE_OK;
}

/* ---- the thread ---- */

static int look_for_partitions(struct kafka_source *s, struct levee_error *err)
{
    uint64_t now = s->io->ops->now_ns(s->io);

    if (levee_inlet_stop_at_end(s->inlet) || now < s->looked_ns + LOOK_EVERY_NS) {
        return LEVEE_OK;
    }
    int count = kafka_partition_count(s);
    if (count <= 0 || (size_t)count <= s->count) {
        return LEVEE_OK;
    }
    int code = kafka_resolve(s, count, err);
    return code ? code : kafka_assign(s, false, err);
}

static int receive(struct kafka_source *s, struct levee_error *err)
{
    int count = 0;
    int code = kafka_wait_for_topic(s, &count, err);

    if (code || (code = kafka_resolve(s, count, err)) != LEVEE_OK) {
        return code;
    }
    for (size_t i = 0; i < s->count; i++) {
        reached(s, &s->partitions[i], s->partitions[i].next);
    }
    if ((code = kafka_assign(s, false, err)) != LEVEE_OK) {
        return code;
    }
    while (!atomic_load(&s->stop)) {
        if (s->at_end_count == s->count && levee_inlet_stop_at_end(s->inlet)) {
            if (!s->ended) {
                s->ended = true;
                levee_inlet_end(s->inlet);
            }
            (void)kafka_sleep(s, KAFKA_SECOND_NS);
            continue;
        }
        if ((code = collect(s, err)) || (code = deliver(s, err))) {
            return code;
        }
        drop_held(s);
        if ((code = look_for_partitions(s, err)) != LEVEE_OK) {
            return code;
        }
    }
    return LEVEE_OK;
}

static void *run(void *arg)
{
    struct kafka_source *s = arg;
    struct levee_error err = {0};
    int code = receive(s, &err);

    drop_held(s);
    if (code != LEVEE_OK && code != LEVEE_ESTOPPED && !atomic_load(&s->stop)) {
        levee_inlet_fail(s->inlet, &err, true);
    }
    return NULL;
}

/* ---- the receiver's contract ---- */

static void forget_partitions(struct kafka_source *s)
{
    for (size_t i = 0; i < s->count; i++) {
        mem_free((void *)(uintptr_t)s->partitions[i].producer.data);
    }
    s->count = s->at_end_count = 0;
}

static int kafka_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct kafka_source *s = self;

    s->inlet = inlet;
    s->ended = false;
    s->reported_ns = s->looked_ns = 0;
    s->client_error[0] = 0;
    atomic_store(&s->stop, false);
    int code = kafka_open(s, err);
    if (code) {
        return code;
    }
    int sys = pthread_create(&s->thread, NULL, run, s);
    if (sys) {
        kafka_close(s);
        return err_sys(err, LEVEE_ETHREAD, sys, "source %s", levee_inlet_uid(inlet));
    }
    s->running = true;
    return LEVEE_OK;
}

static void kafka_stop(void *self)
{
    struct kafka_source *s = self;

    if (!s->running) {
        return; /* start had failed */
    }
    atomic_store(&s->stop, true);
    s->io->ops->notify(s->io);
    (void)pthread_join(s->thread, NULL);
    s->running = false;
    kafka_close(s);
    forget_partitions(s);
}

static void kafka_ready(void *self)
{
    struct kafka_source *s = self;

    atomic_store(&s->ready, true);
    s->io->ops->notify(s->io);
}

static void kafka_destroy(void *self)
{
    struct kafka_source *s = self;

    if (!s) {
        return;
    }
    for (size_t i = 0; s->properties && i < s->property_count; i++) {
        mem_free(s->properties[i]);
    }
    mem_free(s->properties);
    mem_free(s->partitions);
    mem_free(s->brokers);
    mem_free(s->topic);
    mem_free(s);
}

static const struct levee_receiver_ops kafka_ops = {
    .version = 1,
    .start = kafka_start,
    .stop = kafka_stop,
    .ready = kafka_ready,
    .destroy = kafka_destroy,
};

/* ---- building ---- */

/* Producer ids are shorter than topic names may be: a long name is cut and told apart by its hash.
 */
static void make_key(struct kafka_source *s)
{
    size_t len = strlen(s->topic), keep = sizeof s->key - 18;

    if (len < sizeof s->key) {
        memcpy(s->key, s->topic, len + 1);
    } else {
        memcpy(s->key, s->topic, keep);
        (void)snprintf(s->key + keep, sizeof s->key - keep, "~%016llx",
                       (unsigned long long)hash64(s->topic, len, 0));
    }
}

static struct kafka_source *source_new(levee_context *ctx, const struct levee_kafka_options *o)
{
    struct kafka_source *s = mem_zalloc(sizeof *s);

    if (!s) {
        return NULL;
    }
    s->io = rt_context_io(ctx);
    s->fetch_wait_ms = o->fetch_wait_ms ? o->fetch_wait_ms : 10;
    s->brokers = mem_strdup(o->brokers);
    s->topic = mem_strdup(o->topic);
    size_t n = 0;
    while (o->properties && o->properties[n]) {
        n++;
    }
    s->properties = n ? mem_zalloc(n * sizeof *s->properties) : NULL;
    bool whole = s->brokers && s->topic && (s->properties || !n);
    while (whole && s->property_count < n) {
        s->properties[s->property_count] = mem_strdup(o->properties[s->property_count]);
        whole = s->properties[s->property_count++] != NULL;
    }
    if (!whole) {
        kafka_destroy(s);
        return NULL;
    }
    make_key(s);
    return s;
}

levee_stream *levee_kafka_source_at(levee_context *ctx, const char *uid,
                                    const struct levee_kafka_options *o, const char *file, int line)
{
    struct rt_graph *g = rt_context_graph(ctx);
    const char *name = uid ? uid : "(no uid)";
    rd_kafka_conf_t *conf = NULL;
    struct levee_error err = {0};

    if (!g) {
        return NULL;
    }
    if (!o || !o->brokers || !o->brokers[0] || !o->topic || !o->topic[0]) {
        return rt_graph_fail(g, file, line, LEVEE_EINVALID,
                             "kafka source %s: brokers and topic are required", name);
    }
    struct kafka_source *s = source_new(ctx, o);
    if (!s) {
        return rt_graph_fail(g, file, line, LEVEE_ENOMEM, "kafka source %s", name);
    }
    if (kafka_conf(s, name, &conf, &err) != LEVEE_OK) { /* a wrong property shows here, by name */
        kafka_destroy(s);
        return rt_graph_fail(g, file, line, LEVEE_EINVALID, "kafka source %s: %s%s%s", name,
                             err.what, err.found[0] ? ": " : "", err.found);
    }
    rd_kafka_conf_destroy(conf);
    levee_stream *stream = levee_receiver_source_at(
        ctx, uid,
        &(struct levee_receiver_options){
            .partitions = KAFKA_INPUTS, .reliable = true, .replayable = true, .holes = true},
        &kafka_ops, s, file, line);
    if (!stream) {
        kafka_destroy(s);
    }
    return stream;
}
