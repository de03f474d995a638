/*
 * Where the record of a dead letter came from: the source, the producer there and the sequence,
 * which for Kafka are topic/partition and offset + 1.
 *
 * Nothing carries this along with a record. Views are how records travel unchanged, so a record
 * whose key or value lies in one of the batch's blocks is the record of that block; one that a
 * function made lies elsewhere and has no origin. This runs only for letters, on the loop.
 */
#include "runtime/engine.h"

#include "runtime/context.h"

static bool lies_in(struct levee_slice part, struct levee_slice whole)
{
    uintptr_t p = (uintptr_t)part.data, w = (uintptr_t)whole.data;

    return part.data && w && p >= w && p + part.len <= w + whole.len;
}

/* The record of the block that has this key or this value; 0: none. */
static uint64_t sequence_in(const struct rt_block *b, const struct rt_decision *d)
{
    struct rt_block_cursor c;
    struct levee_record r;

    rt_block_cursor_init(&c, b);
    while (rt_block_next(&c, &r)) {
        if ((d->value.data && r.value.data == d->value.data) ||
            (d->key.data && r.key.data == d->key.data)) {
            return b->flags & RT_BLOCK_NUMBERED ? c.seq : 0;
        }
    }
    return 0;
}

static void name_source(const struct rt_batch *b, const struct rt_block *block,
                        struct rt_origin *ret)
{
    const levee_stream *node = b->ctx->graph->sources[block->source];

    memcpy(ret->source, node->uid, sizeof ret->source);
    ret->producer = block->producer;
}

void rt_origin_of(const struct rt_batch *b, const struct rt_decision *d, struct rt_origin *ret)
{
    *ret = (struct rt_origin){.first = 0};
    for (size_t i = 0; i < b->block_count; i++) {
        const struct rt_block *block = b->blocks[i];
        struct levee_slice bytes = buf_view(&block->payload);
        if (lies_in(d->value, bytes) || lies_in(d->key, bytes)) {
            name_source(b, block, ret);
            ret->first = ret->last = sequence_in(block, d);
            return;
        }
    }
}

bool rt_next_gap(const struct rt_batch *b, size_t *at_io, struct rt_decision *ret_decision,
                 struct rt_origin *ret)
{
    size_t i = *at_io;

    while (i < b->block_count && !(b->blocks[i]->flags & RT_BLOCK_GAP)) {
        i++;
    }
    *at_io = i + 1;
    if (i >= b->block_count) {
        return false;
    }
    const struct rt_block *block = b->blocks[i];
    *ret = (struct rt_origin){.first = block->first_seq, .last = block->last_seq};
    name_source(b, block, ret);
    *ret_decision =
        (struct rt_decision){.partition = block->partition, .code = LEVEE_EOFFSET_RANGE};
    rt_decision_name(ret_decision, b->ctx->graph->sources[block->source], 0);
    return true;
}

void rt_origin_encode(const struct rt_origin *o, struct buf *ret)
{
    buf_slice(ret, slice_str(o->source));
    buf_slice(ret, o->producer);
    buf_varint(ret, o->first);
    buf_varint(ret, o->last);
}

bool rt_origin_decode(struct cursor *c, struct rt_origin *ret)
{
    struct levee_slice uid = cur_slice(c);

    *ret = (struct rt_origin){.first = 0};
    if (c->bad || uid.len >= sizeof ret->source) {
        return false;
    }
    memcpy(ret->source, uid.data, uid.len);
    ret->producer = cur_slice(c);
    ret->first = cur_varint(c);
    ret->last = cur_varint(c);
    return !c->bad;
}
