/*
 * Packed slices: how the entries of a table lie in a file.
 *
 * A slice is self-contained: a header, entries one after the other, and an XXH3-64 that is seeded
 * with the table and the slice's number, so a slice in another's place never passes. Slices are cut
 * at CKPT_SLICE_BYTES; an entry is never split, so an entry larger than that makes a larger slice.
 *
 *   0  u8   version (1)
 *   1  u8×3 zero
 *   4  u32  entries
 *   8  u32  first key group
 *  12  u32  last key group
 *  16  entries
 *  -8  u64  XXH3-64 of everything before, seed = table << 32 | number
 *
 * An entry is a control byte and only what that byte announces: a step to a later key group, a
 * touch time (zigzag difference to the entry before), a timer (zigzag difference to the touch
 * time), key and value with their lengths as varints. Most entries of a batch share their touch
 * time and so cost three bytes more than key and value. The key's hash is not stored: hashing it
 * again is cheaper than reading eight bytes more.
 *
 * The hash is checked before the first entry is looked at; every read is bounded all the same.
 */
#include "checkpoint/ckpt_impl.h"

#include <inttypes.h>

#define SLICE_VERSION     1
#define SLICE_HEADER      16
#define SLICE_HASH        8
#define SLICE_AT_COUNT    4
#define SLICE_AT_FIRST    8
#define SLICE_AT_LAST     12
#define VARINT_BYTES_MAX  10
#define ENTRY_VARINTS_MAX 5 /* group, touch, timer, key length, value length */

enum entry_control {
    ENTRY_REMOVAL = 1,
    ENTRY_NULL_KEY = 2,
    ENTRY_GROUP = 4, /* the group is later than the one before */
    ENTRY_TOUCH = 8, /* the touch time differs from the one before */
    ENTRY_TIMER = 16,
    ENTRY_KNOWN = 31
};

static uint64_t slice_seed(uint32_t table, uint32_t number)
{
    return (uint64_t)table << 32 | number;
}

/* ---- writing ---- */

static uint8_t *write_varint(uint8_t *p, uint64_t v)
{
    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}

/* Small differences of either sign become small numbers; differences wrap, so any two times do. */
static uint64_t zigzag(int64_t to, int64_t from)
{
    uint64_t d = (uint64_t)to - (uint64_t)from;

    return d << 1 ^ (0 - (d >> 63));
}

static int64_t unzigzag(uint64_t z, int64_t from)
{
    return (int64_t)((uint64_t)from + (z >> 1 ^ (0 - (z & 1))));
}

void ckpt_slices_init(struct ckpt_slices *s, uint32_t table)
{
    *s = (struct ckpt_slices){.table = table};
}

void ckpt_slices_release(struct ckpt_slices *s)
{
    buf_release(&s->bytes);
    mem_free(s->marks);
    *s = (struct ckpt_slices){.table = s->table};
}

void ckpt_slices_restart(struct ckpt_slices *s, uint32_t table)
{
    struct ckpt_slices fresh = {.table = table,
                                .bytes = s->bytes,
                                .marks = s->marks,
                                .mark_cap = s->mark_cap,
                                .failed = s->failed};

    buf_clear(&fresh.bytes);
    *s = fresh;
}

static void seal(struct ckpt_slices *s)
{
    struct ckpt_slice_mark *m = &s->marks[s->mark_count - 1];
    uint32_t number = s->first_number + (uint32_t)(s->mark_count - 1);

    if (!buf_reserve(&s->bytes, SLICE_HASH)) {
        s->failed = true;
        return;
    }
    uint8_t *start = s->bytes.data + m->offset;
    m->len = s->bytes.len - m->offset;
    put_le32(start + SLICE_AT_COUNT, m->count);
    put_le32(start + SLICE_AT_FIRST, m->first_group);
    put_le32(start + SLICE_AT_LAST, m->last_group);
    put_le64(start + m->len, hash64(start, m->len, slice_seed(s->table, number)));
    m->len += SLICE_HASH;
    s->bytes.len += SLICE_HASH;
    s->open = false;
}

/* Starts a slice whose first entry is of this group. */
static void start(struct ckpt_slices *s, uint32_t group)
{
    void *marks = s->marks;

    if (!mem_grow(&marks, &s->mark_cap, s->mark_count + 1, sizeof *s->marks) ||
        !buf_reserve(&s->bytes, SLICE_HEADER)) {
        s->marks = marks;
        s->failed = true;
        return;
    }
    s->marks = marks;
    s->marks[s->mark_count++] =
        (struct ckpt_slice_mark){.offset = s->bytes.len, .first_group = group, .last_group = group};
    memset(s->bytes.data + s->bytes.len, 0, SLICE_HEADER);
    s->bytes.data[s->bytes.len] = SLICE_VERSION;
    s->bytes.len += SLICE_HEADER;
    s->touch_ms = 0;
    s->open = true;
}

void ckpt_slices_add(struct ckpt_slices *s, const struct ckpt_entry *e)
{
    size_t most = 1 + ENTRY_VARINTS_MAX * VARINT_BYTES_MAX + e->key.len + e->value.len;

    if (s->failed) {
        return;
    }
    if (s->open) {
        const struct ckpt_slice_mark *m = &s->marks[s->mark_count - 1];
        ASSERT(e->group >= m->last_group);
        if (s->bytes.len - m->offset + most + SLICE_HASH > CKPT_SLICE_BYTES) {
            seal(s);
        }
    }
    if (!s->failed && !s->open) {
        start(s, e->group);
    }
    if (s->failed || !buf_reserve(&s->bytes, most)) {
        s->failed = true;
        return;
    }

    struct ckpt_slice_mark *m = &s->marks[s->mark_count - 1];
    uint8_t *control = s->bytes.data + s->bytes.len;
    uint8_t *p = control + 1;
    unsigned bits = 0;
    if (e->group != m->last_group) {
        bits |= ENTRY_GROUP;
        p = write_varint(p, e->group - m->last_group);
        m->last_group = e->group;
    }
    if (e->touch_ms != s->touch_ms) {
        bits |= ENTRY_TOUCH;
        p = write_varint(p, zigzag(e->touch_ms, s->touch_ms));
        s->touch_ms = e->touch_ms;
    }
    if (e->timer_ms != 0) {
        bits |= ENTRY_TIMER;
        p = write_varint(p, zigzag(e->timer_ms, e->touch_ms));
    }
    if (e->key.data == NULL) {
        bits |= ENTRY_NULL_KEY;
    } else {
        p = write_varint(p, e->key.len);
        memcpy(p, e->key.data, e->key.len);
        p += e->key.len;
    }
    if (e->value.data == NULL) {
        bits |= ENTRY_REMOVAL;
    } else {
        p = write_varint(p, e->value.len);
        memcpy(p, e->value.data, e->value.len);
        p += e->value.len;
    }
    *control = (uint8_t)bits;
    s->bytes.len = (size_t)(p - s->bytes.data);
    m->count++;
    s->entries++;
}

int ckpt_slices_finish(struct ckpt_slices *s, struct levee_error *err)
{
    if (!s->failed && s->open) {
        seal(s);
    }
    return s->failed ? err_nomem(err, s->bytes.len) : LEVEE_OK;
}

void ckpt_slices_flush(struct ckpt_slices *s)
{
    size_t sealed = s->mark_count - (s->open ? 1 : 0);

    if (sealed == 0) {
        return;
    }
    size_t gone = s->open ? s->marks[sealed].offset : s->bytes.len;
    if (s->open) {
        memmove(s->bytes.data, s->bytes.data + gone, s->bytes.len - gone);
        s->marks[0] = s->marks[sealed];
        s->marks[0].offset = 0;
    }
    s->bytes.len -= gone;
    s->mark_count -= sealed;
    s->first_number += (uint32_t)sealed;
}

/* ---- reading ---- */

static int slice_corrupt(uint32_t table, uint32_t number, const char *what, struct levee_error *err)
{
    int code = err_set(err, LEVEE_ECKPT_CORRUPT, "a slice of a table %s", what);

    err_where(err, "table %08" PRIx32 ", slice %" PRIu32, table, number);
    return code;
}

int ckpt_slice_open(struct levee_slice bytes, uint32_t table, uint32_t number,
                    struct ckpt_slice_cursor *ret, struct levee_error *err)
{
    if (bytes.len < SLICE_HEADER + SLICE_HASH) {
        int code = slice_corrupt(table, number, "is too short", err);
        err_expected(err, "at least %d bytes", SLICE_HEADER + SLICE_HASH);
        err_found(err, "%zu bytes", bytes.len);
        return code;
    }
    size_t end = bytes.len - SLICE_HASH;
    uint64_t stored = get_le64(bytes.data + end);
    uint64_t computed = hash64(bytes.data, end, slice_seed(table, number));
    if (stored != computed) {
        int code = slice_corrupt(table, number, "fails its hash", err);
        err_expected(err, "%016" PRIx64, stored);
        err_found(err, "%016" PRIx64, computed);
        return code;
    }
    if (bytes.data[0] != SLICE_VERSION) {
        int code = slice_corrupt(table, number, "has an unknown version", err);
        err_expected(err, "%d", SLICE_VERSION);
        err_found(err, "%d", bytes.data[0]);
        return code;
    }
    if ((bytes.data[1] | bytes.data[2] | bytes.data[3]) != 0) {
        return slice_corrupt(table, number, "has reserved bytes that are not zero", err);
    }
    if (get_le32(bytes.data + SLICE_AT_FIRST) > get_le32(bytes.data + SLICE_AT_LAST)) {
        return slice_corrupt(table, number, "ends before it begins", err);
    }
    *ret = (struct ckpt_slice_cursor){
        .c = {bytes.data + SLICE_HEADER, bytes.data + end, false},
        .table = table,
        .number = number,
        .left = get_le32(bytes.data + SLICE_AT_COUNT),
        .group = get_le32(bytes.data + SLICE_AT_FIRST),
        .last_group = get_le32(bytes.data + SLICE_AT_LAST),
    };
    return LEVEE_OK;
}

/* Nearly every varint here is one byte. */
static inline uint64_t take_varint(struct cursor *c)
{
    if (LIKELY(c->p < c->end && *c->p < 0x80)) {
        return *c->p++;
    }
    return cur_varint(c);
}

static inline struct levee_slice take_bytes(struct cursor *c)
{
    uint64_t len = take_varint(c);

    if (UNLIKELY(c->bad || len > (uint64_t)(c->end - c->p))) {
        c->bad = true;
        return slice_of(NULL, 0);
    }
    struct levee_slice bytes = slice_of(c->p, (size_t)len);
    c->p += len;
    return bytes;
}

bool ckpt_slice_next(struct ckpt_slice_cursor *s, struct ckpt_entry *ret)
{
    struct cursor *c = &s->c;

    if (s->left == 0 || c->bad) {
        return false;
    }
    if (c->p >= c->end || *c->p > ENTRY_KNOWN) {
        c->bad = true;
        return false;
    }
    unsigned bits = *c->p++;
    struct ckpt_entry e = {0};
    if ((bits & ENTRY_GROUP) != 0) {
        uint64_t step = take_varint(c);
        c->bad = c->bad || step > s->last_group - s->group;
        s->group += (uint32_t)step;
    }
    if ((bits & ENTRY_TOUCH) != 0) {
        s->touch_ms = unzigzag(take_varint(c), s->touch_ms);
    }
    if ((bits & ENTRY_TIMER) != 0) {
        e.timer_ms = unzigzag(take_varint(c), s->touch_ms);
    }
    if ((bits & ENTRY_NULL_KEY) == 0) {
        e.key = take_bytes(c);
    }
    if ((bits & ENTRY_REMOVAL) == 0) {
        e.value = take_bytes(c);
    }
    if (c->bad) {
        return false;
    }
    e.group = s->group;
    e.touch_ms = s->touch_ms;
    e.hash = hash_key(e.key.data, e.key.len);
    s->left--;
    *ret = e;
    return true;
}

int ckpt_slice_close(const struct ckpt_slice_cursor *s, struct levee_error *err)
{
    if (s->c.bad || s->left != 0 || s->c.p != s->c.end || s->group != s->last_group) {
        /* The hash was right: this was written wrong. */
        return slice_corrupt(s->table, s->number, "holds an entry that cannot be read", err);
    }
    return LEVEE_OK;
}

/* ---- keys of slices ---- */

void ckpt_slice_key(uint8_t ret[CKPT_SLICE_KEY], uint32_t table, uint32_t number)
{
    ret[0] = 't';
    for (int i = 0; i < 4; i++) {
        ret[1 + i] = (uint8_t)(table >> (24 - 8 * i));
        ret[5 + i] = (uint8_t)(number >> (24 - 8 * i));
    }
}

bool ckpt_slice_key_parse(struct levee_slice key, uint32_t *ret_table, uint32_t *ret_number)
{
    if (key.len != CKPT_SLICE_KEY || key.data[0] != 't') {
        return false;
    }
    uint64_t both = get_be64(key.data + 1);
    *ret_table = (uint32_t)(both >> 32);
    *ret_number = (uint32_t)both;
    return true;
}
