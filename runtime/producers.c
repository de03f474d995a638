/*
 * The producers of a source, by id: who they are, and how many there may be. One that has left, in
 * the log and in the state, makes room for the next. All of it under the inlet's mutex.
 */
#include "runtime/context.h"

struct rt_producer *rt_producer_find(struct levee_inlet *in, struct levee_slice id)
{
    uint64_t h = hash_key(id.data, id.len);
    uint32_t pos = (uint32_t)h & in->producer_map.mask;
    struct map_slot *s;

    while ((s = map_probe(&in->producer_map, h, &pos)) != NULL) {
        if (slice_eq(in->producers[s->index]->id, id)) {
            return in->producers[s->index];
        }
        pos = (pos + 1) & in->producer_map.mask;
    }
    return NULL;
}

/* A slot whose producer has left, in the log and in the state: its memory serves the next one. */
static bool reuse_gone(struct levee_inlet *in, size_t *ret)
{
    for (size_t i = 0; i < in->producer_count; i++) {
        struct rt_producer *p = in->producers[i];
        if (p->gone && p->applied_gone && !p->open) {
            uint32_t pos = (uint32_t)p->hash & in->producer_map.mask;
            struct map_slot *s;
            while ((s = map_probe(&in->producer_map, p->hash, &pos)) != NULL && s->index != i) {
                pos = (pos + 1) & in->producer_map.mask;
            }
            ASSERT(s != NULL);
            map_remove(&in->producer_map, s);
            mem_free(p);
            *ret = i;
            return true;
        }
    }
    return false;
}

struct rt_producer *rt_producer_add(struct levee_inlet *in, struct levee_slice id)
{
    struct rt_producer *p = mem_zalloc(sizeof *p + id.len);
    size_t at = in->producer_count;

    if (!p) {
        return NULL;
    }
    memcpy(p + 1, id.data, id.len);
    p->id = slice_of(p + 1, id.len);
    p->hash = hash_key(id.data, id.len);
    if (!mem_grow((void **)&in->producers, &in->producer_cap, in->producer_count + 1,
                  sizeof(struct rt_producer *)) ||
        !map_reserve(&in->producer_map, (uint32_t)in->producer_count + 2)) {
        mem_free(p);
        return NULL;
    }
    if (in->producer_count < in->ctx->opt.producers_max || !reuse_gone(in, &at)) {
        in->producer_count++;
    }
    in->producers[at] = p;
    if (!map_insert(&in->producer_map, p->hash, (uint32_t)at)) {
        ASSERT(at + 1 == in->producer_count); /* room was reserved for one more */
        in->producer_count--;
        mem_free(p);
        return NULL;
    }
    return p;
}

static size_t producers_present(const struct levee_inlet *in)
{
    size_t n = 0;

    for (size_t i = 0; i < in->producer_count; i++) {
        n += !in->producers[i]->gone;
    }
    return n;
}

int rt_producer_get(struct levee_inlet *in, struct levee_slice id, struct rt_producer **ret,
                    struct levee_error *err)
{
    if (!in->taking) {
        return err_set(err, LEVEE_ESTOPPED, "source %s takes nothing any more", in->node->uid);
    }
    *ret = rt_producer_find(in, id);
    if (*ret && !(*ret)->gone) {
        return LEVEE_OK;
    }
    if (id.len > LEVEE_PRODUCER_MAX) {
        err_set(err, LEVEE_EINVALID, "source %s: producer id too long", in->node->uid);
        err_expected(err, "at most %d bytes", LEVEE_PRODUCER_MAX);
        err_found(err, "%zu", id.len);
        return LEVEE_EINVALID;
    }
    if (producers_present(in) >= in->ctx->opt.producers_max) {
        err_set(err, LEVEE_EPRODUCER_LIMIT, "source %s knows %u producers already", in->node->uid,
                in->ctx->opt.producers_max);
        return LEVEE_EPRODUCER_LIMIT;
    }
    *ret = *ret ? *ret : rt_producer_add(in, id);
    return *ret ? LEVEE_OK : err_nomem(err, sizeof **ret);
}
