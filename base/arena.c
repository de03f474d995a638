/*
 * Arenas: memory that is dropped all at once, as a batch's records are when the batch is done.
 *
 * The newest chunk is the one being filled. Chunks double up to a limit, and a reset keeps the
 * largest, so a run of equal batches soon allocates nothing. A request that would waste much of a
 * chunk gets one of its own, put behind the one being filled.
 */
#include "base/base.h"

#define CHUNK_BYTES     ((size_t)64 << 10) /* the first chunk, unless the owner says otherwise */
#define CHUNK_BYTES_MAX ((size_t)1 << 20)  /* doubling ends here: idle arenas must stay small */

struct arena_chunk {
    struct arena_chunk *older;
    size_t bytes; /* of data */
    uint8_t data[];
};

_Static_assert(sizeof(struct arena_chunk) % 8 == 0, "data must begin aligned");

static struct arena_chunk *chunk_new(struct arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) { /* no object is larger, and the header must fit too */
        return NULL;
    }
    struct arena_chunk *chunk = mem_alloc(sizeof *chunk + bytes);
    if (chunk) {
        chunk->bytes = bytes;
        a->total += bytes;
    }
    return chunk;
}

static void fill_from(struct arena *a, struct arena_chunk *chunk)
{
    chunk->older = a->chunks;
    a->chunks = chunk;
    a->next = chunk->data;
    a->end = chunk->data + chunk->bytes;
}

void *arena_alloc_slow(struct arena *a, size_t bytes)
{
    size_t n = arena_rounded(bytes);
    struct arena_chunk *chunk;

    if (n < bytes) {
        return NULL; /* rounding up wrapped around */
    }
    if (a->chunk_bytes == 0) {
        a->chunk_bytes = CHUNK_BYTES;
    }
    if (a->chunks && n > a->chunk_bytes / 4) {
        chunk = chunk_new(a, n);
        if (!chunk) {
            return NULL;
        }
        chunk->older = a->chunks->older;
        a->chunks->older = chunk;
        return chunk->data;
    }
    chunk = chunk_new(a, n > a->chunk_bytes ? n : a->chunk_bytes);
    if (!chunk) {
        return NULL;
    }
    fill_from(a, chunk);
    if (a->chunk_bytes < CHUNK_BYTES_MAX) {
        a->chunk_bytes *= 2;
    }
    a->next += n;
    return chunk->data;
}

void *arena_copy(struct arena *a, const void *data, size_t len)
{
    void *copy = arena_alloc(a, len);

    if (copy && len > 0) {
        memcpy(copy, data, len);
    }
    return copy;
}

void arena_reset(struct arena *a)
{
    struct arena_chunk *kept = NULL;

    for (struct arena_chunk *chunk = a->chunks, *older; chunk; chunk = older) {
        struct arena_chunk *dropped = chunk;

        older = chunk->older;
        if (!kept || chunk->bytes > kept->bytes) {
            dropped = kept;
            kept = chunk;
        }
        mem_free(dropped);
    }
    a->chunks = NULL;
    a->total = 0;
    if (kept) {
        fill_from(a, kept);
        a->total = kept->bytes;
    }
}

void arena_release(struct arena *a)
{
    for (struct arena_chunk *chunk = a->chunks, *older; chunk; chunk = older) {
        older = chunk->older;
        mem_free(chunk);
    }
    *a = (struct arena){0};
}
