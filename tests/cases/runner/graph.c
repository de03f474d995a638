/* A case's graph, built through the public API alone. */
#include <string.h>

#include "tests/cases/runner/case.h"

#define STREAMS 16

#define NAMED_MAX 64

/* Functions with their arguments live as long as the program: a case is read once. */
static struct named *named(const struct the_case *c, int64_t base_ms, const char *f,
                           const cJSON *arg)
{
    static struct named all[NAMED_MAX];
    static unsigned next;
    struct named *n = &all[next++ % NAMED_MAX];

    *n = (struct named){.f = f ? f : "(none)", .arg = arg, .c = c, .base_ms = base_ms};
    return n;
}

struct building {
    levee_context *ctx;
    const struct the_case *c;
    int64_t base_ms;
    struct built *b;
};

static struct named *fn(const struct building *g, const cJSON *from)
{
    return named(g->c, g->base_ms, text_field(from, "f"), field(from, "arg"));
}

static levee_stream *step(const struct building *g, levee_stream *s, const cJSON *j)
{
    const char *op = text_field(j, "op");
    struct named *f = fn(g, j);

    if (!op) {
        return NULL;
    } else if (strcmp(op, "map") == 0) {
        return levee_map(s, fn_map, f);
    } else if (strcmp(op, "flatMap") == 0) {
        return levee_flat_map(s, fn_flat_map, f);
    } else if (strcmp(op, "filter") == 0) {
        return levee_filter(s, fn_filter, f);
    } else if (strcmp(op, "mapValues") == 0) {
        return levee_map_values(s, fn_map_values, f);
    } else if (strcmp(op, "flatMapValues") == 0) {
        return levee_flat_map_values(s, fn_flat_map_values, f);
    } else if (strcmp(op, "count") == 0) {
        return levee_map(levee_count(s), fn_i64_to_json, NULL);
    } else if (strcmp(op, "reduceByKey") == 0) {
        return levee_reduce_by_key(s, &sum_json);
    } else if (strcmp(op, "groupByKey") == 0) {
        return levee_map_values(levee_group_by_key(s), fn_group_to_json, NULL);
    }
    return NULL;
}

static levee_stream *steps(const struct building *g, levee_stream *s, const cJSON *list)
{
    const cJSON *j;

    cJSON_ArrayForEach(j, list)
    {
        s = step(g, s, j);
    }
    return s;
}

/* The source of an input, with the steps before it. */
static levee_stream *input(const struct building *g, int i)
{
    static const char *const before[CASE_INPUTS] = {"before", "before2", "before3"};

    return steps(g, g->b->source[i], field(g->c->json, before[i]));
}

/* "input", "input2", 1, 2 …: which input a union's stream comes from. */
static int input_of(const cJSON *from)
{
    if (cJSON_IsNumber(from)) {
        return from->valueint - 1;
    }
    const char *text = cJSON_IsString(from) ? from->valuestring : "input";
    size_t n = strlen(text);
    return n && text[n - 1] >= '1' && text[n - 1] <= '3' ? text[n - 1] - '1' : 0;
}

/* The streams of a union or a transform: those listed, or all inputs there are. */
static size_t streams_of(const struct building *g, levee_stream *s[STREAMS])
{
    const cJSON *list = field(g->c->parameters, "streams"), *j;
    size_t n = 0;

    cJSON_ArrayForEach(j, list)
    {
        int i = input_of(field(j, "from"));
        if (n < STREAMS && i >= 0 && i < CASE_INPUTS) {
            s[n++] = steps(g, input(g, i), field(j, "steps"));
        }
    }
    if (n == 0) {
        for (int i = 0; i < CASE_INPUTS; i++) {
            if (g->c->input[i]) {
                s[n++] = input(g, i);
            }
        }
    }
    return n;
}

static levee_stream *union_of(const struct building *g)
{
    levee_stream *s[STREAMS];

    return levee_union(s, streams_of(g, s));
}

static levee_stream *with_partitions(const struct building *g, levee_stream *s)
{
    int n = int_field(g->c->parameters, "partitions_out", 0);

    n = n ? n : int_field(g->c->parameters, "partitions_state", 0);
    return n > 0 ? levee_partitions(s, (uint32_t)n) : s;
}

/* ---- transform ---- */

static levee_stream *transform(const struct building *g, levee_stream *const *s, size_t n)
{
    return levee_transform(s, n, fn_transform, fn(g, g->c->parameters));
}

static levee_stream *transform_many(const struct building *g)
{
    levee_stream *s[STREAMS];

    return transform(g, s, streams_of(g, s));
}

/* ---- state ---- */

static size_t initial_state(const struct the_case *c, struct levee_record *ret, size_t max)
{
    const cJSON *list = field(c->json, "initial_state"), *j;
    size_t n = 0;

    cJSON_ArrayForEach(j, list)
    {
        if (n < max && is_pair(j)) {
            ret[n++] = (struct levee_record){
                .key = levee_text(cJSON_PrintUnformatted(cJSON_GetArrayItem(j, 0))),
                .value = levee_text(cJSON_PrintUnformatted(cJSON_GetArrayItem(j, 1)))};
        }
    }
    return n;
}

/* The builder has copied it. */
static void free_initial(struct levee_record *records, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        cJSON_free((void *)(uintptr_t)records[i].key.data);
        cJSON_free((void *)(uintptr_t)records[i].value.data);
    }
}

static levee_stream *update_state(const struct building *g, levee_stream *s)
{
    struct levee_record initial[256];
    struct named *f = named(g->c, g->base_ms, text_field(g->c->parameters, "update"), NULL);
    struct levee_state_options o = {.every_key = true, .initial = initial};
    const char *form = text_field(g->c->parameters, "form");

    o.initial_count = initial_state(g->c, initial, 256);
    s = form && strcmp(form, "per_partition_iterator") == 0
            ? levee_update_state_by_partition(s, "state", &o, fn_update_partition, f)
            : levee_update_state_by_key(s, "state", &o, fn_update, f);
    free_initial(initial, o.initial_count);
    return g->b->stateful = with_partitions(g, s);
}

static levee_stream *map_state(const struct building *g, levee_stream *s)
{
    struct levee_record initial[256];
    const char *observe = text_field(g->c->parameters, "observe");
    int timeout = int_field(g->c->parameters, "timeout", 0);
    struct levee_map_state_options o = {.timeout_ms = (uint32_t)(timeout * g->c->batch_ms),
                                        .initial = initial};

    o.initial_count = initial_state(g->c, initial, 256);
    g->b->stateful = with_partitions(
        g, levee_map_with_state(s, "state", &o, fn_map_state, fn(g, g->c->parameters)));
    free_initial(initial, o.initial_count);
    return observe && strcmp(observe, "snapshots") == 0 ? levee_state_snapshots(g->b->stateful)
                                                        : g->b->stateful;
}

/* ---- windows ---- */

static struct levee_window window_of(const struct building *g)
{
    const cJSON *p = g->c->parameters, *length = field(p, "window"), *slide = field(p, "slide");
    double ms = (double)g->c->batch_ms; /* a window of one and a half batches is to be refused */
    struct levee_window w = {.length_ms = (uint32_t)((length ? length->valuedouble : 1) * ms),
                             .slide_ms = (uint32_t)((slide ? slide->valuedouble : 1) * ms),
                             .inverse = text_field(p, "inverse") != NULL,
                             .partitions = (uint32_t)int_field(p, "partitions_out", 0)};

    if (text_field(p, "filter")) {
        w.filter = fn_filter;
        w.arg = named(g->c, g->base_ms, text_field(p, "filter"), NULL);
    }
    return w;
}

static levee_stream *windowed(const struct building *g, levee_stream *s)
{
    struct levee_window w = window_of(g);
    const char *op = g->c->operation;

    if (strcmp(op, "window") == 0) {
        return levee_window(s, "window", w.length_ms, w.slide_ms);
    } else if (strcmp(op, "reduceByWindow") == 0) {
        return levee_reduce_by_window(s, "window", &sum_json, &w);
    } else if (strcmp(op, "reduceByKeyAndWindow") == 0) {
        return levee_reduce_by_key_and_window(s, "window", &sum_json, &w);
    } else if (strcmp(op, "countByWindow") == 0) {
        return levee_map(levee_count_by_window(s, "window", w.length_ms, w.slide_ms),
                         fn_i64_to_json, NULL);
    } else if (strcmp(op, "countByValueAndWindow") == 0) {
        s = levee_map(s, fn_whole_value, NULL);
        return levee_map_values(levee_count_by_value_and_window(s, "window", &w), fn_i64_to_json,
                                NULL);
    } else if (strcmp(op, "groupByKeyAndWindow") == 0) {
        return levee_map_values(levee_group_by_key_and_window(s, "window", &w), fn_group_to_json,
                                NULL);
    }
    return NULL;
}

/* ---- the operation ---- */

static levee_stream *of_two(const struct building *g)
{
    static const struct {
        const char *name;
        enum levee_join kind;
    } joins[] = {{"join", LEVEE_INNER},
                 {"leftOuterJoin", LEVEE_LEFT_OUTER},
                 {"rightOuterJoin", LEVEE_RIGHT_OUTER},
                 {"fullOuterJoin", LEVEE_FULL_OUTER}};
    const char *op = g->c->operation;

    if (strcmp(op, "cogroup") == 0) {
        levee_stream *s = with_partitions(g, levee_cogroup(input(g, 0), input(g, 1)));
        return levee_map_values(s, fn_cogroup_to_json, NULL);
    }
    for (size_t i = 0; i < sizeof joins / sizeof joins[0]; i++) {
        if (strcmp(op, joins[i].name) == 0) {
            levee_stream *s =
                with_partitions(g, levee_join(input(g, 0), input(g, 1), joins[i].kind));
            return levee_map_values(s, fn_join_to_json, NULL);
        }
    }
    if (strcmp(op, "transformWith") == 0) {
        return transform(g, (levee_stream *[]){input(g, 0), input(g, 1)}, 2);
    }
    return strcmp(op, "transformMany") == 0 ? transform_many(g) : NULL;
}

static levee_stream *keyed(const struct building *g, levee_stream *s)
{
    const char *op = g->c->operation;

    if (strcmp(op, "groupByKey") == 0) {
        return levee_map_values(with_partitions(g, levee_group_by_key(s)), fn_group_to_json, NULL);
    } else if (strcmp(op, "reduceByKey") == 0) {
        return with_partitions(g, levee_reduce_by_key(s, &sum_json));
    } else if (strcmp(op, "combineByKey") == 0) {
        return with_partitions(g, levee_combine_by_key(s, &sum_json));
    } else if (strcmp(op, "reduce") == 0) {
        return levee_reduce(s, &sum_json);
    } else if (strcmp(op, "countByValue") == 0) {
        s = with_partitions(g, levee_count_by_value(levee_map(s, fn_whole_value, NULL)));
        return levee_map_values(s, fn_i64_to_json, NULL);
    } else if (strcmp(op, "updateStateByKey") == 0) {
        return update_state(g, s);
    }
    return strcmp(op, "mapWithState") == 0 ? map_state(g, s) : NULL;
}

static levee_stream *narrow(const struct building *g, levee_stream *s)
{
    const char *op = g->c->operation;
    cJSON *as_step = cJSON_CreateObject();
    levee_stream *r = NULL;

    if (strcmp(op, "glom") == 0) {
        r = levee_map(levee_glom(s), fn_glom_to_json, NULL);
    } else if (strcmp(op, "mapPartitions") == 0) {
        r = levee_map_partitions(s, fn_map_partitions, fn(g, g->c->parameters));
    } else if (strcmp(op, "repartition") == 0) {
        r = levee_repartition(s, (uint32_t)int_field(g->c->parameters, "partitions_out", 1));
    } else if (strcmp(op, "transform") == 0) {
        r = transform(g, &s, 1);
    } else if (strcmp(op, "queueStream") == 0) {
        r = s;
    } else if (strcmp(op, "slice") == 0) { /* what is asked for afterwards is the output */
        r = levee_remember(s, "remembered", (uint32_t)(g->c->num_batches * g->c->batch_ms));
    } else { /* the simple steps */
        cJSON_AddStringToObject(as_step, "op", op);
        cJSON_AddItemReferenceToObject(as_step, "f", cJSON_GetObjectItem(g->c->parameters, "f"));
        cJSON_AddItemReferenceToObject(as_step, "arg",
                                       cJSON_GetObjectItem(g->c->parameters, "arg"));
        struct named *f = fn(g, g->c->parameters);
        r = strcmp(op, "map") == 0             ? levee_map(s, fn_map, f)
            : strcmp(op, "flatMap") == 0       ? levee_flat_map(s, fn_flat_map, f)
            : strcmp(op, "filter") == 0        ? levee_filter(s, fn_filter, f)
            : strcmp(op, "mapValues") == 0     ? levee_map_values(s, fn_map_values, f)
            : strcmp(op, "flatMapValues") == 0 ? levee_flat_map_values(s, fn_flat_map_values, f)
            : strcmp(op, "count") == 0         ? levee_map(levee_count(s), fn_i64_to_json, NULL)
                                               : NULL;
    }
    cJSON_Delete(as_step);
    return r;
}

bool build_case(levee_context *ctx, const struct the_case *c, int64_t base_ms, struct built *ret)
{
    static const char *const uids[CASE_INPUTS] = {"input", "input2", "input3"};
    struct building g = {ctx, c, base_ms, ret};
    int partitions = int_field(c->parameters, "partitions_in", 2);
    levee_stream *s = NULL;

    partitions = int_field(c->json, "partitions_in", partitions);
    for (int i = 0; i < CASE_INPUTS; i++) {
        if (c->input[i]) {
            ret->source[i] = levee_queue_source(ctx, uids[i], (uint32_t)partitions);
        }
    }
    if (strcmp(c->operation, "union") == 0) {
        s = union_of(&g);
    } else if ((s = of_two(&g)) == NULL) {
        levee_stream *in = input(&g, 0);
        s = keyed(&g, in);
        s = s ? s : windowed(&g, in);
        s = s ? s : narrow(&g, in);
    }
    ret->output = steps(&g, s, field(c->json, "after"));
    return ret->output != NULL;
}
