/* A batch's data set as foreach_batch sees it: the public face of struct rt_dataset. */
#ifndef LEVEE_RT_DATASET_H
#define LEVEE_RT_DATASET_H

#include "runtime/engine.h"

struct levee_batch {
    const struct rt_dataset *data;
};

#endif
