/*
 * Pi from points thrown at a square, with two accumulators: how many there were, and how many fell
 * into the quarter circle.
 *
 *   pi_accumulator POINTS STATE OUT
 *
 * POINTS holds lines "x y", whole numbers below 10,000. OUT gets, for each batch, how many points
 * of it fell inside. Kill it and start it again: every point counts once.
 */
#include "replay.h"

#include <inttypes.h>

#define SIDE 10000

struct job {
    struct replay replay; /* first: build is given its address */
    levee_accumulator *points, *inside;
};

/* Counts a point, and passes on those inside. */
static int throw_point(levee_output *out, const struct levee_record *line, void *arg)
{
    const struct job *j = arg;
    char text[32], *end;

    (void)snprintf(text, sizeof text, "%.*s", (int)line->value.len, (const char *)line->value.data);
    int64_t x = strtoll(text, &end, 10), y = strtoll(end, NULL, 10);
    if (*end != ' ' || x < 0 || y < 0 || x >= SIDE || y >= SIDE) {
        return -1; /* a dead letter, and no point */
    }
    int code = levee_accumulate_i64(out, j->points, 1);
    if (code == LEVEE_OK && x * x + y * y < (int64_t)SIDE * SIDE) {
        code = levee_accumulate_i64(out, j->inside, 1);
        return code ? code : levee_emit_record(out, line);
    }
    return code;
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    if (levee_accumulator_open(ctx, "points", &levee_sum_i64, &j->points, err) ||
        levee_accumulator_open(ctx, "inside", &levee_sum_i64, &j->inside, err)) {
        return err->code;
    }
    j->replay.lines = levee_queue_source(ctx, "points", 2);
    levee_stream *inside = levee_flat_map(j->replay.lines, throw_point, j);
    levee_file_sink(
        levee_count(inside), "out",
        &(struct levee_file_sink_options){.path = j->replay.out, .value = LEVEE_VALUE_I64});
    return levee_context_status(ctx, err);
}

static int print_one(void *arg, const char *name, struct levee_slice value)
{
    int64_t *number = strcmp(name, "points") == 0 ? (int64_t *)arg : (int64_t *)arg + 1;

    *number = levee_i64(value);
    return printf("%s %" PRId64 "\n", name, *number) < 0;
}

static void report(levee_context *ctx)
{
    int64_t numbers[2] = {0, 0}; /* points, inside */

    (void)levee_accumulators_each(ctx, print_one, numbers);
    if (numbers[0]) {
        printf("pi is about %.4f\n", 4.0 * (double)numbers[1] / (double)numbers[0]);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: pi_accumulator POINTS STATE OUT\n", stderr);
        return 1;
    }
    struct job j = {.replay = {.file = argv[1], .state = argv[2], .out = argv[3]}};
    return replay(&j.replay, build, report);
}
