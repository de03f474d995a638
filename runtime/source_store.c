/*
 * What log and checkpoint hold of a source: blocks that come back, facts that were remembered, and
 * its positions "as of the last computed batch", which is not the live side: a checkpoint must not
 * know of records that no batch in it has used (4d.4).
 */
#include "runtime/context.h"

#define SOURCE_VERSION 2u /* 1 had no hashes */

int rt_source_restore_block(struct rt_source *s, struct rt_block *b, struct levee_error *err)
{
    struct levee_inlet *in = &s->inlet;
    uint64_t bytes = b->payload.cap + sizeof *b;

    b->source = in->ordinal;
    if (b->flags & RT_BLOCK_NUMBERED) {
        struct rt_producer *p = rt_producer_find(in, b->producer);
        if (!p && !(p = rt_producer_add(in, b->producer))) {
            return err_nomem(err, sizeof *p);
        }
        if (b->flags & RT_BLOCK_BYE) {
            p->taken = p->durable = 0;
            p->gone = true;
        } else {
            p->taken = p->durable = b->last_seq;
            p->taken_hash = !in->options.identity ? 0
                            : b->elsewhere        ? b->last_hash
                                                  : rt_block_last_hash(b);
            p->gone = false;
        }
    }
    in->last_lsn = in->durable_lsn = b->lsn;
    in->reread.left += b->elsewhere;
    fifo_push(&in->waiting, &b->link);
    in->waiting_records += b->count;
    (void)atomic_fetch_add(&in->ctx->buffered, bytes);
    return LEVEE_OK;
}

int rt_source_restore_fact(struct rt_source *s, struct levee_slice name, struct levee_slice value,
                           struct levee_error *err)
{
    struct levee_inlet *in = &s->inlet;
    size_t i = 0;

    while (i < in->fact_count && !slice_eq(slice_str(in->facts[i].name), name)) {
        i++;
    }
    if (i == in->fact_count &&
        !mem_grow((void **)&in->facts, &in->fact_cap, i + 1, sizeof *in->facts)) {
        return err_nomem(err, sizeof *in->facts);
    }
    char *copy = mem_alloc(name.len + 1 + value.len);
    if (!copy) {
        return err_nomem(err, name.len + value.len);
    }
    memcpy(copy, name.data, name.len);
    copy[name.len] = 0;
    if (value.len) {
        memcpy(copy + name.len + 1, value.data, value.len);
    }
    if (i == in->fact_count) {
        in->fact_count++;
    } else {
        mem_free(in->facts[i].name);
    }
    in->facts[i].name = copy;
    in->facts[i].value = slice_of(copy + name.len + 1, value.len);
    return LEVEE_OK;
}

int rt_source_applied(struct rt_source *s, const struct rt_block *b, struct levee_error *err)
{
    struct levee_inlet *in = &s->inlet;
    int code = LEVEE_OK;

    ASSERT(b->lsn > in->consumed_lsn);
    in->consumed_lsn = b->lsn;
    if (!(b->flags & RT_BLOCK_NUMBERED)) {
        return LEVEE_OK;
    }
    pthread_mutex_lock(&in->mutex);
    struct rt_producer *p = rt_producer_find(in, b->producer);
    if (!p && !(p = rt_producer_add(in, b->producer))) {
        code = err_nomem(err, sizeof *p);
    } else if (b->flags & RT_BLOCK_BYE) {
        p->applied = 0;
        p->applied_gone = true;
    } else if (b->first_seq <= p->applied) {
        err_set(err, LEVEE_EWAL_CORRUPT, "source %s: the log holds records of producer %.*s twice",
                in->node->uid, (int)b->producer.len, (const char *)b->producer.data);
        err_where(err, "LSN %llu", (unsigned long long)b->lsn);
        err_expected(err, "a sequence above %llu", (unsigned long long)p->applied);
        err_found(err, "%llu", (unsigned long long)b->first_seq);
        code = LEVEE_EWAL_CORRUPT;
    } else {
        p->applied = b->last_seq;
        p->applied_hash = in->options.identity ? rt_block_last_hash(b) : 0;
        p->applied_gone = false;
    }
    pthread_mutex_unlock(&in->mutex);
    return code;
}

void rt_source_encode(struct rt_source *s, struct buf *ret)
{
    struct levee_inlet *in = &s->inlet;
    size_t present = 0;

    pthread_mutex_lock(&in->mutex);
    buf_u8(ret, SOURCE_VERSION);
    buf_slice(ret, slice_str(in->node->uid));
    buf_u64(ret, in->consumed_lsn);
    buf_varint(ret, in->fact_count);
    for (size_t i = 0; i < in->fact_count; i++) {
        buf_slice(ret, slice_str(in->facts[i].name));
        buf_slice(ret, in->facts[i].value);
    }
    for (size_t i = 0; i < in->producer_count; i++) {
        present += in->producers[i]->applied != 0;
    }
    buf_varint(ret, present);
    for (size_t i = 0; i < in->producer_count; i++) {
        const struct rt_producer *p = in->producers[i];
        if (p->applied) {
            buf_slice(ret, p->id);
            buf_u64(ret, p->applied);
            buf_u64(ret, p->applied_hash);
        }
    }
    pthread_mutex_unlock(&in->mutex);
}

int rt_source_decode(struct rt_source *s, struct levee_slice bytes, struct levee_error *err)
{
    struct levee_inlet *in = &s->inlet;
    struct cursor c = cursor_of(bytes);
    uint8_t version = cur_u8(&c);

    (void)cur_slice(&c); /* uid, for people */
    in->consumed_lsn = cur_u64(&c);
    in->last_lsn = in->durable_lsn = in->consumed_lsn;
    for (uint64_t n = cur_varint(&c); n && !c.bad; n--) {
        struct levee_slice name = cur_slice(&c);
        struct levee_slice value = cur_slice(&c);
        int code = c.bad ? LEVEE_OK : rt_source_restore_fact(s, name, value, err);
        if (code) {
            return code;
        }
    }
    for (uint64_t n = cur_varint(&c); n && !c.bad; n--) {
        struct levee_slice id = cur_slice(&c);
        uint64_t applied = cur_u64(&c);
        uint64_t hash = version > 1 ? cur_u64(&c) : 0;
        if (c.bad) {
            break;
        }
        struct rt_producer *p = rt_producer_add(in, id);
        if (!p) {
            return err_nomem(err, sizeof *p);
        }
        p->taken = p->durable = p->applied = applied;
        p->taken_hash = p->applied_hash = hash;
    }
    if (c.bad || version == 0 || version > SOURCE_VERSION) {
        return err_set(err, LEVEE_ECKPT_CORRUPT, "stored positions of source %s do not parse",
                       in->node->uid);
    }
    return LEVEE_OK;
}
