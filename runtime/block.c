/*
 * Blocks: see block.h for the layout. A block is written by one receiver under its source's mutex
 * and is immutable once sealed; everything read back from the log was verified by hash, and is
 * bounds-checked here all the same.
 */
#include "runtime/block.h"

#define BLOCK_VERSION 1u
#define BLOCK_FIXED   32u /* bytes before the producer id */

static uint64_t zigzag(int64_t v)
{
    return ((uint64_t)v << 1) ^ (v < 0 ? UINT64_MAX : 0);
}

static int64_t unzigzag(uint64_t v)
{
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

struct rt_block *rt_block_new(uint32_t source, uint16_t partition, uint8_t flags,
                              struct levee_slice producer, size_t size_hint)
{
    struct rt_block *b = mem_zalloc(sizeof *b);

    if (!b) {
        return NULL;
    }
    b->source = source;
    b->partition = partition;
    b->flags = flags;
    if (!buf_reserve(&b->payload, BLOCK_FIXED + 10 + producer.len + size_hint)) {
        mem_free(b);
        return NULL;
    }
    memset(b->payload.data, 0, BLOCK_FIXED);
    b->payload.len = BLOCK_FIXED;
    b->payload.data[0] = BLOCK_VERSION;
    b->payload.data[1] = flags;
    put_le16(b->payload.data + 2, partition);
    buf_varint(&b->payload, producer.len);
    buf_put(&b->payload, producer.data, producer.len);
    b->records_offset = b->payload.len;
    ASSERT(!b->payload.failed);
    return b;
}

bool rt_block_add(struct rt_block *b, const struct levee_record *r, uint64_t seq)
{
    struct buf *p = &b->payload;
    size_t before = p->len;

    if (!buf_reserve(p, 40 + r->key.len + r->value.len)) {
        p->failed = false;
        return false;
    }
    if (b->count == 0) {
        b->first_seq = seq;
        b->last_time = r->time_ms;
        put_le64(p->data + 24, (uint64_t)r->time_ms);
    }
    if (b->flags & RT_BLOCK_TIMES) {
        /* Modulo 2^64: any two times have a difference. */
        buf_varint(p, zigzag((int64_t)((uint64_t)r->time_ms - (uint64_t)b->last_time)));
        b->last_time = r->time_ms;
    }
    if (b->flags & RT_BLOCK_HOLES) {
        buf_varint(p, b->count ? seq - b->last_seq - 1 : 0);
    }
    if (b->flags & RT_BLOCK_KEYS) {
        buf_slice(p, r->key);
    }
    buf_slice(p, r->value);
    ASSERT(!p->failed && p->len > before);
    b->last_offset = before;
    b->last_seq = seq;
    b->count++;
    return true;
}

void rt_block_seal(struct rt_block *b)
{
    uint8_t *p = b->payload.data;

    put_le32(p + 4, b->count);
    put_le64(p + 8, b->first_seq);
    put_le64(p + 16, b->last_seq);
    struct cursor c = cursor_of(slice_of(p + BLOCK_FIXED, b->records_offset - BLOCK_FIXED));
    size_t n = (size_t)cur_varint(&c);
    b->producer = cur_bytes(&c, n);
    ASSERT(!c.bad);
    b->frame.type = WAL_BLOCK;
    b->frame.flags = b->flags;
    b->frame.seq = b->last_seq;
    b->frame.payload[0] = buf_view(&b->payload);
    b->frame.payload[1] = slice_of(NULL, 0);
}

uint64_t rt_block_records_hash(const struct rt_block *b)
{
    return hash64(b->payload.data + b->records_offset, b->payload.len - b->records_offset, 0);
}

bool rt_block_seal_range(struct rt_block *b, uint64_t last_hash)
{
    struct buf *l = &b->logged;

    buf_put(l, b->payload.data, b->records_offset);
    buf_u64(l, rt_block_records_hash(b));
    buf_varint(l, b->payload.len - b->records_offset);
    buf_u64(l, last_hash);
    if (l->failed) {
        return false;
    }
    l->data[1] |= RT_BLOCK_RANGE;
    b->frame.flags |= RT_BLOCK_RANGE;
    b->frame.payload[0] = buf_view(l);
    return true;
}

int rt_block_parse(struct rt_block *b, struct levee_error *err)
{
    struct cursor c = cursor_of(buf_view(&b->payload));
    uint8_t version = cur_u8(&c);

    b->flags = cur_u8(&c);
    b->partition = cur_u16(&c);
    b->count = cur_u32(&c);
    b->first_seq = cur_u64(&c);
    b->last_seq = cur_u64(&c);
    (void)cur_u64(&c); /* base time: the cursor reads it */
    size_t n = (size_t)cur_varint(&c);
    b->producer = cur_bytes(&c, n);
    b->elsewhere = (b->flags & RT_BLOCK_RANGE) != 0;
    if (b->elsewhere) {
        b->flags &= (uint8_t)~RT_BLOCK_RANGE;
        b->records_hash = cur_u64(&c);
        b->records_len = cur_varint(&c);
        b->last_hash = cur_u64(&c);
    }
    if (c.bad || version != BLOCK_VERSION || b->last_seq < b->first_seq) {
        err_set(err, LEVEE_EWAL_CORRUPT, "a block's payload does not parse");
        err_expected(err, "version %u", BLOCK_VERSION);
        err_found(err, "version %u, %zu bytes", version, b->payload.len);
        return LEVEE_EWAL_CORRUPT;
    }
    b->records_offset = b->payload.len - cur_left(&c);
    return LEVEE_OK;
}

void rt_block_cursor_init(struct rt_block_cursor *c, const struct rt_block *b)
{
    *c = (struct rt_block_cursor){
        .p = b->payload.data + b->records_offset,
        .end = b->payload.data + b->payload.len,
        .left = b->count,
        .flags = b->flags,
        .time = (int64_t)get_le64(b->payload.data + 24),
        .seq = b->first_seq - 1,
    };
}

/* One varint; the single-byte case is nearly all of them. */
static inline bool read_varint(struct rt_block_cursor *c, uint64_t *ret)
{
    if (LIKELY(c->p < c->end && c->p[0] < 0x80)) {
        *ret = *c->p++;
        return true;
    }
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && c->p < c->end; shift += 7) {
        uint8_t byte = *c->p++;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret = v;
            return true;
        }
    }
    return false;
}

static inline bool read_slice(struct rt_block_cursor *c, struct levee_slice *ret)
{
    uint64_t n;

    if (UNLIKELY(!read_varint(c, &n) || n > (uint64_t)(c->end - c->p) + 1)) {
        return false;
    }
    if (n == 0) {
        *ret = (struct levee_slice){NULL, 0};
        return true;
    }
    *ret = (struct levee_slice){c->p, (size_t)n - 1};
    c->p += n - 1;
    return true;
}

bool rt_block_next(struct rt_block_cursor *c, struct levee_record *ret)
{
    uint64_t v;

    if (c->left == 0) {
        return false;
    }
    ret->key = (struct levee_slice){NULL, 0};
    ret->time_ms = 0;
    if (c->flags & RT_BLOCK_TIMES) {
        if (!read_varint(c, &v)) {
            goto bad;
        }
        c->time = (int64_t)((uint64_t)c->time + (uint64_t)unzigzag(v));
        ret->time_ms = c->time;
    }
    c->seq++;
    if (c->flags & RT_BLOCK_HOLES) {
        if (!read_varint(c, &v)) {
            goto bad;
        }
        c->seq += v;
    }
    if ((c->flags & RT_BLOCK_KEYS) && !read_slice(c, &ret->key)) {
        goto bad;
    }
    if (!read_slice(c, &ret->value)) {
        goto bad;
    }
    c->left--;
    return true;
bad:
    c->left = 0;
    return false;
}

uint64_t rt_block_last_hash(const struct rt_block *b)
{
    struct rt_block_cursor c;
    struct levee_record r = {0};
    bool any = false;

    rt_block_cursor_init(&c, b);
    if (b->last_offset) {
        c.p = b->payload.data + b->last_offset;
        c.left = 1;
    }
    while (rt_block_next(&c, &r)) {
        any = true;
    }
    if (b->last_offset && (b->flags & RT_BLOCK_TIMES)) {
        r.time_ms = b->last_time; /* the cursor knows only the difference to the record before */
    }
    return any ? levee_record_hash(&r) : 0;
}

uint64_t levee_record_hash(const struct levee_record *r)
{
    uint8_t shape[25];

    shape[0] = (uint8_t)((r->key.data ? 1 : 0) | (r->value.data ? 2 : 0));
    put_le64(shape + 1, r->key.len);
    put_le64(shape + 9, r->value.len);
    put_le64(shape + 17, (uint64_t)r->time_ms);
    uint64_t h = hash64(shape, sizeof shape, 0);
    h = r->key.len ? hash64(r->key.data, r->key.len, h) : h;
    h = r->value.len ? hash64(r->value.data, r->value.len, h) : h;
    return h ? h : 1;
}

void rt_block_free(struct rt_block *b)
{
    if (b) {
        buf_release(&b->payload);
        buf_release(&b->logged);
        mem_free(b);
    }
}
