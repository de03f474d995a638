/*
 * Who was touched when: the entries of a key group in the order of their last touch, for tables
 * whose keys time out. A doubly linked list beside the entries: batch times only rise, so a touched
 * entry goes to the end, and whoever is due stands at the front. Nothing of it is stored: a load
 * that has come to its end sorts it once.
 */
#ifndef LEVEE_RT_IDLE_H
#define LEVEE_RT_IDLE_H

#include "base/base.h"

#define RT_IDLE_NONE UINT32_MAX

struct rt_idle_node {
    uint32_t next, prev;
};
struct rt_idle {
    struct rt_idle_node *nodes; /* nodes[0] is both ends, nodes[i + 1] entry i */
    size_t cap;
};

/* Room for entries [0, entries). false: no memory, nothing changed. */
bool rt_idle_reserve(struct rt_idle *l, uint32_t entries);
/* To the end of the list, from wherever it was. There must be room. */
void rt_idle_touch(struct rt_idle *l, uint32_t entry);
void rt_idle_remove(struct rt_idle *l, uint32_t entry); /* also one that is not in the list */
static inline uint32_t rt_idle_first(const struct rt_idle *l)
{
    return l->nodes ? l->nodes[0].next - 1u : RT_IDLE_NONE;
}
static inline uint32_t rt_idle_after(const struct rt_idle *l, uint32_t entry)
{
    return l->nodes[entry + 1u].next - 1u;
}
void rt_idle_release(struct rt_idle *l);

#endif
