/* The functions that cases name. Values are JSON; a name that is not known is a failed call. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cases/runner/case.h"

#define UNKNOWN (-77)

static int64_t number(const cJSON *v)
{
    return v && cJSON_IsNumber(v) ? (int64_t)v->valuedouble : 0;
}

static cJSON *new_number(int64_t n)
{
    return cJSON_CreateNumber((double)n);
}

static cJSON *new_pair(cJSON *a, cJSON *b)
{
    cJSON *pair = cJSON_CreateArray();

    cJSON_AddItemToArray(pair, a);
    cJSON_AddItemToArray(pair, b);
    return pair;
}

static cJSON *dup(const cJSON *v)
{
    return cJSON_Duplicate(v, true);
}

static int emit_and_free(levee_output *out, cJSON *v)
{
    int code = v ? emit_json(out, v) : UNKNOWN;

    cJSON_Delete(v);
    return code;
}

static int64_t length(const cJSON *v)
{
    return cJSON_IsString(v) ? (int64_t)strlen(v->valuestring) : cJSON_GetArraySize(v);
}

static cJSON *text_of(const cJSON *v)
{
    if (cJSON_IsString(v)) {
        return dup(v);
    }
    char *text = cJSON_PrintUnformatted(v);
    cJSON *s = cJSON_CreateString(text);
    cJSON_free(text);
    return s;
}

static cJSON *upper(const cJSON *v)
{
    cJSON *s = cJSON_IsString(v) ? dup(v) : text_of(v);

    for (char *p = s->valuestring; *p; p++) {
        *p = (char)toupper((unsigned char)*p);
    }
    return s;
}

/* A missing argument of add is 0, of pair_with null. */
static cJSON *add(const cJSON *x, const cJSON *arg)
{
    if (cJSON_IsString(x)) {
        char *b = cJSON_IsString(arg) ? strdup(arg->valuestring) : cJSON_PrintUnformatted(arg);
        size_t n = strlen(x->valuestring) + strlen(b) + 1;
        char *both = malloc(n);
        (void)snprintf(both, n, "%s%s", x->valuestring, b);
        cJSON *s = cJSON_CreateString(both);
        free(b);
        free(both);
        return s;
    }
    return new_number(number(x) + number(arg));
}

/* NULL: no number, the call has failed. */
static cJSON *to_int(const cJSON *x)
{
    char *end;

    if (!cJSON_IsString(x)) {
        return cJSON_IsNumber(x) ? dup(x) : NULL;
    }
    long long n = strtoll(x->valuestring, &end, 10);
    return *end || end == x->valuestring ? NULL : new_number(n);
}

static cJSON *map_one(const struct named *n, const cJSON *x)
{
    const cJSON *first = cJSON_GetArrayItem(x, 0), *second = cJSON_GetArrayItem(x, 1);
    const char *f = n->f;

    if (strcmp(f, "to_string") == 0 || strcmp(f, "map_to_string") == 0) {
        return text_of(x);
    } else if (strcmp(f, "to_int") == 0) {
        return to_int(x);
    } else if (strcmp(f, "add") == 0 || strcmp(f, "map_add") == 0) {
        return add(x, n->arg);
    } else if (strcmp(f, "pair_with") == 0) {
        return new_pair(dup(x), n->arg ? dup(n->arg) : cJSON_CreateNull());
    } else if (strcmp(f, "pair_with_self") == 0) {
        return new_pair(dup(x), dup(x));
    } else if (strcmp(f, "pair_with_length") == 0) {
        return new_pair(dup(x), new_number(length(x)));
    } else if (strcmp(f, "length") == 0) {
        return new_number(length(x));
    } else if (strcmp(f, "swap") == 0 && is_pair(x)) {
        return new_pair(dup(second), dup(first));
    } else if (strcmp(f, "value") == 0 && is_pair(x)) {
        return dup(second);
    } else if ((strcmp(f, "first") == 0 || strcmp(f, "keys") == 0) && first) {
        return dup(first);
    } else if (strcmp(f, "upper") == 0) {
        return upper(x);
    }
    return NULL;
}

int fn_map(levee_output *out, const struct levee_record *in, void *arg)
{
    cJSON *x = element_of(in);
    int code = emit_and_free(out, map_one(arg, x));

    cJSON_Delete(x);
    return code;
}

/* ---- flatMap ---- */

static int emit_letters(levee_output *out, const char *text, const cJSON *paired_with)
{
    int code = 0;

    for (; *text && code == 0; text++) {
        char one[2] = {*text, '\0'};
        cJSON *c = cJSON_CreateString(one);
        code = emit_and_free(out, paired_with ? new_pair(dup(paired_with), c) : c);
    }
    return code;
}

static int emit_words(levee_output *out, const char *text)
{
    int code = 0;

    while (*text && code == 0) {
        size_t n = strcspn(text, " ");
        if (n) {
            char *word = strndup(text, n);
            code = emit_and_free(out, cJSON_CreateString(word));
            free(word);
        }
        text += n + (text[n] == ' ');
    }
    return code;
}

static int flat_map_one(levee_output *out, const struct named *n, const cJSON *x)
{
    const char *f = n->f, *text = cJSON_IsString(x) ? x->valuestring : "";
    int code = UNKNOWN;

    if (strcmp(f, "x_and_double") == 0) {
        code = emit_json(out, x);
        code = code ? code : emit_and_free(out, new_number(2 * number(x)));
    } else if (strcmp(f, "v_and_plus") == 0) {
        code = emit_json(out, x);
        code = code ? code : emit_and_free(out, add(x, n->arg));
    } else if (strcmp(f, "letters") == 0) {
        code = emit_letters(out, text, NULL);
    } else if (strcmp(f, "length_letter_pairs") == 0) {
        cJSON *len = new_number(length(x));
        code = emit_letters(out, text, len);
        cJSON_Delete(len);
    } else if (strcmp(f, "value_letter_pairs") == 0 && is_pair(x)) {
        const cJSON *first = cJSON_GetArrayItem(x, 0);
        code = emit_letters(out, cJSON_IsString(first) ? first->valuestring : "",
                            cJSON_GetArrayItem(x, 1));
    } else if (strcmp(f, "split_on_space") == 0) {
        code = emit_words(out, text);
    } else if (strcmp(f, "append_1_and_2") == 0) {
        for (int i = 1; i <= 2 && (i == 1 || code == 0); i++) {
            cJSON *digit = cJSON_CreateString(i == 1 ? "1" : "2");
            code = emit_and_free(out, add(x, digit));
            cJSON_Delete(digit);
        }
    }
    return code;
}

int fn_flat_map(levee_output *out, const struct levee_record *in, void *arg)
{
    cJSON *x = element_of(in);
    int code = flat_map_one(out, arg, x);

    cJSON_Delete(x);
    return code;
}

int fn_filter(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct named *n = arg;
    cJSON *x = element_of(in);
    const cJSON *first = cJSON_GetArrayItem(x, 0), *second = cJSON_GetArrayItem(x, 1);
    int keep = UNKNOWN;

    (void)out;
    if (strcmp(n->f, "is_even") == 0) {
        keep = number(x) % 2 == 0;
    } else if (strcmp(n->f, "contains_a") == 0) {
        keep = cJSON_IsString(x) && strchr(x->valuestring, 'a') != NULL;
    } else if (strcmp(n->f, "key_contains_a") == 0) {
        keep = cJSON_IsString(first) && strchr(first->valuestring, 'a') != NULL;
    } else if (strcmp(n->f, "value_not_zero") == 0) {
        keep = number(is_pair(x) ? second : x) != 0;
    }
    cJSON_Delete(x);
    return keep;
}

/* The functions of map and flatMap, on values. */
int fn_map_values(levee_output *out, const struct levee_record *in, void *arg)
{
    cJSON *x = json_of(in->value), *y = map_one(arg, x);
    int code = y ? emit_pair(out, in->key, y) : UNKNOWN;

    cJSON_Delete(x);
    cJSON_Delete(y);
    return code;
}

int fn_flat_map_values(levee_output *out, const struct levee_record *in, void *arg)
{
    cJSON *x = json_of(in->value);
    int code = flat_map_one(out, arg, x);

    cJSON_Delete(x);
    return code;
}

/* ---- mapPartitions ---- */

static int emit_upper_concat(levee_output *out, const struct levee_record *in, size_t n)
{
    cJSON *all = cJSON_CreateString("");

    for (size_t i = 0; i < n; i++) {
        cJSON *x = element_of(&in[i]), *u = upper(x), *next = add(all, u);
        cJSON_Delete(x);
        cJSON_Delete(u);
        cJSON_Delete(all);
        all = next;
    }
    return emit_and_free(out, all);
}

int fn_map_partitions(levee_output *out, const struct levee_record *in, size_t n, void *arg)
{
    const struct named *f = arg;
    int64_t sum = 0;
    int code = 0;

    if (strcmp(f->f, "upper_concat") == 0) {
        return emit_upper_concat(out, in, n);
    }
    for (size_t i = 0; i < n && code == 0; i++) {
        cJSON *x = element_of(&in[i]);
        if (strcmp(f->f, "sum_of_partition") == 0) {
            sum += number(x);
        } else if (strcmp(f->f, "swap_all") == 0 && is_pair(x)) {
            code = emit_and_free(
                out, new_pair(dup(cJSON_GetArrayItem(x, 1)), dup(cJSON_GetArrayItem(x, 0))));
        } else {
            code = UNKNOWN;
        }
        cJSON_Delete(x);
    }
    return code == 0 && strcmp(f->f, "sum_of_partition") == 0 ? emit_and_free(out, new_number(sum))
                                                              : code;
}

/* ---- reducing: sums of JSON numbers ---- */

static int sum_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    cJSON *v = json_of(value);

    (void)out;
    (void)arg;
    *(int64_t *)acc += number(v);
    cJSON_Delete(v);
    return 0;
}

static int sum_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    (void)out;
    (void)arg;
    *(int64_t *)acc += *(const int64_t *)other;
    return 0;
}

static int sum_remove(levee_output *out, void *acc, const void *other, void *arg)
{
    (void)out;
    (void)arg;
    *(int64_t *)acc -= *(const int64_t *)other;
    return 0;
}

static int sum_finish(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    cJSON *v = new_number(*(const int64_t *)acc);
    int code = emit_pair(out, key, v);

    (void)arg;
    cJSON_Delete(v);
    return code;
}

const struct levee_reducer sum_json = {.version = 1,
                                       .size = sizeof(int64_t),
                                       .create = sum_add,
                                       .add = sum_add,
                                       .merge = sum_merge,
                                       .remove = sum_remove,
                                       .finish = sum_finish};

/* ---- updateStateByKey ---- */

static int set_state(levee_state *state, cJSON *v)
{
    char *text = cJSON_PrintUnformatted(v);
    int code = levee_state_set(state, levee_text(text));

    cJSON_free(text);
    cJSON_Delete(v);
    return code;
}

int fn_update(levee_output *out, levee_state *state, struct levee_slice key,
              const struct levee_slice *values, size_t n, void *arg)
{
    const struct named *f = arg;
    struct levee_slice old = {NULL, 0};
    cJSON *was = levee_state_get(state, &old) ? json_of(old) : NULL;
    int64_t sum = 0;
    int code = UNKNOWN;

    (void)key;
    for (size_t i = 0; i < n; i++) {
        cJSON *v = json_of(values[i]);
        sum += number(v);
        cJSON_Delete(v);
    }
    if (strcmp(f->f, "running_sum") == 0) {
        code = set_state(state, new_number(number(was) + sum));
    } else if (strcmp(f->f, "add_batch_time_if_any") == 0) {
        int64_t time = n ? levee_batch_time(out) - f->base_ms : 0;
        code = set_state(state, new_number(number(was) + time));
    } else if (strcmp(f->f, "count_and_drop_after_2_idle") == 0) {
        int64_t count = number(cJSON_GetArrayItem(was, 0)) + sum;
        int64_t idle = n ? 0 : number(cJSON_GetArrayItem(was, 1)) + 1;
        code = 0;
        if (idle >= 2) {
            levee_state_remove(state);
        } else {
            code = set_state(state, new_pair(new_number(count), new_number(idle)));
        }
    }
    cJSON_Delete(was);
    return code;
}

/* ---- mapWithState ---- */

static int count_emit(levee_output *out, levee_state *state, struct levee_slice key,
                      const char *form, int64_t total)
{
    cJSON *sum = new_number(total), *k = json_of(key);
    int code = set_state(state, new_number(total));

    if (code == 0 && strcmp(form, "sum") == 0) {
        code = emit_json(out, sum);
    } else if (code == 0 && strcmp(form, "pair") == 0) {
        code = emit_pair(out, key, sum);
    } else if (code == 0 && strcmp(form, "key_twice") == 0) {
        code = emit_json(out, k);
        code = code ? code : emit_json(out, k);
    } else if (strcmp(form, "nothing") != 0) {
        code = UNKNOWN;
    }
    cJSON_Delete(sum);
    cJSON_Delete(k);
    return code;
}

static int toggle(levee_output *out, levee_state *state, struct levee_slice key,
                  const struct levee_slice *value)
{
    struct levee_slice old;

    if (!levee_state_get(state, &old)) {
        return value ? levee_state_set(state, *value) : UNKNOWN;
    }
    levee_state_remove(state);
    cJSON *k = json_of(key);
    return emit_and_free(out, k);
}

static int command(levee_output *out, levee_state *state, const cJSON *what)
{
    struct levee_slice old;
    cJSON *was = levee_state_get(state, &old) ? json_of(old) : NULL;
    const char *text = what && cJSON_IsString(what) ? what->valuestring : "";
    int code = 0; /* another command does nothing, but it is data: the key is not idle */

    if (strcmp(text, "get-state") == 0) {
        code = emit_and_free(out, was ? dup(was) : new_number(-1));
    } else if (strcmp(text, "update-state") == 0 || number(what) == 1) {
        code = set_state(state, new_number(was ? number(was) + 1 : 0));
    } else if (strcmp(text, "remove-state") == 0 || number(what) == 2) {
        levee_state_remove(state);
    }
    cJSON_Delete(was);
    return code;
}

int fn_map_state(levee_output *out, levee_state *state, struct levee_slice key,
                 const struct levee_slice *value, void *arg)
{
    const struct named *f = arg;
    struct levee_slice old;
    int code = UNKNOWN;

    if (strcmp(f->f, "set_one_emit_key_on_timeout") == 0) {
        if (!levee_state_timing_out(state)) {
            return set_state(state, new_number(1));
        }
        cJSON *k = json_of(key);
        return emit_and_free(out, k);
    }
    if (levee_state_timing_out(state)) {
        return 0;
    }
    cJSON *v = value ? json_of(*value) : NULL;
    cJSON *was = levee_state_get(state, &old) ? json_of(old) : NULL;
    if (strncmp(f->f, "count_emit_", 11) == 0) {
        code = count_emit(out, state, key, f->f + 11, number(was) + number(v));
    } else if (strcmp(f->f, "toggle_remove_emit_key") == 0) {
        code = toggle(out, state, key, value);
    } else if (strcmp(f->f, "text_commands") == 0 || strcmp(f->f, "number_commands") == 0) {
        code = command(out, state, v);
    }
    cJSON_Delete(v);
    cJSON_Delete(was);
    return code;
}

/* ---- levee's own forms ---- */

int fn_i64_to_json(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    cJSON *v = new_number(levee_i64(in->value));
    int code = emit_pair(out, in->key, v);
    cJSON_Delete(v);
    return code;
}

static cJSON *group_json(struct levee_slice group)
{
    cJSON *list = cJSON_CreateArray();
    struct levee_slice value;

    while (levee_group_next(&group, &value)) {
        cJSON_AddItemToArray(list, json_of(value));
    }
    return list;
}

int fn_group_to_json(levee_output *out, const struct levee_record *in, void *arg)
{
    cJSON *list = group_json(in->value);
    int code = emit_pair(out, in->key, list);

    (void)arg;
    cJSON_Delete(list);
    return code;
}

int fn_cogroup_to_json(levee_output *out, const struct levee_record *in, void *arg)
{
    struct levee_slice left, right;

    (void)arg;
    if (!levee_sides(in->value, &left, &right)) {
        return UNKNOWN;
    }
    cJSON *both = new_pair(group_json(left), group_json(right));
    int code = emit_pair(out, in->key, both);
    cJSON_Delete(both);
    return code;
}

int fn_join_to_json(levee_output *out, const struct levee_record *in, void *arg)
{
    struct levee_slice left, right;

    (void)arg;
    if (!levee_sides(in->value, &left, &right)) {
        return UNKNOWN;
    }
    cJSON *both = new_pair(json_of(left), json_of(right));
    int code = emit_pair(out, in->key, both);
    cJSON_Delete(both);
    return code;
}

int fn_glom_to_json(levee_output *out, const struct levee_record *in, void *arg)
{
    struct levee_slice glom = in->value;
    struct levee_record r;
    cJSON *list = cJSON_CreateArray();

    (void)arg;
    while (levee_glom_next(&glom, &r)) {
        cJSON_AddItemToArray(list, element_of(&r));
    }
    /* Not emit_json: a partition of two records is a list, no pair. */
    int code = emit_pair(out, (struct levee_slice){NULL, 0}, list);
    cJSON_Delete(list);
    return code;
}

/* A pair as a value of its own, for counting values. */
int fn_whole_value(levee_output *out, const struct levee_record *in, void *arg)
{
    cJSON *x = element_of(in);
    int code = emit_pair(out, (struct levee_slice){NULL, 0}, x);

    (void)arg;
    cJSON_Delete(x);
    return code;
}
