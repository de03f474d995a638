/* A batch's data set, read by foreach_batch: partitions of records that nobody changes any more. */
#include "runtime/dataset.h"

size_t levee_batch_partitions(const levee_batch *batch)
{
    return batch->data->partitions;
}

size_t levee_batch_count(const levee_batch *batch)
{
    size_t n = 0;

    for (uint32_t p = 0; p < batch->data->partitions; p++) {
        n += batch->data->parts[p].count;
    }
    return n;
}

const struct levee_record *levee_batch_records(const levee_batch *batch, size_t partition,
                                               size_t *ret_n)
{
    bool exists = partition < batch->data->partitions;

    *ret_n = exists ? batch->data->parts[partition].count : 0;
    return exists ? batch->data->parts[partition].items : NULL;
}
