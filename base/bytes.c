/*
 * Bytes out and bytes in. A buf grows up to its maximum and remembers a failure, so that an encoder
 * checks once, at its end. A cursor never reads past its end and remembers a short or malformed
 * input in the same way; from then on it gives zeros, which every decoder must survive anyway.
 *
 * Integers are little-endian. A varint has 7 bits a byte, lowest first, and exactly one encoding: a
 * longer one for the same value is refused, since equal values must have equal digests.
 */
#include "base/base.h"

#include <stdio.h>

#define BUF_FIRST  64 /* most headers fit without growing */
#define VARINT_MAX 10 /* bytes of a 64-bit varint */

int slice_cmp(struct levee_slice a, struct levee_slice b)
{
    if (!a.data || !b.data) {
        return (a.data != NULL) - (b.data != NULL);
    }
    size_t common = a.len < b.len ? a.len : b.len;
    int order = common > 0 ? memcmp(a.data, b.data, common) : 0;
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

/* ---- writing ---- */

bool buf_reserve(struct buf *b, size_t more)
{
    size_t max = b->max ? b->max : SIZE_MAX / 2;

    if (b->failed) {
        return false;
    }
    if (LIKELY(more <= b->cap - b->len && b->len + more <= max)) {
        return true;
    }
    if (b->len > max || more > max - b->len) {
        b->failed = true;
        return false;
    }
    size_t need = b->len + more;
    size_t want = b->cap > max / 2 ? max : b->cap * 2;
    want = want < BUF_FIRST && BUF_FIRST <= max ? BUF_FIRST : want;
    want = want < need ? need : want;
    uint8_t *fresh = mem_realloc(b->data, want);
    if (!fresh) {
        b->failed = true;
        return false;
    }
    b->data = fresh;
    b->cap = want;
    return true;
}

void buf_put(struct buf *b, const void *data, size_t len)
{
    if (len > 0 && buf_reserve(b, len)) {
        memcpy(b->data + b->len, data, len);
        b->len += len;
    }
}

void buf_u8(struct buf *b, uint8_t v)
{
    buf_put(b, &v, 1);
}

void buf_u16(struct buf *b, uint16_t v)
{
    uint8_t le[2];

    put_le16(le, v);
    buf_put(b, le, sizeof le);
}

void buf_u32(struct buf *b, uint32_t v)
{
    uint8_t le[4];

    put_le32(le, v);
    buf_put(b, le, sizeof le);
}

void buf_u64(struct buf *b, uint64_t v)
{
    uint8_t le[8];

    put_le64(le, v);
    buf_put(b, le, sizeof le);
}

void buf_varint(struct buf *b, uint64_t v)
{
    uint8_t bytes[VARINT_MAX];
    size_t n = 0;

    for (; v >= 0x80; v >>= 7) {
        bytes[n++] = (uint8_t)(v | 0x80);
    }
    bytes[n++] = (uint8_t)v;
    buf_put(b, bytes, n);
}

void buf_slice(struct buf *b, struct levee_slice s)
{
    if (!s.data) {
        buf_varint(b, 0);
        return;
    }
    buf_varint(b, (uint64_t)s.len + 1);
    buf_put(b, s.data, s.len);
}

void buf_str(struct buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0) {
        b->failed = true;
        return;
    }
    /* vsnprintf ends its text with a 0 byte: room is kept for it, but it is not part of the
     * content. */
    if (!buf_reserve(b, (size_t)len + 1)) {
        return;
    }
    va_start(args, fmt);
    (void)vsnprintf((char *)b->data + b->len, (size_t)len + 1, fmt, args);
    va_end(args);
    b->len += (size_t)len;
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = false;
}

void buf_release(struct buf *b)
{
    mem_free(b->data);
    *b = (struct buf){.max = b->max};
}

/* ---- reading ---- */

const uint8_t base_nothing[1] = {0};

/* The next len bytes, or NULL: then the cursor is bad from now on. */
static const uint8_t *take(struct cursor *c, size_t len)
{
    if (c->bad || len > (size_t)(c->end - c->p)) {
        c->bad = true;
        return NULL;
    }
    const uint8_t *p = c->p;
    c->p += len;
    return p;
}

uint8_t cur_u8(struct cursor *c)
{
    const uint8_t *p = take(c, 1);

    return p ? p[0] : 0;
}

uint16_t cur_u16(struct cursor *c)
{
    const uint8_t *p = take(c, 2);

    return p ? get_le16(p) : 0;
}

uint32_t cur_u32(struct cursor *c)
{
    const uint8_t *p = take(c, 4);

    return p ? get_le32(p) : 0;
}

uint64_t cur_u64(struct cursor *c)
{
    const uint8_t *p = take(c, 8);

    return p ? get_le64(p) : 0;
}

uint64_t cur_varint(struct cursor *c)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 7 * VARINT_MAX; shift += 7) {
        uint64_t byte = cur_u8(c);

        if (c->bad) {
            return 0;
        }
        bool overflows = shift == 63 && byte > 1;
        bool overlong = byte == 0 && shift > 0;
        if (overflows || overlong) {
            break;
        }
        v |= (byte & 0x7f) << shift;
        if (byte < 0x80) {
            return v;
        }
    }
    c->bad = true;
    return 0;
}

struct levee_slice cur_bytes(struct cursor *c, size_t len)
{
    const uint8_t *p = take(c, len);

    return p ? slice_of(p, len) : slice_of(NULL, 0);
}

struct levee_slice cur_slice(struct cursor *c)
{
    uint64_t n = cur_varint(c);

    if (n == 0) {
        return slice_of(NULL, 0);
    }
    if (n - 1 > cur_left(c)) {
        c->bad = true;
        return slice_of(NULL, 0);
    }
    return cur_bytes(c, (size_t)(n - 1));
}
