/* gzip through zlib, the one place that knows it. Members may follow one another, as gzip itself
 * allows; zeros behind the last are padding. */
#include "connectors/gzip.h"

#if LEVEE_WITH_ZLIB
#include <zlib.h>

struct gunzip {
    z_stream z;
    bool whole; /* a member has just ended */
};

static void *take_memory(void *opaque, uInt items, uInt size)
{
    (void)opaque;
    return mem_zalloc((size_t)items * size);
}

static void give_memory(void *opaque, void *p)
{
    (void)opaque;
    mem_free(p);
}

int gunzip_new(struct gunzip **ret, struct levee_error *err)
{
    struct gunzip *g = mem_zalloc(sizeof *g);

    if (g) {
        g->z.zalloc = take_memory;
        g->z.zfree = give_memory;
    }
    if (!g || inflateInit2(&g->z, 15 + 16) != Z_OK) { /* the largest window; gzip only */
        mem_free(g);
        return err_nomem(err, sizeof *g);
    }
    *ret = g;
    return LEVEE_OK;
}

void gunzip_free(struct gunzip *g)
{
    if (g) {
        (void)inflateEnd(&g->z);
        mem_free(g);
    }
}

static size_t zeros_at(struct levee_slice in)
{
    size_t n = 0;

    while (n < in.len && in.data[n] == 0) {
        n++;
    }
    return n;
}

int gunzip_some(struct gunzip *g, struct levee_slice in, size_t room, struct buf *out,
                size_t *ret_used, struct levee_error *err)
{
    if (g->whole) {
        size_t padding = zeros_at(in);
        if (padding) {
            *ret_used = padding;
            return LEVEE_OK;
        }
        (void)inflateReset(&g->z);
        g->whole = false;
    }
    if (!buf_reserve(out, room)) {
        out->failed = false;
        return err_nomem(err, room);
    }
    g->z.next_in = (Bytef *)(uintptr_t)in.data; /* it only reads */
    g->z.avail_in = (uInt)in.len;
    g->z.next_out = out->data + out->len;
    g->z.avail_out = (uInt)room;
    int rc = inflate(&g->z, Z_NO_FLUSH);
    if (rc == Z_MEM_ERROR) {
        return err_nomem(err, room);
    }
    if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR) {
        err_set(err, LEVEE_ERECORD_DAMAGED, "gzip data is damaged: %s",
                g->z.msg ? g->z.msg : "it needs a dictionary");
        return LEVEE_ERECORD_DAMAGED;
    }
    out->len += room - g->z.avail_out;
    *ret_used = in.len - g->z.avail_in;
    g->whole = rc == Z_STREAM_END;
    return LEVEE_OK;
}

bool gunzip_whole(const struct gunzip *g)
{
    return g->whole;
}

#else

int gunzip_new(struct gunzip **ret, struct levee_error *err)
{
    (void)ret;
    return err_set(err, LEVEE_EUNSUPPORTED, "this library was built without zlib");
}

void gunzip_free(struct gunzip *g)
{
    (void)g;
}

int gunzip_some(struct gunzip *g, struct levee_slice in, size_t room, struct buf *out,
                size_t *ret_used, struct levee_error *err)
{
    (void)g;
    (void)in;
    (void)room;
    (void)out;
    (void)ret_used;
    return err_set(err, LEVEE_EUNSUPPORTED, "this library was built without zlib");
}

bool gunzip_whole(const struct gunzip *g)
{
    (void)g;
    return false;
}
#endif
