/*
 * Firing what is due. Rounds: all entries with the earliest time leave the heap together, are put
 * in order of their keys, and fire; what they set anew stands in the heap for a later round. Times
 * of rounds only rise, so this ends; a timer set to a time that is over would make it run for ever,
 * so it is set aside and put back at the end: it is due in the next batch.
 */
#include "runtime/operator.h"

#include <stdlib.h>

struct firing {
    struct rt_call *c;
    struct rt_timers *timers;
    const struct rt_state_group *group;
    struct rt_due *round;
    size_t count, cap;
    struct rt_timer *put_back;
    size_t put_back_count, put_back_cap;
};

static int by_key(const void *a, const void *b)
{
    const struct rt_due *x = a, *y = b;

    return slice_cmp(x->key, y->key);
}

static bool take(struct firing *f, struct rt_timer timer)
{
    struct levee_slice key = rt_entry_key(&f->group->entries[timer.entry]);
    void *round = f->round;
    const uint8_t *copy = arena_copy(f->c->out->arena, key.data, key.len);

    if (!copy || !mem_grow(&round, &f->cap, f->count + 1, sizeof *f->round)) {
        return false;
    }
    f->round = round;
    f->round[f->count++] = (struct rt_due){hash_key(key.data, key.len),
                                           slice_of(key.len ? copy : NULL, key.len), timer.at_ms};
    return true;
}

static bool leave(struct firing *f, struct rt_timer timer)
{
    void *all = f->put_back;

    if (!mem_grow(&all, &f->put_back_cap, f->put_back_count + 1, sizeof *f->put_back)) {
        return false;
    }
    f->put_back = all;
    f->put_back[f->put_back_count++] = timer;
    return true;
}

int rt_fire_due(struct rt_call *c, struct rt_table *t, uint32_t group, enum rt_timer_kind kind,
                int64_t upto_ms, rt_fire_fn fire, void *arg)
{
    struct firing f = {
        .c = c, .timers = &t->groups[group].timers[kind], .group = &t->groups[group]};
    int64_t at;
    bool begun = false;
    int64_t fired = 0;
    int code = LEVEE_OK;

    while (code == LEVEE_OK && (at = rt_timers_first(f.timers)) <= upto_ms) {
        bool over = begun && at <= fired, ok = true;
        f.count = 0;
        while (ok && rt_timers_first(f.timers) == at) {
            struct rt_timer timer = f.timers->heap[0];
            rt_timers_set(f.timers, timer.entry, RT_NEVER);
            ok = over ? leave(&f, timer) : take(&f, timer);
        }
        if (!ok) {
            code = rt_call_nomem(c);
            break;
        }
        if (over) {
            continue;
        }
        begun = true;
        fired = at;
        qsort(f.round, f.count, sizeof *f.round, by_key);
        for (size_t i = 0; i < f.count && code == LEVEE_OK; i++) {
            code = fire(arg, &f.round[i]);
        }
    }
    for (size_t i = 0; i < f.put_back_count; i++) {
        rt_timers_set(f.timers, f.put_back[i].entry, f.put_back[i].at_ms);
    }
    mem_free(f.round);
    mem_free(f.put_back);
    return code;
}
