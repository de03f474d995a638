/*
 * A log on the simulated machine, with its owner: frames on their way with all that is known of
 * them, what was called back and when, and a recovery as the runtime does it. The tape runs along,
 * so that `done` can be held against what had been synced at that moment.
 */
#ifndef LEVEE_TEST_WAL_RIG_H
#define LEVEE_TEST_WAL_RIG_H

#include "tests/unit/test_wal.h"
#include "wal/wal_writer.h"

#define RIG_SENT 4000
#define MS       UINT64_C(1000000)

struct sent {
    struct wal_frame frame;
    uint8_t *payload;
    size_t len;
    int code;       /* 1: done was not called yet */
    size_t done_at; /* events on the tape by then */
};

static struct {
    struct wal *wal;
    struct wal_options opt;
    struct sent sent[RIG_SENT];
    size_t count, done_count;
    uint64_t last_done; /* LSN */
    bool closing;
    int failures; /* calls of the hook */
    struct levee_error failure;
    char space[64]; /* what the hook was told: '-' short of space, '+' room again */
} rig;

static inline void rig_done(struct wal_frame *frame, int code)
{
    struct sent *s = frame->owner;

    MUST(s->code == 1); /* exactly once, in order, on the log lane unless that has ended */
    MUST(frame->lsn > rig.last_done);
    MUST(rig.closing || io->ops->lane_current(rig.wal->log));
    rig.last_done = frame->lsn;
    MUST(code == LEVEE_OK || code == LEVEE_EWAL_FAILED);
    s->code = code;
    s->done_at = tape.count;
    rig.done_count++;
}

static inline void rig_failed(void *arg, const struct levee_error *why)
{
    MUST(arg == &rig);
    rig.failures++;
    rig.failure = *why;
}

static inline void rig_space(void *arg, bool short_of_space)
{
    size_t n = strlen(rig.space);

    MUST(arg == &rig && n + 1 < sizeof rig.space);
    rig.space[n] = short_of_space ? '-' : '+';
}

/* A machine with an empty wal directory, and options for a small log; nothing is open yet. */
static inline void rig_machine(uint64_t seed)
{
    memset(&rig, 0, sizeof rig);
    open_machine(seed);
    tape_start(io);
    rig.opt = (struct wal_options){.dir = WAL_DIR,
                                   .context = ref_context,
                                   .segment_bytes = WAL_SEGMENT_MIN,
                                   .failed = rig_failed,
                                   .space = rig_space,
                                   .failed_arg = &rig};
}

static inline void rig_run(uint64_t ns)
{
    io_sim_run(io, io->ops->now_ns(io) + ns);
}

/* Runs what can run now, without letting time pass. */
static inline void rig_settle(void)
{
    rig_run(0);
}

static inline void rig_new(uint64_t seed)
{
    rig_machine(seed);
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
}

/* A frame of len bytes, its content made from its number; not appended yet. */
static inline struct sent *rig_frame(size_t len)
{
    struct sent *s = &rig.sent[rig.count];
    uint64_t rng = rig.count + 1000 * len;

    MUST(rig.count < RIG_SENT);
    *s = (struct sent){.len = len, .code = 1};
    s->payload = malloc(len + 1);
    MUST(s->payload != NULL);
    for (size_t i = 0; i < len; i++) {
        s->payload[i] = (uint8_t)rng_next(&rng);
    }
    size_t head = len ? rng_next(&rng) % len : 0; /* in one piece or in two */
    s->frame = (struct wal_frame){
        .type = (uint16_t)(1 + rig.count % 7),
        .flags = (uint16_t)(rig.count * 3),
        .stream = (uint32_t)(rig.count * 5),
        .seq = rig.count * 7,
        .payload = {slice_of(s->payload, head), slice_of(s->payload + head, len - head)},
        .done = rig_done,
        .owner = s,
    };
    rig.count++;
    return s;
}

static inline struct sent *rig_send(size_t len)
{
    struct sent *s = rig_frame(len);

    ck_assert_int_eq(wal_append(rig.wal, &s->frame, &err), LEVEE_OK);
    return s;
}

static inline void rig_send_many(size_t n, size_t len)
{
    for (size_t i = 0; i < n; i++) {
        rig_send(len);
    }
}

static inline size_t rig_acknowledged(void)
{
    size_t n = 0;

    for (size_t i = 0; i < rig.count; i++) {
        n += rig.sent[i].code == LEVEE_OK;
    }
    return n;
}

static inline void rig_free_frames(void)
{
    for (size_t i = 0; i < rig.count; i++) {
        free(rig.sent[i].payload);
    }
    rig.count = rig.done_count = 0;
}

static inline void rig_close(void)
{
    rig.closing = true;
    wal_close(rig.wal);
    rig.wal = NULL;
    rig.closing = false;
    rig.last_done = 0; /* the next life may give LSNs of unacknowledged frames out again */
    ck_assert_uint_eq(rig.done_count, rig.count); /* every frame was called back */
}

static inline void rig_end(void)
{
    if (rig.wal) {
        rig_close();
    }
    rig_free_frames();
    close_machine();
}

/* As recovery does it (recovery/apply.c): scan, a new first segment, clean, open. */
static inline int rig_recover(struct levee_error *e)
{
    struct wal_facts facts;
    int code = wal_scan(io, WAL_DIR, &ref_context, 0, &facts, e);

    if (code) {
        return code;
    }
    uint64_t from =
        facts.witnessed_lsn + 1 < facts.next_lsn ? facts.witnessed_lsn + 1 : facts.next_lsn;
    code = wal_rebuild(io, &rig.opt, &facts, from, facts.next_lsn - 1, facts.epoch_max + 1, e);
    if (code == LEVEE_OK) {
        code = wal_clean(io, &rig.opt, &facts, e);
    }
    if (code == LEVEE_OK) {
        code = wal_open(io, &rig.opt, &facts, &rig.wal, e);
    }
    wal_facts_release(&facts);
    return code;
}

/* Reads all segments on disk, strictly, in order of their numbers up to `last`, into r. */
static inline void rig_read(struct ref_log *r, uint64_t last)
{
    r->next_lsn = 1;
    for (uint64_t n = 1; n <= last; n++) {
        if (segment_exists(n)) {
            uint64_t size;
            const uint8_t *bytes = segment_bytes(n, &size);
            (void)ref_read(r, bytes, size, n);
        }
    }
}

/* The data frames in r are the first `count` sent ones, byte by byte. */
static inline void rig_same(const struct ref_log *r, size_t count)
{
    size_t n = 0;

    for (int i = 0; i < r->frame_count; i++) {
        const struct ref_frame *f = &r->frames[i];
        if (!ref_is_data(f)) {
            continue;
        }
        MUST(n < count);
        const struct sent *s = &rig.sent[n++];
        MUST(f->lsn == n && s->frame.lsn == n);
        MUST(f->type == s->frame.type && f->flags == s->frame.flags && f->seq == s->frame.seq);
        MUST(f->stream == s->frame.stream && f->len == s->len);
        MUST(memcmp(r->segments[f->segment].bytes + f->offset + 64, s->payload, s->len) == 0);
    }
    ck_assert_uint_eq(n, count);
}

/* ---- what the tape must show ---- */

/* W2 and W3 over the whole tape: writes to segments in use are whole blocks, go up, and none
 * touches or precedes what was synced before; between a sync and the next write nobody is skipped.
 */
static inline void rig_check_order(void)
{
    struct {
        char name[24];
        uint64_t written, synced;
    } files[64];
    size_t count = 0;

    for (size_t i = 0; i < tape.count; i++) {
        const struct tape_event *e = &tape.events[i];
        if ((e->kind != TAPE_WRITE && e->kind != TAPE_SYNC) || !tape_matches(e->name, ".seg")) {
            continue;
        }
        size_t f = 0;
        while (f < count && strcmp(files[f].name, e->name) != 0) {
            f++;
        }
        if (f == count) {
            MUST(++count < ARRAY_LEN(files));
            memcpy(files[f].name, e->name, 21);
            files[f].written = files[f].synced = 8192;
        }
        MUST(f + 1 == count); /* never an older segment again */
        if (e->kind == TAPE_WRITE) {
            MUST(e->offset >= files[f].synced);
            MUST(e->offset == files[f].written || files[f].written == 8192);
            MUST(files[f].written != files[f].synced || e->offset % BLOCK == 0);
            files[f].written = e->offset + e->len;
        } else {
            MUST(files[f].written % BLOCK == 0);
            files[f].synced = files[f].written;
        }
    }
}

/* W1: when done(OK) came, the last write to a segment in use had been followed by a sync of it. */
static inline void rig_check_acknowledgements(void)
{
    for (size_t s = 0; s < rig.count; s++) {
        if (rig.sent[s].code != LEVEE_OK) {
            continue;
        }
        enum tape_kind last = TAPE_NONE;
        for (size_t i = rig.sent[s].done_at; i-- > 0 && last == TAPE_NONE;) {
            const struct tape_event *e = &tape.events[i];
            if (tape_matches(e->name, ".seg") && (e->kind == TAPE_WRITE || e->kind == TAPE_SYNC)) {
                MUST(!e->failed);
                last = e->kind;
            }
        }
        MUST(last == TAPE_SYNC);
    }
}

#endif
