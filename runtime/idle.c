#include "runtime/idle.h"

bool rt_idle_reserve(struct rt_idle *l, uint32_t entries)
{
    size_t old = l->cap;
    void *nodes = l->nodes;

    if (!mem_grow(&nodes, &l->cap, (size_t)entries + 1, sizeof *l->nodes)) {
        return false;
    }
    l->nodes = nodes;
    if (l->cap > old) {
        memset(l->nodes + old, 0, (l->cap - old) * sizeof *l->nodes);
    }
    return true;
}

/* No node points to one that is not in the list; its own prev is 0, an end, which does not either.
 */
static bool is_linked(const struct rt_idle *l, uint32_t n)
{
    return l->nodes[l->nodes[n].prev].next == n;
}

static void unlink_node(struct rt_idle *l, uint32_t n)
{
    struct rt_idle_node *x = &l->nodes[n];

    l->nodes[x->prev].next = x->next;
    l->nodes[x->next].prev = x->prev;
    *x = (struct rt_idle_node){0, 0};
}

void rt_idle_touch(struct rt_idle *l, uint32_t entry)
{
    uint32_t n = entry + 1u;

    ASSERT(n < l->cap);
    if (is_linked(l, n)) {
        unlink_node(l, n);
    }
    uint32_t last = l->nodes[0].prev;
    l->nodes[n] = (struct rt_idle_node){0, last};
    l->nodes[last].next = n;
    l->nodes[0].prev = n;
}

void rt_idle_remove(struct rt_idle *l, uint32_t entry)
{
    if (entry + 1u < l->cap && is_linked(l, entry + 1u)) {
        unlink_node(l, entry + 1u);
    }
}

void rt_idle_release(struct rt_idle *l)
{
    mem_free(l->nodes);
    *l = (struct rt_idle){0};
}
