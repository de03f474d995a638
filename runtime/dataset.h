/* A batch's data set as a transform and foreach_batch see it: the public face of struct rt_dataset.
 */
#ifndef LEVEE_RT_DATASET_H
#define LEVEE_RT_DATASET_H

#include "runtime/engine.h"

struct levee_batch {
    const struct rt_dataset *data;
    struct rt_sets
        *sets; /* for making others from it (runtime/sets.h); NULL: it can only be read */
};

#endif
