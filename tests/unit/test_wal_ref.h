/*
 * The reference: a log as wal/README.md describes it, byte by byte, made and read here without any
 * code of wal/. It is the independent model of the format: what it writes the scanner must read,
 * what the writer writes it must be able to read.
 */
#ifndef LEVEE_TEST_WAL_REF_H
#define LEVEE_TEST_WAL_REF_H

#include <stdlib.h>

#include "base/base.h"
#include "tests/support/suite.h"

#define BLOCK 4096u

static const struct uuid ref_context = {{0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19,
                                         0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f}};

/* ---- the reference: numbers and hashes ---- */

static inline void ref_put(uint8_t *p, int bytes, uint64_t v)
{
    for (int i = 0; i < bytes; i++, v /= 256) {
        p[i] = (uint8_t)(v % 256);
    }
}

static inline uint64_t ref_get(const uint8_t *p, int bytes)
{
    uint64_t v = 0;

    for (int i = bytes; i-- > 0;) {
        v = v * 256 + p[i];
    }
    return v;
}

static inline uint64_t ref_header_hash(const uint8_t *header, uint64_t salt, uint64_t offset)
{
    return hash64(header, 56, salt ^ ((offset + 1) * 0x9e3779b97f4a7c15u));
}

static inline uint64_t ref_frame_size(uint64_t payload)
{
    return 64 + (payload + 7) / 8 * 8;
}

/* ---- the reference: a log in memory ---- */

#define REF_SEGMENTS 64
#define REF_GROUPS   1200
#define REF_FRAMES   8000

struct ref_frame {
    uint16_t type, flags;
    uint32_t stream, len;
    uint64_t lsn, seq, durable, offset;
    int segment, group;
};

struct ref_group {
    int segment;
    int first_frame, frames; /* of ref_log.frames, structural ones included */
    uint64_t offset, end;
    uint64_t first, last; /* data LSNs; last = first - 1: an idle seal */
};

struct ref_segment {
    uint64_t number, salt, size, epoch, first_lsn;
    uint64_t at, chain; /* the next frame */
    uint8_t *bytes;
};

struct ref_log {
    struct ref_segment segments[REF_SEGMENTS];
    struct ref_group groups[REF_GROUPS];
    struct ref_frame frames[REF_FRAMES];
    int segment_count, group_count, frame_count;
    uint64_t next_lsn, durable;
};

static inline void ref_release(struct ref_log *r)
{
    for (int i = 0; i < r->segment_count; i++) {
        free(r->segments[i].bytes);
    }
    memset(r, 0, sizeof *r);
}

static inline void ref_segment_header(uint8_t out[BLOCK], uint64_t number, uint64_t salt,
                                      uint64_t size)
{
    memset(out, 0, BLOCK);
    memcpy(out, "LEVEESEG", 8);
    ref_put(out + 8, 2, 1); /* format 1.0, no features */
    memcpy(out + 24, ref_context.b, 16);
    ref_put(out + 40, 8, number);
    ref_put(out + 48, 8, salt);
    ref_put(out + 56, 8, size);
    ref_put(out + 4088, 8, hash64(out, 4088, 0));
}

/* A segment with nothing in it: a spare until the first group. */
static inline struct ref_segment *ref_begin(struct ref_log *r, uint64_t number, uint64_t size,
                                            uint64_t epoch)
{
    struct ref_segment *s = &r->segments[r->segment_count++];

    MUST(r->segment_count <= REF_SEGMENTS);
    *s = (struct ref_segment){.number = number, .size = size, .epoch = epoch, .at = 8192};
    s->salt = s->chain = number * 0x1234567890abcdefu | 1;
    s->bytes = calloc(1, size);
    MUST(s->bytes != NULL);
    ref_segment_header(s->bytes, number, s->salt, size);
    memcpy(s->bytes + BLOCK, s->bytes, BLOCK);
    r->next_lsn = r->next_lsn ? r->next_lsn : 1;
    return s;
}

static inline void ref_append(struct ref_log *r, struct ref_frame f, const void *payload)
{
    struct ref_segment *s = &r->segments[r->segment_count - 1];
    uint8_t *p = s->bytes + s->at;

    MUST(s->at + ref_frame_size(f.len) <= s->size);
    MUST(r->frame_count < REF_FRAMES);
    f.offset = s->at;
    f.durable = r->durable;
    f.segment = r->segment_count - 1;
    f.group = r->group_count;
    r->frames[r->frame_count++] = f;
    memcpy(p, "LWF1", 4);
    ref_put(p + 4, 2, f.type);
    ref_put(p + 6, 2, f.flags);
    ref_put(p + 8, 4, f.len);
    ref_put(p + 12, 4, f.stream);
    ref_put(p + 16, 8, f.lsn);
    ref_put(p + 24, 8, f.seq);
    ref_put(p + 32, 8, f.durable);
    s->chain = hash64(p, 40, s->chain);
    ref_put(p + 40, 8, s->chain);
    if (f.len) {
        memcpy(p + 64, payload, f.len);
    }
    ref_put(p + 48, 8, hash64(p + 64, f.len, s->salt ^ f.lsn));
    ref_put(p + 56, 8, ref_header_hash(p, s->salt, f.offset));
    s->at += ref_frame_size(f.len);
}

/* Opens a group; a fresh segment's first one begins with SEGMENT_START. */
static inline void ref_group_begin(struct ref_log *r)
{
    struct ref_segment *s = &r->segments[r->segment_count - 1];
    uint8_t start[40];

    MUST(r->group_count < REF_GROUPS);
    r->groups[r->group_count] = (struct ref_group){.segment = r->segment_count - 1,
                                                   .first_frame = r->frame_count,
                                                   .offset = s->at,
                                                   .first = r->next_lsn};
    if (s->at != 8192) {
        return;
    }
    const struct ref_segment *before = r->segment_count > 1 ? s - 1 : NULL;
    s->first_lsn = r->next_lsn;
    ref_put(start, 8, s->epoch);
    ref_put(start + 8, 8, r->next_lsn);
    ref_put(start + 16, 8, before ? before->number : 0);
    ref_put(start + 24, 8, before ? before->at : 0);
    ref_put(start + 32, 8, r->next_lsn - 1);
    ref_append(r, (struct ref_frame){.type = 16, .len = 40, .lsn = r->next_lsn}, start);
}

/* One data frame with `len` random bytes. */
static inline void ref_data(struct ref_log *r, uint32_t len, uint64_t *rng)
{
    static uint8_t payload[60000];
    struct ref_frame f = {.len = len, .lsn = r->next_lsn++};

    MUST(len <= sizeof payload);
    for (uint32_t i = 0; i < len; i++) {
        payload[i] = (uint8_t)rng_next(rng);
    }
    f.type = (uint16_t)(1 + rng_next(rng) % 7);
    f.flags = (uint16_t)rng_next(rng);
    f.stream = (uint32_t)rng_next(rng);
    f.seq = rng_next(rng);
    ref_append(r, f, payload);
}

/* Seal and pad: the group is as a sync leaves it. */
static inline void ref_group_end(struct ref_log *r)
{
    struct ref_segment *s = &r->segments[r->segment_count - 1];
    struct ref_group *g = &r->groups[r->group_count];
    static const uint8_t zeros[2 * BLOCK];
    uint8_t seal[32];

    g->last = r->next_lsn - 1;
    ref_put(seal, 8, g->last + 1 - g->first);
    ref_put(seal + 8, 8, g->first);
    ref_put(seal + 16, 8, g->last);
    ref_put(seal + 24, 8, s->at - g->offset);
    uint16_t type = g->last < g->first ? 18 : 17;
    ref_append(r, (struct ref_frame){.type = type, .len = 32, .lsn = r->next_lsn}, seal);
    uint64_t left = (BLOCK - s->at % BLOCK) % BLOCK;
    if (left > 0) {
        left += left < 64 ? BLOCK : 0;
        struct ref_frame pad = {.type = 19, .len = (uint32_t)left - 64, .lsn = r->next_lsn};
        ref_append(r, pad, zeros);
    }
    g->end = s->at;
    g->frames = r->frame_count - g->first_frame;
    r->group_count++;
    r->durable = g->last;
}

/* A whole group of n frames (0: an idle seal) of random lengths below max. */
static inline void ref_group(struct ref_log *r, int n, uint32_t max, uint64_t *rng)
{
    ref_group_begin(r);
    for (int i = 0; i < n; i++) {
        ref_data(r, (uint32_t)(rng_next(rng) % max), rng);
    }
    ref_group_end(r);
}

static inline bool ref_is_data(const struct ref_frame *f)
{
    return f->type < 16;
}

/* ---- the reference: reading strictly what somebody else has written ---- */

/* The frame at `at` of the segment that is being read; it must verify and be the next one. */
static inline struct ref_frame ref_next_frame(struct ref_log *r, uint64_t at)
{
    struct ref_segment *s = &r->segments[r->segment_count - 1];
    const uint8_t *p = s->bytes + at;
    struct ref_frame f = {.type = (uint16_t)ref_get(p + 4, 2),
                          .flags = (uint16_t)ref_get(p + 6, 2),
                          .len = (uint32_t)ref_get(p + 8, 4),
                          .stream = (uint32_t)ref_get(p + 12, 4),
                          .lsn = ref_get(p + 16, 8),
                          .seq = ref_get(p + 24, 8),
                          .durable = ref_get(p + 32, 8),
                          .offset = at,
                          .segment = r->segment_count - 1,
                          .group = r->group_count};

    MUST(memcmp(p, "LWF1", 4) == 0);
    MUST(ref_get(p + 56, 8) == ref_header_hash(p, s->salt, at));
    MUST(at + ref_frame_size(f.len) <= s->size);
    s->chain = hash64(p, 40, s->chain);
    MUST(ref_get(p + 40, 8) == s->chain);
    MUST(ref_get(p + 48, 8) == hash64(p + 64, f.len, s->salt ^ f.lsn));
    for (uint64_t i = f.len; i < (f.len + 7u) / 8 * 8; i++) {
        MUST(p[64 + i] == 0);
    }
    MUST(f.lsn == r->next_lsn);
    MUST(r->frame_count < REF_FRAMES);
    r->frames[r->frame_count++] = f;
    return f;
}

/* What a structural frame must say; true: it was a seal. */
static inline bool ref_structural(struct ref_log *r, const struct ref_frame *f, bool sealed)
{
    struct ref_segment *s = &r->segments[r->segment_count - 1];
    const struct ref_group *g = &r->groups[r->group_count];
    const uint8_t *payload = s->bytes + f->offset + 64;

    if (f->type == 16) { /* first in the segment, and only there */
        MUST(f->offset == 8192 && f->len == 40);
        s->epoch = ref_get(payload, 8);
        s->first_lsn = ref_get(payload + 8, 8);
        MUST(s->first_lsn == r->next_lsn);
        MUST(ref_get(payload + 32, 8) == r->next_lsn - 1);
        return false;
    }
    if (f->type == 19) {
        MUST(sealed);
        for (uint64_t i = 0; i < f->len; i++) {
            MUST(payload[i] == 0);
        }
        return true;
    }
    MUST(f->type == 17 || f->type == 18);
    MUST(!sealed && f->len == 32);
    MUST(ref_get(payload, 8) == r->next_lsn - g->first);
    MUST((f->type == 17) == (r->next_lsn > g->first));
    MUST(ref_get(payload + 8, 8) == g->first);
    MUST(ref_get(payload + 16, 8) == r->next_lsn - 1);
    MUST(ref_get(payload + 24, 8) == f->offset - g->offset);
    return true;
}

/* Parses all groups of a segment's bytes into r, and fails the test at the first thing that is not
 * exactly as the README says. Returns the end of the last group; all behind it must be zero. */
static inline uint64_t ref_read(struct ref_log *r, const uint8_t *bytes, uint64_t size,
                                uint64_t number)
{
    struct ref_segment *s = &r->segments[r->segment_count++];
    uint8_t header[BLOCK];
    uint64_t at = 8192;

    MUST(r->segment_count <= REF_SEGMENTS);
    *s = (struct ref_segment){.number = number, .size = size, .salt = ref_get(bytes + 48, 8)};
    s->bytes = malloc(size);
    MUST(s->bytes != NULL);
    memcpy(s->bytes, bytes, size);
    ref_segment_header(header, number, s->salt, ref_get(bytes + 56, 8));
    ck_assert_mem_eq(bytes, header, BLOCK);
    ck_assert_mem_eq(bytes + BLOCK, header, BLOCK);
    s->chain = s->salt;
    while (at < size && bytes[at] != 0) {
        struct ref_group *g = &r->groups[r->group_count];
        bool sealed = false;
        MUST(r->group_count < REF_GROUPS);
        *g = (struct ref_group){.segment = r->segment_count - 1,
                                .first_frame = r->frame_count,
                                .offset = at,
                                .first = r->next_lsn};
        do {
            struct ref_frame f = ref_next_frame(r, at);
            if (ref_is_data(&f)) {
                MUST(!sealed && f.type >= 1);
                r->next_lsn++;
            } else {
                sealed = ref_structural(r, &f, sealed);
            }
            at += ref_frame_size(f.len);
        } while (!sealed || at % BLOCK != 0);
        g->last = r->next_lsn - 1;
        g->end = at;
        g->frames = r->frame_count - g->first_frame;
        r->group_count++;
    }
    for (uint64_t i = at; i < size; i++) {
        MUST(bytes[i] == 0);
    }
    return at;
}

#endif
