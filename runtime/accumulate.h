/*
 * What functions have added to accumulators, on its way from a call to the context
 * (runtime/accumulate.c, accumulators.c).
 */
#ifndef LEVEE_RT_ACCUMULATE_H
#define LEVEE_RT_ACCUMULATE_H

#include <pthread.h>

#include "base/base.h"
#include "levee/levee.h"

#define RT_ACCUMULATOR_MAX 4096u /* bytes */

struct rt_add { /* of the call that is being made */
    levee_accumulator *to;
    struct levee_slice value; /* a copy in the batch's memory */
};
struct rt_adds {
    struct rt_add *items;
    size_t count, cap;
};
struct rt_sum_of { /* what a unit, or all batches, have made of the adds */
    levee_accumulator *of;
    void *bytes; /* reducer.size; NULL: nothing was added */
};

struct levee_accumulator {
    char name[65];
    struct levee_reducer reducer; /* version 0: stored, and not asked for in this life */
    size_t size;
    void *total;      /* after the last computed batch; NULL: nothing was added */
    struct buf shown; /* after the last that every sink has: what finish emits */
    bool has_shown;
    pthread_mutex_t *mutex; /* the registry's: guards shown */
};
struct rt_accumulators {
    pthread_mutex_t mutex;
    levee_accumulator **items;
    size_t count, cap;
};

#endif
