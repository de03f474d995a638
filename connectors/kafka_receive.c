/*
 * The receiver's thread: messages into the inlet, and everything the client says instead.
 *
 * It takes messages as they come, up to 256 without waiting, and appends them in runs of one
 * partition; appending is the one copy, into the log's own block, after which the messages are
 * given back at once. Nothing else keeps them: a client whose queue is full stops fetching for a
 * second, and a queued message of 50 bytes costs it 400.
 *
 * Each Kafka partition is a numbered producer "topic/id" with sequence = offset + 1, with holes:
 * compaction and transaction markers leave gaps. A message is a copy in our log before it counts,
 * and after any crash reading goes on behind the last offset in the log.
 *
 * Failure modes. The inlet is full: the run is kept and tried again when `ready` says so; after ten
 * seconds the client gives its queue back and fetches nothing, and later continues at our own
 * positions, not at what it remembers. The broker is away: reported, the client reconnects by
 * itself. A message does not verify: it is fetched again, three times, since the client would
 * otherwise go on behind it. A position is out of range: kafka_positions.c decides.
 *
 * Invariants: partition.next is the offset after the last message that was taken from the client,
 * and everything below it was appended or is among `held`; a partition's messages go to one input
 * partition, so that their order survives.
 */
#include "connectors/kafka_source.h"

#define FULL_RETRY_NS 50000000u
#define FULL_PARK_NS  ((uint64_t)10 * KAFKA_SECOND_NS)
#define REREAD_NS     200000000u
#define REREADS       3u

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
    uint64_t full_since = 0;

    for (;;) {
        atomic_store(&s->ready, false); /* before the attempt: no wake-up is lost */
        int code = levee_inlet_append(s->inlet, run, &s->ticket, err);
        if (code != LEVEE_EFULL) {
            return code;
        }
        uint64_t now = kafka_now(s);
        full_since = full_since ? full_since : now;
        if (!s->parked && now >= full_since + FULL_PARK_NS &&
            (code = kafka_park(s, err)) != LEVEE_OK) {
            return code;
        }
        (void)s->io->ops->wait(s->io, room_or_stop, s, now + FULL_RETRY_NS);
        if (atomic_load(&s->stop)) {
            return kafka_stopped(s, err);
        }
    }
}

/* Fills in the records of the run that begins at `first`; its length. Envelopes lie in scratch,
 * whose place is known once the last of them is in it. */
static size_t make_run(struct kafka_source *s, size_t first)
{
    struct kafka_partition *p = s->held_partition[first];
    size_t n = 0;

    buf_clear(&s->scratch);
    while (first + n < s->held_count && s->held_partition[first + n] == p) {
        const rd_kafka_message_t *m = s->held[first + n];
        kafka_record_of(m, &s->records[n]);
        s->sequences[n] = (uint64_t)m->offset + 1;
        s->offsets[n] = s->scratch.len;
        if (s->config.envelope && !kafka_envelope_put(m, p->topic->name, &s->scratch)) {
            return 0;
        }
        n++;
    }
    for (size_t i = 0; i < n && s->config.envelope; i++) {
        size_t end = i + 1 < n ? s->offsets[i + 1] : s->scratch.len;
        s->records[i].value = slice_of(s->scratch.data + s->offsets[i], end - s->offsets[i]);
    }
    return n;
}

uint32_t kafka_input_of(const struct kafka_partition *p)
{
    return (p->topic->first_input + (uint32_t)p->id) % KAFKA_INPUTS;
}

static int deliver(struct kafka_source *s, struct levee_error *err)
{
    for (size_t first = 0, n; first < s->held_count; first += n) {
        const struct kafka_partition *p = s->held_partition[first];
        n = make_run(s, first);
        if (n == 0) {
            return err_nomem(err, s->scratch.len);
        }
        const struct levee_append run = {
            .producer = p->producer,
            .first_sequence = s->sequences[0],
            .sequences = s->sequences,
            .partition = kafka_input_of(p),
            .records = s->records,
            .count = n,
        };
        int code = append_waiting(s, &run, err);
        if (code == LEVEE_ERECORD_TOO_LONG) {
            (void)err_where(err, "partition %d of topic %s, offsets %lld to %lld", (int)p->id,
                            p->topic->name, (long long)s->sequences[0] - 1,
                            (long long)s->sequences[n - 1] - 1);
        }
        if (code) {
            return code;
        }
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

static int fatal_client_error(struct kafka_source *s, struct levee_error *err)
{
    char text[200];
    rd_kafka_resp_err_t code = rd_kafka_fatal_error(s->rk, text, sizeof text);

    return err_set(err, LEVEE_EBROKER, "source %s: the Kafka client gave up: %s: %s",
                   levee_inlet_uid(s->inlet), rd_kafka_err2name(code), text);
}

/* The end of what there is, as the client sees it. */
static int take_end(struct kafka_source *s, struct kafka_partition *p, int64_t offset,
                    struct levee_error *err)
{
    if (offset < p->next) { /* before what we have read */
        return p->checking ? kafka_out_of_range(s, p, err) : LEVEE_OK;
    }
    int code = p->checking ? kafka_identity_absent(s, p, offset, err) : LEVEE_OK;
    kafka_reached(s, p, offset);
    return code;
}

/* The client would go on behind what it could not read: it is told to read it again. */
static int read_again(struct kafka_source *s, struct kafka_partition *p,
                      const rd_kafka_message_t *m, struct levee_error *err)
{
    if (p->resting) {
        return LEVEE_OK;
    }
    kafka_report(s, rd_kafka_message_errstr(m));
    if (++p->damaged <= REREADS) {
        return kafka_rest(s, p, REREAD_NS, err);
    }
    err_set(err, LEVEE_ERECORD_DAMAGED, "source %s: records of Kafka topic %s cannot be read: %s",
            levee_inlet_uid(s->inlet), p->topic->name, rd_kafka_message_errstr(m));
    err_where(err, "partition %d of topic %s, at or behind offset %lld", (int)p->id, p->topic->name,
              (long long)p->next);
    return LEVEE_ERECORD_DAMAGED;
}

/* Messages that were served and cannot be used, as opposed to brokers that do not serve. */
static bool unreadable(rd_kafka_resp_err_t code)
{
    switch ((int)code) {
    case RD_KAFKA_RESP_ERR__BAD_MSG:
    case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
    case RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED: /* a codec */
    case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG:
    case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
        return true;
    default:
        return false;
    }
}

/* An event without data. LEVEE_OK: reading goes on. */
static int take_event(struct kafka_source *s, const rd_kafka_message_t *m, struct levee_error *err)
{
    struct kafka_partition *p = kafka_partition_of(s, m);

    switch ((int)m->err) { /* a few of some hundred codes */
    case RD_KAFKA_RESP_ERR__PARTITION_EOF:
        return p ? take_end(s, p, m->offset, err) : LEVEE_OK;
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
        s->out_of_range = p && !p->resting ? p : NULL;
        return LEVEE_OK;
    case RD_KAFKA_RESP_ERR__FATAL:
        return fatal_client_error(s, err);
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
        return err_set(err, LEVEE_EACCESS, "source %s: no permission to read Kafka topic %s",
                       levee_inlet_uid(s->inlet), p ? p->topic->name : "(unnamed)");
    default: /* brokers down, transport, leaders that move: the client tries again */
        if (p && unreadable(m->err)) {
            return read_again(s, p, m, err);
        }
        kafka_report(s, rd_kafka_message_errstr(m));
        return LEVEE_OK;
    }
}

/* ---- messages ---- */

/* Keeps m among the held messages, unless it was taken before, lies behind the wanted end, or must
 * wait. *ret_kept false: m is still the caller's. */
static int hold(struct kafka_source *s, rd_kafka_message_t *m, bool *ret_kept,
                struct levee_error *err)
{
    struct kafka_partition *p = kafka_partition_of(s, m);
    int code = LEVEE_OK;

    *ret_kept = false;
    if (!p || p->resting) {
        return LEVEE_OK;
    }
    if (UNLIKELY(p->checking)) {
        bool fresh = false;
        code = kafka_identity_check(s, p, m, &fresh, err);
        if (code || !fresh) {
            return code;
        }
    }
    if (m->offset < p->next) {
        return LEVEE_OK;
    }
    bool wanted = p->until == KAFKA_NEVER || m->offset < p->until;
    if (wanted) {
        uint64_t wait_ns = kafka_rate_wait_ns(s, p);
        if (wait_ns) {
            return kafka_rest(s, p, wait_ns, err);
        }
        s->held_partition[s->held_count] = p;
        s->held[s->held_count++] = m;
        p->next = m->offset + 1;
        p->damaged = 0;
        s->reported_ns = 0; /* new trouble is told at once */
        *ret_kept = true;
    }
    kafka_reached(s, p, m->offset + 1);
    return LEVEE_OK;
}

/* Waits a little for a first message, then takes what is there. */
static int collect(struct kafka_source *s, struct levee_error *err)
{
    size_t bytes = 0;
    int code = LEVEE_OK;

    kafka_flow_tend(s);
    while (s->held_count < KAFKA_HELD_MAX && bytes < KAFKA_HELD_BYTES && code == LEVEE_OK) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(s->rk, s->held_count ? 0 : kafka_wait_ms(s));
        if (!m) {
            break;
        }
        bool kept = false, event = m->err != RD_KAFKA_RESP_ERR_NO_ERROR;
        size_t len = m->len + m->key_len;
        code = event ? take_event(s, m, err) : hold(s, m, &kept, err);
        if (!kept) {
            rd_kafka_message_destroy(m);
        }
        bytes += kept ? len : 0;
        if (event) {
            break; /* the end may have been reached: look */
        }
    }
    kafka_flow_took(s, s->held_count, bytes);
    return code;
}

/* ---- the thread ---- */

/* New partitions, from first on: nobody else's, resolved, ours. */
static int begin_partitions(struct kafka_source *s, size_t first, struct levee_error *err)
{
    int code = kafka_policies_check(s, err);

    if (code == LEVEE_OK) {
        code = kafka_group_check(s, first, err);
    }
    if (code == LEVEE_OK) {
        code = kafka_positions_resolve(s, first, err);
    }
    if (code == LEVEE_OK) {
        code = kafka_group_claim(s, first, err);
    }
    atomic_store(&s->shown.topics.v, s->topic_count);
    atomic_store(&s->shown.partitions.v, s->count);
    return code;
}

static int look_for_new(struct kafka_source *s, struct levee_error *err)
{
    size_t first = s->count;

    if (kafka_now(s) < s->looked_ns + s->config.look_ns) {
        return LEVEE_OK;
    }
    int code = kafka_topics_look(s, err);
    if (code == LEVEE_OK) {
        code = kafka_partitions_take(s, err);
    }
    if (code || s->count == first) {
        return code;
    }
    code = begin_partitions(s, first, err);
    return code ? code : kafka_assign_new(s, first, err);
}

static int begin(struct kafka_source *s, struct levee_error *err)
{
    int code = kafka_topics_begin(s, err);

    if (code == LEVEE_OK) {
        code = kafka_source_recall(s, err);
    }
    if (code == LEVEE_OK) {
        code = kafka_topics_wait(s, err);
    }
    if (code == LEVEE_OK) {
        code = kafka_partitions_take(s, err);
    }
    if (code == LEVEE_OK) {
        code = begin_partitions(s, 0, err);
    }
    if (code == LEVEE_OK) {
        code = kafka_group_start(s, err);
    }
    return code ? code : kafka_assign(s, err);
}

/* After what is held has gone out, or a gap that is skipped would overtake records before it. */
static int answer_range(struct kafka_source *s, struct levee_error *err)
{
    struct kafka_partition *p = s->out_of_range;

    s->out_of_range = NULL;
    if (!p || p->resting) {
        return LEVEE_OK;
    }
    int code = kafka_out_of_range(s, p, err);
    return code ? code : kafka_rest(s, p, FULL_RETRY_NS, err);
}

/* Held messages go out, rested partitions come back, new ones join. */
static int turn(struct kafka_source *s, struct levee_error *err)
{
    int code = collect(s, err);

    if (code == LEVEE_OK) {
        code = deliver(s, err);
    }
    drop_held(s);
    code = code ? code : answer_range(s, err);
    if (code == LEVEE_OK && s->parked) {
        code = kafka_assign(s, err);
    }
    if (code == LEVEE_OK) {
        code = kafka_wake(s, err);
    }
    if (code == LEVEE_OK) {
        code = look_for_new(s, err);
    }
    kafka_group_offer(s);
    return code;
}

int kafka_receive(struct kafka_source *s, struct levee_error *err)
{
    s->out_of_range = NULL;
    int code = begin(s, err);

    while (code == LEVEE_OK && !atomic_load(&s->stop)) {
        bool at_end = levee_inlet_stop_at_end(s->inlet) && s->at_end_count == s->count;
        if (!at_end) {
            code = turn(s, err);
        } else if (!s->ended) {
            code = kafka_run_ended(s, err);
            s->ended = true;
            if (code == LEVEE_OK) {
                levee_inlet_end(s->inlet);
                code = kafka_park(s, err);
            }
        } else {
            kafka_group_offer(s);
            (void)kafka_sleep(s, KAFKA_SECOND_NS / 4);
        }
    }
    drop_held(s);
    return code;
}
