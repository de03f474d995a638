/* Functions that see more than a record or a key: transforms, and updates of a whole partition.
 * They call those of functions.c. */
#include <string.h>

#include "tests/cases/runner/case.h"

/* Numbers by value, strings by their bytes. */
static int compare_json(struct levee_slice a, struct levee_slice b, void *arg)
{
    cJSON *x = json_of(a), *y = json_of(b);
    int order = 0;

    (void)arg;
    if (cJSON_IsNumber(x) && cJSON_IsNumber(y)) {
        order = (x->valuedouble > y->valuedouble) - (x->valuedouble < y->valuedouble);
    } else if (cJSON_IsString(x) && cJSON_IsString(y)) {
        order = strcmp(x->valuestring, y->valuestring);
    }
    cJSON_Delete(x);
    cJSON_Delete(y);
    return order;
}

static int value_as_key(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    return levee_emit(out, in->value, in->value);
}

static const levee_batch *counted_by_value(const levee_batch *b)
{
    const levee_batch *keys =
        levee_batch_map(levee_batch_map(b, fn_whole_value, NULL), value_as_key, NULL);

    return levee_batch_map_values(levee_batch_reduce_by_key(keys, &levee_count_values),
                                  fn_i64_to_json, NULL);
}

static const levee_batch *joined(const levee_batch *a, const levee_batch *b)
{
    return levee_batch_map_values(levee_batch_join(a, b, LEVEE_INNER), fn_join_to_json, NULL);
}

int fn_transform(levee_output *out, const levee_batch *const *in, size_t n, const levee_batch **ret,
                 void *arg)
{
    struct named *f = arg, self = *f;

    (void)out;
    self.f = "pair_with_self";
    if (strcmp(f->f, "sort_by_key") == 0) {
        *ret = levee_batch_sort_by_key(in[0], compare_json, NULL);
    } else if (strcmp(f->f, "pair_reduce_and_save") == 0) {
        *ret = counted_by_value(in[0]);
    } else if (strcmp(f->f, "union") == 0) {
        *ret = levee_batch_union(in, n);
    } else if (strcmp(f->f, "join") == 0 && n == 2) {
        *ret = joined(in[0], in[1]);
    } else if (strcmp(f->f, "union_first_two_pair_self_join_third") == 0 && n == 3) {
        *ret = joined(levee_batch_map(levee_batch_union(in, 2), fn_map, &self), in[2]);
    } else {
        *ret = levee_batch_map(in[0], fn_map, f);
    }
    return 0;
}

int fn_update_partition(levee_output *out, levee_updates *updates, void *arg)
{
    struct levee_update u;
    int code = 0;

    while (code == 0 && levee_update_next(updates, &u)) {
        code = fn_update(out, u.state, u.key, u.values, u.n, arg);
    }
    return code;
}
