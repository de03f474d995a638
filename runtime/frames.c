/*
 * What the runtime writes into the log beside blocks. Every payload begins with a version byte;
 * lists are counted; everything is bounds-checked on the way back. Batch ids travel in the frame's
 * seq as well, so recovery needs no decoder.
 *
 * BATCH_OPEN has optional fields behind its ranges: a count, then (tag, bytes) each. A frame that
 * has any says so by its version, so that a build that does not know of them refuses it instead of
 * replaying without; one that has none is written as it always was, and both are read.
 */
#include <stdlib.h>

#include "runtime/context.h"

#define FRAMES_VERSION 1u
#define FRAMES_FIELDS  2u /* of a BATCH_OPEN with optional fields */

enum open_field {                      /* tags are never used again */
                  OPEN_WATERMARKS = 1, /* (table, watermark)* */
                  OPEN_SHARED = 2      /* (table, version, hash)* of broadcasts and data sets */
};

static int bad_payload(const char *what, size_t len, struct levee_error *err)
{
    err_set(err, LEVEE_EWAL_CORRUPT, "a %s frame does not parse", what);
    err_expected(err, "version %u", FRAMES_VERSION);
    err_found(err, "%zu bytes", len);
    return LEVEE_EWAL_CORRUPT;
}

static void put_text(struct buf *b, const char *s)
{
    buf_slice(b, slice_str(s));
}

static void get_text(struct cursor *c, char *out, size_t size)
{
    struct levee_slice s = cur_slice(c);

    if (s.len >= size) {
        c->bad = true;
        s.len = 0;
    }
    if (s.len) {
        memcpy(out, s.data, s.len);
    }
    out[s.len] = 0;
}

static void put_watermarks(const struct rt_batch *b, struct buf *ret)
{
    const struct rt_engine *e = b->ctx->engine;
    size_t n = rt_engine_clock_count(e);

    buf_u8(ret, OPEN_WATERMARKS);
    buf_varint(ret, 12 * n + 1); /* a slice of so many bytes */
    for (size_t i = 0; i < n; i++) {
        buf_u32(ret, rt_engine_clock_table(e, i));
        buf_u64(ret, (uint64_t)b->watermarks[i]);
    }
}

static int get_watermarks(struct levee_slice bytes, struct rt_logged_batch *ret,
                          struct levee_error *err)
{
    struct cursor c = cursor_of(bytes);
    size_t n = bytes.len / 12;

    if (bytes.len % 12 != 0 || ret->watermarks) {
        return bad_payload("BATCH_OPEN", bytes.len, err);
    }
    ret->watermarks = mem_zalloc((n + 1) * sizeof *ret->watermarks);
    if (!ret->watermarks) {
        return err_nomem(err, n * sizeof *ret->watermarks);
    }
    ret->watermark_count = n;
    for (size_t i = 0; i < n; i++) {
        ret->watermarks[i].table = cur_u32(&c);
        ret->watermarks[i].at_ms = (int64_t)cur_u64(&c);
    }
    return LEVEE_OK;
}

static size_t shared_seen(const struct rt_batch *b)
{
    size_t n = 0;

    for (size_t i = 0; i < b->shared_count; i++) {
        n += b->shared[i] != NULL;
    }
    return n;
}

static void put_shared(const struct rt_batch *b, struct buf *ret)
{
    buf_u8(ret, OPEN_SHARED);
    buf_varint(ret, 20 * shared_seen(b) + 1);
    for (size_t i = 0; i < b->shared_count; i++) {
        const struct rt_version *v = b->shared[i];
        if (v) {
            buf_u32(ret, v->table);
            buf_u64(ret, v->number);
            buf_u64(ret, v->hash);
        }
    }
}

static int get_shared(struct levee_slice bytes, struct rt_logged_batch *ret,
                      struct levee_error *err)
{
    struct cursor c = cursor_of(bytes);
    size_t n = bytes.len / 20;

    if (bytes.len % 20 != 0 || ret->shared) {
        return bad_payload("BATCH_OPEN", bytes.len, err);
    }
    ret->shared = mem_zalloc((n + 1) * sizeof *ret->shared);
    if (!ret->shared) {
        return err_nomem(err, n * sizeof *ret->shared);
    }
    ret->shared_count = n;
    for (size_t i = 0; i < n; i++) {
        ret->shared[i].table = cur_u32(&c);
        ret->shared[i].number = cur_u64(&c);
        ret->shared[i].hash = cur_u64(&c);
    }
    return LEVEE_OK;
}

static int get_fields(struct cursor *c, struct rt_logged_batch *ret, struct levee_error *err)
{
    uint64_t n = cur_varint(c);
    int code = LEVEE_OK;

    for (uint64_t i = 0; i < n && !c->bad && code == LEVEE_OK; i++) {
        uint8_t tag = cur_u8(c);
        struct levee_slice bytes = cur_slice(c);
        if (c->bad) {
            break;
        }
        switch (tag) {
        case OPEN_WATERMARKS:
            code = get_watermarks(bytes, ret, err);
            break;
        case OPEN_SHARED:
            code = get_shared(bytes, ret, err);
            break;
        default:
            code = err_set(err, LEVEE_EDIR_NEWER,
                           "a BATCH_OPEN frame has field %u, which this build does not know", tag);
        }
    }
    return code;
}

void rt_open_encode(const struct rt_batch *b, const char *program, struct buf *ret)
{
    bool marks = b->watermarks && rt_engine_clock_count(b->ctx->engine) > 0;
    bool shared = shared_seen(b) > 0;
    unsigned fields = (unsigned)marks + (unsigned)shared;

    buf_u8(ret, fields ? FRAMES_FIELDS : FRAMES_VERSION);
    buf_u64(ret, b->header.id);
    buf_u64(ret, (uint64_t)b->header.time_ms);
    buf_u32(ret, b->header.ticks);
    buf_u64(ret, b->header.seed);
    put_text(ret, program);
    buf_varint(ret, b->range_count);
    for (size_t i = 0; i < b->range_count; i++) {
        const struct rt_source_range *r = &b->ranges[i];
        buf_u32(ret, r->table);
        buf_varint(ret, r->first_lsn);
        buf_varint(ret, r->last_lsn);
        buf_varint(ret, r->blocks);
        buf_varint(ret, r->records);
    }
    if (fields) {
        buf_varint(ret, fields);
        if (marks) {
            put_watermarks(b, ret);
        }
        if (shared) {
            put_shared(b, ret);
        }
    }
}

int rt_open_decode(struct levee_slice bytes, struct rt_logged_batch *ret, struct levee_error *err)
{
    struct cursor c = cursor_of(bytes);
    uint8_t version = cur_u8(&c);

    ret->header.id = cur_u64(&c);
    ret->header.time_ms = (int64_t)cur_u64(&c);
    ret->header.ticks = cur_u32(&c);
    ret->header.seed = cur_u64(&c);
    get_text(&c, ret->program, sizeof ret->program);
    uint64_t n = cur_varint(&c);
    if (c.bad || (version != FRAMES_VERSION && version != FRAMES_FIELDS) || n > cur_left(&c)) {
        return bad_payload("BATCH_OPEN", bytes.len, err);
    }
    if (n) {
        ret->ranges = mem_zalloc(n * sizeof *ret->ranges);
        if (!ret->ranges) {
            return err_nomem(err, n * sizeof *ret->ranges);
        }
    }
    ret->range_count = n;
    for (size_t i = 0; i < n; i++) {
        struct rt_source_range *r = &ret->ranges[i];
        r->table = cur_u32(&c);
        r->first_lsn = cur_varint(&c);
        r->last_lsn = cur_varint(&c);
        r->blocks = cur_varint(&c);
        r->records = cur_varint(&c);
    }
    int code = version == FRAMES_FIELDS ? get_fields(&c, ret, err) : LEVEE_OK;
    return c.bad ? bad_payload("BATCH_OPEN", bytes.len, err) : code;
}

void rt_decision_encode(const struct rt_decision *d, struct buf *ret)
{
    buf_u32(ret, d->node_uid_hash);
    buf_varint(ret, d->partition);
    buf_varint(ret, d->index);
    buf_u32(ret, (uint32_t)d->code);
    buf_varint(ret, d->attempts);
    buf_slice(ret, d->key);
    buf_slice(ret, d->value);
    put_text(ret, d->uid);
}

bool rt_decision_decode(struct cursor *c, struct rt_decision *ret)
{
    *ret = (struct rt_decision){0};
    ret->node_uid_hash = cur_u32(c);
    ret->partition = (uint32_t)cur_varint(c);
    ret->index = cur_varint(c);
    ret->code = (int32_t)cur_u32(c);
    ret->attempts = (uint32_t)cur_varint(c);
    ret->key = cur_slice(c);
    ret->value = cur_slice(c);
    get_text(c, ret->uid, sizeof ret->uid);
    return !c->bad;
}

void rt_result_encode(const struct rt_batch *b, const char *program, uint64_t state_digest,
                      struct buf *ret)
{
    const struct rt_compute *cp = &b->compute;
    const struct rt_graph *g = b->ctx->graph;

    buf_u8(ret, FRAMES_VERSION);
    buf_u64(ret, b->header.id);
    buf_u32(ret, b->try_);
    buf_u64(ret, state_digest);
    put_text(ret, program);
    buf_varint(ret, g->sink_count);
    for (size_t i = 0; i < g->sink_count; i++) {
        buf_u32(ret, g->sinks[i]->table);
        buf_u64(ret, cp->digests[i]);
        buf_varint(ret, cp->output_records[i]);
    }
    buf_varint(ret, cp->decision_count + b->refusal_count);
    for (size_t i = 0; i < cp->decision_count; i++) {
        rt_decision_encode(&cp->decisions[i], ret);
    }
    for (size_t i = 0; i < b->refusal_count; i++) {
        rt_decision_encode(&b->refusals[i], ret);
    }
}

static int by_place(const void *a, const void *b)
{
    return rt_decision_order(a, b);
}

static int decode_sinks_and_decisions(struct cursor *c, struct rt_logged_batch *ret,
                                      struct levee_error *err)
{
    uint64_t sinks = cur_varint(c);

    if (c->bad || sinks > cur_left(c)) {
        return bad_payload("BATCH_RESULT", cur_left(c), err);
    }
    ret->sinks = mem_zalloc((sinks ? sinks : 1) * sizeof *ret->sinks);
    if (!ret->sinks) {
        return err_nomem(err, sinks * sizeof *ret->sinks);
    }
    ret->sink_count = sinks;
    for (size_t i = 0; i < sinks; i++) {
        ret->sinks[i].table = cur_u32(c);
        ret->sinks[i].digest = cur_u64(c);
        ret->sinks[i].records = cur_varint(c);
    }
    uint64_t decisions = cur_varint(c);
    if (c->bad || decisions > cur_left(c)) {
        return bad_payload("BATCH_RESULT", cur_left(c), err);
    }
    ret->decisions = mem_zalloc((decisions ? decisions : 1) * sizeof *ret->decisions);
    if (!ret->decisions) {
        return err_nomem(err, decisions * sizeof *ret->decisions);
    }
    ret->decision_count = decisions;
    for (size_t i = 0; i < decisions; i++) {
        if (!rt_decision_decode(c, &ret->decisions[i])) {
            return bad_payload("BATCH_RESULT", cur_left(c), err);
        }
    }
    qsort(ret->decisions, decisions, sizeof *ret->decisions, by_place);
    return LEVEE_OK;
}

static void drop_result(struct rt_logged_batch *l)
{
    mem_free(l->sinks);
    mem_free(l->decisions);
    buf_release(&l->bytes);
    l->sinks = NULL;
    l->decisions = NULL;
    l->sink_count = l->decision_count = 0;
    l->has_result = false;
}

int rt_result_decode(struct buf *bytes, struct rt_logged_batch *ret, struct levee_error *err)
{
    drop_result(ret); /* a later try replaces an earlier one */
    ret->bytes = *bytes;
    *bytes = (struct buf){0};
    struct cursor c = cursor_of(buf_view(&ret->bytes));
    uint8_t version = cur_u8(&c);
    uint64_t id = cur_u64(&c);

    ret->try_ = cur_u32(&c);
    ret->state_digest = cur_u64(&c);
    get_text(&c, ret->result_program, sizeof ret->result_program);
    if (c.bad || version != FRAMES_VERSION || id != ret->header.id) {
        return bad_payload("BATCH_RESULT", ret->bytes.len, err);
    }
    int code = decode_sinks_and_decisions(&c, ret, err);
    ret->has_result = code == LEVEE_OK;
    return code;
}

const struct rt_source_range *rt_logged_range(const struct rt_logged_batch *l, uint32_t table)
{
    for (size_t i = 0; i < l->range_count; i++) {
        if (l->ranges[i].table == table) {
            return &l->ranges[i];
        }
    }
    return NULL;
}

void rt_logged_free(struct rt_logged_batch *l)
{
    if (l) {
        drop_result(l);
        mem_free(l->ranges);
        mem_free(l->shared);
        mem_free(l->watermarks);
        mem_free(l);
    }
}

static void frame_done(struct wal_frame *f, int code)
{
    (void)code; /* the log's failure reaches the context through its own hook */
    mem_free(f);
}

struct wal_frame *rt_frame_new(uint16_t type, uint32_t stream, uint64_t seq,
                               struct levee_slice payload)
{
    struct wal_frame *f = mem_zalloc(sizeof *f + payload.len);

    if (f) {
        uint8_t *bytes = (uint8_t *)(f + 1);
        if (payload.len) {
            memcpy(bytes, payload.data, payload.len);
        }
        f->type = type;
        f->stream = stream;
        f->seq = seq;
        f->payload[0] = slice_of(bytes, payload.len);
        f->done = frame_done;
    }
    return f;
}
