#include <stdlib.h>
#include <string.h>

#include "tests/cases/runner/case.h"

const cJSON *field(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

int int_field(const cJSON *object, const char *name, int otherwise)
{
    const cJSON *v = field(object, name);

    return cJSON_IsNumber(v) ? v->valueint : otherwise;
}

const char *text_field(const cJSON *object, const char *name)
{
    const cJSON *v = field(object, name);

    return cJSON_IsString(v) ? v->valuestring : NULL;
}

bool is_pair(const cJSON *v)
{
    return cJSON_IsArray(v) && cJSON_GetArraySize(v) == 2;
}

struct levee_slice json_slice(levee_output *out, const cJSON *v)
{
    struct levee_slice s = {NULL, 0};
    char *text = cJSON_PrintUnformatted(v);
    size_t n = text ? strlen(text) : 0;
    uint8_t *copy = text ? levee_alloc(out, n + 1) : NULL;

    if (copy) {
        memcpy(copy, text, n + 1);
        s = (struct levee_slice){copy, n};
    }
    cJSON_free(text);
    return s;
}

int emit_pair(levee_output *out, struct levee_slice key, const cJSON *value)
{
    struct levee_slice v = json_slice(out, value);

    return v.data ? levee_emit(out, key, v) : LEVEE_ENOMEM;
}

int emit_json(levee_output *out, const cJSON *v)
{
    if (is_pair(v)) {
        return emit_pair(out, json_slice(out, cJSON_GetArrayItem(v, 0)), cJSON_GetArrayItem(v, 1));
    }
    return emit_pair(out, (struct levee_slice){NULL, 0}, v);
}

cJSON *json_of(struct levee_slice s)
{
    return s.data ? cJSON_ParseWithLength((const char *)s.data, s.len) : cJSON_CreateNull();
}

cJSON *element_of(const struct levee_record *r)
{
    if (!r->key.data) {
        return json_of(r->value);
    }
    cJSON *pair = cJSON_CreateArray();
    cJSON_AddItemToArray(pair, json_of(r->key));
    cJSON_AddItemToArray(pair, json_of(r->value));
    return pair;
}

/* ---- comparing ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static char **texts(const cJSON *list, bool sorted, bool values_any);

static cJSON *sorted_list(const cJSON *list)
{
    char **parts = texts(list, true, false);
    cJSON *r = cJSON_CreateArray();

    for (int k = 0; parts[k]; k++) {
        cJSON_AddItemToArray(r, cJSON_CreateRaw(parts[k]));
        free(parts[k]);
    }
    free(parts);
    return r;
}

/* The items as text, sorted if their order does not count. */
static char **texts(const cJSON *list, bool sorted, bool values_any)
{
    int n = cJSON_GetArraySize(list);
    char **out = calloc((size_t)n + 1, sizeof *out);

    for (int i = 0; i < n; i++) {
        const cJSON *v = cJSON_GetArrayItem(list, i), *values = cJSON_GetArrayItem(v, 1);
        if (values_any && is_pair(v) && cJSON_IsArray(values)) {
            cJSON *copy = cJSON_CreateArray(), *inner = cJSON_CreateArray();
            const cJSON *first = cJSON_GetArrayItem(values, 0);
            if (cJSON_IsArray(first)) { /* the two groups of a cogroup: each for itself */
                for (int k = 0; k < cJSON_GetArraySize(values); k++) {
                    cJSON_AddItemToArray(inner, sorted_list(cJSON_GetArrayItem(values, k)));
                }
            } else {
                cJSON_Delete(inner);
                inner = sorted_list(values);
            }
            cJSON_AddItemToArray(copy, cJSON_Duplicate(cJSON_GetArrayItem(v, 0), true));
            cJSON_AddItemToArray(copy, inner);
            out[i] = cJSON_PrintUnformatted(copy);
            cJSON_Delete(copy);
        } else {
            out[i] = cJSON_PrintUnformatted(v);
        }
    }
    if (sorted) {
        qsort(out, (size_t)n, sizeof *out, by_text);
    }
    return out;
}

bool same_records(const cJSON *a, const cJSON *b, bool ordered, bool values_any)
{
    char **x = texts(a, !ordered, values_any), **y = texts(b, !ordered, values_any);
    size_t i = 0;

    while (x[i] && y[i] && strcmp(x[i], y[i]) == 0) {
        i++;
    }
    bool same = !x[i] && !y[i];
    for (size_t k = 0; x[k]; k++) {
        free(x[k]);
    }
    for (size_t k = 0; y[k]; k++) {
        free(y[k]);
    }
    free(x);
    free(y);
    return same;
}
