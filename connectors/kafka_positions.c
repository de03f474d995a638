/*
 * Where each partition begins and ends, and what our log knows about that.
 *
 * A position never lives in the consumer group. A partition goes on behind the last offset in our
 * log; if the log has none, at the start that was found for it when it was met first, which is
 * written to our log before anything is fetched: a retention that deletes meanwhile is then an
 * error that names the missing range instead of a silent jump. Ends (stop_at_end) are remembered in
 * the same way: they belong to a numbered run, which lasts until all its ends were reached and all
 * that was read is processed. A kill does not end a run.
 *
 * Facts (levee_inlet_remember), integers little-endian, varints where it says so:
 *
 *     topic/<key>  u8 version (1), varint count, per partition: u32 id, u64 start, u64 end, u64
 * run, varint gaps, varint offsets in them, u64 from and u64 to of the newest gap run          u8
 * version (1), u64 number, varint count, names of its topics: its ends are all known ended u64
 * number of the run whose ends were all reached begun        empty: with a pattern, topics that
 * show up from now on are new
 */
#include "connectors/kafka_source.h"

#include <stdio.h>

#define FACT_VERSION 1u
#define FACT_NAME    160
#define FACT_MAX     (1u << 20)
#define LOOK_AGAIN   3 /* a position behind the end is looked at so often: leaders change */

/* ---- facts ---- */

static bool recall(const struct kafka_source *s, const char *name, struct buf *ret)
{
    size_t len = FACT_MAX;

    if (!buf_reserve(ret, FACT_MAX) || !levee_inlet_recall(s->inlet, name, ret->data, &len)) {
        return false;
    }
    ret->len = len;
    return true;
}

int kafka_facts_recall(struct kafka_source *s, struct kafka_topic *t, struct levee_error *err)
{
    char name[FACT_NAME];
    struct buf bytes = {0};
    int code = LEVEE_OK;

    (void)snprintf(name, sizeof name, "topic/%s", t->key);
    t->recalled = recall(s, name, &bytes);
    struct cursor c = cursor_of(buf_view(&bytes));
    bool known_version = !t->recalled || cur_u8(&c) == FACT_VERSION;
    for (uint64_t n = t->recalled ? cur_varint(&c) : 0; n && !c.bad && known_version; n--) {
        uint32_t id = cur_u32(&c);
        struct kafka_partition *p = id <= INT32_MAX ? kafka_partition_get(t, (int32_t)id) : NULL;
        if (!p) {
            code = err_nomem(err, id);
            break;
        }
        p->known = true;
        p->start = (int64_t)cur_u64(&c);
        p->end = (int64_t)cur_u64(&c);
        p->run = cur_u64(&c);
        p->gaps = cur_varint(&c);
        p->gap_offsets = cur_varint(&c);
        p->gap_from = (int64_t)cur_u64(&c);
        p->gap_to = (int64_t)cur_u64(&c);
        counter_add(&s->shown.gaps, p->gaps);
        counter_add(&s->shown.gap_offsets, p->gap_offsets);
    }
    if (code == LEVEE_OK && (c.bad || !known_version)) {
        code =
            err_set(err, LEVEE_EWAL_CORRUPT, "source %s: what is remembered of %s does not parse",
                    levee_inlet_uid(s->inlet), name);
    }
    buf_release(&bytes);
    return code;
}

static int remember_topic(const struct kafka_source *s, struct kafka_topic *t,
                          struct levee_error *err)
{
    char name[FACT_NAME];
    struct buf bytes = {0};
    size_t n = 0;

    for (size_t i = 0; i < t->cap; i++) {
        n += t->by_id[i] && t->by_id[i]->known;
    }
    buf_u8(&bytes, FACT_VERSION);
    buf_varint(&bytes, n);
    for (size_t i = 0; i < t->cap; i++) {
        const struct kafka_partition *p = t->by_id[i];
        if (p && p->known) {
            buf_u32(&bytes, (uint32_t)p->id);
            buf_u64(&bytes, (uint64_t)p->start);
            buf_u64(&bytes, (uint64_t)p->end);
            buf_u64(&bytes, p->run);
            buf_varint(&bytes, p->gaps);
            buf_varint(&bytes, p->gap_offsets);
            buf_u64(&bytes, (uint64_t)p->gap_from);
            buf_u64(&bytes, (uint64_t)p->gap_to);
        }
    }
    (void)snprintf(name, sizeof name, "topic/%s", t->key);
    int code = bytes.failed ? err_nomem(err, bytes.len)
                            : levee_inlet_remember(s->inlet, name, buf_view(&bytes), err);
    buf_release(&bytes);
    if (code == LEVEE_OK) {
        t->recalled = true;
        t->changed = false;
    }
    return code;
}

static int remember_changed(const struct kafka_source *s, struct levee_error *err)
{
    int code = LEVEE_OK;

    for (size_t i = 0; i < s->topic_count && code == LEVEE_OK; i++) {
        if (s->topics[i]->changed) {
            code = remember_topic(s, s->topics[i], err);
        }
    }
    return code;
}

/* ---- runs ---- */

static int remember_run(const struct kafka_source *s, struct levee_error *err)
{
    struct buf bytes = {0};
    size_t n = 0;

    for (size_t i = 0; i < s->topic_count; i++) {
        n += s->topics[i]->recalled;
    }
    buf_u8(&bytes, FACT_VERSION);
    buf_u64(&bytes, s->run);
    buf_varint(&bytes, n);
    for (size_t i = 0; i < s->topic_count; i++) {
        if (s->topics[i]->recalled) {
            buf_slice(&bytes, slice_str(s->topics[i]->name));
        }
    }
    int code = bytes.failed ? err_nomem(err, bytes.len)
                            : levee_inlet_remember(s->inlet, "run", buf_view(&bytes), err);
    buf_release(&bytes);
    return code;
}

int kafka_run_ended(struct kafka_source *s, struct levee_error *err)
{
    uint8_t bytes[8];

    put_le64(bytes, s->run);
    return levee_inlet_remember(s->inlet, "ended", slice_of(bytes, sizeof bytes), err);
}

static bool run_is_over(const struct kafka_source *s)
{
    uint8_t bytes[8];
    size_t len = sizeof bytes;

    return levee_inlet_recall(s->inlet, "ended", bytes, &len) && len == sizeof bytes &&
           get_le64(bytes) == s->run && !s->unprocessed_at_start;
}

int kafka_source_recall(struct kafka_source *s, struct levee_error *err)
{
    struct buf bytes = {0};
    uint8_t none[1];
    size_t len = 0;
    int code = LEVEE_OK;

    s->begun = levee_inlet_recall(s->inlet, "begun", none, &len);
    s->run = 1;
    s->run_complete = false;
    if (levee_inlet_stop_at_end(s->inlet) && recall(s, "run", &bytes)) {
        struct cursor c = cursor_of(buf_view(&bytes));
        bool parses = cur_u8(&c) == FACT_VERSION;
        s->run = cur_u64(&c);
        s->run_complete = !run_is_over(s);
        for (uint64_t n = cur_varint(&c); n && !c.bad && !code; n--) {
            struct levee_slice name = cur_slice(&c);
            if (!c.bad && s->run_complete && s->config.pattern) {
                code = kafka_topic_expect(s, name, err);
            }
        }
        s->run += !s->run_complete;
        if (c.bad || !parses) {
            code = err_set(err, LEVEE_EWAL_CORRUPT,
                           "source %s: what is remembered of its run does not parse",
                           levee_inlet_uid(s->inlet));
        }
    }
    buf_release(&bytes);
    return code;
}

/* ---- questions ---- */

int kafka_watermarks(struct kafka_source *s, const struct kafka_partition *p, int64_t *ret_low,
                     int64_t *ret_high, struct levee_error *err)
{
    int timeout_ms = KAFKA_ASK_FIRST_MS;
    int code = LEVEE_OK;

    while (code == LEVEE_OK) {
        /* With read_committed the high end is the last stable offset. */
        rd_kafka_resp_err_t answer = rd_kafka_query_watermark_offsets(
            s->rk, p->topic->name, p->id, ret_low, ret_high, timeout_ms);
        if (!answer) {
            return LEVEE_OK;
        }
        code = kafka_no_answer(s, p->topic->name, answer, &timeout_ms, err);
    }
    return code;
}

/* The first offset whose record is not older; high: there is none yet. */
static int offset_at_time(struct kafka_source *s, const struct kafka_partition *p, int64_t high,
                          int64_t *ret, struct levee_error *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    int timeout_ms = KAFKA_ASK_FIRST_MS;
    int code = LEVEE_OK;

    while (code == LEVEE_OK) {
        list->cnt = 0;
        rd_kafka_topic_partition_list_add(list, p->topic->name, p->id)->offset =
            s->config.start_time_ms;
        rd_kafka_resp_err_t answer = rd_kafka_offsets_for_times(s->rk, list, timeout_ms);
        answer = answer ? answer : list->elems[0].err;
        if (!answer) {
            *ret = list->elems[0].offset >= 0 ? list->elems[0].offset : high;
            break;
        }
        code = kafka_no_answer(s, p->topic->name, answer, &timeout_ms, err);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return code;
}

/* ---- out of range ---- */

static int describe_range(const struct kafka_source *s, const struct kafka_partition *p,
                          int64_t low, int64_t high, struct levee_error *err)
{
    err_where(err, "partition %d of topic %s at %s", (int)p->id, p->topic->name, s->config.brokers);
    err_expected(err, "offset %lld", (long long)p->next);
    return err_found(err, "offsets from %lld to below %lld", (long long)low, (long long)high);
}

static int range_error(const struct kafka_source *s, const struct kafka_partition *p, int64_t low,
                       int64_t high, struct levee_error *err)
{
    if (p->next < low) {
        err_set(err, LEVEE_EOFFSET_RANGE,
                "source %s: Kafka topic %s does not have offsets %lld to %lld of partition %d any "
                "more, and they were not read",
                levee_inlet_uid(s->inlet), p->topic->name, (long long)p->next, (long long)low - 1,
                (int)p->id);
    } else {
        err_set(err, LEVEE_ETOPIC_CHANGED,
                "source %s: partition %d of Kafka topic %s ends before the offset we have reached",
                levee_inlet_uid(s->inlet), (int)p->id, p->topic->name);
    }
    return describe_range(s, p, low, high, err);
}

static int given_error(const struct kafka_source *s, const struct kafka_partition *p, int64_t low,
                       int64_t high, struct levee_error *err)
{
    err_set(err, LEVEE_EOFFSET_RANGE,
            "source %s: partition %d of Kafka topic %s cannot begin at the offset that was given",
            levee_inlet_uid(s->inlet), (int)p->id, p->topic->name);
    return describe_range(s, p, low, high, err);
}

/* The gap is in the log before anything behind it is fetched: first as a dead letter, for that is
 * there exactly once, then as a count. (A crash between the two loses the count.) */
static int skip_gap(struct kafka_source *s, struct kafka_partition *p, int64_t low, int64_t high,
                    struct levee_error *err)
{
    struct levee_error told = {0};

    (void)range_error(s, p, low, high, &told);
    int code = levee_inlet_gap(s->inlet, p->producer, kafka_input_of(p), (uint64_t)p->next + 1,
                               (uint64_t)low, &s->ticket, err);
    if (code) {
        return code;
    }
    p->gaps++;
    p->gap_offsets += (uint64_t)(low - p->next);
    p->gap_from = p->next;
    p->gap_to = low;
    counter_add(&s->shown.gaps, 1);
    counter_add(&s->shown.gap_offsets, (uint64_t)(low - p->next));
    p->known = true;
    p->start = p->next = low;
    p->checking = false;
    kafka_reached(s, p, p->next);
    code = remember_topic(s, p->topic, err);
    if (code == LEVEE_OK) {
        levee_inlet_report(s->inlet, &told);
    }
    return code;
}

int kafka_out_of_range(struct kafka_source *s, struct kafka_partition *p, struct levee_error *err)
{
    int64_t low = 0, high = 0;

    for (int i = 0; i < LOOK_AGAIN; i++) {
        int code = kafka_watermarks(s, p, &low, &high, err);
        if (code) {
            return code;
        }
        if (p->next < low) {
            return s->config.on_gap == LEVEE_KAFKA_SKIP ? skip_gap(s, p, low, high, err)
                                                        : range_error(s, p, low, high, err);
        }
        if (p->next <= high) {
            /* It was the record before that is out of range, or a leader that did not know yet. */
            return p->checking && p->next - 1 < low ? kafka_identity_absent(s, p, p->next, err)
                                                    : LEVEE_OK;
        }
        if (!kafka_sleep(s, KAFKA_SECOND_NS / 4)) {
            return kafka_stopped(s, err);
        }
    }
    return range_error(s, p, low, high, err);
}

/* ---- starts and ends ---- */

static int find_start(struct kafka_source *s, struct kafka_partition *p, int64_t low, int64_t high,
                      struct levee_error *err)
{
    const struct kafka_config *c = &s->config;
    const struct kafka_place *given =
        kafka_place_find(c->offsets, c->offset_count, p->topic->name, p->id);
    /* New at the broker, not in our options: nothing of it may be missed. */
    bool appeared = !c->set && (p->topic->recalled || (c->pattern && s->begun));

    p->known = p->topic->changed = true;
    p->next = low;
    if (appeared) {
        p->start = low;
        return LEVEE_OK;
    }
    if (given) {
        p->start = p->next = given->offset;
        return given->offset < low || given->offset > high ? given_error(s, p, low, high, err)
                                                           : LEVEE_OK;
    }
    p->start = p->next = c->start == LEVEE_KAFKA_LATEST ? high : low;
    if (c->start == LEVEE_KAFKA_TIMESTAMP) {
        int code = offset_at_time(s, p, high, &p->next, err);
        p->start = p->next;
        return code;
    }
    return LEVEE_OK;
}

static int resolve_one(struct kafka_source *s, struct kafka_partition *p, struct levee_error *err)
{
    bool wants_end = levee_inlet_stop_at_end(s->inlet);
    int64_t position = (int64_t)levee_inlet_position(s->inlet, p->producer);
    int64_t low = 0, high = 0;
    int code = LEVEE_OK;

    p->tokens = 0;
    p->refilled_ns = 0;
    p->until = wants_end && p->run == s->run ? p->end : KAFKA_NEVER;
    p->next = position; /* sequence = offset + 1, so this is the next offset */
    p->hash = position ? levee_inlet_last_hash(s->inlet, p->producer) : 0;
    if (p->known && p->start > p->next) {
        p->next = p->start; /* nothing was read yet, or a gap was skipped */
        p->hash = 0;
    }
    p->checking = p->hash != 0;
    bool has_start = position > 0 || p->known;
    bool has_end = !wants_end || p->run == s->run;
    if (has_start && has_end) {
        return LEVEE_OK;
    }
    if ((code = kafka_watermarks(s, p, &low, &high, err)) != LEVEE_OK) {
        return code;
    }
    if (!has_start) {
        code = find_start(s, p, low, high, err);
    } else if (p->next < low || p->next > high) { /* or a topic made anew would look like read */
        code = kafka_out_of_range(s, p, err);
    }
    if (code == LEVEE_OK && !has_end) {
        p->known = p->topic->changed = true;
        p->until = p->end = high;
        p->run = s->run;
    }
    return code;
}

static bool ends_known(const struct kafka_source *s)
{
    return s->run_complete || !levee_inlet_stop_at_end(s->inlet);
}

int kafka_positions_resolve(struct kafka_source *s, size_t first, struct levee_error *err)
{
    int code = LEVEE_OK;

    for (size_t i = first; i < s->count && code == LEVEE_OK; i++) {
        code = resolve_one(s, s->partitions[i], err);
    }
    if (code == LEVEE_OK) {
        code = remember_changed(s, err);
    }
    if (code == LEVEE_OK && s->config.pattern && !s->begun) {
        code = levee_inlet_remember(s->inlet, "begun", slice_of(base_nothing, 0), err);
        s->begun = true;
    }
    if (code == LEVEE_OK && !ends_known(s)) {
        code = remember_run(s, err);
        s->run_complete = true;
    }
    for (size_t i = first; i < s->count && code == LEVEE_OK; i++) {
        kafka_reached(s, s->partitions[i], s->partitions[i]->next);
    }
    return code;
}

void kafka_reached(struct kafka_source *s, struct kafka_partition *p, int64_t position)
{
    if (p->until != KAFKA_NEVER && !p->at_end && position >= p->until) {
        p->at_end = true;
        s->at_end_count++;
    }
}
