/*
 * base: what every room stands on and what stands on nothing: errors, asserts, memory, bytes,
 * hashes, lists, counters. Only this folder calls malloc. Nothing here does I/O or looks at a
 * clock.
 */
#ifndef LEVEE_BASE_H
#define LEVEE_BASE_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "levee/error.h"

/* ---- asserts: for our own bugs only; they stay on in release (base/assert.c) ---- */
#define ASSERT(cond) ((cond) ? (void)0 : base_assert_failed(#cond, __FILE__, __LINE__))
#ifdef LEVEE_DEBUG
#define DASSERT(cond) ASSERT(cond)
#else
#define DASSERT(cond) ((void)sizeof(!(cond)))
#endif
_Noreturn void base_assert_failed(const char *cond, const char *file, int line);

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))
/* By way of an integer, so that it serves const and plain pointers alike. */
#define CONTAINER_OF(ptr, type, member) ((type *)((uintptr_t)(ptr)-offsetof(type, member)))
#define LIKELY(x)                       __builtin_expect(!!(x), 1)
#define UNLIKELY(x)                     __builtin_expect(!!(x), 0)

static inline uint64_t align_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) & ~(to - 1);
}

/* ---- errors (base/error.c). err may be NULL everywhere. Each returns err's code (or, without err,
 * the code this thread has set last), so that `return err_set(...)` and `return err_where(...)`
 * work. ---- */
int err_set(struct levee_error *err, int code, const char *fmt, ...) PRINTF(3, 4);
/* The same with an errno, whose text is added; ENOSPC/EDQUOT/EFBIG become NOSPACE,
 * EACCES/EPERM/EROFS ACCESS, ENOMEM NOMEM when code is LEVEE_EIO. */
int err_sys(struct levee_error *err, int code, int sys_errno, const char *fmt, ...) PRINTF(4, 5);
int err_where(struct levee_error *err, const char *fmt, ...) PRINTF(2, 3);
int err_expected(struct levee_error *err, const char *fmt, ...) PRINTF(2, 3);
int err_found(struct levee_error *err, const char *fmt, ...) PRINTF(2, 3);
/* Puts "context: " in front of what. */
int err_context(struct levee_error *err, const char *fmt, ...) PRINTF(2, 3);
int err_nomem(struct levee_error *err, size_t bytes);
void err_clear(struct levee_error *err);
void err_copy(struct levee_error *to, const struct levee_error *from);

/* ---- memory (base/alloc.c). NULL on failure: callers return LEVEE_ENOMEM. ---- */
void *mem_alloc(size_t bytes);
void *mem_zalloc(size_t bytes);
void *mem_realloc(void *p, size_t bytes);
void *mem_aligned(size_t align, size_t bytes);
void mem_free(void *p);
char *mem_strdup(const char *s);
/* Grows *items (elements of `size` bytes) to hold `need` or more; doubles. false: no memory. */
bool mem_grow(void **items, size_t *cap, size_t need, size_t size);
/* Tests: the k-th allocation from now on (1 = the next) fails, once; 0 switches it off. */
void mem_fail_at(uint64_t k);
/* Allocations since the process started, and how many are live: for exact-count gates and leaks. */
uint64_t mem_count(void);
int64_t mem_live(void);

/* Arena: bump allocation, freed whole by arena_release. Not thread-safe. (base/arena.c) */
struct arena_chunk;
struct arena {
    struct arena_chunk *chunks; /* newest first */
    uint8_t *next, *end;
    size_t chunk_bytes; /* size of the next chunk; 0 means 64 KiB */
    size_t total;       /* bytes of all chunks */
};
void *arena_alloc_slow(struct arena *a, size_t bytes);
/* At least 8: an allocation of nothing has an address of its own, and NULL means no memory. */
static inline size_t arena_rounded(size_t bytes)
{
    return bytes ? (bytes + 7) & ~(size_t)7 : 8;
}
static inline void *arena_alloc(struct arena *a, size_t bytes) /* 8-byte aligned, NULL: no memory */
{
    size_t n = arena_rounded(bytes);
    if (LIKELY((size_t)(a->end - a->next) >= n && n >= bytes)) {
        uint8_t *p = a->next;
        a->next += n;
        return p;
    }
    return arena_alloc_slow(a, bytes);
}
void *arena_copy(struct arena *a, const void *data, size_t len); /* not NULL for len 0 */
void arena_reset(struct arena *a);                               /* keeps one chunk */
void arena_release(struct arena *a);                             /* frees all */

/* ---- bytes: slices and a growable buffer with a mandatory maximum (base/bytes.c) ---- */
static inline struct levee_slice slice_of(const void *data, size_t len)
{
    return (struct levee_slice){(const uint8_t *)data, len};
}
static inline struct levee_slice slice_str(const char *s)
{
    return slice_of(s, strlen(s));
}
static inline bool slice_eq(struct levee_slice a, struct levee_slice b)
{
    if (!a.data || !b.data) {
        return a.data == b.data; /* absent equals absent, and not empty */
    }
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}
/* memcmp order, shorter first, NULL lowest. */
int slice_cmp(struct levee_slice a, struct levee_slice b);

struct buf { /* zero-initialised is ready */
    uint8_t *data;
    size_t len, cap, max; /* max 0 = SIZE_MAX/2 */
    bool failed; /* sticky: an append found no memory or passed max; check once at the end */
};
bool buf_reserve(struct buf *b, size_t more);
void buf_put(struct buf *b, const void *data, size_t len);
void buf_u8(struct buf *b, uint8_t v);
void buf_u16(struct buf *b, uint16_t v);
void buf_u32(struct buf *b, uint32_t v);
void buf_u64(struct buf *b, uint64_t v);
void buf_varint(struct buf *b, uint64_t v);
void buf_slice(struct buf *b, struct levee_slice s); /* varint(len+1) (0 = NULL), then the bytes */
void buf_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF(2, 3);
void buf_clear(struct buf *b);   /* keeps memory; forgets a failure */
void buf_release(struct buf *b); /* frees; b is ready again, with the same max */
static inline struct levee_slice buf_view(const struct buf *b)
{
    return slice_of(b->data, b->len);
}

/* Reads what buf_* wrote. Never reads past end; `bad` is sticky and all later reads give zero. */
struct cursor {
    const uint8_t *p, *end;
    bool bad;
};
extern const uint8_t base_nothing[1]; /* where a cursor over an absent slice points */
static inline struct cursor cursor_of(struct levee_slice s)
{
    const uint8_t *p = s.data ? s.data : base_nothing;
    return (struct cursor){p, s.data ? p + s.len : p, false};
}
uint8_t cur_u8(struct cursor *c);
uint16_t cur_u16(struct cursor *c);
uint32_t cur_u32(struct cursor *c);
uint64_t cur_u64(struct cursor *c);
uint64_t cur_varint(struct cursor *c);
struct levee_slice cur_bytes(struct cursor *c, size_t len);
struct levee_slice cur_slice(struct cursor *c); /* what buf_slice wrote; view into the input */
static inline size_t cur_left(const struct cursor *c)
{
    return c->bad ? 0 : (size_t)(c->end - c->p);
}

/* Little-endian, byte by byte. */
static inline void put_le16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void put_le32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> (8 * i));
    }
}
static inline void put_le64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++) {
        p[i] = (uint8_t)(v >> (8 * i));
    }
}
static inline uint16_t get_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | (uint16_t)(p[1] << 8));
}
static inline uint32_t get_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t get_le64(const uint8_t *p)
{
    return (uint64_t)get_le32(p) | (uint64_t)get_le32(p + 4) << 32;
}
static inline uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}
static inline void put_be64(uint8_t *p, uint64_t v) /* for keys that sort */
{
    for (int i = 0; i < 8; i++) {
        p[i] = (uint8_t)(v >> (56 - 8 * i));
    }
}
static inline uint64_t get_be64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

/* ---- hashes: XXH3-64 (base/hash.c). hash_key is never 0 (0 marks an empty slot). ---- */
uint64_t hash64(const void *data, size_t len, uint64_t seed);
/* Of a and b as if they lay behind each other. */
uint64_t hash64_two(struct levee_slice a, struct levee_slice b, uint64_t seed);
uint64_t hash_key(const void *data, size_t len);
struct hash_stream; /* incremental, for whole files */
struct hash_stream *hash_stream_new(void);
void hash_stream_reset(struct hash_stream *h, uint64_t seed);
void hash_stream_update(struct hash_stream *h, const void *data, size_t len);
uint64_t hash_stream_digest(const struct hash_stream *h);
void hash_stream_free(struct hash_stream *h);
/* Small seeded generator for tests, seeds and back-off (splitmix64). */
uint64_t rng_next(uint64_t *state);

/*
 * map: open addressing over stored 64-bit hashes; slots hold the index of an entry that the caller
 * keeps in an array of its own, in insertion order. The caller compares keys. Power-of-two
 * capacity, at most 3/4 used, linear probing, backward-shift delete. A slot's home comes from the
 * low bits of the hash: whoever splits keys into partitions takes the high ones, or the slots of a
 * partition cluster. (base/map.c)
 */
struct map_slot {
    uint64_t hash; /* 0 = empty */
    uint32_t index;
    uint32_t tag; /* the caller's; kept with the slot */
};
struct map {
    struct map_slot *slots;
    uint32_t mask; /* capacity - 1; 0 and slots == NULL: empty map */
    uint32_t used;
};
bool map_reserve(struct map *m, uint32_t entries);
static inline void map_prefetch(const struct map *m, uint64_t hash)
{
    if (m->slots) {
        __builtin_prefetch(&m->slots[hash & m->mask]);
    }
}
/* Walks the probe sequence: the first slot with this hash at or after *pos, or NULL at an empty
 * slot, with *pos there. Start with *pos = hash & mask; after a false match continue with
 * *pos = (*pos + 1) & mask. */
static inline struct map_slot *map_probe(const struct map *m, uint64_t hash, uint32_t *pos)
{
    if (!m->slots) {
        return NULL;
    }
    for (;; *pos = (*pos + 1) & m->mask) {
        struct map_slot *s = &m->slots[*pos];
        if (s->hash == hash) {
            return s;
        }
        if (s->hash == 0) {
            return NULL;
        }
    }
}
/* Inserts without looking for an equal key. false: no memory. */
bool map_insert(struct map *m, uint64_t hash, uint32_t index);
void map_remove(struct map *m, struct map_slot *slot);
void map_clear(struct map *m);
void map_release(struct map *m);

/* ---- intrusive singly linked FIFO ---- */
struct link {
    struct link *next;
};
struct fifo {
    struct link *head, **tail;
    size_t count;
};
static inline void fifo_init(struct fifo *q)
{
    q->head = NULL;
    q->tail = &q->head;
    q->count = 0;
}
static inline void fifo_push(struct fifo *q, struct link *l)
{
    l->next = NULL;
    *q->tail = l;
    q->tail = &l->next;
    q->count++;
}
static inline struct link *fifo_pop(struct fifo *q)
{
    struct link *l = q->head;
    if (l) {
        q->head = l->next;
        if (!q->head) {
            q->tail = &q->head;
        }
        q->count--;
    }
    return l;
}
static inline void fifo_take(struct fifo *to, struct fifo *from) /* appends all of from to to */
{
    if (from->head) {
        *to->tail = from->head;
        to->tail = from->tail;
        to->count += from->count;
        fifo_init(from);
    }
}

/* ---- counters: relaxed atomics, readable from any thread ---- */
struct counter {
    _Atomic uint64_t v;
};
static inline void counter_add(struct counter *c, uint64_t n)
{
    atomic_fetch_add_explicit(&c->v, n, memory_order_relaxed);
}
static inline uint64_t counter_get(const struct counter *c)
{
    return atomic_load_explicit(&c->v, memory_order_relaxed);
}

/* A context's identity: 128 random bits, printed as 32 hex digits. */
struct uuid {
    uint8_t b[16];
};
#define UUID_TEXT 33
char *uuid_format(const struct uuid *u, char out[UUID_TEXT]);
bool uuid_parse(const char *s, size_t len, struct uuid *out);
static inline bool uuid_eq(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}

#endif
