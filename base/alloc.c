/*
 * The only place that calls malloc. Every allocation takes a number, so that a test can make the
 * k-th one fail and a benchmark can count them exactly; live blocks are counted so that a test can
 * prove that nothing leaked. Both cost a relaxed atomic add, and the hot paths allocate from arenas
 * anyway.
 *
 * A call that fails has no effect: mem_realloc and mem_grow leave the old block as it was.
 */
#include "base/base.h"

#include <stdlib.h>

static _Atomic uint64_t calls;   /* allocations asked for */
static _Atomic uint64_t fail_at; /* the call with this number fails; 0: none does */
static _Atomic int64_t live;     /* blocks handed out and not yet freed */

/* Takes the next number. false: it is the one that a test has marked. */
static bool may_allocate(void)
{
    uint64_t number = atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed) + 1;

    return LIKELY(number != atomic_load_explicit(&fail_at, memory_order_relaxed));
}

static void *counted(void *p)
{
    if (LIKELY(p != NULL)) {
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    }
    return p;
}

/* malloc(0) may give NULL, which would read as "no memory". */
static size_t at_least_one(size_t bytes)
{
    return bytes ? bytes : 1;
}

void *mem_alloc(size_t bytes)
{
    return may_allocate() ? counted(malloc(at_least_one(bytes))) : NULL;
}

void *mem_zalloc(size_t bytes)
{
    return may_allocate() ? counted(calloc(1, at_least_one(bytes))) : NULL;
}

void *mem_realloc(void *p, size_t bytes)
{
    if (!may_allocate()) {
        return NULL;
    }
    void *fresh = realloc(p, at_least_one(bytes));
    return p ? fresh : counted(fresh);
}

void *mem_aligned(size_t align, size_t bytes)
{
    void *p = NULL;

    ASSERT(align >= sizeof(void *));
    ASSERT((align & (align - 1)) == 0);
    if (!may_allocate() || posix_memalign(&p, align, at_least_one(bytes)) != 0) {
        return NULL;
    }
    return counted(p);
}

void mem_free(void *p)
{
    if (p) {
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
        free(p);
    }
}

char *mem_strdup(const char *s)
{
    size_t size = strlen(s) + 1;
    char *copy = mem_alloc(size);

    if (copy) {
        memcpy(copy, s, size);
    }
    return copy;
}

bool mem_grow(void **items, size_t *cap, size_t need, size_t size)
{
    void *old, *fresh;

    ASSERT(size > 0);
    if (need <= *cap) {
        return true;
    }
    if (need > SIZE_MAX / 2 / size) {
        return false;
    }
    size_t want = *cap * 2 > need ? *cap * 2 : need;
    want = want > 8 ? want : 8;
    /* *items is a pointer of the caller's own type: copy it, as C lets no one read it through void
     * **. */
    memcpy(&old, items, sizeof old);
    fresh = mem_realloc(old, want * size);
    if (!fresh) {
        return false;
    }
    memcpy(items, &fresh, sizeof fresh);
    *cap = want;
    return true;
}

void mem_fail_at(uint64_t k)
{
    uint64_t number = k == 0 ? 0 : atomic_load_explicit(&calls, memory_order_relaxed) + k;

    atomic_store_explicit(&fail_at, number, memory_order_relaxed);
}

uint64_t mem_count(void)
{
    return atomic_load_explicit(&calls, memory_order_relaxed);
}

int64_t mem_live(void)
{
    return atomic_load_explicit(&live, memory_order_relaxed);
}
