/*
 * Accumulators from the outside, on the simulated machine: each record counts once, whatever fails
 * or ends in between. The totals are recomputed here from the records alone.
 */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "levee/connect.h"
#include "levee/testing.h"
#include "tests/integration/place.h"
#include "tests/support/suite.h"

#define RECORDS 120
#define BATCH   10

struct job {
    struct levee_testing *sim;
    levee_context *ctx;
    levee_stream *source;
    levee_accumulator *sum, *largest, *words, *mean, *late;
    uint32_t workers;
    int fails_on;       /* the function adds, then fails twice; -1: never */
    int fails_for_good; /* … or always */
    bool lazy;          /* `late` is opened by a function that runs, and not before */
    unsigned tries;
    struct place place;
    levee_context *seen;
};

/* ---- the graph ---- */

static int count(levee_output *out, const struct levee_record *in, void *arg)
{
    struct job *j = arg;
    int64_t v = levee_i64(in->value);

    (void)levee_accumulate_i64(out, j->sum, v);
    (void)levee_accumulate_i64(out, j->largest, v);
    (void)levee_accumulate_f64(out, j->mean, (double)v);
    if (v == j->fails_for_good || (v == j->fails_on && j->tries++ < 2)) {
        return -1; /* nothing of the above counts */
    }
    return levee_emit_record(out, in);
}

static int count_words(levee_output *out, levee_state *state, struct levee_slice key,
                       const struct levee_slice *value, void *arg)
{
    struct job *j = arg;
    struct levee_slice old = {NULL, 0};
    int64_t n = levee_state_get(state, &old) ? levee_i64(old) + 1 : 1;

    (void)value;
    (void)levee_accumulate_i64(out, j->words, 1);
    return levee_state_set_i64(state, n) || levee_emit_i64(out, key, n);
}

static int each_batch(levee_batch *batch, const struct levee_token *token, void *arg,
                      struct levee_error *err)
{
    struct job *j = arg;

    (void)batch;
    (void)token;
    return j->lazy ? levee_accumulator_open(j->seen, "late", &levee_sum_i64, &j->late, err)
                   : LEVEE_OK;
}

static int add_late(levee_output *out, const struct levee_record *in, void *arg)
{
    struct job *j = arg;

    return j->late ? levee_accumulate_i64(out, j->late, 1) || levee_emit_record(out, in)
                   : levee_emit_record(out, in);
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    j->seen = ctx;
    j->late = NULL;
    if (levee_accumulator_open(ctx, "sum", &levee_sum_i64, &j->sum, err) ||
        levee_accumulator_open(ctx, "largest", &levee_max_i64, &j->largest, err) ||
        levee_accumulator_open(ctx, "mean", &levee_avg_f64, &j->mean, err) ||
        levee_accumulator_open(ctx, "words", &levee_sum_i64, &j->words, err)) {
        return err->code;
    }
    j->source = levee_queue_source(ctx, "in", 4);
    levee_stream *s = levee_map(levee_map(j->source, count, j), add_late, j);
    (void)levee_sink(levee_map_with_state(s, "state", NULL, count_words, j), "place", &place_ops,
                     &j->place);
    (void)levee_foreach_batch(s, "each", each_batch, j);
    return levee_context_status(ctx, err);
}

static struct job job_new(uint64_t crash_at)
{
    struct job j = {.workers = 2, .fails_on = -1, .fails_for_good = -1};

    ck_assert_int_eq(
        levee_sim_new(&j.sim,
                      &(struct levee_sim_options){.seed = crash_at + 1, .crash_at_step = crash_at},
                      NULL),
        LEVEE_OK);
    return j;
}

static int start(struct job *j, struct levee_error *err)
{
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = 10,
                              .segment_bytes = 64 << 10,
                              .workers = j->workers,
                              .partitions = 3,
                              .checkpoint_batches = 3,
                              .function_retries = 3,
                              .on_failure = LEVEE_DEAD_LETTER,
                              .program_id = "test",
                              .testing = j->sim};
    int code = levee_get_or_create(&j->ctx, &o, build, j, err);

    return code ? code : levee_start(j->ctx, err);
}

/* Values first .. RECORDS, BATCH at a time, then drained; false: the machine went down. */
static bool live(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];
    int code = start(j, &err);

    for (uint64_t next = code ? 0 : levee_queue_durable(j->source);
         code == LEVEE_OK && next < RECORDS; next += BATCH) {
        struct levee_record r[BATCH];
        uint8_t le[BATCH][8];
        for (uint64_t i = 0; i < BATCH; i++) {
            put_le64(le[i], next + i + 1);
            r[i] = (struct levee_record){.key = {le[i], (size_t)(i % 3)}, .value = {le[i], 8}};
        }
        code = levee_queue_push(j->source, r, BATCH, next + 1, &err);
        levee_sim_run_ms(j->sim, 10);
    }
    code = code ? code : levee_drain(j->ctx, 0, &err);
    code = code ? code : levee_await(j->ctx, &err);
    ck_assert_msg(code == LEVEE_OK || levee_sim_crashed(j->sim), "%s",
                  levee_error_format(&err, line, sizeof line));
    return code == LEVEE_OK;
}

static void end(struct job *j)
{
    levee_free(j->ctx);
    place_release(&j->place);
    levee_sim_free(j->sim);
}

static void must_hold(const struct job *j, int64_t without)
{
    int64_t sum = 0, n = 0;

    for (int64_t v = 1; v <= RECORDS; v++) {
        sum += v == without ? 0 : v;
        n += v != without;
    }
    ck_assert_int_eq(levee_accumulator_i64(j->sum), sum);
    ck_assert_int_eq(levee_accumulator_i64(j->largest), RECORDS);
    ck_assert_int_eq(levee_accumulator_i64(j->words), n);
    double mean = (double)sum / (double)n, found = levee_accumulator_f64(j->mean);
    ck_assert_mem_eq(&found, &mean, sizeof mean);
}

/* ---- tests ---- */

/* Power loss and process death in turn, at every fifth step of the first life. */
START_TEST(a_record_counts_once_wherever_the_machine_ends)
{
    bool crashed = true;
    uint64_t step = 1;

    for (; crashed; step += 5) {
        struct job j = job_new(step);
        crashed = !live(&j);
        for (int more = 0; crashed && more < 2; more++) { /* and a start that finds nothing to do */
            levee_free(j.ctx);
            (step % 2 ? levee_sim_power_loss : levee_sim_kill)(j.sim);
            ck_assert(live(&j));
        }
        must_hold(&j, -1);
        end(&j);
    }
    ck_assert_uint_gt(step, 100);
}
END_TEST

START_TEST(what_a_failed_call_has_added_does_not_count)
{
    struct job j = job_new(0);

    j.fails_on = 55;
    j.fails_for_good = 77;
    ck_assert(live(&j));
    ck_assert_uint_eq(j.tries, 3);
    must_hold(&j, 77);
    end(&j);
}
END_TEST

START_TEST(nothing_is_shown_before_every_sink_has_it)
{
    struct job j = job_new(0);
    struct levee_error err = {0};
    uint8_t le[8] = {5};
    struct levee_record r = {.value = {le, 8}};

    ck_assert_int_eq(start(&j, &err), LEVEE_OK);
    j.place.down = true;
    ck_assert_int_eq(levee_queue_push(j.source, &r, 1, 1, &err), LEVEE_OK);
    levee_sim_run_ms(j.sim, 500);
    uint8_t value[8];
    size_t len = sizeof value;
    ck_assert(!levee_accumulator_value(j.sum, value, &len));
    ck_assert_uint_eq(len, 0);
    j.place.down = false;
    levee_sim_run_ms(j.sim, 6000);
    ck_assert_int_eq(levee_accumulator_i64(j.sum), 5);
    len = 3;
    ck_assert(!levee_accumulator_value(j.sum, value, &len));
    ck_assert_uint_eq(len, 8);
    end(&j);
}
END_TEST

/* One that a driver function asks for comes back with what it had, also when a life passes in which
 * nobody asks. */
START_TEST(one_that_is_opened_late_comes_back)
{
    struct job j = job_new(0);
    struct levee_error err = {0};

    j.lazy = true;
    ck_assert(live(&j));
    int64_t had = levee_accumulator_i64(j.late);
    ck_assert_int_gt(had, 0);
    ck_assert_int_lt(had, RECORDS); /* not the first batches' */
    for (int life = 0; life < 2; life++) {
        levee_free(j.ctx);
        j.lazy = false;
        ck_assert(live(&j));
    }
    ck_assert_ptr_null(j.late);
    ck_assert_int_eq(levee_accumulator_open(j.ctx, "late", &levee_sum_i64, &j.late, &err),
                     LEVEE_OK);
    ck_assert_int_eq(levee_accumulator_i64(j.late), had);
    end(&j);
}
END_TEST

static int gather(void *arg, const char *name, struct levee_slice value)
{
    char *all = arg;
    size_t n = strlen(all);

    (void)snprintf(all + n, 200 - n, "%s=%d ", name, (int)levee_i64(value));
    return strcmp(name, "mean") == 0;
}

START_TEST(they_are_listed_by_name)
{
    struct job j = job_new(0);
    char all[200] = "";

    ck_assert(live(&j));
    ck_assert_int_eq(levee_accumulators_each(j.ctx, gather, all), 1);
    ck_assert_int_eq(strncmp(all, "largest=120 mean=", 17), 0);
    end(&j);
}
END_TEST

static int too_big(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    (void)out;
    (void)acc;
    (void)value;
    (void)arg;
    return 0;
}

START_TEST(bad_ones_are_refused)
{
    struct job j = job_new(0);
    struct levee_error err = {0};
    levee_accumulator *a;
    struct levee_reducer big = levee_sum_i64;

    ck_assert_int_eq(start(&j, &err), LEVEE_OK);
    ck_assert_int_eq(levee_accumulator_open(j.ctx, "a b", &levee_sum_i64, &a, &err),
                     LEVEE_EINVALID);
    ck_assert_int_eq(levee_accumulator_open(j.ctx, "a", &levee_concat, &a, &err), LEVEE_EINVALID);
    big.size = 4097;
    big.create = big.add = too_big;
    ck_assert_int_eq(levee_accumulator_open(j.ctx, "a", &big, &a, &err), LEVEE_EINVALID);
    big.size = 16;
    ck_assert_int_eq(levee_accumulator_open(j.ctx, "sum", &big, &a, &err), LEVEE_ESTATE_VERSION);
    ck_assert_str_eq(err.expected, "8 bytes");
    ck_assert_str_eq(err.found, "16");
    end(&j);
}
END_TEST

START_TEST(workers_do_not_matter)
{
    double mean[3] = {0};
    static const uint32_t workers[] = {1, 3, 7};

    for (int i = 0; i < 3; i++) {
        struct job j = job_new(0);
        j.workers = workers[i];
        ck_assert(live(&j));
        must_hold(&j, -1);
        mean[i] = levee_accumulator_f64(j.mean);
        end(&j);
    }
    ck_assert_mem_eq(&mean[0], &mean[1], sizeof mean[0]);
    ck_assert_mem_eq(&mean[1], &mean[2], sizeof mean[0]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("accumulators");
    TCase *t = tcase_create("accumulators");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_record_counts_once_wherever_the_machine_ends);
    tcase_add_test(t, what_a_failed_call_has_added_does_not_count);
    tcase_add_test(t, nothing_is_shown_before_every_sink_has_it);
    tcase_add_test(t, one_that_is_opened_late_comes_back);
    tcase_add_test(t, they_are_listed_by_name);
    tcase_add_test(t, bad_ones_are_refused);
    tcase_add_test(t, workers_do_not_matter);
    suite_add_tcase(s, t);
    return suite_main(s);
}
