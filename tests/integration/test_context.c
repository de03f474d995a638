/*
 * A context from the outside, on the simulated machine: its life cycle, every wrong use and every
 * refusal that needs no damage. Through the public API only, but for the simulator's clock.
 */
#include <stdio.h>
#include <string.h>

#include "levee/testing.h"
#include "tests/support/suite.h"

struct job {
    struct levee_testing *sim;
    levee_context *ctx;
    levee_stream *source;
    char lines[64][160]; /* what the context said */
    int line_count;
    int64_t total; /* last value foreach saw */
    uint64_t batches, calls;
    int fail_value; /* the function fails on this value, fail_times times */
    int fail_times;
    bool second_uid, no_uid, late;
    uint32_t state_version;
    bool without_state, extra_state;
    struct levee_options o;
};

static void note(void *arg, int level, const char *line)
{
    struct job *j = arg;

    (void)level;
    if (j->line_count < 64) {
        (void)snprintf(j->lines[j->line_count++], sizeof j->lines[0], "%s", line);
    }
}

static int pass(levee_output *out, const struct levee_record *in, void *arg)
{
    struct job *j = arg;

    j->calls++;
    if (j->fail_value && levee_i64(in->value) == j->fail_value && j->fail_times != 0) {
        j->fail_times--;
        (void)levee_emit_i64(out, levee_text("wrong"), 1000000); /* must leave no trace */
        return -77;
    }
    return levee_emit(out, levee_text("sum"), in->value);
}

static int see(levee_batch *batch, const struct levee_token *token, void *arg,
               struct levee_error *err)
{
    struct job *j = arg;

    (void)token;
    (void)err;
    for (size_t p = 0; p < levee_batch_partitions(batch); p++) {
        size_t n;
        const struct levee_record *r = levee_batch_records(batch, p, &n);
        for (size_t i = 0; i < n; i++) {
            j->total = levee_i64(r[i].value);
        }
    }
    j->batches++;
    return LEVEE_OK;
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;
    struct levee_state_options so = {.version = j->state_version};

    j->source = levee_queue_source(ctx, "in", 1);
    levee_stream *sums = levee_map(j->source, pass, j);
    if (!j->without_state) {
        sums = levee_update_state_by_key(sums, "sums", &so, levee_update_sum_i64, NULL);
    }
    if (j->extra_state) {
        sums = levee_update_state_by_key(sums, "more", NULL, levee_update_sum_i64, NULL);
    }
    (void)levee_foreach_batch(sums, j->no_uid ? "" : "see", see, j);
    if (j->second_uid) {
        (void)levee_foreach_batch(sums, "see", see, j);
    }
    return levee_context_status(ctx, err);
}

static struct job *job_new(struct levee_testing *sim)
{
    static struct job jobs[4];
    static int next;
    struct job *j = &jobs[next++ % 4];

    *j = (struct job){.sim = sim};
    j->o = (struct levee_options){.directory = "state",
                                  .batch_interval_ms = 10,
                                  .segment_bytes = 64 << 10,
                                  .workers = 2,
                                  .log = note,
                                  .log_arg = j,
                                  .program_id = "test",
                                  .testing = sim};
    return j;
}

static struct levee_testing *machine(void)
{
    struct levee_testing *sim;

    ck_assert_int_eq(levee_sim_new(&sim, &(struct levee_sim_options){.seed = 1}, NULL), LEVEE_OK);
    return sim;
}

static int open_job(struct job *j, struct levee_error *err)
{
    return levee_get_or_create(&j->ctx, &j->o, build, j, err);
}

static void start_job(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(open_job(j, &err) == LEVEE_OK, "%s", levee_error_format(&err, line, sizeof line));
    ck_assert_msg(levee_start(j->ctx, &err) == LEVEE_OK, "%s",
                  levee_error_format(&err, line, sizeof line));
}

static void push(struct job *j, int64_t value)
{
    uint8_t le[8];
    struct levee_error err = {0};
    static uint64_t seq;

    for (int i = 0; i < 8; i++) {
        le[i] = (uint8_t)((uint64_t)value >> (8 * i));
    }
    if (levee_queue_durable(j->source) == 0) {
        seq = 0;
    }
    struct levee_record r = {.value = {le, 8}};
    seq = seq ? seq : levee_queue_durable(j->source);
    ck_assert_int_eq(levee_queue_push(j->source, &r, 1, ++seq, &err), LEVEE_OK);
    levee_sim_run_ms(j->sim, 40);
    ck_assert_uint_eq(levee_queue_durable(j->source), seq);
}

static void drain_and_free(struct job *j)
{
    struct levee_error err = {0};

    ck_assert_int_eq(levee_drain(j->ctx, 0, &err), LEVEE_OK);
    ck_assert_int_eq(levee_await(j->ctx, &err), LEVEE_OK);
    levee_free(j->ctx);
    j->ctx = NULL;
}

START_TEST(state_goes_on_after_a_drain_and_after_a_kill)
{
    struct levee_testing *sim = machine();
    struct job *j = job_new(sim);

    start_job(j);
    push(j, 5);
    push(j, 7);
    ck_assert_int_eq(j->total, 12);
    drain_and_free(j);
    j = job_new(sim);
    start_job(j);
    push(j, 30);
    ck_assert_int_eq(j->total, 42);
    levee_free(j->ctx); /* stops without draining */
    levee_sim_kill(sim);
    j = job_new(sim);
    start_job(j);
    push(j, 8);
    ck_assert_int_eq(j->total, 50);
    drain_and_free(j);
    levee_sim_free(sim);
}
END_TEST

START_TEST(calls_out_of_order_are_typed)
{
    struct levee_testing *sim = machine();
    struct job *j = job_new(sim);
    struct levee_error err = {0};

    ck_assert_int_eq(open_job(j, &err), LEVEE_OK);
    ck_assert_int_eq(levee_stop(j->ctx, &err), LEVEE_ESTATE);
    ck_assert_int_eq(levee_drain(j->ctx, 5, &err), LEVEE_ESTATE);
    ck_assert_int_eq(levee_await(j->ctx, &err), LEVEE_ESTATE);
    ck_assert_int_eq(levee_state_each(j->ctx, "sums", NULL, NULL, &err), LEVEE_EINVALID);
    ck_assert_int_eq(levee_start(j->ctx, &err), LEVEE_OK);
    ck_assert_int_eq(levee_start(j->ctx, &err), LEVEE_ESTATE);
    ck_assert_int_eq(levee_await_for(j->ctx, 5, &err), LEVEE_ETIMEOUT);
    ck_assert_int_eq(levee_error_class(LEVEE_ETIMEOUT), LEVEE_CLASS_RETRY);
    ck_assert_ptr_null(levee_map(j->source, pass, j)); /* frozen */
    ck_assert_int_eq(levee_context_status(j->ctx, &err), LEVEE_EGRAPH_FROZEN);
    ck_assert_int_eq(levee_stop(j->ctx, &err), LEVEE_OK);
    ck_assert_int_eq(levee_await(j->ctx, &err), LEVEE_OK);
    ck_assert_int_eq(levee_start(j->ctx, &err), LEVEE_ESTATE); /* no restart after stop */
    ck_assert_int_eq(levee_stop(NULL, &err), LEVEE_EINVALID);
    levee_free(j->ctx);
    levee_free(NULL);
    levee_sim_free(sim);
}
END_TEST

static void refused_options(struct job *j, const char *name)
{
    struct levee_error err = {0};

    ck_assert_int_eq(open_job(j, &err), LEVEE_EINVALID);
    ck_assert_msg(strstr(err.what, name) != NULL, "%s does not name %s", err.what, name);
}

START_TEST(null_and_absurd_options_are_refused_by_name)
{
    struct levee_testing *sim = machine();
    struct levee_error err = {0};
    levee_context *ctx;
    struct job *j = job_new(sim);

    ck_assert_int_eq(levee_get_or_create(NULL, &j->o, build, j, &err), LEVEE_EINVALID);
    ck_assert_int_eq(levee_get_or_create(&ctx, NULL, build, j, &err), LEVEE_EINVALID);
    ck_assert_int_eq(levee_get_or_create(&ctx, &j->o, NULL, j, &err), LEVEE_EINVALID);
    j->o.directory = "";
    refused_options(j, "directory");
    j = job_new(sim);
    j->o.segment_bytes = 100000;
    refused_options(j, "segment_bytes");
    j = job_new(sim);
    j->o.workers = 1u << 30;
    refused_options(j, "workers");
    j = job_new(sim);
    j->o.partitions = 129;
    refused_options(j, "partitions");
    j = job_new(sim);
    j->o.batch_interval_ms = UINT32_MAX;
    refused_options(j, "batch_interval_ms");
    j = job_new(sim);
    j->o.buffer_bytes = 1;
    refused_options(j, "buffer_bytes");
    j = job_new(sim);
    j->o.guarantee = (enum levee_guarantee)9;
    refused_options(j, "guarantee");
    levee_sim_free(sim);
}
END_TEST

START_TEST(uids_must_be_there_and_unique)
{
    struct levee_testing *sim = machine();
    struct levee_error err = {0};
    struct job *j = job_new(sim);

    j->second_uid = true;
    ck_assert_int_eq(open_job(j, &err), LEVEE_EGRAPH_UID);
    ck_assert_ptr_nonnull(strstr(err.what, "see"));
    ck_assert_ptr_nonnull(strstr(err.where, "test_context.c"));
    j = job_new(sim);
    j->no_uid = true;
    ck_assert_int_eq(open_job(j, &err), LEVEE_EGRAPH_UID);
    levee_sim_free(sim);
}
END_TEST

START_TEST(a_second_context_on_the_directory_is_refused)
{
    struct levee_testing *sim = machine();
    struct levee_error err = {0};
    struct job *a = job_new(sim), *b = job_new(sim);

    start_job(a);
    ck_assert_int_eq(open_job(b, &err), LEVEE_EDIR_BUSY);
    drain_and_free(a);
    ck_assert_int_eq(open_job(b, &err), LEVEE_OK);
    levee_free(b->ctx);
    levee_sim_free(sim);
}
END_TEST

START_TEST(a_frozen_option_and_a_changed_graph_are_refused_with_both_values)
{
    struct levee_testing *sim = machine();
    struct levee_error err = {0};
    struct job *j = job_new(sim);

    start_job(j);
    push(j, 1);
    drain_and_free(j);
    j = job_new(sim);
    j->o.batch_interval_ms = 20;
    ck_assert_int_eq(open_job(j, &err), LEVEE_EDIR_OPTION);
    ck_assert_ptr_nonnull(strstr(err.expected, "10"));
    ck_assert_ptr_nonnull(strstr(err.found, "20"));
    j = job_new(sim);
    j->without_state = true;
    ck_assert_int_eq(open_job(j, &err), LEVEE_ESTATE_ORPHANED);
    ck_assert_ptr_nonnull(strstr(err.what, "sums"));
    j = job_new(sim);
    j->state_version = 2;
    ck_assert_int_eq(open_job(j, &err), LEVEE_ESTATE_VERSION);
    j = job_new(sim);
    j->extra_state = true; /* added: starts empty, the other goes on */
    start_job(j);
    push(j, 1);
    ck_assert_int_eq(j->total, 2);
    push(j, 1);
    ck_assert_int_eq(j->total, 5); /* 2 + 3 in the new state */
    drain_and_free(j);
    j = job_new(sim);
    j->without_state = true;
    j->o.drop_orphaned_state = true;
    start_job(j);
    drain_and_free(j);
    levee_sim_free(sim);
}
END_TEST

START_TEST(a_failing_function_is_retried_then_stops_and_loses_nothing)
{
    struct levee_testing *sim = machine();
    struct levee_error err = {0};
    struct job *j = job_new(sim);

    j->fail_value = 3;
    j->fail_times = 1;
    j->o.function_retries = 2;
    start_job(j);
    push(j, 3);
    ck_assert_int_eq(j->total, 3); /* the failed call's emit is gone */
    j->fail_times = -1;
    push(j, 3);
    ck_assert_int_eq(levee_await(j->ctx, &err), LEVEE_EFUNCTION);
    ck_assert_ptr_nonnull(strstr(err.where, "test_context.c"));
    levee_free(j->ctx);
    j = job_new(sim); /* the corrected program */
    start_job(j);
    levee_sim_run_ms(sim, 50);
    ck_assert_int_eq(j->total, 6);
    drain_and_free(j);
    levee_sim_free(sim);
}
END_TEST

START_TEST(a_dead_letter_is_decided_once)
{
    struct levee_testing *sim = machine();
    struct job *j = job_new(sim);
    struct levee_metrics m;

    j->fail_value = 3;
    j->fail_times = -1;
    j->o.on_failure = LEVEE_DEAD_LETTER;
    start_job(j);
    push(j, 3);
    push(j, 4);
    ck_assert_int_eq(j->total, 4);
    levee_context_metrics(j->ctx, &m);
    ck_assert_uint_eq(m.dead_letters, 1);
    drain_and_free(j);
    levee_sim_free(sim);
}
END_TEST

START_TEST(a_graph_weaker_than_asked_for_does_not_start)
{
    struct levee_testing *sim = machine();
    struct levee_error err = {0};
    struct job *j = job_new(sim);

    j->o.guarantee = LEVEE_EXACTLY_ONCE;
    ck_assert_int_eq(open_job(j, &err), LEVEE_EGUARANTEE);
    ck_assert_ptr_nonnull(strstr(err.what, "see"));
    j = job_new(sim);
    j->o.guarantee = LEVEE_AT_LEAST_ONCE;
    ck_assert_int_eq(open_job(j, &err), LEVEE_OK);
    ck_assert_int_eq(levee_context_guarantee(j->ctx, NULL), LEVEE_AT_LEAST_ONCE);
    levee_free(j->ctx);
    levee_sim_free(sim);
}
END_TEST

START_TEST(an_idle_context_writes_nothing)
{
    struct levee_testing *sim = machine();
    struct job *j = job_new(sim);
    struct levee_metrics a, b;

    start_job(j);
    push(j, 1);
    levee_sim_run_ms(sim, 5000); /* hints, idle seal, checkpoint: written */
    levee_context_metrics(j->ctx, &a);
    levee_sim_run_ms(sim, 60000);
    levee_context_metrics(j->ctx, &b);
    ck_assert_uint_eq(a.batches, b.batches);
    ck_assert_uint_eq(a.log_syncs, b.log_syncs);
    ck_assert_uint_eq(a.bytes_logged, b.bytes_logged);
    drain_and_free(j);
    levee_sim_free(sim);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("context");
    TCase *t = tcase_create("life");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, state_goes_on_after_a_drain_and_after_a_kill);
    tcase_add_test(t, calls_out_of_order_are_typed);
    tcase_add_test(t, null_and_absurd_options_are_refused_by_name);
    tcase_add_test(t, uids_must_be_there_and_unique);
    tcase_add_test(t, a_second_context_on_the_directory_is_refused);
    tcase_add_test(t, a_frozen_option_and_a_changed_graph_are_refused_with_both_values);
    tcase_add_test(t, a_failing_function_is_retried_then_stops_and_loses_nothing);
    tcase_add_test(t, a_dead_letter_is_decided_once);
    tcase_add_test(t, a_graph_weaker_than_asked_for_does_not_start);
    tcase_add_test(t, an_idle_context_writes_nothing);
    suite_add_tcase(s, t);
    return suite_main(s);
}
