/*
 * XXH3-64, the one hash of levee: of records and files against damage, of keys for maps and
 * partitions. Its value is fixed for ever (the algorithm is frozen since xxHash 0.8), so it may be
 * stored.
 *
 * The code is compiled in rather than called in libxxhash: measured, a short key costs the same
 * either way and 4 KiB a fifth less, and a program needs one library less to run.
 */
#define XXH_INLINE_ALL
#ifdef LEVEE_DEBUG
#define XXH_NO_INLINE_HINTS 1 /* -Og cannot inline all that the hints demand */
#endif
#include <xxhash.h>

#include "base/base.h"

uint64_t hash64(const void *data, size_t len, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, len, seed);
}

uint64_t hash64_two(struct levee_slice a, struct levee_slice b, uint64_t seed)
{
    XXH3_state_t state; /* on the stack: a frame in two pieces must not cost an allocation */

    if (a.len == 0 || b.len == 0) {
        return a.len ? hash64(a.data, a.len, seed) : hash64(b.data, b.len, seed);
    }
    (void)XXH3_64bits_reset(
        &state); /* the next line looks at the fields; none fails but for NULL */
    (void)XXH3_64bits_reset_withSeed(&state, seed);
    (void)XXH3_64bits_update(&state, a.data, a.len);
    (void)XXH3_64bits_update(&state, b.data, b.len);
    return XXH3_64bits_digest(&state);
}

uint64_t hash_key(const void *data, size_t len)
{
    uint64_t hash = XXH3_64bits(data, len);

    return LIKELY(hash != 0) ? hash : 1;
}

struct hash_stream {
    XXH3_state_t state;
};

struct hash_stream *hash_stream_new(void)
{
    /* The state's vectors want a whole cache line, more than malloc promises. */
    struct hash_stream *h = mem_aligned(_Alignof(struct hash_stream), sizeof *h);

    if (h) {
        hash_stream_reset(h, 0);
    }
    return h;
}

void hash_stream_reset(struct hash_stream *h, uint64_t seed)
{
    XXH_errorcode code = XXH3_64bits_reset_withSeed(&h->state, seed);

    ASSERT(code == XXH_OK);
}

void hash_stream_update(struct hash_stream *h, const void *data, size_t len)
{
    if (len > 0) {
        XXH_errorcode code = XXH3_64bits_update(&h->state, data, len);

        ASSERT(code == XXH_OK);
    }
}

uint64_t hash_stream_digest(const struct hash_stream *h)
{
    return XXH3_64bits_digest(&h->state);
}

void hash_stream_free(struct hash_stream *h)
{
    mem_free(h);
}

uint64_t rng_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
}
